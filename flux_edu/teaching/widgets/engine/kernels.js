// What PyTorch is for the Python files: matrices of float32 numbers and the heavy loops over them.
// The loops are kernels.c; the numbers lie in one WebAssembly memory, used as a stack.

let wasm; // the exports of kernels.wasm
let top; // first free byte

// A module of one function with a vector, and with a vector instruction of "relaxed SIMD".
const HEAD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10];
const SIMD = [10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];

export const has_simd = () => WebAssembly.validate(Uint8Array.from([...HEAD, ...SIMD]));
export const has_relaxed = () => WebAssembly.validate(Uint8Array.from([...HEAD, ...RELAXED]));

export async function load_kernels(bytes) {
  const { instance } = await WebAssembly.instantiate(bytes, {});
  wasm = instance.exports;
  top = wasm.memory.buffer.byteLength; // below lies the stack of kernels.c
}

export const memory_bytes = () => wasm.memory.buffer.byteLength;

function allocate(count) {
  const at = top;
  top += Math.ceil(count / 16) * 64;
  const missing = top - wasm.memory.buffer.byteLength;
  if (missing > 0) wasm.memory.grow(Math.ceil(missing / 65536));
  return at;
}

// Everything allocated inside is free again afterwards; the result must not lie there.
export function scope(work) {
  const before = top;
  try {
    return work();
  } finally {
    top = before;
  }
}

export const mark = () => top;
export function release(place) {
  top = place;
}

export const padded = (n) => Math.ceil(n / 8) * 8;
const floats = (at, count) => new Float32Array(wasm.memory.buffer, at, count);

// rows × cols numbers, a row every `pitch`; parts of it share its numbers.
export class Tensor {
  constructor(at, rows, cols, pitch) {
    Object.assign(this, { at, rows, cols, pitch });
  }
  row(from, to = from + 1) {
    return new Tensor(this.at + 4 * from * this.pitch, to - from, this.cols, this.pitch);
  }
  columns(from, to) {
    return new Tensor(this.at + 4 * from, this.rows, to - from, this.pitch);
  }
  chunk(parts) {
    const width = this.cols / parts;
    return Array.from({ length: parts }, (_, i) => this.columns(i * width, (i + 1) * width));
  }
  view(row) {
    return floats(this.at + 4 * row * this.pitch, this.cols);
  }
  numbers() {
    const out = new Float32Array(this.rows * this.cols);
    for (let r = 0; r < this.rows; r++) out.set(this.view(r), r * this.cols);
    return out;
  }
  fill(x) {
    for (let r = 0; r < this.rows; r++) this.view(r).fill(x);
    return this;
  }
  write(numbers) {
    for (let r = 0; r < this.rows; r++) {
      this.view(r).set(numbers.subarray(r * this.cols, (r + 1) * this.cols));
    }
    return this;
  }
}

export const empty = (rows, cols) => {
  return new Tensor(allocate(rows * padded(cols)), rows, cols, padded(cols));
};
export const tensor = (numbers, rows) => empty(rows, numbers.length / rows).write(numbers);

// ---------------------------------------------------------------- products of matrices

// N outputs of K inputs, laid out as `gemm` reads them: room first, then the numbers.
export const reserve = (N, K) => ({ panels: allocate(padded(N) * K), N, K });

export function pack(packed, at, per_n, per_k) {
  wasm.pack(at, per_n, per_k, packed.panels, packed.N, packed.K);
  return packed;
}
export const rows_of = (x, room = reserve(x.rows, x.cols)) => pack(room, x.at, x.pitch, 1);
export const columns_of = (x) => pack(reserve(x.cols, x.rows), x.at, 1, x.pitch);

// Every row of x times every row, or every column, that was packed: x yᵀ, x y; plus `bias`
export function matmul(x, { panels, N, K }, out = empty(x.rows, N), bias = 0, sum_up = false) {
  wasm.gemm(x.at, x.pitch, panels, bias, out.at, out.pitch, x.rows, K, padded(N), sum_up);
  return out;
}

// ---------------------------------------------------------------- functions, many of them in place

const gate = (a, b) => (x) => {
  wasm.sigmoid_gate(x.at, x.pitch, x.rows, x.cols, a, b);
  return x;
};
const A = 2 * Math.sqrt(2 / Math.PI);
export const silu = gate(1, 0);
export const gelu = gate(A, A * 0.044715); // tanh form
export const quick_gelu = gate(1.702, 0);

