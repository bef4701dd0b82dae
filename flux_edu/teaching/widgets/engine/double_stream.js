// Chapter 4, the whole block: two streams that meet in one attention, as flux_edu/double_stream.py.

import { attention, SelfAttention } from "./attention.js";
import { add_gated, empty, gelu, scope } from "./kernels.js";
import { modulate, Modulation } from "./modulation.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";

// The feed-forward part of a stream: wider, GELU (tanh form), back.
class MLP {
  constructor(weights, name) {
    this.layers = [new Linear(weights, `${name}.0`), new Linear(weights, `${name}.2`)];
  }
  forward(x) {
    return this.layers[1].forward(gelu(this.layers[0].forward(x)));
  }
}

// Eq. (4.11):  x ← x + g¹ ⊙ (W_proj A + c_proj)
// Eq. (4.12):  x ← x + g² ⊙ MLP((1 + s²) ⊙ LN(x) + b²),  both for each stream, in place
export class DoubleStreamBlock {
  constructor(weights, name, num_heads) {
    Object.assign(this, { name, num_heads });
    this.img_mod = new Modulation(weights, `${name}.img_mod`, true);
    this.img_attn = new SelfAttention(weights, `${name}.img_attn`, num_heads);
    this.img_mlp = new MLP(weights, `${name}.img_mlp`);
    this.txt_mod = new Modulation(weights, `${name}.txt_mod`, true);
    this.txt_attn = new SelfAttention(weights, `${name}.txt_attn`, num_heads);
    this.txt_mlp = new MLP(weights, `${name}.txt_mlp`);
  }
  forward(img, txt, silu_vec, pe, experiment) {
    scope(() => {
      const L_txt = txt.rows;
      const L = L_txt + img.rows;
      const [img_mod1, img_mod2] = this.img_mod.forward(silu_vec); // Eq. (4.4)
      const [txt_mod1, txt_mod2] = this.txt_mod.forward(silu_vec);
      const qkv = empty(L, 3 * img.cols); // of both streams, text first
      this.img_attn.heads(modulate(img, img_mod1), qkv.row(L_txt, L)); // Eq. (4.5) to (4.7)
      this.txt_attn.heads(modulate(txt, txt_mod1), qkv.row(0, L_txt));
      // Eq. (4.8) to (4.10)
      const A = attention(...qkv.chunk(3), pe, this.num_heads, this.name, experiment);
      const [txt_A, img_A] = [A.row(0, L_txt), A.row(L_txt, L)];
      add_gated(img, img_mod1.gate, this.img_attn.proj.forward(img_A)); // Eq. (4.11)
      add_gated(txt, txt_mod1.gate, this.txt_attn.proj.forward(txt_A));
      add_gated(img, img_mod2.gate, this.img_mlp.forward(modulate(img, img_mod2))); // Eq. (4.12)
      add_gated(txt, txt_mod2.gate, this.txt_mlp.forward(modulate(txt, txt_mod2)));
    });
    show(`${this.name}.img`, img);
    show(`${this.name}.txt`, txt);
  }
}
