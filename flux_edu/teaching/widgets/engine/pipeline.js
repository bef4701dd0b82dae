// From a prompt to a picture: all parts put together, as flux_edu/pipeline.py and apps/tools.py.

import { AutoEncoder } from "./autoencoder.js";
import { read, Weights } from "./checkpoint.js";
import { get_spec, TINY_AE, TXT_TOKENS } from "./configs.js";
import { guided_between } from "./guidance_interval.js";
import { mark, release } from "./kernels.js";
import { Flux } from "./model.js";
import { observe } from "./observe.js";
import {
  get_noise,
  make_img_ids,
  make_txt_ids,
  patchify,
  token_grid,
  unpatchify,
} from "./patchify.js";
import { denoise, image_to_image_start, predict_x0, velocity_field } from "./sampling.js";
import { get_schedule } from "./schedule.js";
import { CLIP, T5 } from "./text.js";
import { Tokenizer } from "./tokenizer.js";
import { control_cond, fill_cond, hide, reference_tokens } from "./tools.js";

export class FluxGenerator {
  // files: {name: ArrayBuffer} of what all tiny models share
  constructor(files) {
    const weights = (part) => new Weights(read(files[`${part}.safetensors`]));
    const tokenizer = JSON.parse(new TextDecoder().decode(files["tokenizer.json"]));
    this.tokenizer = new Tokenizer(tokenizer, TXT_TOKENS);
    this.t5 = new T5(weights("t5"));
    this.clip = new CLIP(weights("clip"), this.tokenizer.end);
    this.ae = new AutoEncoder(weights("ae"), TINY_AE);
    this.base = weights("flux").state;
    this.deltas = {};
    this.shared = mark();
  }
  add_delta(name, file) {
    this.deltas[name] = read(file);
  }
  // Make `name`, its delta at a scale, the model that paints. Memory is a stack, with the one
  // transformer on top of the parts that all models share; the encoder is made when the first
  // picture comes in.
  load(name, lora_scale = 1, with_encoder = false) {
    const needs_encoder = with_encoder && !this.ae.encoder;
    if (this.name === name && this.lora_scale === lora_scale && !needs_encoder) return;
    release(this.shared);
    this.name = null;
    if (needs_encoder) this.ae.load_encoder();
    this.shared = mark();
    this.spec = get_spec(name);
    const weights = new Weights(this.base, this.deltas[this.spec.lora], lora_scale);
    this.model = new Flux(weights, this.spec.params);
    Object.assign(this, { name, lora_scale });
  }
  prepare(prompt, clip_prompt = prompt) {
    const [txt_ids, vec_ids] = [prompt, clip_prompt].map((text) => this.tokenizer.tokens(text));
    return { txt: this.t5.forward(txt_ids), vec: this.clip.forward(vec_ids) };
  }
  // Paint one picture. options: model, prompt, width, height (multiples of 16), num_steps,
  // guidance, seed, and what a tool or image to image takes, as {data, width, height} with 4 bytes
  // a pixel: picture and mask (tiny-fill), edges (tiny-canny), picture (tiny-kontext), or
  // init_image with image2image_strength. For experiments: leave_out names a block or a head that
  // is to do nothing; unseen lists the prompt's tokens that attention is not to see; clip_prompt is
  // what CLIP reads; timesteps are the levels; moved is where the rows and columns of the ids
  // begin; guided is the range of t with guidance; lora_scale is how much of its delta a model has.
  // callback(i, t, x, v) is that of `denoise`; the result is null if it ended the walk.
  async paint(options, callback = () => {}) {
    check(options);
    const { model, width, height, num_steps, seed, init_image } = options;
    this.load(model, options.lora_scale, Boolean(options.picture ?? options.edges ?? init_image));
    const [h, w] = token_grid(height, width);
    let latent = get_noise(height, width, seed);
    let timesteps = options.timesteps ?? get_schedule(num_steps, h * w, this.spec.shift);
    if (init_image) {
      const z = this.ae.encode(to_tensor(init_image), height, width);
      const strength = options.image2image_strength;
      [latent, timesteps] = image_to_image_start(z, latent, timesteps, strength);
    }
    const states = []; // x_t of every step
    this.walk = { ...options, h, w, timesteps, states, conditions: this.conditions(options) };
    const velocity = this.velocity(this.walk);
    const x = await denoise(velocity, patchify(latent, h, w), timesteps, (i, t, x, v) => {
      states.push(x);
      return callback(i, t, x, v);
    });
    return x && this.decode(x, h, w);
  }
  velocity({ conditions = {}, guidance, guided = [0, 1], h, w, ...options }) {
    const { prompt, clip_prompt, moved, leave_out, unseen } = options;
    const ids = { img_ids: make_img_ids(h, w, 0, moved), txt_ids: make_txt_ids(TXT_TOKENS) };
    const text = { ...this.prepare(prompt, clip_prompt), experiment: { leave_out, unseen } };
    const field = (more) => velocity_field(this.model, { ...ids, ...text }, guidance, more);
    if (!this.spec.two_passes || guidance === 1) return field(conditions);
    const uncond = { ...this.prepare(""), experiment: { leave_out } };
    return guided_between(field({ ...conditions, uncond }), field(conditions), ...guided);
  }
  // v at tokens x and a level t, for the options of `paint`
  velocity_at({ model, x, t, ...options }) {
    check({ model, ...options });
    this.load(model);
    const [h, w] = token_grid(options.height, options.width);
    return this.velocity({ ...options, h, w })(x, t);
  }
  // What goes in beside the text, Eq. (12.1) to (12.3).
  conditions({ model, picture, mask, edges, width, height }) {
    const [h, w] = token_grid(height, width);
    const encode = (x) => this.ae.encode(x, height, width);
    if (model === "tiny-fill") {
      const m = to_mask(mask);
      return { img_cond: fill_cond(encode(hide(to_tensor(picture), m)), m, h, w) };
    }
    if (model === "tiny-canny") return { img_cond: control_cond(encode(to_tensor(edges)), h, w) };
    if (model !== "tiny-kontext") return {};
    return { img_cond_seq: reference_tokens(encode(to_tensor(picture)), h, w) };
  }
  // Tokens to a picture of 4 bytes a pixel.
  decode(x, h, w) {
    return to_picture(this.ae.decode(unpatchify(x, h, w), 16 * h, 16 * w), 16 * h, 16 * w);
  }
  // What passed at a step of the last picture, by name: {name: {shape, numbers}}. Without names,
  // the names and shapes of all that can be asked for.
  inspect(step, names) {
    const { model, lora_scale, states, timesteps, h, w } = this.walk ?? { states: [] };
    if (!states[step]) throw new Error(`No picture has been painted up to step ${step}.`);
    this.load(model, lora_scale);
    return observe(names, () => {
      const v = this.velocity(this.walk)(states[step], timesteps[step]);
      if (names && !names.some((name) => name.startsWith("decoder."))) return;
      this.decode(predict_x0(states[step], v, timesteps[step]), h, w);
    });
  }
}

