// Panels that paint. Their pictures were painted beforehand, one control moved at a time; once the reader has loaded
// the model they are painted in the page, from all controls together and from words of the reader's own.

import { get_schedule, time_shift } from "../engine/schedule.js";

const YES = "yes"; // the words of a box that is ticked

// For each panel, by its drawing function: from what its controls say to the pictures shown, left to right. `paint` asks
// the engine, `input` gives a picture of the notebook, and `outlines` the lines that the kept picture of a place shows.
const PAINTERS = {
  // 00
  any_shape: async (size, { paint }) => {
    const prompt = "a 3d fox on a blue background";
    return [await paint({ ...size, model: "tiny-schnell", prompt, num_steps: 4 })];
  },
  // 01
  paint: async ({ mu, steps }, { paint }) => {
    const levels = Array.from({ length: steps + 1 }, (_, i) => time_shift(mu, 1, 1 - i / steps));
    const prompt = "a 3d dog face on a blue background";
    return [await paint({ model: "tiny-dev", prompt, timesteps: levels })];
  },
  paint_at: async ({ side, steps, shift, w }, { paint }) => {
    const tokens = shift === "4,096 tokens" ? 4096 : (side / 16) ** 2;
    const timesteps = get_schedule(steps, tokens, shift !== "no shift");
    const prompt = "a sketch train on a red background";
    const size = { width: side, height: side };
    return [await paint({ model: "tiny", prompt, ...size, timesteps, guidance: w })];
  },
  // 03
  moved_picture: async ({ down, right }, { paint }) => {
    const prompt = "a flat lemon left of a red apple on a blue background";
    const where = { moved: [down, right], seed: 1, num_steps: 4 };
    return [await paint({ model: "tiny-dev", prompt, ...where })];
  },
  // 06
  easel: async ({ all_28_steps, steps, ...options }, { paint }) => {
    const whole = all_28_steps === YES;
    const [model, num_steps] = whole ? ["tiny", 28] : ["tiny-dev", steps];
    return [await paint({ ...options, model, num_steps })];
  },
  from_start: async ({ start, prompt, strength, seed, steps }, { paint, input }) => {
    const init_image = await input(`starts.${start}`);
    const from_picture = { init_image, image2image_strength: strength };
    const options = { model: "tiny-dev", prompt, seed, num_steps: steps };
    return [init_image, await paint({ ...options, ...from_picture })];
  },
  // 07
  two_prompts: async ({ t5_reads, clip_reads, seed }, { paint }) => {
    const texts = { prompt: t5_reads, clip_prompt: clip_reads };
    return [await paint({ model: "tiny", ...texts, seed, num_steps: 8 })];
  },
  // 10
  two_passes: async ({ w, steps }, { paint }) => {
    const prompt = "a flat fox on a blue background";
    return [await paint({ model: "tiny", prompt, seed: 1, guidance: w, num_steps: steps })];
  },
  // 12
  along: async ({ threshold, prompt, seed }, { paint, outlines }) => {
    const edges = await outlines("threshold", threshold);
    return [edges, await paint({ model: "tiny-canny", prompt, seed, num_steps: 4, edges })];
  },
  into: async ({ left, top, side, thing }, { paint, input }) => {
    const picture = await input("picture");
    const within = (x, y) => x >= left && x < left + side && y >= top && y < top + side;
    const mask = mask_of(within, picture);
    const prompt = `a flat fox left of ${thing} on a white background`;
    const painted = await paint({ model: "tiny-fill", prompt, num_steps: 4, picture, mask });
    const grey = { ...picture, data: new Uint8ClampedArray(picture.data.length).fill(128) };
    return [composite(grey, picture, mask), painted, composite(painted, picture, mask)];
  },
  drawn: async ({ prompt, seed, mask }, { paint, input }) => {
    const picture = await input("picture");
    const side = Math.sqrt(mask.length);
    const square = (x, y) =>
      Math.floor((y * side) / picture.height) * side + Math.floor((x * side) / picture.width);
    const hole = mask_of((x, y) => mask[square(x, y)] === "1", picture);
    return [await paint({ model: "tiny-fill", prompt, seed, num_steps: 4, picture, mask: hole })];
  },
  edited: async ({ instruction, seed, steps }, { paint, input }) => {
    const picture = await input("picture");
    const options = { model: "tiny-kontext", prompt: instruction, seed, num_steps: steps };
    return [picture, await paint({ ...options, picture })];
  },
  strength_of_a_lora: async ({ scale, prompt }, { paint, input }) => {
    const edges = await input("lines");
    const options = { model: "tiny-canny", lora_scale: scale, prompt, num_steps: 6 };
    return [edges, await paint({ ...options, edges })];
  },
  // 15
  without: async ({ prompt, block, head, seed }, { paint }) => {
    const options = { model: "tiny-schnell", prompt, seed };
    const name = block.replace(" ", "_blocks.");
    const leave_out = isFinite(head) ? `${name}.attention.${head}` : name;
    return [await paint(options), await paint({ ...options, leave_out })];
  },
  // 18
  guided_fox: async ({ low, high }, { paint }) => {
    const options = { model: "tiny", prompt: "a 3d fox on a blue background", num_steps: 8 };
    const guided = [low, Math.max(low, high)];
    return [await paint(options), await paint({ ...options, guided })];
  },
};

// a text with its {names} filled in; docs/chinese.py puts Chinese ones in their place
const say = (text, values = {}) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

