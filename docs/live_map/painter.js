// The engine, from the page's side: paintings that can be asked for every number on their way.

import { Engine } from "../engine/engine.js";
import { Files } from "../engine/files.js";
import { Painted, toCanvas } from "./painting.js";
import { gathered, guidancePlane, lengths, changes, modulation, WANTED } from "./trace.js";

const GUIDED = { walks: [0, 1, 3, 6], steps: 8, walk: 2, told: [1, 2, 3, 4, 5, 6] }; // of station 11

const size_of = ({ size }) => ({ width: size, height: size });

export class Painter {
  loaded = new Set(); // models
  turn = 0; // of walks: an older one's next picture is not wanted any more
  constructor(weights) {
    this.weights = weights;
    this.files = new Files(weights);
  }
  get ready() {
    return this.loaded.size > 0;
  }
  /** Bytes of what a model needs and this page has not read yet, and of those what the browser does not keep. */
  async cost(model) {
    const manifest = await this.files.manifest();
    const shared = [
      "flux.safetensors",
      "t5.safetensors",
      "clip.safetensors",
      "ae.safetensors",
      "tokenizer.json",
    ];
    const names = this.ready ? [] : shared;
    const delta = `${model.replace("tiny-", "")}.safetensors`;
    if (delta in manifest && !this.loaded.has(model)) names.push(delta);
    const total = names.reduce((sum, name) => sum + manifest[name].bytes, 0);
    return { total, missing: await this.files.missing(names) };
  }
  /** Fetch a model or take it from the browser’s cache; progress({bytes, total}). */
  async load(model, progress) {
    this.engine ??= new Engine({ weights: this.weights });
    await this.engine.load(model, progress);
    this.loaded.add(model);
  }
  /** Paint; onStep(i) after each step. preview(tokens) makes the strip’s pictures until the decoder has. */
  async paint(options, onStep, preview) {
    this.turn += 1;
    const velocities = [];
    const levels = [];
    const picture = await this.engine.paint(engineOptions(options), ({ step, t, v }) => {
      velocities.push(v);
      levels.push(t);
      onStep(step + 1);
    });
    if (!picture) return null;
    const pieces = await this.engine.tokens(options.prompt);
    const used = pieces.findIndex(({ text }) => text === "</s>") + 1;
    const text = await this.text(options.prompt);
    const about = {
      levels: [...levels, 0],
      ids: pieces.map(({ id }) => id),
      words: words(pieces, used),
      used,
    };
    const painting = new Painted(
      { ...options, ...about, text: rows(text, Math.min(used + 1, pieces.length)) },
      { velocities, picture: toCanvas(picture), trace: (step) => this.trace(painting, step) },
    );
    painting.noisy = velocities.map((_, i) => preview(painting.states()[i]));
    painting.clean = velocities.map((_, i) => preview(painting.answer(i)));
    this.last = painting;
    return painting;
  }
  /** What passed at a step. The engine knows its last walk: another one is walked again first. */
  async trace(painting, step) {
    if (this.last !== painting) {
      await this.engine.paint(engineOptions(painting));
      this.last = painting;
    }
    const seen = await this.engine.inspect(step, WANTED);
    const numbers = (name) => seen[name].numbers;
    return {
      attention: gathered(numbers, painting.used),
      modulation: modulation(numbers),
      lengths: lengths(numbers, painting.used),
      change: changes(numbers),
    };
  }
  /** The strip’s pictures by the decoder, one after the other; ends when wanted() says no. */
  async develop(painting, wanted, onPicture) {
    for (let i = 0; i < painting.steps; i++) {
      for (const [row, tokens] of [
        ["clean", painting.answer(i)],
        ["noisy", painting.states()[i]],
      ]) {
        if (!wanted()) return;
        painting[row][i] = await this.decode(tokens, painting.size);
      }
      onPicture();
    }
  }
  async decode(x, size) {
    return toCanvas(await this.engine.decode({ x, ...size_of({ size }) }));
  }
  /** The same painting with one block left out, or with tokens of the prompt that attention does not see. */
  async without(painting, { block, tokens }) {
    this.last = null;
    const changes = { leave_out: block === undefined ? null : blockName(block), unseen: tokens };
    const picture = await this.engine.paint({ ...engineOptions(painting), ...changes });
    return picture && toCanvas(picture);
  }
  /** What station 11 shows, for a painting of the reader's own: `planes` at four levels of a walk of tiny, and its
   * pictures. null when the reader has asked for another picture meanwhile. */
  async guidance(painting) {
    const mine = (this.turn += 1);
    this.last = null;
    for (const model of ["tiny-dev", "tiny"]) await this.load(model, () => {});
    const options = { ...engineOptions(painting), num_steps: GUIDED.steps };
    const [walks, guided] = [[], []];
    for (const guidance of GUIDED.walks) {
      if (mine !== this.turn) return null;
      const walk = [];
      const keep = ({ t, x }) => walk.push({ t, x });
      const picture = await this.engine.paint({ ...options, model: "tiny", guidance }, keep);
      if (!picture) return null;
      walks.push(walk);
      guided.push(toCanvas(picture));
    }
    const states = walks[GUIDED.walk].filter((_, i) => i % 2 === 0);
    const ask = (state, model, more) =>
      this.engine.velocity({ ...options, ...state, model, ...more });
    const tiny = states.map((state) =>
      ["", painting.prompt].map((prompt) => ask(state, "tiny", { prompt, guidance: 1 })),
    );
    const dev = states.map((state) =>
      GUIDED.told.map((guidance) => ask(state, "tiny-dev", { guidance })),
    );
    const planes = states.map(async ({ t }, i) =>
      guidancePlane(t, ...(await Promise.all(tiny[i])), await Promise.all(dev[i])),
    );
    return { planes: await Promise.all(planes), guided };
  }
  async text(prompt) {
    const { txt, vec } = await this.engine.encode(prompt);
    return { txt, y: vec };
  }
}

const blockName = (block) => (block < 3 ? `double_blocks.${block}` : `single_blocks.${block - 3}`);

function engineOptions({ prompt, model, seed, steps, guidance, size }) {
  return { prompt, model, seed, guidance, num_steps: steps, ...size_of({ size }) };
}

const CHINESE = /[\u4e00-\u9fff]$/;

/** The prompt’s words, each with the numbers of its pieces, as the package’s `words_of`; a Chinese character is a word. */
function words(pieces, used) {
  const list = [];
  pieces.slice(0, used - 1).forEach(({ text }, i) => {
    const begins = text.startsWith(" ") || !list.length || CHINESE.test(list.at(-1)[0]);
    if (begins) list.push(["", []]);
    const word = list.at(-1);
    word[0] = (word[0] + text).trim();
    word[1].push(i);
  });
  const padding = Array.from({ length: pieces.length - used }, (_, i) => used + i);
  return [...list, ["(end)", [used - 1]], ...(padding.length ? [["(padding)", padding]] : [])];
}

/** T5’s rows up to one of the padding, and CLIP’s. */
function rows({ txt, y }, count) {
  const columns = y.length;
  return { rows: count, columns, numbers: txt.slice(0, count * columns), y };
}
