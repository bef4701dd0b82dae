// What the engine saw at a step, in the form in which the stations ask for it.

const DOUBLE = 3;
const SINGLE = 6;
const HEADS = 5;
const L_txt = 32;

const range = (count) => Array.from({ length: count }, (_, i) => i);
const BLOCKS = [
  ...range(DOUBLE).map((i) => `double_blocks.${i}`),
  ...range(SINGLE).map((i) => `single_blocks.${i}`),
];
const STREAMS = ["txt", "img"];

/** The names that the engine is asked for. */
export const WANTED = [
  "txt_in",
  "img_in",
  ...BLOCKS.flatMap((block) => range(HEADS).map((head) => `${block}.attention.${head}`)),
  ...BLOCKS.slice(0, DOUBLE).flatMap((block) => [
    `${block}.q`,
    `${block}.k`,
    ...STREAMS.flatMap((stream) => [
      `${block}.${stream}`,
      `${block}.${stream}_mod`,
      `${block}.${stream}_attn.qkv`,
    ]),
  ]),
  ...BLOCKS.slice(DOUBLE).flatMap((block) => [`${block}.x`, `${block}.modulation`]),
];

/** Of every block the mean over heads, then each head, all padding as one token. */
export function gathered(numbers, used) {
  return BLOCKS.map((block) => {
    const heads = range(HEADS).map((head) => numbers(`${block}.attention.${head}`));
    const mean = heads[0].map((_, i) => heads.reduce((sum, head) => sum + head[i], 0) / HEADS);
    return [mean, ...heads].map((A) => gather(A, Math.sqrt(A.length), used));
  });
}

/** What is taken from padding summed, what padding takes as a mean. */
function gather(A, L, used) {
  const place = (i) => (i < used ? i : i < L_txt ? used : i - L_txt + used + 1);
  const n = used + 1 + L - L_txt;
  const out = new Float32Array(n * n);
  for (let i = 0; i < L; i++) {
    const weight = i >= used && i < L_txt ? 1 / (L_txt - used) : 1;
    for (let j = 0; j < L; j++) out[place(i) * n + place(j)] += weight * A[i * L + j];
  }
  return out;
}

/** {name: [shift, scale, gate]}, the names those of painted.json’s rows. */
export function modulation(numbers) {
  const parts = (x, all) =>
    range(all).map((k) => x.subarray((k * x.length) / all, ((k + 1) * x.length) / all));
  const out = {};
  for (const i of range(DOUBLE)) {
    for (const stream of STREAMS) {
      const six = parts(numbers(`double_blocks.${i}.${stream}_mod`), 6);
      out[`double ${i} ${stream} 1`] = six.slice(0, 3);
      out[`double ${i} ${stream} 2`] = six.slice(3);
    }
  }
  for (const i of range(SINGLE))
    out[`single ${i}`] = parts(numbers(`single_blocks.${i}.modulation`), 3);
  return out;
}

/** Lengths of the first head’s [q, k], [before, after] the norm: text as far as it is shown, then the picture. */
export function lengths(numbers, used) {
  return range(DOUBLE).map((i) => {
    const [txt, img] = STREAMS.map((stream) => numbers(`double_blocks.${i}.${stream}_attn.qkv`));
    const width = txt.length / L_txt; // 3 D
    const [D, K] = [width / 3, width / 3 / HEADS];
    const shown = range(L_txt + img.length / width).filter(
      (token) => token <= used || token >= L_txt,
    );
    const length = (x, at) => Math.hypot(...x.subarray(at, at + K));
    const before = (token, part) => {
      const [x, row] = token < L_txt ? [txt, token] : [img, token - L_txt];
      return length(x, row * width + part * D);
    };
    return ["q", "k"].map((name, part) => {
      const after = numbers(`double_blocks.${i}.${name}`);
      return [
        shown.map((token) => before(token, part)),
        shown.map((token) => length(after, token * D)),
      ];
    });
  });
}

/** Station 11, as guidance_plane of docs/paintings.py: where velocities `dev` lie in the plane of v_∅ and v_c. */
export function guidancePlane(t, none, text, dev) {
  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const minus = (a, b, share = 1) => a.map((x, i) => x - share * b[i]);
  const ofLengthOne = (a) => a.map((x) => x / Math.sqrt(dot(a, a)));
  const difference = minus(text, none);
  const unit = Math.sqrt(dot(difference, difference));
  const along = ofLengthOne(difference);
  const across = ofLengthOne(minus(none, along, dot(none, along)));
  const places = dev.map((v) => {
    const away = minus(v, none);
    return [along, across].map((axis) => dot(away, axis) / unit);
  });
  const off = dev.map((v, i) => {
    const far = minus(minus(v, none), difference, i + 1);
    return Math.sqrt(dot(far, far)) / unit;
  });
  return { t, dev: places, off };
}

/** By how much each block changes [text, picture]: ‖after − before‖ / ‖before‖. */
export function changes(numbers) {
  const size = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const share = (before, after) => size(before.map((x, i) => after[i] - x)) / size(before);
  let [txt, img] = [numbers("txt_in"), numbers("img_in")];
  return BLOCKS.map((block, i) => {
    const x = i < DOUBLE ? null : numbers(`${block}.x`);
    const after = x
      ? [x.subarray(0, txt.length), x.subarray(txt.length)]
      : STREAMS.map((stream) => numbers(`${block}.${stream}`));
    const change = [share(txt, after[0]), share(img, after[1])];
    [txt, img] = after;
    return change;
  });
}
