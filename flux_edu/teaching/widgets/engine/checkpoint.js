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
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (dtype !== "I8" && dtype !== "F32")
      throw new Error(`${name} holds numbers of kind ${dtype}`);
    const [from, to] = data_offsets.map((offset) => 8 + length + offset);
    const numbers =
      dtype === "I8"
        ? new Int8Array(buffer, from, to - from)
        : new Float32Array(buffer.slice(from, to)); // it may stand at an odd place
    state.set(name, { shape, numbers });
  }
  return state;
}

// A state dict, and maybe a low-rank delta put onto it:  W' = W + scale B A
export class Weights {
  constructor(state, delta = new Map(), scale = 1) {
    Object.assign(this, { state, delta, scale });
  }
  has(name) {
    return this.state.has(name) || this.delta.has(name);
  }
  // A delta's tensor replaces the model's.
  source(name) {
    const source = this.delta.has(name) ? this.delta : this.state;
    if (!source.has(name)) throw new Error(`the weights hold no ${name}`);
    return { ...source.get(name), scale: source.get(name + ROW_SCALE)?.numbers };
  }
  shape(name) {
    return this.source(name).shape;
  }
  // Every row of a tensor as float32, dequantised, into place(row)
  rows(name, place) {
    const { shape, numbers, scale } = this.source(name);
    const width = numbers.length / shape[0];
    for (let r = 0; r < shape[0]; r++) {
      const row = place(r);
      const factor = scale ? scale[r] : 1;
      for (let i = 0; i < width; i++) row[i] = numbers[r * width + i] * factor;
    }
  }
  // A whole tensor
  get(name) {
    const { shape, numbers, scale } = this.source(name);
    if (!scale) return { shape, numbers };
    const out = new Float32Array(numbers.length);
    const width = numbers.length / shape[0];
    this.rows(name, (r) => out.subarray(r * width, (r + 1) * width));
    return { shape, numbers: out };
  }
  vector(name) {
    return tensor(this.get(name).numbers, 1);
  }
  // A layer's matrix with its delta,  W' = W + scale B A,  and new columns of zeros if it is to be wider
  matrix(name, columns) {
    const [N, width] = this.shape(`${name}.weight`);
    const W = empty(N, columns);
    if (columns > width) W.fill(0);
    this.rows(`${name}.weight`, (r) => W.view(r));
    if (this.delta.has(name + A)) {
      const [B_, A_] = [name + B, name + A].map((each) => this.get(each)).map(as_matrix);
      for (let r = 0; r < A_.rows; r++)
        A_.view(r).forEach((x, i, row) => (row[i] = this.scale * x));
      matmul(B_, columns_of(A_), W, 0, true);
    }
    return W;
  }
  bias(name) {
    const more = this.delta.get(name + B_BIAS)?.numbers;
    if (!this.has(`${name}.bias`)) return [];
    const { numbers } = this.get(`${name}.bias`);
    return more ? numbers.map((x, n) => x + this.scale * more[n]) : numbers;
  }
  // The names "prefix.0", "prefix.1" … of the blocks there are.
  each(prefix) {
    const inside = [...this.state.keys()].filter((name) => name.startsWith(`${prefix}.`));
    const numbers = new Set(inside.map((name) => name.slice(prefix.length + 1).split(".")[0]));
    return [...numbers].map((_, i) => `${prefix}.${i}`);
  }
}

const as_matrix = ({ shape, numbers }) => tensor(numbers, shape[0]);
