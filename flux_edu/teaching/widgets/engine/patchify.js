// Chapter 2, patchify: noise, tokens and back, ids of tokens, as flux_edu/patchify.py.

export const LATENT_CHANNELS = 16,
  PATCH = 2,
  PIXELS_PER_TOKEN = 16;

export function token_grid(height, width) {
  return [Math.ceil(height / PIXELS_PER_TOKEN), Math.ceil(width / PIXELS_PER_TOKEN)];
}

// Eq. (2.1):  ε ∈ R^{16 × 2⌈H/16⌉ × 2⌈W/16⌉}, the numbers of torch.randn on a CPU
export function get_noise(height, width, seed) {
  const [h, w] = token_grid(height, width);
  return randn(LATENT_CHANNELS * PATCH * h * PATCH * w, seed);
}

// Box and Muller's normal numbers from those of a Mersenne twister, eight and eight; `count` is a
// multiple of 16. PyTorch rounds every operation to float32, so `f` does.
export function randn(count, seed) {
  const x = Float32Array.from({ length: count }, twister(seed));
  const f = Math.fround;
  for (let i = 0; i < count; i++) {
    if (i % 16 >= 8) continue;
    const radius = f(Math.sqrt(f(-2 * f(Math.log(f(1 - x[i]))))));
    const angle = f(f(2 * Math.PI) * x[i + 8]);
    x[i] = radius * f(Math.cos(angle));
    x[i + 8] = radius * f(Math.sin(angle));
  }
  return x;
}

// MT19937 of Matsumoto and Nishimura, 1998: 24 bits of it as a number in [0, 1)
function twister(seed) {
  const state = new Uint32Array(624);
  let at = 624;
  state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
  for (let i = 1; i < 624; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  return () => {
    if (at === 624) {
      for (at = 0; at < 624; at++) {
        const y = (state[at] & 0x80000000) | (state[(at + 1) % 624] & 0x7fffffff);
        state[at] = state[(at + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff) / 2 ** 24;
  };
}

// Eq. (2.2):  "c (h ph) (w pw) -> (h w) (c ph pw)"; calls move(place in the latent, place in the
// tokens)
function each_number(channels, h, w, move) {
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < PATCH * h; y++) {
      for (let x = 0; x < PATCH * w; x++) {
        const token = Math.floor(y / PATCH) * w + Math.floor(x / PATCH);
        const feature = 4 * c + PATCH * (y % PATCH) + (x % PATCH);
        move((c * PATCH * h + y) * PATCH * w + x, token * 4 * channels + feature);
      }
    }
  }
}

export function patchify(z, h, w) {
  const out = new Float32Array(z.length);
  each_number(z.length / (4 * h * w), h, w, (latent, token) => (out[token] = z[latent]));
  return out;
}

// Eq. (2.3), the inverse of (2.2)
export function unpatchify(x, h, w) {
  const out = new Float32Array(x.length);
  each_number(x.length / (4 * h * w), h, w, (latent, token) => (out[latent] = x[token]));
  return out;
}

// Eq. (2.4):  id = (first, row, column); first is 0 for the picture painted, 1 for a reference. For
// an experiment, rows and columns begin elsewhere.
export function make_img_ids(h, w, first = 0, [row, column] = [0, 0]) {
  return Array.from({ length: h * w }, (_, i) => {
    return [first, row + Math.floor(i / w), column + (i % w)];
  });
}

// Eq. (2.5):  id = (0, 0, 0)
export function make_txt_ids(length) {
  return Array.from({ length }, () => [0, 0, 0]);
}
