// Chapter 12, the tools: how a picture goes in, as flux_edu/tools.py. Redux stays in the notebook:
// it sees with a network of its own.

import { make_img_ids, patchify } from "./patchify.js";
import { join_channels } from "./sampling.js";

// Eq. (12.1):  x̃ = [x_t ; patchify(z_c)]
export const control_cond = (z, h, w) => patchify(z, h, w);

// "1 (h p) (w q) -> (p q) h w", p = q = 8; h and w count places of the latent
export function pack_mask(mask, h, w) {
  const out = new Float32Array(mask.length);
  for (let y = 0; y < 8 * h; y++) {
    for (let x = 0; x < 8 * w; x++) {
      const channel = 8 * (y % 8) + (x % 8);
      out[(channel * h + Math.floor(y / 8)) * w + Math.floor(x / 8)] = mask[y * 8 * w + x];
    }
  }
  return out;
}

// Eq. (12.2):  x̃ = [x_t ; patchify(z_m) ; patchify(pack(m))]; h and w count tokens
export function fill_cond(z_kept, mask, h, w) {
  const packed = pack_mask(mask, 2 * h, 2 * w);
  return join_channels(patchify(z_kept, h, w), patchify(packed, h, w), h * w);
}

// The picture, channels first, with 0, a middle grey, wherever the mask is 1.
export const hide = (picture, mask) => picture.map((x, i) => x * (1 - mask[i % mask.length]));

// Eq. (12.3):  x̃ = [x_t ; patchify(z_r)],  id_r = (1, row, column)
export const reference_tokens = (z, h, w) => {
  return { tokens: patchify(z, h, w), ids: make_img_ids(h, w, 1) };
};
