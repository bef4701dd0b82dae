// Paints off the page's main thread. engine.js sends {id, task, options} and gets {id, result} or
// {id, error}, and on the way {id, progress}.

import { files_of, get_spec } from "./configs.js";
import { Files } from "./files.js";
import { has_relaxed, load_kernels, memory_bytes } from "./kernels.js";
import { FluxGenerator } from "./pipeline.js";
import { predict_x0 } from "./sampling.js";

let generator; // nothing before the first `load`
let stopped; // whether the painting that runs is to end

const tasks = {
  // Read the files of a model that are not here yet, and make it the one that paints.
  async load({ model, lora_scale, weights, relaxed = has_relaxed() }, progress) {
    const start = performance.now();
    const files = new Files(weights);
    const { lora } = get_spec(model);
    const here = (name) => (name === lora ? generator?.deltas[lora] : generator);
    const missing = files_of(model).filter((name) => !here(name));
    const read = missing.length > 0 ? await files.read(missing, progress) : {};
    if (!generator) {
      const kernels = relaxed ? "kernels_relaxed.wasm" : "kernels.wasm";
      await load_kernels(await files.read_beside(new URL(kernels, import.meta.url)));
      generator = new FluxGenerator(read);
    }
    if (lora in read) generator.add_delta(lora, read[lora]);
    generator.load(model, lora_scale);
    const seconds = (performance.now() - start) / 1000;
    return { seconds, memory: memory_bytes(), relaxed };
  },
  async paint(options, progress) {
    stopped = false;
    const start = performance.now();
    const picture = await generator.paint(options, async (step, t, x, v) => {
      progress({ step, t, x, x0: predict_x0(x, v, t), v });
      await next_message(); // `stop` may be among them
      return !stopped;
    });
    return picture && { ...picture, seconds: (performance.now() - start) / 1000 };
  },
  velocity: (options) => generator.velocity_at(options),
  stop: () => void (stopped = true),
  decode: ({ x, width, height }) => generator.decode(x, height / 16, width / 16),
  inspect: ({ step, names }) => generator.inspect(step, names),
  encode: ({ prompt }) => generator.prepare(prompt),
  tokens: ({ prompt }) => generator.tokenizer.pieces(prompt),
};

const channel = new MessageChannel();
function next_message() {
  return new Promise((resume) => {
    channel.port1.onmessage = resume;
    channel.port2.postMessage(null);
  });
}

// One of these after the other; what else is asked for comes between two steps of a painting.
const IN_TURN = ["load", "paint", "velocity"];
let turn = Promise.resolve();

onmessage = async ({ data: { id, task, options } }) => {
  const run = async () => {
    if (!generator && task !== "load" && task !== "stop")
      throw new Error("The model is not loaded yet.");
    return tasks[task](options, (progress) => postMessage({ id, progress }));
  };
  const done = IN_TURN.includes(task) ? turn.then(run) : run();
  turn = Promise.allSettled([turn, done]);
  try {
    postMessage({ id, result: await done });
  } catch (error) {
    postMessage({ id, error: sentence(error) });
  }
};

function sentence(error) {
  if (!(error instanceof RangeError)) return error.message; // it is one for the reader already
  return (
    "There is too little memory: a model needs about 200 MB, large pictures more. " +
    "Close other tabs or choose a smaller size, and load the page again."
  );
}
