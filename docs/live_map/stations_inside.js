// Stations 7 to 13: attention, blocks, the answer, guidance, pixels.

import { patchify } from "../engine/patchify.js";
import * as draw from "./draw.js";
import { element, label, line, plot } from "./draw.js";
import { blockChipsName, shown, spokenWords, wordChips } from "./stations_before.js";
import { fill, page, stations } from "./words.js";

const rms = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const round = (value, digits = 2) => value.toFixed(digits);

/** A button that paints the same without something, and both pictures below it, side by side. */
function comparison(holder, engine) {
  const button = element("button", { type: "button" });
  const pair = element("div", { class: "pair" });
  holder.append(button, pair);
  let compared;
  return ({ painting, ready }, what, name, caption) => {
    if (compared !== painting) pair.replaceChildren();
    compared = painting;
    button.hidden = !ready;
    button.textContent = name;
    button.onclick = async () => {
      button.disabled = true;
      const picture = await engine.without(painting, what).finally(() => (button.disabled = false));
      if (!picture || compared !== painting) return;
      pair.replaceChildren(shown(painting.picture, painting.prompt), shown(picture, caption));
    };
  };
}

// ---------------------------------------------------------------- 7: attention

/** How much every patch takes from a word, its pieces summed. */
function wordMap(A, n, first, tokens) {
  return Float32Array.from({ length: n - first }, (_, i) =>
    tokens.reduce((sum, token) => sum + A[(first + i) * n + token], 0),
  );
}

export function attention(holder, { choose, engine }) {
  const text = stations[7];
  const chips = element("div");
  const maps = element("div", { class: "maps" });
  const heads = element("div");
  const below = element("div", { class: "pair" });
  const message = draw.caption();
  let cells = null;
  holder.append(chips, maps, heads, below, message);
  const compare = comparison(holder, engine);
  return (now) => {
    const { painting, step, word, patch, block, head } = now;
    const [h, w] = painting.grid;
    const [n, first] = [painting.tokens, painting.used + 1];
    const spoken = spokenWords(painting);
    const [name, places] = spoken[Math.min(word, spoken.length - 1)];
    chips.replaceChildren(wordChips(painting, Math.min(word, spoken.length - 1), choose));
    const known = Array.from({ length: 9 }, (_, i) => i).filter(
      (i) => painting.attention(step, i, head) !== null,
    );
    const chosen = known.includes(block) ? block : known.at(-1);
    maps.replaceChildren(
      ...known.map((i) => {
        const map = wordMap(painting.attention(step, i, head), n, first, places);
        const canvas = draw.overlay(painting.clean[step], map, h, w);
        const share = draw.percent(map.reduce((a, b) => a + b, 0) / map.length);
        const button = element("button", {
          type: "button",
          class: "map",
          "aria-pressed": String(i === chosen),
        });
        button.append(canvas, element("span", {}, `${blockChipsName(i)} · ${share}`));
        button.addEventListener("click", () => choose({ block: i }));
        return button;
      }),
    );
    heads.replaceChildren();
    if (painting.heads(chosen) > 0) {
      const names = [
        text.mean,
        ...Array.from({ length: painting.heads(chosen) }, (_, i) => String(i + 1)),
      ];
      heads.append(draw.choice(text.head, names, head + 1, (i) => choose({ head: i - 1 })));
    }
    if (cells?.dataset.grid !== `${h},${w}`) {
      cells = draw.grid(text.cells, h, w, (cell) => choose({ patch: cell }));
      cells.dataset.grid = `${h},${w}`;
    }
    const A = painting.attention(step, chosen, head);
    const cell = Math.min(patch, h * w - 1);
    const [row, column] = [Math.floor(cell / w), cell % w];
    const looks = A.subarray((first + cell) * n, (first + cell + 1) * n);
    const toImage = looks.subarray(first);
    const where = fill(text.looks, { row, column });
    cells.set(
      cell,
      where,
      draw.frame(draw.overlay(painting.clean[step], toImage, h, w), cell, h, w),
    );
    const shares = quadrants(A, n, first, painting.used);
    below.replaceChildren(
      shown(cells, where),
      shown(quadrantChart(shares, text), text.quadrants, "wide"),
    );
    const map = wordMap(A, n, first, places);
    const share = map.reduce((a, b) => a + b, 0) / map.length;
    const image = toImage.reduce((a, b) => a + b, 0);
    message.textContent = fill(text.picture, {
      block: blockChipsName(chosen),
      share: draw.percent(share),
      word: name,
      row,
      column,
      text: draw.percent(1 - image),
      image: draw.percent(image),
    });
    const texts = [text.off, text.without].map((said) => fill(said, { word: name }));
    compare(now, { tokens: places }, ...texts);
    return { block: chosen, word: name, share, map: Array.from(map), image, quadrants: shares };
  };
}

