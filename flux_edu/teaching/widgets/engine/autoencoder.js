// Chapter 8, the autoencoder: pictures to latents and back, as flux_edu/autoencoder.py.

import { one_head } from "./attention.js";
import { FeatureMap, scope, upsample } from "./kernels.js";
import { Conv1x1, Conv3x3, Downsample, GroupNorm } from "./layers.js";
import { show } from "./observe.js";

// Attention with one head: every place looks at every other. In place.
class AttnBlock {
  constructor(weights, name, groups) {
    this.name = name;
    this.norm = new GroupNorm(weights, `${name}.norm`, groups);
    this.q = new Conv1x1(weights, `${name}.q`);
    this.k = new Conv1x1(weights, `${name}.k`);
    this.v = new Conv1x1(weights, `${name}.v`);
    this.proj_out = new Conv1x1(weights, `${name}.proj_out`);
  }
  forward(x) {
    scope(() => {
      const normed = this.norm.forward(x);
      const [q, k, v] = [this.q, this.k, this.v].map((layer) => layer.forward(normed).places());
      one_head(q, k, v, v, `${this.name}.attention`);
      this.proj_out.forward(normed.set_places(v), x, true);
    });
    return x;
  }
}

// Norm, swish, convolution, twice, added to the input. Where the widths differ, the input passes a
// 1 × 1 convolution on its way round; else it is changed in place.
class ResnetBlock {
  constructor(weights, name, groups) {
    this.name = name;
    this.norm1 = new GroupNorm(weights, `${name}.norm1`, groups);
    this.conv1 = new Conv3x3(weights, `${name}.conv1`);
    this.norm2 = new GroupNorm(weights, `${name}.norm2`, groups);
    this.conv2 = new Conv3x3(weights, `${name}.conv2`);
    const shortcut = `${name}.nin_shortcut`;
    this.nin_shortcut = weights.has(`${shortcut}.weight`) ? new Conv1x1(weights, shortcut) : null;
  }
  forward(x) {
    const out = this.nin_shortcut ? this.nin_shortcut.forward(x) : x;
    scope(() => {
      const h = this.conv1.forward(this.norm1.forward(x, true));
      this.conv2.forward(this.norm2.forward(h, true), out, true);
    });
    show(this.name, out);
    return out;
  }
}

function residual_blocks(weights, prefix, groups) {
  return weights.each(prefix).map((name) => new ResnetBlock(weights, name, groups));
}

// The deepest part of both halves: residual block, attention, residual block.
class Middle {
  constructor(weights, name, groups) {
    this.block_1 = new ResnetBlock(weights, `${name}.block_1`, groups);
    this.attn_1 = new AttnBlock(weights, `${name}.attn_1`, groups);
    this.block_2 = new ResnetBlock(weights, `${name}.block_2`, groups);
  }
  forward(x) {
    return this.block_2.forward(this.attn_1.forward(this.block_1.forward(x)));
  }
}

// Picture to moments: mean and log variance of every latent number, mean first.
class Encoder {
  constructor(weights, { ch_mult, norm_groups }) {
    this.conv_in = new Conv3x3(weights, "encoder.conv_in");
    this.down = ch_mult.map((_, level) => ({
      block: residual_blocks(weights, `encoder.down.${level}.block`, norm_groups),
      downsample:
        level < ch_mult.length - 1
          ? new Downsample(weights, `encoder.down.${level}.downsample.conv`)
          : null,
    }));
    this.mid = new Middle(weights, "encoder.mid", norm_groups);
    this.norm_out = new GroupNorm(weights, "encoder.norm_out", norm_groups);
    this.conv_out = new Conv3x3(weights, "encoder.conv_out");
  }
  forward(x) {
    let h = this.conv_in.forward(x);
    for (const { block, downsample } of this.down) {
      for (const each of block) h = each.forward(h);
      if (downsample) h = downsample.forward(h);
    }
    return this.conv_out.forward(this.norm_out.forward(this.mid.forward(h), true));
  }
}

// Latent to picture: the encoder backwards, with one more block a level.
class Decoder {
  constructor(weights, { ch_mult, norm_groups }) {
    this.conv_in = new Conv3x3(weights, "decoder.conv_in");
    this.mid = new Middle(weights, "decoder.mid", norm_groups);
    this.up = ch_mult.map((_, level) => ({
      block: residual_blocks(weights, `decoder.up.${level}.block`, norm_groups),
      conv: level > 0 ? new Conv3x3(weights, `decoder.up.${level}.upsample.conv`) : null,
    }));
    this.norm_out = new GroupNorm(weights, "decoder.norm_out", norm_groups);
    this.conv_out = new Conv3x3(weights, "decoder.conv_out");
  }
  forward(z) {
    let h = this.mid.forward(this.conv_in.forward(z));
    for (const { block, conv } of [...this.up].reverse()) {
      for (const each of block) h = each.forward(h);
      if (conv) h = conv.forward(upsample(h)); // every place repeated, then a convolution
    }
    return this.conv_out.forward(this.norm_out.forward(h, true));
  }
}

// Eq. (8.1):  z = scale (mean(enc(x)) - shift)
// Eq. (8.2):  x = dec(z / scale + shift)
// Numbers are channels first, as in PyTorch. h and w count pixels.
export class AutoEncoder {
  constructor(weights, params) {
    Object.assign(this, { weights, params, decoder: new Decoder(weights, params) });
  }
  load_encoder() {
    this.encoder = new Encoder(this.weights, this.params);
  }
  encode(x, h, w) {
    const { scale_factor, shift_factor, z_channels } = this.params;
    return scope(() => {
      const moments = this.encoder.forward(new FeatureMap(h, w, 3).write(x)).numbers();
      const mean = moments.subarray(0, (z_channels * h * w) / 64);
      return mean.map((m) => scale_factor * Math.fround(m - shift_factor));
    });
  }
  decode(z, h, w) {
    const { scale_factor, shift_factor, z_channels } = this.params;
    return scope(() => {
      const latent = new FeatureMap(h / 8, w / 8, z_channels);
      latent.write(z.map((x) => Math.fround(x / scale_factor) + shift_factor));
      return this.decoder.forward(latent).numbers();
    });
  }
}
