// Weights from safetensors files, as flux_edu/io/checkpoint.py and io/lora.py read them.

import { columns_of, empty, matmul, tensor } from "./kernels.js";

const ROW_SCALE = "::row_scale"; // a matrix of 8-bit numbers has a float32 scale for every row
const A = ".lora_A.weight";
const B = ".lora_B.weight";
const B_BIAS = ".lora_B.bias";

// The file's header says where each tensor lies; the numbers stay where they are.
export function read(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  delete header.__metadata__;
  const state = new Map();
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(header)) {
    const start = 8 + length + from;
    const numbers =
      dtype === "I8"
        ? new Int8Array(buffer, start, to - from)
        : new Float32Array(buffer.slice(start, 8 + length + to)); // it may stand at an odd place
    state.set(name, { shape, numbers });
  }
  return state;
}

// A state dict, and maybe a low-rank delta put onto it:  W' = W + B A
export class Weights {
  constructor(state, delta = new Map()) {
    Object.assign(this, { state, delta });
  }
  has(name) {
    return this.state.has(name) || this.delta.has(name);
  }
  // A whole tensor as float32, dequantised; a delta's replaces the model's.
  get(name) {
    const source = this.delta.has(name) ? this.delta : this.state;
    if (!source.has(name)) throw new Error(`the weights hold no ${name}`);
    const { shape, numbers } = source.get(name);
    if (numbers instanceof Float32Array) return { shape, numbers };
    const scale = source.get(name + ROW_SCALE).numbers;
    const out = new Float32Array(numbers.length);
    const width = numbers.length / shape[0];
    for (let row = 0, i = 0; row < shape[0]; row++) {
      for (const end = i + width; i < end; i++) out[i] = numbers[i] * scale[row];
    }
    return { shape, numbers: out };
  }
  vector(name) {
    const { numbers } = this.get(name);
    return tensor(numbers, 1);
  }
  shape(name) {
    return (this.delta.get(name) ?? this.state.get(name)).shape;
  }
  // A layer's matrix with its delta,  W' = W + B A,  and new columns of zeros if it is to be wider
  matrix(name, columns) {
    const {
      shape: [N],
      numbers,
    } = this.get(`${name}.weight`);
    const width = numbers.length / N;
    const W = empty(N, columns);
    if (columns > width) W.fill(0);
    W.columns(0, width).write(numbers);
    if (this.delta.has(name + A)) {
      const [B_, A_] = [name + B, name + A].map((each) => this.get(each)).map(as_matrix);
      matmul(B_, columns_of(A_), W, 0, true);
    }
    return W;
  }
  bias(name) {
    const more = this.delta.get(name + B_BIAS)?.numbers;
    if (!this.has(`${name}.bias`)) return [];
    const { numbers } = this.get(`${name}.bias`);
    return more ? numbers.map((x, n) => x + more[n]) : numbers;
  }
  // The names "prefix.0", "prefix.1" … of the blocks there are.
  each(prefix) {
    const inside = [...this.state.keys()].filter((name) => name.startsWith(`${prefix}.`));
    const numbers = new Set(inside.map((name) => name.slice(prefix.length + 1).split(".")[0]));
    return [...numbers].map((_, i) => `${prefix}.${i}`);
  }
}

const as_matrix = ({ shape, numbers }) => tensor(numbers, shape[0]);
