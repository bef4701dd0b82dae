// Chapter 5: text and image as one sequence, and the last layer, as flux_edu/single_stream.py.

import { attention, QKNorm } from "./attention.js";
import { add_gated, gelu, scope } from "./kernels.js";
import { modulate, Modulation } from "./modulation.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";

// Eq. (5.1):  (b, s, g) = chunk₃(W_mod SiLU(vec) + c_mod),  x̃ = (1 + s) ⊙ LN(x) + b
// Eq. (5.2):  [q, k, v, m] = W_1 x̃ + c_1,  of 3D and 4D channels
// Eq. (5.3):  o = W_2 [Attn(R q̂, R k̂, v) ; GELU(m)] + c_2
// Eq. (5.4):  x ← x + g ⊙ o, in place
export class SingleStreamBlock {
  constructor(weights, name, num_heads) {
    Object.assign(this, { name, num_heads });
    this.linear1 = new Linear(weights, `${name}.linear1`);
    this.linear2 = new Linear(weights, `${name}.linear2`);
    this.norm = new QKNorm(weights, `${name}.norm`);
    this.modulation = new Modulation(weights, `${name}.modulation`, false);
  }
  forward(x, silu_vec, pe, experiment) {
    scope(() => {
      const D = x.cols;
      const [mod] = this.modulation.forward(silu_vec);
      const qkvm = show(`${this.name}.linear1`, this.linear1.forward(modulate(x, mod)));
      const [q, k, v] = qkvm.columns(0, 3 * D).chunk(3);
      const m = qkvm.columns(3 * D, qkvm.cols);
      this.norm.forward(q, k, this.num_heads);
      // its result stands where v stood
      attention(q, k, v, pe, this.num_heads, this.name, experiment);
      show(`${this.name}.mlp`, gelu(m));
      add_gated(x, mod.gate, this.linear2.forward(qkvm.columns(2 * D, qkvm.cols)));
    });
    show(`${this.name}.x`, x);
  }
}

// Eq. (5.5):  (b, s) = chunk₂(W_a SiLU(vec) + c_a),  y = W((1 + s) ⊙ LN(x) + b) + c
export class LastLayer {
  constructor(weights, name) {
    this.name = name;
    this.linear = new Linear(weights, `${name}.linear`);
    this.adaLN_modulation = new Linear(weights, `${name}.adaLN_modulation.1`);
  }
  forward(x, silu_vec) {
    const numbers = show(`${this.name}.modulation`, this.adaLN_modulation.forward(silu_vec));
    const [shift, scale] = numbers.chunk(2);
    return this.linear.forward(modulate(x, { shift, scale }));
  }
}
