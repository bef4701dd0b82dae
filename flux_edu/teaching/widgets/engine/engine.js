// The tiny FLUX for a page. Nothing is loaded until `load`; everything heavy runs in a worker.
//
//   const engine = new Engine({ weights: "weights/" });
//   await engine.load("tiny-schnell", ({ bytes, total }) => …); // 34 MB, once
//   const options = { model: "tiny-schnell", prompt, seed: 0 };
//   const picture = await engine.paint(options, ({ step, t, x, x0, v }) => …);
//   context.putImageData(new ImageData(picture.data, picture.width, picture.height), 0, 0);
//
// new Engine({ weights, workers, relaxed })
//   weights: the folder of manifest.json and the files, relative to the document; workers: 1, or 2
//   for more pictures a second; relaxed: false forces the plain build of the kernels.
// cost(model) → bytes that `load` would fetch: 0 when all are in the browser's cache.
// load(model, progress) → {seconds, memory, relaxed}; progress gets {bytes, total}. The models are
//   the keys of `configs`.
// paint(options, progress) → {data, width, height, seconds}, data with 4 bytes a pixel; or null: a
//   newer call came before this one began, or `stop` ended it. Each worker paints one at a time and
//   only the newest call waits: call it as often as a slider moves. The options are those of
//   FluxGenerator.paint in pipeline.js; left-out width, height, num_steps, guidance and seed are
//   128, 128, the model's own and 0. progress has x_t, x̂_0 and v as tokens, rows of 64 numbers.
// stop(): the paintings that run end at their next step, the waiting one at once.
// decode({ x, width, height }) → the picture of tokens, in 0.2 s at 128 × 128.
// velocity({ x, t, ...options }) → v of tokens x at level t, for the options of `paint`, of a model
//   that is loaded.
// inspect(step, names) → {name: {shape, numbers}} of what passed at that step of the last painting;
//   without names {name: {shape}} of all there is. numbers is a Float32Array, row by row.
// tokens(prompt) → [{id, text}], 32 of them.
// encode(prompt) → {txt, vec}, what T5 and CLIP say of it.
//
// An Error's message is a sentence for the reader.

import { configs, files_of, get_spec } from "./configs.js";
import { Files } from "./files.js";
import { has_simd } from "./kernels.js";

export { configs };

const OLD_BROWSER =
  "This browser is too old for the model, which needs WebAssembly with SIMD and module workers: " +
  "take Chrome or Edge from 91, Firefox from 114 or Safari from 16.4.";

export class Engine {
  constructor({ weights, workers = 1, relaxed }) {
    if (!globalThis.WebAssembly || !has_simd() || !has_module_workers())
      throw new Error(OLD_BROWSER);
    this.options = { weights: new URL(weights, document.baseURI).href, relaxed };
    this.pool = Array.from({ length: workers }, () => new Painter());
    this.waiting = null; // the newest call of `paint` that no worker has taken
    this.last = this.pool[0];
  }
  async load(model, progress = () => {}) {
    const [first, ...others] = this.pool;
    const loaded = await first.ask("load", { model, ...this.options }, progress);
    // the others find the files in the cache
    await Promise.all(others.map((painter) => painter.ask("load", { model, ...this.options })));
    return loaded;
  }
  async paint(options, progress = () => {}) {
    this.waiting?.resolve(null);
    const { num_steps, guidance } = get_spec(options.model);
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
    const done = free.paint({ ...this.options, ...options }, progress);
    done.then(resolve, reject).finally(() => this.next());
  }
  stop() {
    this.waiting?.resolve(null);
    this.waiting = null;
    for (const painter of this.pool) painter.stop();
  }
  decode(options) {
    return this.pool[0].ask("decode", options);
  }
  velocity(options) {
    return this.pool[0].ask("velocity", options);
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
  painting = false;
  count = 0;
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
  async paint(options, progress) {
    [this.painting, this.stopped] = [true, false];
    try {
      await this.ask("load", options);
      return this.stopped ? null : await this.ask("paint", options, progress);
    } finally {
      this.painting = false;
    }
  }
  stop() {
    this.stopped = true;
    this.ask("stop");
  }
  ask(task, options, report = () => {}) {
    const id = this.count++;
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
