// Chapter 3, RoPE: positions as rotations of queries and keys, as flux_edu/rope.py.

import { rotate, tensor } from "./kernels.js";

// Eq. (3.1):  ω_j = θ^{-2j/d_a},  j = 0 … d_a/2 - 1
export function rope_frequencies(dim, theta) {
  return Array.from({ length: dim / 2 }, (_, j) => theta ** ((-2 * j) / dim));
}

// Eq. (3.2):  the rotations R(p)_j of a position, cos pω_j and sin pω_j of each
export function rope(pos, dim, theta) {
  return rope_frequencies(dim, theta).flatMap((w) => [Math.cos(pos * w), Math.sin(pos * w)]);
}

// Eq. (3.3):  q̃ = R(p) q, on the adjacent pairs of channels (2j, 2j+1) of every head, in place
export function apply_rope(x, pe, heads) {
  rotate(x, pe, heads);
}

// Eq. (3.4):  R(id) = R(id_0) ⊕ R(id_1) ⊕ R(id_2), a row for every token
export function embed_nd(ids, theta, axes_dim) {
  const rows = ids.map((id) => axes_dim.flatMap((dim, axis) => rope(id[axis], dim, theta)));
  return tensor(Float32Array.from(rows.flat()), ids.length);
}
