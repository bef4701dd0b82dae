// Chapter 4, first part: numbers and pooled text as vectors, as flux_edu/embeddings.py.

import { silu, tensor } from "./kernels.js";
import { Linear } from "./layers.js";

// Eq. (4.1):  emb(t) = [cos(1000 t f_i), sin(1000 t f_i)],  f_i = 10000^{-i/128}
// PyTorch computes in float32, and 1000 t is large: so `f` rounds where it does.
export function timestep_embedding(t, dim) {
  const half = dim / 2;
  const out = new Float32Array(dim);
  const f = Math.fround;
  for (let i = 0; i < half; i++) {
    const frequency = f(Math.exp(f(f(-Math.log(10_000) * i) / half)));
    const angle = f(f(1000 * f(t)) * frequency);
    out[i] = Math.cos(angle);
    out[half + i] = Math.sin(angle);
  }
  return tensor(out, 1);
}

// Eq. (4.2):  MLP(x) = W_2 SiLU(W_1 x + c_1) + c_2
export class MLPEmbedder {
  constructor(weights, name) {
    this.in_layer = new Linear(weights, `${name}.in_layer`);
    this.out_layer = new Linear(weights, `${name}.out_layer`);
  }
  forward(x) {
    return this.out_layer.forward(silu(this.in_layer.forward(x)));
  }
}
