// Chapter 7, the text encoders: T5's sequence and CLIP's vector, as transformers computes them for
// flux_edu/text.py.

import { one_head } from "./attention.js";
import { empty, gelu, layer_norm, multiply, quick_gelu, rms_norm, scope } from "./kernels.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";

const HEADS = 4;

// Queries, keys, values, heads, and the way out, added to x. `change(weights, h)` comes before
// softmax.
class Attention {
  constructor(weights, name, [q, k, v, out], show_as) {
    this.layers = [q, k, v].map((layer) => new Linear(weights, `${name}.${layer}`));
    this.out = new Linear(weights, `${name}.${out}`);
    this.name = show_as;
  }
  forward(normed, x, factor, change) {
    const [q, k, v] = this.layers.map((layer) => layer.forward(normed).chunk(HEADS));
    const A = empty(x.rows, x.cols);
    const heads = A.chunk(HEADS);
    for (let h = 0; h < HEADS; h++) {
      const before_softmax = (weights) => change(weights, h);
      one_head(q[h], k[h], v[h], heads[h], `${this.name}.${h}`, before_softmax, factor);
    }
    this.out.forward(A, x, true);
  }
}

function embed(ids, table) {
  const x = empty(ids.length, table.shape[1]);
  ids.forEach((id, i) => x.view(i).set(row_of(table, id)));
  return x;
}
const row_of = ({ shape: [, D], numbers }, i) => numbers.subarray(i * D, (i + 1) * D);

// Eq. (7.1):  txt = last hidden states of T5. RMS norms, gated GELU, no bias; 1/√d is in its
// weights.
export class T5 {
  constructor(weights) {
    this.table = weights.get("shared.weight");
    this.block = weights.each("encoder.block").map((name, i) => {
      const at = `${name}.layer`;
      const layer = (name) => new Linear(weights, `${at}.${name}`);
      return {
        norm1: weights.vector(`${at}.0.layer_norm.weight`),
        attention: new Attention(weights, `${at}.0.SelfAttention`, ["q", "k", "v", "o"], `t5.${i}`),
        norm2: weights.vector(`${at}.1.layer_norm.weight`),
        gate: layer("1.DenseReluDense.wi_0"),
        wide: layer("1.DenseReluDense.wi_1"),
        back: layer("1.DenseReluDense.wo"),
      };
    });
    this.norm = weights.vector("encoder.final_layer_norm.weight");
    const near = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    this.relative_bias = weights.get(near).numbers; // a number for a bucket of distances and a head
  }
  forward(ids) {
    return scope(() => {
      const x = embed(ids, this.table);
      const nearness = (scores, h) => {
        for (let i = 0; i < scores.rows; i++) {
          const row = scores.view(i);
          const near = (j) => this.relative_bias[bucket(j - i) * HEADS + h];
          for (let j = 0; j < row.length; j++) row[j] += near(j);
        }
      };
      for (const { norm1, attention, norm2, gate, wide, back } of this.block) {
        attention.forward(rms_norm(x, norm1), x, 1, nearness);
        const normed = rms_norm(x, norm2);
        back.forward(multiply(gelu(gate.forward(normed)), wide.forward(normed)), x, true);
      }
      return show("t5", rms_norm(x, this.norm)).numbers();
    });
  }
}

// T5's 32 buckets of distances: 16 a direction, the first 8 exact, the rest wider and wider to 128
function bucket(distance) {
  const d = Math.abs(distance);
  const far = 8 + Math.floor((Math.log(d / 8) / Math.log(128 / 8)) * 8);
  return (distance > 0 ? 16 : 0) + (d < 8 ? d : Math.min(15, far));
}

// Eq. (7.2):  y = CLIP's state at the end-of-text token. Every token sees only those before it.
export class CLIP {
  constructor(weights, end) {
    this.end = end;
    const norm = (name) => [weights.vector(`${name}.weight`), weights.vector(`${name}.bias`)];
    this.table = weights.get("embeddings.token_embedding.weight");
    this.places = weights.get("embeddings.position_embedding.weight");
    this.layers = weights.each("encoder.layers").map((at, i) => {
      const names = ["q_proj", "k_proj", "v_proj", "out_proj"];
      return {
        norm1: norm(`${at}.layer_norm1`),
        attention: new Attention(weights, `${at}.self_attn`, names, `clip.${i}`),
        norm2: norm(`${at}.layer_norm2`),
        wide: new Linear(weights, `${at}.mlp.fc1`),
        back: new Linear(weights, `${at}.mlp.fc2`),
      };
    });
    this.norm = norm("final_layer_norm");
  }
  forward(ids) {
    return scope(() => {
      const x = embed(ids, this.table);
      ids.forEach((_, i) => {
        const row = x.view(i);
        row_of(this.places, i).forEach((p, c) => (row[c] += p));
      });
      const eps = 1e-5;
      const causal = (scores) => {
        for (let i = 0; i < scores.rows; i++) scores.view(i).fill(-1e30, i + 1);
      };
      for (const { norm1, attention, norm2, wide, back } of this.layers) {
        attention.forward(layer_norm(x, ...norm1, eps), x, 1 / Math.sqrt(x.cols / HEADS), causal);
        back.forward(quick_gelu(wide.forward(layer_norm(x, ...norm2, eps))), x, true);
      }
      const states = show("clip", layer_norm(x, ...this.norm, eps));
      return states.view(ids.indexOf(this.end)).slice();
    });
  }
}