/** What text and picture take from text and from picture, as means over who looks. All padding counts as 32 − used. */
function quadrants(A, n, first, used) {
  const takes = (row) => A.subarray(row * n, row * n + first).reduce((a, b) => a + b, 0);
  const padding = 32 - used;
  let fromText = padding * takes(used);
  for (let i = 0; i < used; i++) fromText += takes(i);
  let imageFromText = 0;
  for (let i = first; i < n; i++) imageFromText += takes(i);
  const [text, image] = [fromText / 32, imageFromText / (n - first)];
  return [
    [text, 1 - text],
    [image, 1 - image],
  ];
}

function quadrantChart(shares, text) {
  const svg = plot(240, 190);
  const names = [text.text_, text.image];
  shares.forEach((row, i) => {
    const y = 44 + 68 * i;
    svg.append(label(names[i], 50, y + 32, { anchor: "end", bold: true }));
    row.forEach((share, j) => {
      const x = 58 + 90 * j;
      const cell = draw.box(x, y, 84, 60, j ? "var(--img-strong)" : "var(--txt-strong)");
      cell.setAttribute("opacity", 0.18 + 0.7 * share);
      svg.append(
        cell,
        label(draw.percent(share), x + 42, y + 35, { anchor: "middle", size: 14, bold: true }),
      );
    });
  });
  names.forEach((name, j) =>
    svg.append(label(name, 100 + 90 * j, 34, { anchor: "middle", bold: true })),
  );
  return svg;
}

// ---------------------------------------------------------------- 8 and 9: how much blocks change

function changeBars(changes, first, chosen, names) {
  const svg = plot(480, 46 * changes.length + 34);
  const most = Math.max(...changes.flat(), 0.01);
  changes.forEach((pair, i) => {
    const y = 28 + 46 * i;
    const name = fill(first < 3 ? page.double : page.single, { n: i + 1 });
    svg.append(label(name, 72, y + 22, { anchor: "end", bold: first + i === chosen }));
    pair.forEach((amount, stream) => {
      const width = (330 * amount) / most;
      const color = stream ? "var(--img-strong)" : "var(--txt-strong)";
      svg.append(
        draw.box(80, y + 18 * stream, width, 15, color),
        label(draw.percent(amount), 86 + width, y + 18 * stream + 12),
      );
    });
  });
  names.forEach((name, i) => {
    svg.append(
      draw.box(80 + 90 * i, 4, 12, 12, i ? "var(--img-strong)" : "var(--txt-strong)"),
      label(name, 97 + 90 * i, 15),
    );
  });
  return svg;
}

