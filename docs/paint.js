// Panels that paint. Their pictures were painted beforehand, one control moved at a time; once the reader has loaded
// the model they are painted in the page, from all controls together and from words of the reader's own.

const YES = "yes"; // the words of a box that is ticked

const PAINTERS = {
  easel: ({ all_28_steps, steps, ...options }) => ({
    ...options,
    model: all_28_steps === YES ? "tiny" : "tiny-dev",
    num_steps: all_28_steps === YES ? 28 : steps,
  }),
  two_passes: ({ w, steps }) => ({
    model: "tiny",
    prompt: "a flat fox on a blue background",
    guidance: w,
    num_steps: steps,
  }),
  drawn: ({ prompt, seed, mask, picture }) => ({
    model: "tiny-fill",
    prompt,
    seed,
    num_steps: 4,
    picture,
    mask: squares(mask, picture),
  }),
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

// a mask's letters as a picture of the same size, white where the letter is 1
function squares(letters, { width, height }) {
  const side = Math.sqrt(letters.length);
  const mask = new ImageData(width, height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const square = Math.floor((y * side) / height) * side + Math.floor((x * side) / width);
      const grey = letters[square] === "1" ? 255 : 0;
      mask.data.set([grey, grey, grey, 255], 4 * (y * width + x));
    }
  return mask;
}

async function pixels(address, side = 128) {
  const image = Object.assign(new Image(), { src: address });
  await image.decode();
  const pen = new OffscreenCanvas(side, side).getContext("2d");
  pen.drawImage(image, 0, 0, side, side);
  return pen.getImageData(0, 0, side, side);
}

// what the panel's controls say now
async function values(box) {
  const said = {};
  for (const control of box.querySelectorAll("[data-control]")) {
    const places = control.dataset.places && JSON.parse(control.dataset.places);
    const text = places
      ? places[control.value]
      : (control.selectedOptions?.[0].text ?? control.value);
    said[control.dataset.control] = text !== "" && isFinite(text) ? Number(text) : text;
  }
  const { fluxValues: drawn } = box.querySelector(".flux-live") ?? {};
  return drawn ? { ...said, mask: drawn.value, picture: await pixels(drawn.picture) } : said;
}

async function paint(box) {
  const status = box.querySelector(".flux-status");
  try {
    const options = PAINTERS[box.dataset.draw](await values(box));
    const painter = await engine();
    const cost = await painter.cost(options.model);
    status.textContent = cost
      ? say("Loading the model: {all} …", { all: megabytes(cost) })
      : say("Painting …");
    await painter.load(options.model, ({ bytes, total }) => {
      const sizes = { done: megabytes(bytes), all: megabytes(total) };
      status.textContent = say("Loading the model: {done} of {all} …", sizes);
    });
    const painted = await painter.paint(options);
    if (!painted) return; // a newer picture is on its way
    show(box, painted, options.prompt);
    const { model } = options;
    const seconds = painted.seconds.toFixed(1);
    status.textContent = say("Painted in this page by {model} in {seconds} s.", { model, seconds });
  } catch (error) {
    status.textContent = error.message;
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

function show(box, { data, width, height }, prompt) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  const img = box.querySelector(":scope > img");
  img.src = canvas.toDataURL();
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