// model → the pictures it needs
const PICTURES = {
  "tiny-fill": ["picture", "mask"],
  "tiny-canny": ["edges"],
  "tiny-kontext": ["picture"],
};

// An Error, with a sentence for the reader, for what cannot be painted.
function check(options) {
  const { model, width, height } = options;
  if (!(width >= 16 && height >= 16) || width % 16 || height % 16) {
    throw new Error(`${width} × ${height} pixels: both sides must be multiples of 16.`);
  }
  for (const name of PICTURES[model] ?? []) {
    const size = options[name] ? `${options[name].width} × ${options[name].height}` : "missing";
    if (size !== `${width} × ${height}`) {
      throw new Error(`${model} needs ${name} of ${width} × ${height} pixels; it is ${size}.`);
    }
  }
  if (model === "tiny-fill" && !options.mask.data.some((x, i) => i % 4 === 0 && x > 0)) {
    throw new Error("The mask is empty: mark with white what is to be painted.");
  }
}

// A picture's bytes, 4 a pixel, as numbers in [-1, 1], channels first, and back.
function to_tensor({ data, width, height }) {
  const size = width * height;
  const at = (i) => 4 * (i % size) + Math.floor(i / size);
  return Float32Array.from({ length: 3 * size }, (_, i) => Math.fround(data[at(i)] / 127.5) - 1);
}

function to_picture(x, height, width) {
  const size = width * height;
  const data = new Uint8ClampedArray(4 * size).fill(255); // it rounds half to even, as torch.round
  for (let i = 0; i < 3 * size; i++) {
    const clamped = Math.min(1, Math.max(-1, x[i]));
    data[4 * (i % size) + Math.floor(i / size)] = (clamped + 1) * 127.5;
  }
  return { data, width, height };
}

// 1 where the mask is white, 0 where it is black
const to_mask = ({ data }) => {
  return Float32Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] / 255);
};
