// The page: what is chosen, and everything that follows from it.

import { Drawing } from "./drawing.js";
import { element, matrix } from "./draw.js";
import { unpatchify } from "../engine/patchify.js";
import { Painter } from "./painter.js";
import { keptPaintings } from "./painting.js";
import { FIRST, MODELS, SIZES, read, write } from "./state.js";
import { STATIONS } from "./stations.js";
import { fill, page as words, stations as texts } from "./words.js";

const $ = (id) => document.getElementById(id);
const KNOBS = ["seed", "steps", "guidance"];
const PAINTING = ["prompt", "model", "seed", "steps", "guidance", "size"]; // what makes a picture

const state = read(location.hash);
const painter = new Painter(new URL("../weights/", import.meta.url).href);
let kept = null; // the five paintings
let firstKept = null; // one of them, for what only they have
let painting = null; // the one shown
let opened = null; // the station shown: {number, update}
let equations = {};
let turn = 0; // of painting: an older one's pictures are not wanted any more

// ---------------------------------------------------------------- what is chosen

function choose(changes) {
  Object.assign(state, changes);
  history.replaceState(null, "", write(state));
  show();
}

function say(text) {
  $("status").textContent = text;
}

const draw = new Drawing($("drawing"), (station, block) => {
  choose(block === undefined ? { station } : { station, block });
  $("station-title").focus({ preventScroll: window.innerWidth > 1000 });
});

/** A latent's colours by the table of 17 × 3 numbers; a velocity's around grey. */
function preview(tokens, difference = false) {
  const side = Math.sqrt(tokens.length / 64);
  const z = unpatchify(tokens, side, side);
  const places = 4 * side * side;
  const table = kept.preview;
  const colour = (i) =>
    [0, 1, 2].map((k) => {
      let sum = difference ? 127 : table[16][k]; // a velocity’s zero is grey
      for (let c = 0; c < 16; c++) sum += z[c * places + i] * table[c][k];
      return difference ? 127 + (sum - 127) / 2 : sum;
    });
  return matrix(
    Array.from({ length: places }, (_, i) => i),
    2 * side,
    2 * side,
    colour,
  );
}

/** All that stations and drawing are given. */
function view() {
  const step = Math.min(state.step, painting.steps - 1);
  return {
    ...state,
    painting,
    step,
    preview,
    ready: painter.ready,
    lit: STATIONS[state.station].lit,
  };
}

async function show() {
  if (!painting) return;
  const mine = painting;
  await painting.look(Math.min(state.step, painting.steps - 1));
  if (mine !== painting) return;
  const now = view();
  draw.update(now);
  showStrip(now);
  showStation(now);
  showPicture();
}

// ---------------------------------------------------------------- picture and strip

function showPicture() {
  const canvas = $("picture");
  [canvas.width, canvas.height] = [painting.picture.width, painting.picture.height];
  canvas.getContext("2d").drawImage(painting.picture, 0, 0);
  canvas.setAttribute("aria-label", fill(words.canvas, painting));
}

function showStrip({ step }) {
  const strip = $("strip");
  if (strip.children.length !== painting.steps) {
    strip.replaceChildren(
      ...painting.levels
        .slice(0, -1)
        .map((_, i) =>
          element("button", { type: "button", class: "frame", onclick: () => choose({ step: i }) }),
        ),
    );
  }
  for (const [i, button] of [...strip.children].entries()) {
    const t = painting.levels[i].toFixed(2);
    button.setAttribute(
      "aria-label",
      fill(words.stripStep, { step: i + 1, steps: painting.steps, t }),
    );
    button.setAttribute("aria-pressed", String(i === step));
    button.replaceChildren(
      copy(painting.noisy[i]),
      copy(painting.clean[i]),
      element("span", {}, `t = ${t}`),
    );
  }
}

function copy(canvas) {
  const other = element("canvas", { width: canvas.width, height: canvas.height });
  other.getContext("2d").drawImage(canvas, 0, 0);
  return other;
}

let player = null;
function play() {
  if (player) return stop();
  $("play").textContent = words.pause;
  let i = -1;
  const next = () => {
    i += 1;
    if (i >= painting.steps) return stop();
    choose({ step: i });
    player = setTimeout(next, Math.max(160, 2800 / painting.steps));
  };
  next();
}

function stop() {
  clearTimeout(player);
  player = null;
  $("play").textContent = words.play;
}