/** One of the two stations of blocks: `from` … `to` are the blocks shown. */
function blockStation(number, from, to) {
  return (holder, { choose, engine }) => {
    const text = stations[8];
    const chips = element("div");
    const chart = element("div");
    const message = draw.caption();
    holder.append(chips, chart, message);
    const compare = comparison(holder, engine);
    return (now) => {
      const chosen = Math.min(Math.max(now.block, from), to);
      const names = Array.from({ length: to - from + 1 }, (_, i) =>
        fill(from < 3 ? page.double : page.single, { n: i + 1 }),
      );
      chips.replaceChildren(
        draw.choice(stations[7].block, names, chosen - from, (i) => choose({ block: from + i })),
      );
      const changes = now.painting.change.at(now.step).slice(from, to + 1);
      chart.replaceChildren(changeBars(changes, from, chosen, text.names));
      const [ofText, ofImage] = changes[chosen - from].map(draw.percent);
      const values = {
        t: round(now.painting.levels[now.step]),
        block: chosen - from + 1,
        text: ofText,
        image: ofImage,
      };
      message.textContent = fill(stations[number].picture, values);
      const texts = [text.off, text.without].map((said) =>
        fill(said, { n: blockChipsName(chosen) }),
      );
      compare(now, { block: chosen }, ...texts);
      return { changes };
    };
  };
}

export const blocks = blockStation(8, 0, 2);
export const single = blockStation(9, 3, 8);

// ---------------------------------------------------------------- 10: the answer

export function answer(holder, { choose }) {
  const text = stations[10];
  const chart = element("div");
  const message = draw.caption();
  const step = draw.slider(page.step, { min: 1, max: 4, value: 1 }, (value) =>
    choose({ step: value - 1 }),
  );
  holder.append(chart, step, message);
  return ({ painting, step: now }) => {
    step.querySelector("input").max = painting.steps;
    step.set(now + 1);
    const states = painting.states();
    const end = states.at(-1);
    const from = (x) => x.map((value, i) => value - end[i]);
    const straight = from(states[0]);
    const long = Math.sqrt(dot(straight, straight));
    const along = straight.map((value) => value / long);
    const sideways = from(painting.answer(0));
    const part = dot(sideways, along);
    const rest = sideways.map((value, i) => value - part * along[i]);
    const wide = Math.sqrt(dot(rest, rest)) || 1;
    const across = rest.map((value) => value / wide);
    const unit = Math.sqrt(states[0].length);
    const place = (x) => [dot(from(x), along) / unit, dot(from(x), across) / unit];
    const walk = states.map(place);
    const answers = states.slice(0, -1).map((_, i) => place(painting.answer(i)));
    chart.replaceChildren(plane(walk, answers, now, text));
    const far = from(painting.answer(now));
    const v = rms(painting.velocity(now));
    const said = {
      t: round(painting.levels[now]),
      v: round(v),
      far: round(rms(far)),
      across: round(Math.abs(answers[now][1])),
    };
    message.textContent = fill(text.picture, said);
    return { walk, answers, v };
  };
}

function plane(walk, answers, now, text) {
  const svg = plot(480, 240);
  const points = [...walk, ...answers];
  const [right, left] = [
    Math.max(...points.map((p) => p[0])),
    Math.min(...points.map((p) => p[0]), 0),
  ];
  const [high, low] = [
    Math.max(...points.map((p) => p[1])),
    Math.min(...points.map((p) => p[1]), 0),
  ];
  const at = ([x, y]) => [
    40 + (400 * (x - left)) / (right - left),
    200 - (160 * (y - low)) / (high - low || 1),
  ];
  svg.append(line([at([right, 0]), at([0, 0])], { color: "var(--line)", dash: "4 4" }));
  svg.append(line(walk.map(at), { color: "var(--blue)", width: 2.5 }));
  svg.append(
    line([at(walk[now]), at(answers[now])], {
      color: "var(--orange)",
      dash: "5 4",
      width: 2,
      arrow: true,
    }),
  );
  const step = walk[now + 1];
  svg.append(line([at(walk[now]), at(step)], { color: "var(--blue)", width: 4, arrow: true }));
  for (const [i, point] of walk.entries()) {
    const [cx, cy] = at(point);
    svg.append(draw.shape("circle", { cx, cy, r: i === now ? 6 : 4, fill: "var(--blue)" }));
  }
  for (const [i, point] of answers.entries()) {
    const [cx, cy] = at(point);
    svg.append(draw.shape("circle", { cx, cy, r: i === now ? 6 : 4, fill: "var(--orange)" }));
  }
  const name = (text, point, dx, dy, anchor, color) => {
    const [x, y] = at(point);
    svg.append(label(text, x + dx, y + dy, { anchor, bold: true, color }));
  };
  name(text.noise, walk[0], 0, 22, "end", "var(--blue)");
  name(text.end, walk.at(-1), 0, 22, "middle", "var(--blue)");
  name(text.mind, answers[now], 12, -8, "start", "var(--orange)");
  svg.append(
    label(`← ${text.axes[0]} →`, 470, 232, { anchor: "end", size: 11 }),
    label(`↑ ${text.axes[1]}`, 8, 14, { size: 11 }),
  );
  return svg;
}

