// Chapter 4, third part: heads, QK norm and joint attention, as flux_edu/attention.py.

import { columns_of, matmul, rms_norm, rows_of, scope, softmax } from "./kernels.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";
import { apply_rope } from "./rope.js";

const QUERIES = 1024; // so many rows of the matrix of weights are in memory at once

// Eq. (4.7):  Q ← RMSNorm_q(Q),  K ← RMSNorm_k(K), over each head, in place
export class QKNorm {
  constructor(weights, name) {
    this.query_norm = weights.vector(`${name}.query_norm.scale`);
    this.key_norm = weights.vector(`${name}.key_norm.scale`);
  }
  forward(q, k, heads) {
    rms_norm(q, this.query_norm, heads, q);
    rms_norm(k, this.key_norm, heads, k);
  }
}

// One stream's weights of the attention.
export class SelfAttention {
  constructor(weights, name, num_heads) {
    Object.assign(this, { name, num_heads });
    this.qkv = new Linear(weights, `${name}.qkv`);
    this.norm = new QKNorm(weights, `${name}.norm`);
    this.proj = new Linear(weights, `${name}.proj`);
  }
  // Normed queries, normed keys, values, side by side in `qkv`.
  heads(x, qkv) {
    const [q, k] = this.qkv.forward(x, qkv).chunk(3); // Eq. (4.6)
    show(`${this.name}.qkv`, qkv);
    this.norm.forward(q, k, this.num_heads); // Eq. (4.7)
  }
}

// Eq. (4.9):  A = Softmax(Q̃ K̃ᵀ / √d_h) V with Q̃ = R(p) Q and K̃ = R(p) K, rotated in place. A
// takes the place of V, head by head. FLUX masks nothing; for experiments, `unseen` lists keys that
// nobody is to look at, and a head whose name is left out gives nothing.
export function attention(q, k, v, pe, heads, name, { unseen = [], leave_out }) {
  show(`${name}.q`, q);
  show(`${name}.k`, k);
  show(`${name}.v`, v);
  apply_rope(q, pe, heads);
  apply_rope(k, pe, heads);
  show(`${name}.q_rotated`, q);
  show(`${name}.k_rotated`, k);
  const [Q, K, V] = [q, k, v].map((x) => x.chunk(heads));
  const hide = (scores) => {
    for (const key of unseen) scores.columns(key, key + 1).fill(-1e30);
  };
  for (let h = 0; h < heads; h++) {
    const head = `${name}.attention.${h}`;
    one_head(Q[h], K[h], V[h], V[h], head, hide);
    if (head === leave_out) V[h].fill(0);
  }
  show(`${name}.A`, v);
  return v;
}

// out = softmax(factor · change(q kᵀ)) v, with one head
export function one_head(q, k, v, out, name, change = null, factor = 1 / Math.sqrt(q.cols)) {
  scope(() => {
    const [keys, values] = [rows_of(k), columns_of(v)];
    for (let from = 0; from < q.rows; from += QUERIES) {
      scope(() => {
        const to = Math.min(from + QUERIES, q.rows);
        const weights = matmul(q.row(from, to), keys);
        change?.(weights);
        softmax(weights, factor);
        show(name, weights);
        matmul(weights, values, out.row(from, to));
      });
    }
  });
}
