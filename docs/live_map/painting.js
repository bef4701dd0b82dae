// One painting and the numbers on its way: kept since the book was built, or computed by the engine.
// Both answer the same questions, so a station need not know which one it shows.

import { get_noise, patchify, unpatchify } from "../engine/patchify.js";
import { euler_step, predict_x0 } from "../engine/sampling.js";
import { element } from "./draw.js";

const TILE = 96; // pixels of a kept strip's pictures

/** A canvas with a part of an image, or all of it. */
function cut(image, x = 0, y = 0, width = image.width, height = image.height) {
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  return canvas;
}

async function image(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

async function file(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return response;
}

/** What is common to both kinds: the walk that the velocities make. */
class Painting {
  constructor(options) {
    Object.assign(this, options); // prompt, model, seed, steps, guidance, size, levels, words, used …
    const side = Math.ceil(this.size / 16);
    this.grid = [side, side];
  }
  /** Positions x_0 … x_N of the walk, as tokens. */
  states() {
    if (this.walk) return this.walk;
    const noise = patchify(get_noise(this.size, this.size, this.seed), ...this.grid);
    this.walk = [noise];
    for (let i = 0; i < this.steps; i++) {
      this.walk.push(
        euler_step(this.walk[i], this.velocity(i), this.levels[i], this.levels[i + 1]),
      );
    }
    return this.walk;
  }
  /** x̂₀ at a step, Eq. (6.1). */
  answer(step) {
    return predict_x0(this.states()[step], this.velocity(step), this.levels[step]);
  }
  latent(tokens) {
    return unpatchify(tokens, ...this.grid);
  }
  /** The tokens of attention: pieces of the prompt, all padding as one, then patches. */
  get tokens() {
    return this.used + 1 + this.grid[0] * this.grid[1];
  }
  patch(cell) {
    return this.used + 1 + cell;
  }
}

// ---------------------------------------------------------------- painted when the book was built

class Kept extends Painting {
  constructor(options, files) {
    super(options);
    Object.assign(this, files); // buffer, sheet, picture, attentionImage, guidanceSheet
    const column = (row) =>
      this.levels.slice(0, -1).map((_, i) => cut(this.sheet, i * TILE, row * TILE, TILE, TILE));
    [this.noisy, this.clean] = [column(0), column(1)];
    this.guided = Array.from({ length: 4 }, (_, i) =>
      cut(this.guidanceSheet, i * TILE, 0, TILE, TILE),
    );
  }
  kept = true;
  async look() {} // all is there
  /** One of the arrays of numbers.bin, or its i-th part. */
  array(name, i) {
    const { shape, at, low, high, power } = this.numbers[name];
    const whole = shape.reduce((a, b) => a * b, 1);
    const length = i === undefined ? whole : whole / shape[0];
    const bytes = new Uint8Array(this.buffer, at + (i ?? 0) * length, length);
    return Float32Array.from(bytes, (byte) => low + (high - low) * (byte / 255) ** power);
  }
  velocity(step) {
    return this.array("velocity", step);
  }
  /** Means over heads of the double blocks; the others ask for the model. */
  attention(step, block) {
    const [, blocks, n] = this.attentionOf.shape;
    if (block >= blocks) return null;
    this.bytes ??= cut(this.attentionImage)
      .getContext("2d")
      .getImageData(0, 0, n, this.attentionImage.height).data;
    const from = (step * blocks + block) * n * n;
    return Float32Array.from(
      { length: n * n },
      (_, i) => this.attentionOf.most * (this.bytes[4 * (from + i)] / 255) ** 2,
    );
  }
  heads(block) {
    return block < this.attentionOf.shape[1] ? 0 : -1; // none of its own
  }
  /** {name of the modulation: [shift, scale, gate]} */
  modulation(step) {
    const numbers = this.array("modulation", step);
    const channels = this.numbers.modulation.shape[3];
    const part = (i) => numbers.subarray(i * channels, (i + 1) * channels);
    return Object.fromEntries(
      this.rows.map((name, i) => [name, [0, 1, 2].map((k) => part(3 * i + k))]),
    );
  }
  /** Lengths of the first head's [q, k], [before, after] the norm, of every token. */
  lengths(step, block) {
    const [, blocks, , , n] = this.numbers.lengths.shape;
    const numbers = this.array("lengths", step).subarray(block * 4 * n, (block + 1) * 4 * n);
    const part = (i) => numbers.subarray(i * n, (i + 1) * n);
    return blocks > block
      ? [
          [part(0), part(1)],
          [part(2), part(3)],
        ]
      : null;
  }
  textRows() {
    const [rows, columns] = this.numbers.txt.shape;
    return { rows, columns, numbers: this.array("txt"), y: this.array("y") };
  }
}

/** The five paintings' small numbers; each one's files are fetched when it is shown. */
export async function keptPaintings(base) {
  const shared = await (await file(`${base}painted.json`)).json();
  const at = (i) => `${base}${i}/`;
  return {
    ...shared,
    list: shared.paintings.map((painting, i) => ({ ...painting, picture: `${at(i)}picture.webp` })),
    async open(i) {
      const names = ["strip", "picture", "attention", "guidance"];
      const load = names.map((name) => image(`${at(i)}${name}.webp`));
      const [numbers, sheet, picture, attentionImage, guidanceSheet] = await Promise.all([
        file(`${at(i)}numbers.bin`).then((response) => response.arrayBuffer()),
        ...load,
      ]);
      const { attention, guidance, ids, ...painting } = shared.paintings[i];
      const options = {
        model: shared.model,
        size: shared.size,
        steps: painting.levels.length - 1,
        guidance: 3,
      };
      const extra = {
        rows: shared.rows,
        attentionOf: attention,
        planes: guidance,
        ids,
        used: ids.length,
      };
      const files = {
        buffer: numbers,
        sheet,
        picture: cut(picture),
        attentionImage,
        guidanceSheet,
      };
      return new Kept({ ...options, ...painting, ...extra }, files);
    },
  };
}

// ---------------------------------------------------------------- painted here

/** A painting of the engine: `frames` are its pictures, `trace(step)` asks for what passed at a step. */
export class Painted extends Painting {
  constructor(options, { velocities, noisy, clean, picture, trace }) {
    super(options);
    Object.assign(this, { velocities, noisy, clean, picture, trace, seen: new Map() });
  }
  async look(step) {
    if (!this.seen.has(step)) this.seen.set(step, await this.trace(step));
  }
  velocity(step) {
    return this.velocities[step];
  }
  attention(step, block, head = -1) {
    return this.seen.get(step).attention[block][head + 1];
  }
  heads() {
    return 5;
  }
  modulation(step) {
    return this.seen.get(step).modulation;
  }
  lengths(step, block) {
    return this.seen.get(step).lengths[block];
  }
  get change() {
    return { at: (step) => this.seen.get(step).change };
  }
  textRows() {
    return this.text;
  }
}

/** A picture of the engine as a canvas. */
export function toCanvas({ data, width, height }) {
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return canvas;
}