// ---------------------------------------------------------------- 11: guidance

export function guidance(holder, { kept, engine }) {
  const text = stations[11];
  const chart = element("div");
  const message = draw.caption();
  const pictures = element("div", { class: "pair small" });
  const own = element("button", { type: "button" });
  let view;
  let w = 3;
  let numbers = {};
  own.onclick = async () => {
    const { painting } = view;
    own.disabled = true;
    const found = await engine.guidance(painting).finally(() => (own.disabled = false));
    if (found) Object.assign(painting, found);
    if (found && view.painting === painting) redraw();
  };
  const redraw = () => {
    const painting = view.painting.planes ? view.painting : kept();
    own.hidden = !view.ready || painting === view.painting;
    own.textContent = fill(text.own, { prompt: view.painting.prompt });
    const i = Math.min(3, Math.floor((view.step * 4) / view.painting.steps));
    const here = painting.planes[i];
    const [along] = here.dev[w - 1];
    chart.replaceChildren(guidancePlane(here, w, text));
    message.textContent = fill(text.picture, {
      t: round(here.t),
      w,
      along: round(along),
      off: round(here.off[w - 1]),
      prompt: painting.prompt,
    });
    pictures.replaceChildren(
      ...painting.guided.map((canvas, k) => shown(canvas, `w = ${[0, 1, 3, 6][k]}`)),
    );
    numbers = { t: here.t, dev: here.dev, off: here.off };
    holder.dispatchEvent(new CustomEvent("numbers", { detail: numbers }));
  };
  const knob = draw.slider(text.w, { min: 1, max: 6, value: w }, (value) => {
    w = value;
    redraw();
  });
  holder.append(chart, knob, message, pictures, own);
  return (now) => {
    view = now;
    redraw();
    return numbers;
  };
}

function guidancePlane({ dev }, w, text) {
  const svg = plot(480, 190);
  const right = Math.max(6, ...dev.map(([x]) => x));
  const [low, high] = [
    Math.min(0, ...dev.map(([, y]) => y)),
    Math.max(0, ...dev.map(([, y]) => y)),
  ];
  const scale = Math.min(400 / right, 110 / (high - low || 1));
  const at = ([x, y]) => [36 + x * scale, 140 + low * scale - y * scale];
  svg.append(line([at([0, 0]), at([right, 0])], { color: "var(--line)", dash: "4 4" }));
  svg.append(line([at([0, 0]), at([w, 0])], { color: "var(--blue)", width: 3, arrow: true }));
  const mark = (point, color, name, dy, r = 5) => {
    const [cx, cy] = at(point);
    svg.append(
      draw.shape("circle", { cx, cy, r, fill: color }),
      label(name, cx, cy + dy, { color, bold: true, anchor: "middle" }),
    );
  };
  dev.forEach((point, i) => mark(point, "var(--orange)", "", 0, i + 1 === w ? 7 : 4));
  const name = { color: "var(--orange)", bold: true, anchor: "middle" };
  svg.append(label(text.dev, at(dev[w - 1])[0], at([0, high])[1] - 12, name)); // above all of its dots
  mark([0, 0], "var(--ink)", text.none, 22);
  mark([1, 0], "var(--ink)", text.prompted, 22);
  if (w > 1) mark([w, 0], "var(--blue)", text.guided, 22);
  svg.append(label(`${text.axis} →`, 470, 184, { anchor: "end", size: 11 }));
  return svg;
}

