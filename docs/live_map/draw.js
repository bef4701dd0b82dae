// What the stations draw with: elements, matrices as colours, bars, lines and arrows. No library.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; `on…` attributes are listeners, text is set as text. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** The same for SVG. */
export function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** An SVG of this size that scales with its place. What it shows is said by the figure around it. */
export function plot(width, height) {
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", "aria-hidden": "true" });
}

export function label(
  text,
  x,
  y,
  { anchor = "start", size = 12, bold = false, color = "var(--ink)" } = {},
) {
  const style = {
    x,
    y,
    "text-anchor": anchor,
    "font-size": size,
    "font-weight": bold ? 700 : 400,
    fill: color,
  };
  return shape("text", style, text);
}

export function line(points, { color = "var(--ink)", width = 1.5, dash = "", arrow = false } = {}) {
  const style = { fill: "none", stroke: color, "stroke-width": width, "stroke-dasharray": dash };
  const path = shape("polyline", { points: points.map((p) => p.join(",")).join(" "), ...style });
  if (!arrow) return path;
  const [[ax, ay], [bx, by]] = points.slice(-2);
  const angle = (Math.atan2(by - ay, bx - ax) * 180) / Math.PI;
  const head = shape("path", {
    d: "M0,0 l-9,-4 v8 z",
    fill: color,
    transform: `translate(${bx},${by}) rotate(${angle})`,
  });
  return shape("g", {}, path, head);
}

export function box(x, y, width, height, color) {
  return shape("rect", {
    x,
    y,
    width: Math.max(0, width),
    height: Math.max(0, height),
    fill: color,
  });
}

// ---------------------------------------------------------------- numbers as colours

const LOW = [33, 102, 172];
const MIDDLE = [247, 247, 247];
const HIGH = [178, 84, 24];
const DARK = [24, 26, 30];
const PALE = [255, 214, 110];

const mix = (a, b, share) => a.map((from, i) => from + (b[i] - from) * share);

/** From −1 (blue) over 0 (nearly white) to 1 (orange). */
export const signed = (x) =>
  x < 0 ? mix(MIDDLE, LOW, Math.min(1, -x)) : mix(MIDDLE, HIGH, Math.min(1, x));

/** From 0 (dark) to 1 (bright). */
export const bright = (x) => mix(DARK, PALE, Math.max(0, Math.min(1, x)));

/** A canvas of rows × columns pixels, `color` of each number; CSS enlarges it. */
export function matrix(numbers, rows, columns, color) {
  const canvas = element("canvas", { width: columns, height: rows, class: "matrix" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const [r, g, b] = color(numbers[i]);
    image.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Numbers divided by their largest size, so that they lie in [−1, 1]. */
export function scaled(numbers, most = Math.max(...Array.from(numbers, Math.abs))) {
  return Array.from(numbers, (x) => x / (most || 1));
}

/** A picture under a map of weights, both over the same grid; the map's maximum is opaque. */
export function overlay(picture, weights, rows, columns, size = 128) {
  const canvas = element("canvas", { width: size, height: size, class: "matrix" });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, size, size);
  const most = Math.max(...weights);
  weights.forEach((weight, i) => {
    context.fillStyle = `rgb(10 12 16 / ${0.88 * (1 - weight / (most || 1))})`;
    const [x, y] = [(i % columns) * (size / columns), Math.floor(i / columns) * (size / rows)];
    context.fillRect(x, y, size / columns, size / rows);
  });
  return canvas;
}

/** A frame around one cell of a canvas's grid. */
export function frame(canvas, cell, rows, columns, color = "#ff9f1a") {
  const context = canvas.getContext("2d");
  const [w, h] = [canvas.width / columns, canvas.height / rows];
  context.strokeStyle = color;
  context.lineWidth = Math.max(1, w / 8);
  context.strokeRect(
    (cell % columns) * w + 0.5,
    Math.floor(cell / columns) * h + 0.5,
    w - 1,
    h - 1,
  );
  return canvas;
}

// ---------------------------------------------------------------- what the hand moves

let count = 0;

/** A slider with its name and value; `show` writes the value. */
export function slider(name, { min, max, step = 1, value, show = String }, onValue) {
  const id = `knob-${++count}`;
  const input = element("input", { type: "range", id, min, max, step, value });
  const output = element("span", { class: "value", "aria-hidden": "true" }, show(Number(value)));
  input.addEventListener("input", () => {
    output.textContent = show(Number(input.value));
    onValue(Number(input.value));
  });
  const row = element("div", { class: "knob" }, element("label", { for: id }, name), input, output);
  row.set = (next) => {
    input.value = next;
    output.textContent = show(Number(input.value));
  };
  return row;
}

/** A row of buttons of which one is pressed. */
export function choice(name, texts, chosen, onChoice) {
  const buttons = texts.map((text, i) =>
    element(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-pressed": String(i === chosen),
        onclick: () => onChoice(i),
      },
      text,
    ),
  );
  const row = element("div", { class: "chips", role: "group", "aria-label": name }, ...buttons);
  row.set = (next) =>
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === next)));
  return row;
}

/** A picture of a grid whose cells are chosen by mouse or arrow keys: one stop of the keyboard. */
export function grid(name, rows, columns, onCell) {
  const holder = element("div", {
    class: "cells",
    role: "slider",
    tabindex: 0,
    "aria-label": name,
    "aria-valuemin": 0,
  });
  holder.setAttribute("aria-valuemax", rows * columns - 1);
  let cell = 0;
  const go = (next) => next >= 0 && next < rows * columns && onCell(next);
  holder.addEventListener("click", (event) => {
    const place = holder.getBoundingClientRect();
    const [x, y] = [
      (event.clientX - place.left) / place.width,
      (event.clientY - place.top) / place.height,
    ];
    go(
      Math.min(rows - 1, Math.floor(y * rows)) * columns +
        Math.min(columns - 1, Math.floor(x * columns)),
    );
  });
  holder.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    go(cell + by);
  });
  holder.set = (next, text, canvas) => {
    cell = next;
    holder.setAttribute("aria-valuenow", next);
    holder.setAttribute("aria-valuetext", text);
    holder.replaceChildren(canvas);
  };
  return holder;
}

export function caption(...parts) {
  return element("p", { class: "caption" }, ...parts);
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
