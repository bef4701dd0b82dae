// What is chosen: it stands in the address, so that a link leads to the same picture and station.

export const FIRST = {
  prompt: "a flat fox left of a strawberry on a white background",
  model: "tiny-schnell",
  seed: 0,
  steps: 4,
  guidance: 3,
  size: 128,
  station: 0,
  step: 0,
  word: 2,
  patch: 27,
  block: 1,
  head: -1, // −1: the mean over heads
};

const LIMITS = {
  seed: [0, 2 ** 32 - 1],
  steps: [1, 28],
  guidance: [0, 8],
  size: [96, 256],
  station: [0, 13],
  step: [0, 27],
  word: [0, 31],
  patch: [0, 255],
  block: [0, 8],
  head: [-1, 4],
};
export const MODELS = ["tiny-schnell", "tiny-dev", "tiny"];
export const SIZES = [96, 128, 160, 192, 224, 256];
const LONGEST_PROMPT = 300;

/** The state of an address; what is missing or makes no sense there is as at first. */
export function read(hash) {
  const state = { ...FIRST };
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  if (given.has("prompt")) state.prompt = given.get("prompt").slice(0, LONGEST_PROMPT);
  if (MODELS.includes(given.get("model"))) state.model = given.get("model");
  for (const [name, [low, high]] of Object.entries(LIMITS)) {
    const value = Number(given.get(name));
    if (!given.has(name) || Number.isNaN(value) || value < low || value > high) continue;
    state[name] = name === "guidance" ? value : Math.round(value);
  }
  if (!SIZES.includes(state.size)) state.size = FIRST.size;
  return state;
}

/** The address of a state; only what differs from the first one stands in it. */
export function write(state) {
  const entries = Object.entries(state).filter(([name, value]) => value !== FIRST[name]);
  return entries.length ? `#${new URLSearchParams(entries)}` : "#";
}