// ---------------------------------------------------------------- 12: pixels

export function pixels(holder, { engine }) {
  const text = stations[12];
  const planes = element("div", { class: "planes", role: "group", "aria-label": text.planes });
  const pair = element("div", { class: "pair" });
  const message = draw.caption();
  holder.append(planes, pair, message);
  const off = new Set();
  let view;
  let numbers = {};
  let asked = 0;
  async function redraw() {
    const { painting, preview } = view;
    const [h, w] = painting.grid;
    const end = painting.states().at(-1);
    const z = painting.latent(end);
    const size = 4 * h * w;
    planes.replaceChildren(
      ...Array.from({ length: 16 }, (_, c) => {
        const canvas = draw.matrix(
          draw.scaled(z.subarray(c * size, (c + 1) * size), 2.5),
          2 * h,
          2 * w,
          draw.signed,
        );
        const button = element(
          "button",
          {
            type: "button",
            class: "plane",
            "aria-label": String(c + 1),
            "aria-pressed": String(!off.has(c)),
          },
          canvas,
        );
        button.addEventListener("click", () => {
          if (!off.delete(c)) off.add(c);
          redraw();
          planes.children[c].focus();
        });
        return button;
      }),
    );
    const silenced = z.map((value, i) => (off.has(Math.floor(i / size)) ? 0 : value));
    const changed = patchify(silenced, h, w);
    const table = preview(changed);
    const decoder = off.size
      ? view.ready
        ? element("span", { class: "wait" }, "…")
        : element("span", { class: "wait" }, page.sentAway)
      : painting.picture;
    const place = shown(decoder, text.decoder);
    pair.replaceChildren(shown(table, text.table), place);
    const db = psnr(preview(end), painting.picture);
    const list = [...off]
      .map((c) => c + 1)
      .sort((a, b) => a - b)
      .join(", ");
    message.textContent = fill(text.picture, {
      db: round(db, 1),
      off: off.size ? fill(text.someOff, { list }) : text.allOn,
    });
    numbers = { db, off: [...off] };
    holder.dispatchEvent(new CustomEvent("numbers", { detail: numbers }));
    const ticket = ++asked;
    if (off.size && view.ready) {
      const canvas = await engine.decode(changed, painting.size);
      if (ticket === asked && canvas) decoder.replaceWith(canvas);
    }
  }
  return (now) => {
    view = now;
    redraw();
    return numbers;
  };
}

/** Of two pictures, the first enlarged to the second: 10 log₁₀(255² / mean square), in dB. */
function psnr(small, large) {
  const canvas = element("canvas", { width: large.width, height: large.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const bytes = (picture) => {
    context.drawImage(picture, 0, 0, large.width, large.height);
    return context.getImageData(0, 0, large.width, large.height).data;
  };
  const [a, b] = [bytes(small), bytes(large)];
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (i % 4 < 3) sum += (a[i] - b[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / (0.75 * a.length)));
}

// ---------------------------------------------------------------- 13: what is not shown

export function more(holder) {
  const [head, ...rows] = stations[13].rows;
  const table = element(
    "table",
    {},
    element(
      "thead",
      {},
      element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text))),
    ),
  );
  const body = rows.map(([name, ...cells]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...cells.map((cell) => element("td", {}, cell)),
    ),
  );
  table.append(element("tbody", {}, ...body));
  holder.append(table);
  return () => ({});
}
