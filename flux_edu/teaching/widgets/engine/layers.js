// Layers with weights, as torch.nn has them.

import {
  empty,
  FeatureMap,
  group_norm,
  matmul,
  pack,
  padded,
  reserve,
  rows_of,
  scope,
  Tensor,
  tensor,
  winograd,
} from "./kernels.js";

function padded_bias(weights, name, N) {
  const all = new Float32Array(padded(N));
  all.set(weights.bias(name));
  return tensor(all, 1).at;
}

// y = W x + c; `columns` widens W with zeros, for tokens that have more channels
export class Linear {
  constructor(weights, name, columns = 0) {
    const [N, ...rest] = weights.shape(`${name}.weight`);
    this.width = N;
    this.bias = padded_bias(weights, name, N);
    this.packed = reserve(N, Math.max(columns, rest[0]));
    scope(() => rows_of(weights.matrix(name, this.packed.K), this.packed));
  }
  forward(x, out, sum_up) {
    return matmul(x, this.packed, out, this.bias, sum_up);
  }
}

// A convolution of single places is a linear layer.
export class Conv1x1 extends Linear {
  forward(x, out = new FeatureMap(x.h, x.w, this.width), sum_up = false) {
    for (let r = 0; r < x.h; r++) super.forward(x.row(r), out.row(r), sum_up);
    return out;
  }
}

// 3 × 3 with a padding of 1. Every filter g is kept as the 16 numbers G g Gᵀ, see `winograd` in
// kernels.c: 16 matrices of cout × cin. They are a linear map of its 9 numbers, G ⊗ G.
const G = [
  [1, 0, 0],
  [1 / 2, 1 / 2, 1 / 2],
  [1 / 2, -1 / 2, 1 / 2],
  [0, 0, 1],
];
const G_TWICE = G.flatMap((a) => G.map((b) => a.flatMap((x) => b.map((y) => x * y))));

export class Conv3x3 {
  constructor(weights, name) {
    const { shape, numbers } = weights.get(`${name}.weight`);
    const [O, I] = shape;
    const cin = padded(I);
    this.width = O;
    this.bias = padded_bias(weights, name, O);
    const packed = G_TWICE.map(() => reserve(O, cin));
    this.filters = packed[0].panels;
    scope(() => {
      const W = empty(O, 9 * cin).fill(0);
      W.columns(0, 9 * I).write(numbers);
      const filters = new Tensor(W.at, O * cin, 9, 9);
      const map = tensor(Float32Array.from(G_TWICE.flat()), 16);
      const { at } = matmul(filters, rows_of(map));
      packed.forEach((room, p) => pack(room, at + 4 * p, 16 * cin, 16));
    });
  }
  forward(x, out = new FeatureMap(x.h, x.w, this.width), sum_up = false) {
    return winograd(x, this.filters, this.bias, out, sum_up);
  }
}

// 3 × 3 with stride 2, and one row and one column of padding, below and to the right: a product for
// each of the filter's 9 places, with every second place of a row of x
export class Downsample {
  constructor(weights, name) {
    const { shape, numbers } = weights.get(`${name}.weight`);
    const [O, I] = shape;
    this.width = O;
    this.bias = padded_bias(weights, name, O);
    this.packed = Array.from({ length: 9 }, () => reserve(O, I));
    scope(() => {
      const { at, pitch } = tensor(numbers, O);
      this.packed.forEach((room, place) => pack(room, at + 4 * place, pitch, 9));
    });
  }
  forward(x) {
    const out = new FeatureMap(x.h / 2, x.w / 2, this.width);
    for (let r = 0; r < out.h; r++) {
      this.packed.forEach((packed, place) => {
        const { at } = x.row(2 * r + Math.floor(place / 3));
        const places = new Tensor(at + 4 * x.c * (place % 3), out.w, x.c, 2 * x.c);
        matmul(places, packed, out.row(r), place === 0 ? this.bias : 0, place > 0);
      });
    }
    return out;
  }
}

// Group norm, and SiLU of it if asked
export class GroupNorm {
  constructor(weights, name, groups) {
    this.groups = groups;
    this.weight = weights.vector(`${name}.weight`);
    this.bias = weights.vector(`${name}.bias`);
  }
  forward(x, silu = false) {
    return group_norm(x, this.weight, this.bias, this.groups, silu);
  }
}
