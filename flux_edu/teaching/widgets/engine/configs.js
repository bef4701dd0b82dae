// The tiny models, as flux_edu/configs.py; a test holds the two together.

const TINY = {
  params: {
    in_channels: 64,
    num_heads: 5,
    axes_dim: [8, 28, 28],
    theta: 10_000,
    guidance_embed: false,
  },
  num_steps: 28,
  guidance: 3,
  shift: true,
  two_passes: true,
  lora: null,
};
const with_channels = (in_channels) => ({ ...TINY.params, in_channels });

export const TXT_TOKENS = 32;
export const TINY_AE = {
  ch_mult: [1, 2, 4, 4],
  z_channels: 16,
  norm_groups: 8,
  scale_factor: 0.66696,
  shift_factor: 0.05045,
};

export const configs = {
  tiny: TINY,
  "tiny-dev": {
    ...TINY,
    params: { ...TINY.params, guidance_embed: true },
    two_passes: false,
    lora: "dev.safetensors",
  },
  "tiny-schnell": {
    ...TINY,
    num_steps: 4,
    guidance: 0,
    shift: false,
    two_passes: false,
    lora: "schnell.safetensors",
  },
  "tiny-fill": {
    ...TINY,
    params: with_channels(64 + 64 + 256),
    guidance: 1.5,
    lora: "fill.safetensors",
  },
  "tiny-canny": { ...TINY, params: with_channels(64 + 64), lora: "canny.safetensors" },
  "tiny-kontext": { ...TINY, lora: "kontext.safetensors" },
};

const SHARED = ["flux", "t5", "clip", "ae"].map((part) => `${part}.safetensors`);

export function get_spec(model) {
  if (model in configs) return configs[model];
  throw new Error(`No model is called "${model}"; there are ${Object.keys(configs).join(", ")}.`);
}

export function files_of(model) {
  const { lora } = get_spec(model);
  return [...SHARED, "tokenizer.json", ...(lora ? [lora] : [])];
}