// Small matrices of one shape, number by number, into x.
const number_by_number = (operate) => (x, y) => {
  for (let r = 0; r < x.rows; r++) {
    const [a, b] = [x.view(r), y.view(r)];
    for (let i = 0; i < a.length; i++) a[i] = operate(a[i], b[i]);
  }
  return x;
};
export const add = number_by_number((a, b) => a + b);
export const multiply = number_by_number((a, b) => a * b);

// x ← x + g ⊙ y
export function add_gated(x, g, y) {
  wasm.add_gated(x.at, x.pitch, g.at, y.at, y.pitch, x.rows, x.cols);
}

// LN(x) ⊙ (one + scale) + shift: a plain layer norm has one = 0, a modulated one 1
export function layer_norm(x, scale, shift, eps, one = 0) {
  const y = empty(x.rows, x.cols);
  const [s, b] = [scale.at, shift.at];
  wasm.layer_norm(x.at, x.pitch, y.at, y.pitch, s, b, one, eps, x.rows, x.cols);
  return y;
}

export function rms_norm(x, scale, heads = 1, y = empty(x.rows, x.cols)) {
  const n = x.cols / heads;
  wasm.rms_norm(x.at, x.pitch, y.at, y.pitch, scale.at, 1e-6, x.rows, heads, n);
  return y;
}

// x turned by the rotations of its rows, see rope.js
export function rotate(x, R, heads) {
  wasm.rotate(x.at, x.pitch, R.at, x.rows, heads, x.cols / heads);
}

export function softmax(x, factor = 1) {
  wasm.softmax(x.at, x.pitch, x.rows, x.cols, factor);
  return x;
}

// ---------------------------------------------------------------- feature maps, see kernels.c

export class FeatureMap {
  constructor(h, w, c) {
    Object.assign(this, { h, w, c: padded(c), channels: c, line: (w + 2) * padded(c) });
    this.at = allocate((h + 2) * this.line);
    const all = floats(this.at, (h + 2) * this.line);
    all.fill(0, 0, this.line);
    all.fill(0, (h + 1) * this.line);
    for (let r = 1; r <= h; r++) {
      all.fill(0, r * this.line, r * this.line + this.c);
      all.fill(0, (r + 1) * this.line - this.c, (r + 1) * this.line);
    }
  }
  row(r) {
    const at = this.at + 4 * ((r + 1) * this.line + this.c);
    return new Tensor(at, this.w, this.c, this.c);
  }
  // the places without the padding, one below the other: a row for each
  places() {
    const out = empty(this.h * this.w, this.c);
    for (let r = 0; r < this.h; r++) {
      const [from, to] = [this.row(r), out.row(r * this.w, (r + 1) * this.w)];
      floats(to.at, this.w * this.c).set(floats(from.at, this.w * this.c));
    }
    return out;
  }
  set_places(x) {
    for (let r = 0; r < this.h; r++) {
      floats(this.row(r).at, this.w * this.c).set(floats(x.row(r * this.w).at, this.w * this.c));
    }
    return this;
  }
  // channels first, as PyTorch lays them out
  numbers() {
    const { h, w, c, channels } = this;
    const out = new Float32Array(channels * h * w);
    for (let r = 0; r < h; r++) {
      const row = floats(this.row(r).at, w * c);
      for (let q = 0; q < w; q++) {
        for (let i = 0; i < channels; i++) out[(i * h + r) * w + q] = row[q * c + i];
      }
    }
    return out;
  }
  write(numbers) {
    const { h, w, c, channels } = this;
    for (let r = 0; r < h; r++) {
      const row = floats(this.row(r).at, w * c).fill(0);
      for (let q = 0; q < w; q++) {
        for (let i = 0; i < channels; i++) row[q * c + i] = numbers[(i * h + r) * w + q];
      }
    }
    return this;
  }
}

export function group_norm(x, weight, bias, groups, silu) {
  const y = new FeatureMap(x.h, x.w, x.c);
  wasm.group_norm(x.at, y.at, weight.at, bias.at, groups, x.h, x.w, x.c, silu);
  return y;
}

export function upsample(x) {
  const y = new FeatureMap(2 * x.h, 2 * x.w, x.c);
  wasm.upsample(x.at, y.at, x.h, x.w, x.c);
  return y;
}

// y = the 3 × 3 convolution of x, or y += it; `filters` and `bias` as layers.js lays them out
export function winograd(x, filters, bias, y, sum_up) {
  scope(() => {
    const [V, M] = [16 * 64 * x.c, 16 * 64 * y.c].map(allocate);
    wasm.winograd(x.at, filters, bias, y.at, x.h, x.w, x.c, y.c, sum_up, V, M);
  });
  return y;
}
