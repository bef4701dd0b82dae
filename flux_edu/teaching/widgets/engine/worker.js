// Paints off the page's main thread; engine.js sends {id, task, options} and gets {id, result}, {id, error}
// or, on the way, {id, progress}.

import { configs } from "./configs.js";
import { Files } from "./files.js";
import { has_relaxed, load_kernels, memory_bytes } from "./kernels.js";
import { FluxGenerator } from "./pipeline.js";
import { predict_x0 } from "./sampling.js";

const SHARED = ["flux", "t5", "clip", "ae"].map((part) => `${part}.safetensors`);
let files, generator, stopped;

const tasks = {
  // Read the files of `model` and make it ready. Files that are there are not read again.
  async load({ model, weights, relaxed = has_relaxed() }, progress) {
    const start = performance.now(), { lora } = configs[model];
    files ??= new Files(weights);
    const names = generator ? [] : [...SHARED, "tokenizer.json"];
    if (lora && !generator?.files[lora]) names.push(lora);
    const total = await sum_bytes(names), received = {};
    const read = await files.read(names, (name, bytes) => {
      received[name] = bytes;
      progress({ bytes: Object.values(received).reduce((a, b) => a + b, 0), total });
    });
    if (!generator) {
      const kernels = relaxed ? "kernels_relaxed.wasm" : "kernels.wasm";
      await load_kernels(await (await fetch(new URL(kernels, import.meta.url))).arrayBuffer());
      generator = new FluxGenerator(read);
    } else Object.assign(generator.files, read);
    generator.load(model);
    return { seconds: (performance.now() - start) / 1000, bytes: total, memory: memory_bytes(), relaxed };
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
  decode: ({ x, width, height }) => generator.decode(x, height / 16, width / 16),
  inspect: ({ step, names }) => generator.inspect(step, names),
  tokens: ({ prompt }) => generator.tokenizer.pieces(prompt),
};

async function sum_bytes(names) {
  const manifest = await files.manifest();
  return names.reduce((sum, name) => sum + manifest[name].bytes, 0);
}

const channel = new MessageChannel();
function next_message() {
  return new Promise((resume) => {
    channel.port1.onmessage = resume;
    channel.port2.postMessage(null);
  });
}

onmessage = async ({ data: { id, task, options } }) => {
  if (task === "stop") return (stopped = true);
  try {
    const result = await tasks[task](options, (progress) => postMessage({ id, progress }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: sentence(error) });
  }
};

function sentence(error) {
  if (!(error instanceof RangeError)) return error.message;
  return (
    "There is too little memory: the model needs about 250 MB, large pictures more. Close other tabs, or " +
    "choose a smaller size, and load the page again."
  );
}
