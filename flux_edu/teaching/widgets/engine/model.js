// The whole network: five stages from noise and text to a velocity, as flux_edu/model.py.

import { DoubleStreamBlock } from "./double_stream.js";
import { MLPEmbedder, timestep_embedding } from "./embeddings.js";
import { add, empty, scope, silu, tensor } from "./kernels.js";
import { Linear } from "./layers.js";
import { show } from "./observe.js";
import { embed_nd } from "./rope.js";
import { LastLayer, SingleStreamBlock } from "./single_stream.js";

const EMBEDDING_WIDTH = 256; // of the sinusoids of time and guidance

export class Flux {
  constructor(weights, { in_channels, num_heads, axes_dim, theta, guidance_embed }) {
    Object.assign(this, { axes_dim, theta });
    this.img_in = new Linear(weights, "img_in", in_channels);
    this.txt_in = new Linear(weights, "txt_in");
    this.time_in = new MLPEmbedder(weights, "time_in");
    this.vector_in = new MLPEmbedder(weights, "vector_in");
    this.guidance_in = guidance_embed ? new MLPEmbedder(weights, "guidance_in") : null;
    const blocks = (Block, kind) => {
      return weights.each(kind).map((name) => new Block(weights, name, num_heads));
    };
    this.double_blocks = blocks(DoubleStreamBlock, "double_blocks");
    this.single_blocks = blocks(SingleStreamBlock, "single_blocks");
    this.final_layer = new LastLayer(weights, "final_layer");
  }
  // Eq. (4.3):  vec = MLP_t(emb(t)) + MLP_w(emb(w)) + MLP_y(y)
  conditioning(timestep, y, guidance) {
    const emb = (number) => timestep_embedding(number, EMBEDDING_WIDTH);
    const vec = show("time_in", this.time_in.forward(emb(timestep)));
    if (this.guidance_in) {
      add(vec, show("guidance_in", this.guidance_in.forward(emb(guidance))));
    }
    return add(vec, show("vector_in", this.vector_in.forward(tensor(y, 1))));
  }
  // The velocity v_θ(x_t, t) of every image token; img and txt are rows of numbers, ids rows of 3.
  // An experiment names a block or a head to leave out, and lists the rows of txt left unseen.
  forward(img, img_ids, txt, txt_ids, timestep, y, guidance, experiment = {}) {
    return scope(() => {
      // 1. both inputs to the model's width, in one sequence, text first
      const L_txt = txt_ids.length;
      const L = L_txt + img_ids.length;
      const x = empty(L, this.img_in.width);
      const [txt_x, img_x] = [x.row(0, L_txt), x.row(L_txt, L)];
      show("img_in", this.img_in.forward(tensor(img, img_ids.length), img_x));
      show("txt_in", this.txt_in.forward(tensor(txt, L_txt), txt_x));
      // 2. time, guidance and pooled text to one vector
      const vec = show("vec", this.conditioning(timestep, y, guidance));
      const silu_vec = silu(vec); // all that the blocks take of it
      // 3. positions to rotations, text first
      const pe = show("pe", embed_nd([...txt_ids, ...img_ids], this.theta, this.axes_dim));
      // 4. two streams, then one; a block left out hands its tokens on as they came
      const kept = (blocks) => blocks.filter(({ name }) => name !== experiment.leave_out);
      for (const block of kept(this.double_blocks)) {
        block.forward(img_x, txt_x, silu_vec, pe, experiment);
      }
      for (const block of kept(this.single_blocks)) block.forward(x, silu_vec, pe, experiment);
      // 5. the text has done its work
      return show("v", this.final_layer.forward(img_x, silu_vec)).numbers();
    });
  }
}
