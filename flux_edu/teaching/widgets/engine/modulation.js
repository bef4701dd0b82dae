// Chapter 4, second part: how the conditioning steers a block, as flux_edu/modulation.py.

import { layer_norm } from "./kernels.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";

// Eq. (4.4):  (b¹, s¹, g¹, b², s², g²) = chunk(W SiLU(vec) + c): shift, scale, gate of each branch
export class Modulation {
  constructor(weights, name, double) {
    Object.assign(this, { name, parts: double ? 6 : 3, lin: new Linear(weights, `${name}.lin`) });
  }
  forward(silu_vec) {
    const numbers = show(this.name, this.lin.forward(silu_vec));
    const [shift, scale, gate, shift2, scale2, gate2] = numbers.chunk(this.parts);
    return [
      { shift, scale, gate },
      { shift: shift2, scale: scale2, gate: gate2 },
    ];
  }
}

// Eq. (4.5):  x̃ = (1 + s) ⊙ LN(x) + b
export function modulate(x, { shift, scale }) {
  return layer_norm(x, scale, shift, 1e-6, 1);
}
