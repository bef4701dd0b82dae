// Stations 0 to 6: the strip, and what goes into the network.

import { get_lin_function, get_schedule } from "../engine/schedule.js";
import * as draw from "./draw.js";
import { element, label, line, plot } from "./draw.js";
import { fill, page, stations } from "./words.js";

const rms = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
const distance = (a, b) => rms(a.map((value, i) => value - b[i]));
const round = (value, digits = 2) => value.toFixed(digits);

/** A canvas with words below it. */
export function shown(canvas, text, kind = "") {
  return element("figure", { class: `shown ${kind}` }, canvas, element("figcaption", {}, text));
}

// ---------------------------------------------------------------- 0: the strip

export function strip(holder, { choose }) {
  const words = stations[0];
  const pair = element("div", { class: "pair" });
  const chart = element("div");
  const text = draw.caption();
  const step = draw.slider(page.step, { min: 1, max: 4, value: 1 }, (value) =>
    choose({ step: value - 1 }),
  );
  holder.append(pair, step, chart, text);
  return ({ painting, step: i }) => {
    const states = painting.states();
    const end = states.at(-1);
    const noisy = states.slice(0, -1).map((x) => distance(x, end));
    const clean = noisy.map((_, k) => distance(painting.answer(k), end));
    step.querySelector("input").max = painting.steps;
    step.set(i + 1);
    pair.replaceChildren(
      shown(painting.noisy[i], page.noisy),
      shown(painting.clean[i], page.clean),
    );
    chart.replaceChildren(curves(noisy, clean, i, words.axis));
    text.textContent = fill(words.picture, {
      step: i + 1,
      t: round(painting.levels[i]),
      noisy: round(noisy[i]),
      clean: round(clean[i]),
    });
    return { t: painting.levels[i], noisy: noisy[i], clean: clean[i] };
  };
}

/** Two lines over the steps, the chosen step marked. */
function curves(noisy, clean, now, [across, up]) {
  const [left, top, width, height] = [44, 12, 400, 110];
  const most = Math.max(...noisy, ...clean);
  const place = (value, i) => [
    left + (noisy.length > 1 ? (i / (noisy.length - 1)) * width : 0),
    top + height * (1 - value / most),
  ];
  const svg = plot(480, 156);
  svg.append(
    line(
      [
        [left, top],
        [left, top + height],
        [left + width, top + height],
      ],
      { color: "var(--line)" },
    ),
  );
  svg.append(line([place(0, now), place(most, now)], { color: "var(--line)", dash: "3 3" }));
  for (const [values, color, name] of [
    [noisy, "var(--blue)", "x_t"],
    [clean, "var(--orange)", "x̂₀"],
  ]) {
    svg.append(line(values.map(place), { color, width: 2.5 }));
    for (const [i, value] of values.entries()) {
      const [cx, cy] = place(value, i);
      svg.append(draw.shape("circle", { cx, cy, r: i === now ? 5 : 3, fill: color }));
    }
    const [x, y] = place(values[0], 0);
    svg.append(label(name, x + 8, y + (name === "x_t" ? 14 : -6), { color, bold: true }));
  }
  svg.append(
    label(`${across} →`, left + width, top + height + 18, { anchor: "end" }),
    label(up, left + width, top + 2, { anchor: "end" }),
  );
  svg.append(
    label("0", left - 8, top + height + 4, { anchor: "end" }),
    label(round(most, 1), left - 8, top + 8, { anchor: "end" }),
  );
  return svg;
}

// ---------------------------------------------------------------- 1: words

/** The prompt’s words as buttons. */
export function wordChips(painting, word, choose) {
  const spoken = painting.words.filter(([name]) => name !== "(padding)");
  return draw.choice(
    stations[7].word,
    spoken.map(([name]) => name),
    word,
    (i) => choose({ word: i }),
  );
}

const BETWEEN_CHINESE = /(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])/g; // no blank was there

export const spokenWords = (painting) => painting.words.filter(([name]) => name !== "(padding)");

