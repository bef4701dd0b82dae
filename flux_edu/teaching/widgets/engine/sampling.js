// Chapter 6, sampling: from noise to a picture by the velocity, as flux_edu/sampling.py.

import { interpolate } from "./schedule.js";

const f = Math.fround; // PyTorch's numbers are float32 after every operation

// Eq. (6.1):  x̂_0 = x_t - t v
export const predict_x0 = (x, v, t) => x.map((a, i) => a - f(t * v[i]));

// Eq. (6.2):  x_{i+1} = x_i + (t_{i+1} - t_i) v_θ(x_i, t_i)
export const euler_step = (x, v, t, t_next) => x.map((a, i) => a + f((t_next - t) * v[i]));

// Eq. (6.4):  v_w = v_∅ + w (v_c - v_∅)
export const guide = (v_uncond, v_cond, w) => {
  return v_uncond.map((a, i) => a + f(w * f(v_cond[i] - a)));
};

// Eq. (6.3):  i = ⌊(1 - ς) N + ½⌋, at most N - 1 while ς > 0;  x = t_i ε + (1 - t_i) z
export function image_to_image_start(z, noise, timesteps, strength) {
  const N = timesteps.length - 1;
  let i = Math.floor((1 - strength) * N + 0.5 + 1e-9); // (1 - 0.9) * 5 is 0.4999…
  if (strength > 0) i = Math.min(i, N - 1);
  return [interpolate(z, noise, f(timesteps[i])), timesteps.slice(i)];
}

// The velocity of all image tokens as a function (x, t) → v. `inputs` holds img_ids, txt, txt_ids
// and vec; img_cond is joined to the channels of every token, Eq. (12.1) and (12.2); img_cond_seq
// to the sequence, Eq. (12.3). With `uncond`, the empty prompt's {txt, vec}, guidance takes two
// passes.
export function velocity_field(model, inputs, guidance, { img_cond, img_cond_seq, uncond }) {
  const L = inputs.img_ids.length;
  const img_ids = img_cond_seq ? [...inputs.img_ids, ...img_cond_seq.ids] : inputs.img_ids;
  const pass = (img, t, { txt, vec, experiment }) => {
    return model.forward(img, img_ids, txt, inputs.txt_ids, t, vec, guidance, experiment);
  };
  return (x, t) => {
    let img = img_cond ? join_channels(x, img_cond, L) : x;
    if (img_cond_seq) img = Float32Array.of(...img, ...img_cond_seq.tokens);
    const without = uncond && guidance !== 1 ? pass(img, t, uncond) : null;
    const v = pass(img, t, inputs).subarray(0, x.length);
    return without ? guide(without.subarray(0, x.length), v, guidance) : v;
  };
}

export function join_channels(x, cond, L) {
  const [a, b] = [x.length / L, cond.length / L];
  const out = new Float32Array(L * (a + b));
  for (let i = 0; i < L; i++) {
    out.set(x.subarray(i * a, (i + 1) * a), i * (a + b));
    out.set(cond.subarray(i * b, (i + 1) * b), i * (a + b) + a);
  }
  return out;
}

// Eq. (6.2) from timesteps[0] to timesteps[-1]. callback(i, t, x, v) is awaited at every step; the
// walk ends early, with null, when it returns false.
export async function denoise(velocity, img, timesteps, callback) {
  let x = img;
  for (let i = 0; i + 1 < timesteps.length; i++) {
    const v = velocity(x, timesteps[i]);
    if ((await callback(i, timesteps[i], x, v)) === false) return null;
    x = euler_step(x, v, timesteps[i], timesteps[i + 1]);
  }
  return x;
}