function save() {
  const name = `${painting.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${painting.seed}.png`;
  $("picture").toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
    say(fill(words.saved, { name }));
  });
}

// ---------------------------------------------------------------- the tour

function showStation(now) {
  const number = state.station;
  const figure = $("figure");
  if (opened?.number !== number) {
    const holder = element("div", { class: "drawn" });
    const context = { choose, engine: guarded, kept: () => firstKept };
    opened = { number, holder, update: STATIONS[number].build(holder, context) };
    holder.addEventListener("numbers", ({ detail }) => tell(detail));
    figure.replaceChildren(holder);
    $("station-title").textContent = texts[number].title;
    $("station-text").textContent = texts[number].text;
    $("equations").replaceChildren(...equationsOf(STATIONS[number].equations));
    $("back").disabled = number === 0;
    $("next").disabled = number === STATIONS.length - 1;
    $("stations").value = number;
    figure.setAttribute("aria-label", texts[number].title);
  }
  tell(opened.update(now));
}

/** The numbers that a station shows, where a test can compare them with the package's. */
function tell(numbers) {
  $("figure").dataset.numbers = JSON.stringify(numbers, (_, value) =>
    ArrayBuffer.isView(value) ? [...value] : value,
  );
}

function equation(number) {
  const known = equations[number];
  const links = element("span", { class: "links" });
  links.append(element("a", { href: known.section }, `${words.section} ${number}`));
  for (const [name, address] of known.functions.slice(0, 1))
    links.append(" · ", element("a", { href: address }, name.split(".").pop()));
  links.append(" · ", element("a", { href: known.test }, words.test));
  return element(
    "div",
    { class: "equation" },
    element("p", { class: "formula" }, ...formula(known.equation.replaceAll("`", ""))),
    links,
  );
}

/** The station’s own equation, and the others of its place folded. */
function equationsOf(numbers) {
  const [first, ...others] = numbers.map(equation);
  if (!others.length) return first ? [first] : [];
  return [
    first,
    element(
      "details",
      {},
      element("summary", {}, fill(words.beside, { n: others.length })),
      ...others,
    ),
  ];
}

/** An equation of docs/EQUATIONS.md in parts: `_x`, `_{xy}` and `^{xy}` become indices, but not in `split_heads`. */
function formula(text) {
  const pieces = text.split(/(?<![a-z]{3})([_^])(\{[^}]*\}|[\p{L}\p{N}∅]+)/u);
  return pieces.flatMap((piece, i) => {
    if (i % 3 === 0) return [piece];
    if (i % 3 === 1) return [];
    return [
      element(pieces[i - 1] === "_" ? "sub" : "sup", {}, ...formula(piece.replace(/[{}]/g, ""))),
    ];
  });
}

function go(station) {
  choose({ station });
  $("station-title").focus({ preventScroll: true });
}

// ---------------------------------------------------------------- painting

/** The engine for the stations: what goes wrong is said, and nothing comes back. */
const guarded = Object.fromEntries(
  ["text", "decode", "without", "guidance"].map((name) => [
    name,
    (...args) => painter[name](...args).catch((error) => say(error.message)),
  ]),
);

const asked = () => Object.fromEntries(PAINTING.map((name) => [name, state[name]]));
const keptNumber = () =>
  kept.list.findIndex(
    ({ prompt, seed }) => prompt === state.prompt && seed === state.seed && isKeptModel(),
  );
const isKeptModel = () =>
  state.model === kept.model && state.steps === 4 && state.size === kept.size;

async function showKept(i) {
  turn += 1;
  painting = await kept.open(i);
  firstKept ??= painting;
  say(fill(words.paintedBefore, { model: kept.model, steps: painting.steps }));
  await show();
}