export function words(holder, { choose, engine }) {
  const text = stations[1];
  const chips = element("div");
  const message = draw.caption();
  const rows = element("div", { class: "text-rows" });
  const input = element("input", { id: "other-word", value: "cat", size: 10, maxlength: 20 });
  const asked = element("label", { for: "other-word" });
  const button = element("button", { type: "button" }, text.compare);
  const changed = element("div");
  const form = element("div", { class: "knob" }, asked, input, button);
  holder.append(chips, message, rows, form, changed);
  let view;
  button.addEventListener("click", async () => {
    const { painting, word } = view;
    const places = spokenWords(painting);
    const other = places.slice(0, -1).map(([name], i) => (i === word ? input.value : name));
    const [before, after] = [
      await engine.text(painting.prompt),
      await engine.text(other.join(" ").replace(BETWEEN_CHINESE, "")),
    ];
    changed.replaceChildren(rowChanges(before, after, painting));
  });
  return (now) => {
    const { painting, word } = (view = now);
    const spoken = spokenWords(painting);
    const [name, places] = spoken[Math.min(word, spoken.length - 1)];
    chips.replaceChildren(wordChips(painting, word, choose));
    const { rows: count, columns, numbers, y } = painting.textRows();
    const most = 2.5 * rms(numbers);
    const table = draw.matrix(draw.scaled(numbers, most), count, columns, draw.signed);
    const names = element("ol", { class: "row-names" });
    for (let i = 0; i < count; i++) {
      const own = spoken.find(([, tokens]) => tokens.includes(i));
      const piece = own ? (own[1][0] === i ? own[0] : "·") : "(padding)";
      names.append(element("li", { class: places.includes(i) ? "chosen" : "" }, piece));
    }
    const ids = places.map((i) => painting.ids[i]);
    rows.replaceChildren(
      element("div", { class: "named-matrix" }, names, shown(table, text.rows, "stretch")),
      shown(
        draw.matrix(draw.scaled(y, 2.5 * rms(y)), 1, y.length, draw.signed),
        text.clip,
        "stretch thin",
      ),
    );
    message.textContent = fill(text.picture, {
      pieces: painting.used - 1,
      padding: 32 - painting.used,
      word: name,
      ids: ids.join(", "),
    });
    asked.textContent = fill(text.replace, { word: name });
    form.hidden = !now.ready;
    changed.replaceChildren();
    const row = numbers.subarray(places[0] * columns, (places[0] + 1) * columns);
    return { ids, row: Array.from(row.subarray(0, 8)), y: Array.from(y.subarray(0, 8)) };
  };
}

function rowChanges(before, after, painting) {
  const width = before.txt.length / 32;
  const svg = plot(480, 20 * painting.used + 8);
  for (let i = 0; i < painting.used; i++) {
    const part = (x) => x.subarray(i * width, (i + 1) * width);
    const share = distance(part(before.txt), part(after.txt)) / rms(part(before.txt));
    const name = painting.words.find(([, tokens]) => tokens.includes(i))[0];
    svg.append(
      label(name, 110, 20 * i + 17, { anchor: "end" }),
      draw.box(120, 20 * i + 6, 280 * Math.min(1, share), 13, "var(--orange)"),
    );
    svg.append(label(draw.percent(share), 126 + 280 * Math.min(1, share), 20 * i + 17));
  }
  const y = draw.percent(distance(before.y, after.y) / rms(before.y));
  return element("div", {}, draw.caption(fill(stations[1].changed, { y })), svg);
}

// ---------------------------------------------------------------- 2: noise to tokens

