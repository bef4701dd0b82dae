// The tiny FLUX for a page. Nothing is loaded until `load`; everything heavy runs in a worker.
//
//   const engine = new Engine({ weights: new URL("weights/", document.baseURI) });
//   await engine.load("tiny-schnell", ({ bytes, total }) => …);     // 34 MB, once; then from the cache
//   const picture = await engine.paint(
//     { model: "tiny-schnell", prompt, width: 128, height: 128, num_steps: 4, guidance: 0, seed: 0 },
//     ({ step, t, x, x0, v }) => …,
//   );                                                              // {data, width, height, seconds}
//   context.putImageData(new ImageData(picture.data, picture.width, picture.height), 0, 0);
//
// new Engine({ weights, workers, relaxed })
//   weights: address of the folder with the files and manifest.json; workers: 1, or 2 for more pictures a
//   second; relaxed: false forces the plain build of the kernels.
// load(model, progress) → {seconds, memory, relaxed}; progress gets {bytes, total}. Models: `configs`.
// paint(options, progress) → picture, or null: a newer call came before this one began, or `stop` ended it.
//   One at a time a worker, and only the newest waits: call it as often as a slider moves. The options
//   are those of FluxGenerator.paint in pipeline.js; left-out width, height, num_steps, guidance and seed
//   are 128, 128, the model's own and 0. progress has x_t, x̂_0 and v as tokens, rows of 64 numbers.
// stop(): the paintings that run end at their next step, the waiting one at once.
// decode({ x, width, height }) → picture of tokens, 0.2 s at 128 × 128.
// inspect(step, names) → {name: {shape, numbers}} of what passed at that step of the last painting, or
//   without names {name: {shape}} of all there is; numbers are a Float32Array, row by row.
// tokens(prompt) → [{id, text}], 32 of them. encode(prompt) → {txt, vec}, what T5 and CLIP say of it.
// cost(model) → bytes that `load` would fetch: 0 when all are in the browser's cache.
//
// An Error's message is a sentence for the reader.

import { configs, files_of } from "./configs.js";
import { Files } from "./files.js";
import { has_simd } from "./kernels.js";

export { configs };

const OLD_BROWSER =
  "This browser is too old for the model, which needs WebAssembly with SIMD and module workers: take " +
  "Chrome or Edge from 91, Firefox from 114 or Safari from 16.4.";

export class Engine {
  constructor({ weights, workers = 1, relaxed }) {
    if (!globalThis.WebAssembly || !has_simd() || !has_module_workers())
      throw new Error(OLD_BROWSER);
    this.options = { weights: new URL(weights, document.baseURI).href, relaxed };
    this.pool = Array.from({ length: workers }, () => new Painter());
    this.waiting = null;
  }
  async load(model, progress = () => {}) {
    const [first, ...others] = this.pool;
    const loaded = await first.ask("load", { model, ...this.options }, progress);
    // the others find the files in the cache
    await Promise.all(others.map((painter) => painter.ask("load", { model, ...this.options })));
    return loaded;
  }
  paint(options, progress = () => {}) {
    this.waiting?.resolve(null);
    const { num_steps, guidance } = configs[options.model];
    const whole = { width: 128, height: 128, num_steps, guidance, seed: 0, ...options };
    return new Promise((resolve, reject) => {
      this.waiting = { options: whole, progress, resolve, reject };
      this.next();
    });
  }
  next() {
    const free = this.pool.find((painter) => !painter.painting);
    if (!free || !this.waiting) return;
    const { options, progress, resolve, reject } = this.waiting;
    this.waiting = null;
    this.last = free;
    free.painting = true;
    const done = free.ask("load", { model: options.model, ...this.options });
    done
      .then(() => free.ask("paint", options, progress))
      .then(resolve, reject)
      .finally(() => {
        free.painting = false;
        this.next();
      });
  }
  stop() {
    this.waiting?.resolve(null);
    this.waiting = null;
    for (const painter of this.pool) painter.ask("stop");
  }
  decode(options) {
    return this.pool[0].ask("decode", options);
  }
  inspect(step, names) {
    return this.last.ask("inspect", { step, names });
  }
  tokens(prompt) {
    return this.pool[0].ask("tokens", { prompt });
  }
  encode(prompt) {
    return this.pool[0].ask("encode", { prompt });
  }
  cost(model) {
    return new Files(this.options.weights).missing(files_of(model));
  }
  close() {
    for (const { worker } of this.pool) worker.terminate();
  }
}

// A worker, asked for one thing after the other.
class Painter {
  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.asked = new Map();
    this.worker.onmessage = ({ data: { id, result, error, progress } }) => {
      const { resolve, reject, report } = this.asked.get(id);
      if (progress) return report(progress);
      this.asked.delete(id);
      if (error) reject(new Error(error));
      else resolve(result);
    };
    this.worker.onerror = () => {
      const error = new Error("The engine could not be started: load the page again.");
      for (const { reject } of this.asked.values()) reject(error);
    };
  }
  ask(task, options, report = () => {}) {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject, report });
      this.worker.postMessage({ id, task, options });
    });
  }
}

// A browser that knows them reads `type`.
function has_module_workers() {
  let known = false;
  const options = {
    get type() {
      known = true;
      return "module";
    },
  };
  try {
    new Worker("data:text/javascript,", options).terminate();
  } catch {
    return false;
  }
  return known;
}