let painting_ = false;
let again = false;
/** Paint what is chosen; while it works, only the newest wish waits. */
async function paint() {
  if (keptNumber() >= 0 && !painter.ready) return showKept(keptNumber());
  if (!painter.loaded.has(state.model)) return offer();
  if (painting_) {
    again = true;
    return;
  }
  painting_ = true;
  try {
    do {
      again = false;
      const mine = ++turn;
      const options = asked();
      const start = performance.now();
      const next = await painter.paint(
        options,
        (step) => say(fill(words.painting, { step, steps: options.steps })),
        preview,
      );
      if (!next) continue;
      painting = next;
      say(fill(words.painted, { ...options, ms: Math.round(performance.now() - start) }));
      await show();
      if (!again)
        void painter
          .develop(painting, () => mine === turn && !again, show)
          .catch((error) => say(error.message));
    } while (again);
  } catch (error) {
    say(error.message);
  } finally {
    painting_ = false;
  }
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

/** Say what the model costs that is chosen and not here yet. */
async function offer() {
  const mb = await offerModel();
  say(fill(words.needsModel, { mb }));
}

/** The button, which says what it costs; the megabytes. */
async function offerModel() {
  const { missing } = await painter.cost(state.model);
  const mb = megabytes(missing);
  $("load").hidden = false;
  $("load").textContent = missing ? fill(words.load, { mb }) : words.loadKept;
  return mb;
}

async function load() {
  const button = $("load");
  const bar = $("progress");
  button.disabled = true;
  bar.hidden = false;
  try {
    const { total } = await painter.cost(state.model);
    const mb = megabytes(total);
    await painter.load(state.model, ({ bytes }) => {
      bar.value = bytes / total;
      say(bytes < total ? fill(words.loading, { done: megabytes(bytes), mb }) : words.preparing);
    });
    button.hidden = true;
    say(words.ready);
    if (keptNumber() < 0) await paint();
    else await show();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
    bar.hidden = true;
  }
}

// ---------------------------------------------------------------- controls

function controls() {
  $("model").append(...MODELS.map((name) => element("option", { value: name }, name)));
  $("size").append(...SIZES.map((size) => element("option", { value: size }, `${size} × ${size}`)));
  $("stations").append(
    ...texts.map(({ title }, i) =>
      element("option", { value: i }, fill(words.station, { n: i + 1, of: texts.length, title })),
    ),
  );
  fillControls();
  for (const id of ["prompt", "model", "size", ...KNOBS]) {
    $(id).addEventListener("input", () => {
      const value = $(id).value;
      const changes = { [id]: id === "prompt" || id === "model" ? value : Number(value) };
      if (id === "model") Object.assign(changes, DEFAULTS[value]);
      choose(changes);
      fillControls();
      if (id === "model" && painter.ready && !painter.loaded.has(value)) void offer();
      else if (id !== "prompt" && painter.ready) void paint();
    });
  }
  $("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    void paint();
  });
  $("load").addEventListener("click", load);
  $("play").addEventListener("click", play);
  $("save").addEventListener("click", save);
  $("back").addEventListener("click", () => go(state.station - 1));
  $("next").addEventListener("click", () => go(state.station + 1));
  $("stations").addEventListener("input", () => choose({ station: Number($("stations").value) }));
  $("theme").addEventListener("click", theme);
  window.addEventListener("hashchange", () => {
    Object.assign(state, read(location.hash));
    fillControls();
    if (PAINTING.some((name) => painting[name] !== state[name])) void paint();
    else void show();
  });
}

const DEFAULTS = { "tiny-schnell": { steps: 4 }, "tiny-dev": { steps: 12 }, tiny: { steps: 12 } };

function fillControls() {
  for (const id of ["prompt", "model", "size", ...KNOBS]) $(id).value = state[id];
  for (const id of KNOBS) $(`${id}-value`).textContent = state[id];
  $("guidance").disabled = state.model === "tiny-schnell";
}

function theme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("mode", next); // where the book's pages look
  localStorage.setItem("theme", next);
  void show();
}

function gallery() {
  const buttons = kept.list.map(({ prompt, seed, picture }) => {
    const button = element("button", { type: "button", title: prompt });
    button.append(element("img", { src: picture, alt: prompt, width: 56, height: 56 }));
    button.addEventListener("click", () => {
      choose({ ...FIRST, station: state.station, prompt, seed, word: 2 });
      fillControls();
      void showKept(keptNumber());
    });
    return button;
  });
  $("gallery").replaceChildren(...buttons);
}

async function start() {
  controls();
  say("");
  const [paintings, book] = await Promise.all([
    keptPaintings(new URL("painted/", import.meta.url).href),
    fetch("live_map/equations.json").then((response) => response.json()),
  ]);
  kept = paintings;
  equations = book;
  gallery();
  const number = keptNumber();
  firstKept = await kept.open(0);
  await showKept(Math.max(0, number));
  await offerModel();
  if (number < 0) await offer();
  performance.mark("ready");
  document.body.dataset.ready = "yes";
  if (
    !matchMedia("(prefers-reduced-motion: reduce)").matches &&
    state.station === 0 &&
    !location.hash
  )
    play();
}

start().catch((error) => say(error.message));