export function tokens(holder, { choose }) {
  const text = stations[2];
  const picture = element("div", { class: "pair" });
  const planes = element("div");
  const token = element("div");
  const message = draw.caption();
  let cells = null;
  holder.append(picture, planes, token, message);
  return ({ painting, step, patch, preview }) => {
    const [h, w] = painting.grid;
    if (cells?.dataset.grid !== `${h},${w}`) {
      cells = draw.grid(text.cells, h, w, (cell) => choose({ patch: cell }));
      cells.dataset.grid = `${h},${w}`;
      picture.replaceChildren(cells, planes);
    }
    const cell = Math.min(patch, h * w - 1);
    const [row, column] = [Math.floor(cell / w), cell % w];
    const x = painting.states()[step];
    const numbers = x.subarray(64 * cell, 64 * cell + 64);
    const small = preview(x);
    const large = element("canvas", { width: 16 * w, height: 16 * h, class: "matrix" });
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, large.width, large.height);
    const values = fill(text.picture, {
      row,
      column,
      numbers: Array.from(numbers.subarray(0, 4), (n) => round(n)).join(", "),
    });
    cells.set(cell, values, draw.frame(large, cell, h, w));
    planes.replaceChildren(shown(latentPlanes(painting.latent(x), h, w, row, column), text.planes));
    const rows = Float32Array.from(
      { length: 64 },
      (_, i) => numbers[4 * (i % 16) + Math.floor(i / 16)],
    );
    token.replaceChildren(
      shown(draw.matrix(draw.scaled(rows, 2.5), 4, 16, draw.signed), text.token, "stretch"),
    );
    message.textContent = values;
    return { id: [0, row, column], token: Array.from(numbers) };
  };
}