let loading = null;

// the one engine of this page
function engine() {
  loading ??= import(new URL("../engine/engine.js", import.meta.url)).then(
    ({ Engine }) => new Engine({ weights: new URL("../weights/", import.meta.url) }),
  );
  return loading;
}

// a picture of the same size, white where `marked(x, y)` says so and black elsewhere
function mask_of(marked, { width, height }) {
  const mask = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const grey = marked(i % width, Math.floor(i / width)) ? 255 : 0;
    mask.data.set([grey, grey, grey, 255], 4 * i);
  }
  return mask;
}

// one picture where the mask is white, the other one elsewhere
function composite({ data: white }, { data: black, width, height }, mask) {
  const data = mask.data.map((grey, i) => (grey > 127 || i % 4 === 3 ? white[i] : black[i]));
  return { data, width, height };
}

// a picture's pixels, or those of a part of it at another size
async function pixels(address, part, width = 128) {
  const image = Object.assign(new Image(), { src: address });
  await image.decode();
  const [w, h] = part ?? [image.naturalWidth, image.naturalHeight];
  const pen = new OffscreenCanvas(width, (width * h) / w).getContext("2d");
  pen.drawImage(image, 0, 0, w, h, 0, 0, pen.canvas.width, pen.canvas.height);
  return pen.getImageData(0, 0, pen.canvas.width, pen.canvas.height);
}

// what the panel's controls say now
function values(box) {
  const said = {};
  for (const control of box.querySelectorAll("[data-control]")) {
    const places = control.dataset.places && JSON.parse(control.dataset.places);
    const text = places
      ? places[control.value]
      : (control.selectedOptions?.[0].text ?? control.value);
    said[control.dataset.control] = text !== "" && isFinite(text) ? Number(text) : text;
  }
  const { fluxValues: drawn } = box.querySelector(".flux-live") ?? {};
  return drawn ? { ...said, mask: drawn.value } : said;
}

const NEWER = new Error("a newer picture is on its way");

// what a painter of PAINTERS may ask for
function helpers(box, status) {
  const { folder, inputs } = box.dataset;
  const turn = (box.turn = {});
  return {
    input: (name) => pixels(folder + JSON.parse(inputs)[name]),
    // the lines, white on black, in the left half of the picture that a control has at its place
    async outlines(name) {
      const { value } = box.querySelector(`[data-control="${name}"]`);
      const pictures = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
      const there = ({ control, place }) => control === name && place === Number(value);
      const { file } = pictures.find(there) ?? pictures.at(-1);
      const lines = await pixels(folder + file, [256, 256]);
      lines.data.forEach((grey, i, data) => (data[i] = grey > 127 ? 255 : 0));
      return lines;
    },
    async paint(options) {
      const painter = await engine();
      const cost = await painter.cost(options.model);
      status.textContent = cost
        ? say("Loading the model: {all} …", { all: megabytes(cost) })
        : say("Painting …");
      await painter.load(options.model, ({ bytes, total }) => {
        const sizes = { done: megabytes(bytes), all: megabytes(total) };
        status.textContent = say("Loading the model: {done} of {all} …", sizes);
      });
      const painted = box.turn === turn && (await painter.paint(options));
      if (!painted || box.turn !== turn) throw NEWER;
      const { model, prompt } = options;
      const seconds = painted.seconds.toFixed(1);
      status.textContent = say("Painted in this page by {model} in {seconds} s.", {
        model,
        seconds,
      });
      return { ...painted, prompt };
    },
  };
}

async function paint(box) {
  const status = box.querySelector(".flux-status");
  try {
    const row = await PAINTERS[box.dataset.draw](values(box), helpers(box, status));
    show(box, row);
  } catch (error) {
    if (error !== NEWER) status.textContent = error.message;
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
const GAP = 4; // pixels between two pictures

function show(box, row) {
  const width = row.reduce((sum, picture) => sum + picture.width + GAP, -GAP);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: row[0].height });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, canvas.height);
  let left = 0;
  for (const { data, width, height } of row) {
    pen.putImageData(new ImageData(data, width, height), left, 0);
    left += width + GAP;
  }
  const img = box.querySelector(":scope > img");
  img.src = canvas.toDataURL();
  const { prompt } = row.find((picture) => picture.prompt);
  img.alt = say("“{prompt}”, painted in this page", { prompt });
  img.style.width = `${2 * width}px`;
}

// from now on the page paints: menus of examples become text fields, and controls keep their places
function liven(box) {
  box.dataset.live = "";
  box.querySelector(".flux-load").remove();
  for (const menu of box.querySelectorAll("select[data-text]")) {
    const field = document.createElement("input");
    Object.assign(field, { type: "text", value: menu.selectedOptions[0].text, size: 40 });
    field.dataset.control = menu.dataset.control;
    menu.replaceWith(field);
  }
  const mask = box.querySelector(".flux-live");
  if (mask) mask.hidden = false;
  box.addEventListener("input", () => paint(box));
  void paint(box);
}

for (const box of document.querySelectorAll(".flux-frames[data-draw]")) {
  if (!PAINTERS[box.dataset.draw]) continue;
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "flux-load" });
  button.textContent = say("Load the model (40 MB at most, once) and paint here");
  button.addEventListener("click", () => liven(box));
  const status = Object.assign(document.createElement("span"), { className: "flux-status" });
  status.setAttribute("role", "status");
  box.querySelector(".flux-controls").after(button, status);
}
