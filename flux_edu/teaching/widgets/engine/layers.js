// Layers with weights, as torch.nn has them.

import { empty, FeatureMap, group_norm, matmul, padded, reserve, rows_of } from "./kernels.js";
import { scope, tensor, winograd } from "./kernels.js";

function padded_bias(weights, name, N) {
  const all = new Float32Array(padded(N));
  all.set(weights.bias(name));
  return tensor(all, 1, all.length).at;
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
// kernels.c: 16 matrices of cout × cin.
export class Conv3x3 {
  constructor(weights, name) {
    const {
      shape: [O, I],
      numbers,
    } = weights.get(`${name}.weight`);
    const [cout, cin] = [padded(O), padded(I)];
    this.width = O;
    this.bias = padded_bias(weights, name, O);
    const packed = Array.from({ length: 16 }, () => reserve(cout, cin));
    this.filters = packed[0].panels;
    scope(() => {
      const W = packed.map(() => empty(cout, cin).fill(0));
      for (let o = 0; o < O; o++) {
        const rows = W.map((matrix) => matrix.view(o));
        for (let i = 0; i < I; i++) {
          const g = numbers.subarray(9 * (o * I + i), 9 * (o * I + i) + 9);
          transformed(g).forEach((x, p) => (rows[p][i] = x));
        }
      }
      W.forEach((matrix, p) => rows_of(matrix, packed[p]));
    });
  }
  forward(x, out = new FeatureMap(x.h, x.w, this.width), sum_up = false) {
    return winograd(x, this.filters, this.bias, out, sum_up);
  }
}

// G g Gᵀ of a filter of 3 × 3, G being the rows (1 0 0), (½ ½ ½), (½ -½ ½), (0 0 1)
function transformed(g) {
  const G = (a, b, c) => [a, (a + b + c) / 2, (a - b + c) / 2, c];
  const columns = [0, 1, 2].map((j) => G(g[j], g[3 + j], g[6 + j]));
  return [0, 1, 2, 3].flatMap((i) => G(columns[0][i], columns[1][i], columns[2][i]));
}

// 3 × 3 with stride 2, one row and one column of padding, below and to the right: each row of y is
// the sum of three products, one a row of the filter, of three places side by side
export class Downsample {
  constructor(weights, name) {
    const {
      shape: [O, I],
      numbers,
    } = weights.get(`${name}.weight`);
    this.width = O;
    this.bias = padded_bias(weights, name, O);
    this.rows = [0, 1, 2].map(() => reserve(O, 3 * I));
    scope(() => {
      const W = tensor(numbers, O * I, 9),
        place = empty(O, 3 * I);
      for (let y = 0; y < 3; y++) {
        for (let o = 0; o < O; o++) {
          const row = place.view(o);
          for (let i = 0; i < I; i++) {
            for (let x = 0; x < 3; x++) row[x * I + i] = W.view(o * I + i)[3 * y + x];
          }
        }
        rows_of(place, this.rows[y]);
      }
    });
  }
  forward(x) {
    const out = new FeatureMap(x.h / 2, x.w / 2, this.width);
    for (let r = 0; r < out.h; r++) {
      this.rows.forEach((packed, y) => {
        const places = x.row(2 * r + y, 0, out.w); // every second place, and two to its right
        places.pitch = 2 * x.c;
        matmul(places, packed, out.row(r), y === 0 ? this.bias : 0, y > 0);
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