/** All 16 planes in four rows, with the 2 × 2 places of one patch framed in each. */
function latentPlanes(z, h, w, row, column) {
  const [high, wide, zoom] = [2 * h, 2 * w, 4];
  const canvas = element("canvas", {
    width: 4 * (wide * zoom + 6),
    height: 4 * (high * zoom + 6),
    class: "matrix",
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.strokeStyle = "#ff9f1a";
  context.lineWidth = 2;
  for (let c = 0; c < 16; c++) {
    const plane = draw.matrix(
      draw.scaled(z.subarray(c * high * wide, (c + 1) * high * wide), 2.5),
      high,
      wide,
      draw.signed,
    );
    const [x, y] = [(c % 4) * (wide * zoom + 6) + 3, Math.floor(c / 4) * (high * zoom + 6) + 3];
    context.drawImage(plane, x, y, wide * zoom, high * zoom);
    context.strokeRect(x + 2 * column * zoom, y + 2 * row * zoom, 2 * zoom, 2 * zoom);
  }
  return canvas;
}

// ---------------------------------------------------------------- 3: the schedule

export function schedule(holder) {
  const text = stations[3];
  const here = { steps: 8, size: 256 };
  const chart = element("div");
  const message = draw.caption();
  let numbers = {};
  const set = (name) => (value) => {
    here[name] = value;
    redraw();
    holder.dispatchEvent(new CustomEvent("numbers", { detail: numbers }));
  };
  const steps = draw.slider(text.steps, { min: 1, max: 28, value: here.steps }, set("steps"));
  const size = draw.slider(
    text.size,
    { min: 64, max: 2048, step: 64, value: here.size },
    set("size"),
  );
  holder.append(chart, steps, size, message);
  function redraw() {
    const count = (here.size / 16) ** 2;
    const shifted = get_schedule(here.steps, count, true);
    const even = get_schedule(here.steps, count, false);
    const mu = get_lin_function()(count);
    chart.replaceChildren(twoSchedules(even, shifted, text));
    const early = (levels) => levels.filter((t) => t > 0.5).length;
    const values = {
      size: here.size,
      tokens: count,
      mu: round(mu),
      high: early(shifted),
      steps: here.steps,
      even: early(even),
    };
    message.textContent = fill(text.picture, values);
    numbers = { size: here.size, steps: here.steps, mu, levels: shifted };
  }
  return () => {
    redraw();
    return numbers;
  };
}

function twoSchedules(even, shifted, text) {
  const svg = plot(480, 246);
  const [left, top, width, height] = [40, 14, 420, 160];
  const place = (i, t) => [left + (i / (even.length - 1)) * width, top + (1 - t) * height];
  svg.append(
    line(
      [
        [left, top],
        [left, top + height],
        [left + width, top + height],
      ],
      { color: "var(--line)" },
    ),
  );
  for (const t of [0, 0.5, 1])
    svg.append(label(String(t), left - 8, place(0, t)[1] + 4, { anchor: "end" }));
  svg.append(
    line([place(0, 0.5), place(even.length - 1, 0.5)], { color: "var(--line)", dash: "3 3" }),
  );
  for (const [levels, color, name, row] of [
    [even, "var(--blue)", text.even, 208],
    [shifted, "var(--orange)", text.shifted, 240],
  ]) {
    svg.append(
      line(
        levels.map((t, i) => place(i, t)),
        { color, width: 2.5 },
      ),
    );
    for (const [i, t] of levels.entries()) {
      const [cx, cy] = place(i, t);
      svg.append(
        draw.shape("circle", { cx, cy, r: 3.5, fill: color }),
        draw.box(left + (1 - t) * width - 1, row - 11, 2.5, 12, color),
      );
    }
    svg.append(label(name, left + 2, row - 14, { color, size: 11 }));
  }
  return svg;
}

// ---------------------------------------------------------------- 4: the vector

export function blockName(block) {
  return block < 3 ? `double ${block}` : `single ${block - 3}`;
}

/** The blocks as buttons; `count` of them. */
export function blockChips(name, count, block, choose) {
  const names = Array.from({ length: count }, (_, i) =>
    i < 3 ? fill(page.double, { n: i + 1 }) : fill(page.single, { n: i - 2 }),
  );
  return draw.choice(name, names, block, (i) => choose({ block: i }));
}

export function vector(holder, { choose }) {
  const text = stations[4];
  const chips = element("div");
  const table = element("div", { class: "strips" });
  const message = draw.caption();
  holder.append(chips, table, message);
  return ({ painting, step, block }) => {
    chips.replaceChildren(blockChips(text.block, 9, block, choose));
    const rows = Object.entries(painting.modulation(step)).filter(([name]) =>
      name.startsWith(blockName(block)),
    );
    table.replaceChildren();
    for (const [name, parts] of rows) {
      const [, , stream, branch] = name.split(" ");
      const title = stream && text.branches[stream][branch - 1];
      if (title) table.append(element("h3", {}, title));
      for (const [i, part] of parts.entries()) {
        const canvas = draw.matrix(draw.scaled(part, 1.5), 1, part.length, draw.signed);
        table.append(
          element(
            "div",
            { class: "strip-row" },
            element("span", {}, text.rows[i]),
            canvas,
            element("span", {}, round(rms(part))),
          ),
        );
      }
    }
    const last = rows.at(-1)[1];
    const said = {
      block: blockChipsName(block),
      t: round(painting.levels[step]),
      scale: round(rms(last[1])),
      gate: round(rms(last[2])),
    };
    message.textContent = fill(text.picture, said);
    return { rows: rows.map(([name, parts]) => [name, ...parts.map((part) => rms(part))]) };
  };
}

export const blockChipsName = (block) =>
  fill(
    ...(block < 3 ? [page.doubleBlock, { n: block + 1 }] : [page.singleBlock, { n: block - 2 }]),
  );

// ---------------------------------------------------------------- 5: two streams

export function streams(holder, { choose }) {
  const text = stations[5];
  const chips = element("div");
  const chart = element("div");
  const message = draw.caption();
  holder.append(chips, chart, message);
  return ({ painting, step, block }) => {
    const chosen = Math.min(block, 2);
    chips.replaceChildren(blockChips(stations[7].block, 3, chosen, choose));
    const lengths = painting.lengths(step, chosen);
    const [before, after] = lengths[0];
    chart.replaceChildren(
      ...lengths.map((pair, i) => lengthBars(pair, painting.used + 1, text, text.names[i])),
    );
    const limits = [
      Math.min(...before),
      Math.max(...before),
      Math.min(...after),
      Math.max(...after),
    ];
    const [low, high, lowAfter, highAfter] = limits.map((value) => round(value, 1));
    message.textContent = fill(text.picture, {
      block: blockChipsName(chosen),
      low,
      high,
      lowAfter,
      highAfter,
    });
    return { before: limits.slice(0, 2), after: limits.slice(2) };
  };
}

/** A bar for each token, text first: before the norm pale behind, after it in front. */
function lengthBars([before, after], texts, words, name) {
  const svg = plot(480, 132);
  const most = Math.max(...before);
  const [left, width, base, tall] = [30, 440, 112, 84];
  const each = width / before.length;
  for (let i = 0; i < before.length; i++) {
    const color = i < texts ? "var(--txt-strong)" : "var(--img-strong)";
    const bar = (value, opacity) => {
      const rect = draw.box(
        left + i * each + 0.5,
        base - (tall * value) / most,
        each - 1,
        (tall * value) / most,
        color,
      );
      rect.setAttribute("opacity", opacity);
      return rect;
    };
    svg.append(bar(before[i], 0.35), bar(after[i], 1));
  }
  svg.append(label(fill(words.norms, { name }), left, 16, { bold: true }));
  svg.append(
    label(round(most, 0), left - 4, base - tall + 6, { anchor: "end", size: 11 }),
    label("0", left - 4, base, { anchor: "end", size: 11 }),
  );
  svg.append(
    label(stations[7].text_, left, base + 15, { size: 11 }),
    label(stations[7].image, left + texts * each, base + 15, { size: 11 }),
  );
  return svg;
}

// ---------------------------------------------------------------- 6: places as angles

const PAIRS = 14; // of the 28 channels of an axis
const PHASES = [0.3, 1.1]; // of the two arrows at place 0

export function places(holder) {
  const text = stations[6];
  const here = { i: 2, j: 5, pair: 1 };
  const chart = element("div");
  const message = draw.caption();
  let numbers = {};
  const redraw = () => {
    const omega = 10000 ** (-here.pair / PAIRS);
    const turns = [PHASES[0] + here.i * omega, PHASES[1] + here.j * omega];
    const angle = turns[1] - turns[0];
    chart.replaceChildren(dials(turns, here, text));
    const degrees = (value) => round((value * 180) / Math.PI, 1);
    const values = {
      pair: here.pair,
      degrees: degrees(omega),
      i: here.i,
      j: here.j,
      angle: degrees(angle),
      score: round(Math.cos(angle)),
    };
    message.textContent = fill(text.picture, values);
    numbers = { omega, angle, score: Math.cos(angle) };
    holder.dispatchEvent(new CustomEvent("numbers", { detail: numbers }));
  };
  const set = (name) => (value) => {
    here[name] = value;
    both.set(Math.min(here.i, here.j));
    redraw();
  };
  const i = draw.slider(text.i, { min: 0, max: 15, value: here.i }, set("i"));
  const j = draw.slider(text.j, { min: 0, max: 15, value: here.j }, set("j"));
  const both = draw.slider(text.both, { min: 0, max: 15, value: 2 }, (value) => {
    const by = Math.min(value - Math.min(here.i, here.j), 15 - Math.max(here.i, here.j));
    here.i += by;
    here.j += by;
    i.set(here.i);
    j.set(here.j);
    redraw();
  });
  const pair = draw.slider(text.pair, { min: 0, max: PAIRS - 1, value: here.pair }, set("pair"));
  holder.append(chart, both, i, j, pair, message);
  return () => {
    redraw();
    return numbers;
  };
}

/** Two circles with an arrow each, and a third with both and the angle between them. */
function dials([q, k], { i, j }, text) {
  const svg = plot(480, 190);
  const dial = (x, arrows, name) => {
    svg.append(
      draw.shape("circle", { cx: x, cy: 86, r: 66, class: "track" }),
      label(name, x, 178, { anchor: "middle" }),
    );
    for (const [angle, color, letter] of arrows) {
      const tip = (r) => [x + r * Math.cos(angle), 86 - r * Math.sin(angle)];
      svg.append(line([[x, 86], tip(62)], { color, width: 3, arrow: true }));
      svg.append(
        label(letter, ...tip(78).map((value, axis) => value + (axis ? 4 : 0)), {
          anchor: "middle",
          color,
          bold: true,
        }),
      );
    }
  };
  dial(84, [[q, "var(--blue)", "q"]], `${text.i} ${i}`);
  dial(244, [[k, "var(--orange)", "k"]], `${text.j} ${j}`);
  dial(
    396,
    [
      [q, "var(--blue)", "q"],
      [k, "var(--orange)", "k"],
    ],
    text.both,
  );
  return svg;
}
