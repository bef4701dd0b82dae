// Eq. (1.3) and (1.5) as in flux_edu/schedule.py; tests/browser holds the numbers of the two together.

export function timeShift(mu, sigma, t) {
  return Math.exp(mu) / (Math.exp(mu) + (1 / t - 1) ** sigma);
}

export function levels(mu, sigma, steps) {
  return Array.from({ length: steps + 1 }, (_, i) => timeShift(mu, sigma, 1 - i / steps));
}

const BLACK = "#000000",
  BLUE = "#0072B2",
  GREY = "#6b6b6b";
const SIDE = 240,
  LEFT = 52,
  TOP = 14; // the square of the curve
const FROM = 360,
  TO = 690,
  EVEN = 64,
  SHIFTED = 204; // the two rows of levels

function svg(tag, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

function words(x, y, text, parent, more = {}) {
  const node = svg(
    "text",
    { x, y, "font-size": 13, "text-anchor": "middle", fill: BLACK, ...more },
    parent,
  );
  node.textContent = text;
  return node;
}

function slider(label, min, max, step, value, row) {
  const box = document.createElement("label");
  box.style.cssText = "display: flex; align-items: center; gap: 8px; color: #000000";
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min, max, step, value });
  input.style.width = "200px";
  input.setAttribute("aria-label", label);
  input.setAttribute("data-lm-suppress-shortcuts", "true"); // else JupyterLab takes the arrow keys
  const shown = document.createElement("output");
  shown.style.cssText = "width: 3.5em; font-variant-numeric: tabular-nums";
  box.append(label, input, shown);
  row.append(box);
  return { input, show: (text) => (shown.textContent = text) };
}

function render({ model, el }) {
  const card = document.createElement("div");
  card.className = "flux-live";
  card.style.cssText = "background: #ffffff; padding: 8px; max-width: 720px";
  const row = document.createElement("div");
  row.style.cssText = "display: flex; flex-wrap: wrap; gap: 4px 24px; font-size: 14px";
  const mu = slider("μ", -3, 3, 0.01, model.get("mu"), row);
  const sigma = slider("σ", 0.2, 3, 0.01, model.get("sigma"), row);
  const reset = document.createElement("button");
  reset.textContent = "Reset";
  row.append(reset);

  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 720 300");
  picture.setAttribute("role", "img");
  picture.style.cssText = "display: block; width: 100%; font-family: sans-serif";
  const x = (t) => LEFT + SIDE * t,
    y = (t) => TOP + SIDE * (1 - t),
    place = (t) => FROM + (TO - FROM) * (1 - t);
  svg("rect", { x: LEFT, y: TOP, width: SIDE, height: SIDE, fill: "none", stroke: GREY }, picture);
  svg(
    "path",
    { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, stroke: GREY, "stroke-dasharray": "4 4" },
    picture,
  );
  for (const t of [0, 0.5, 1]) {
    words(x(t), TOP + SIDE + 17, t, picture);
    words(LEFT - 8, y(t) + 4, t, picture, { "text-anchor": "end" });
  }
  words(x(0.5), 292, "t before the shift", picture);
  words(14, y(0.5), "t′ after it", picture, { transform: `rotate(-90 14 ${y(0.5)})` });
  words((FROM + TO) / 2, EVEN - 24, "levels in even steps", picture);
  words((FROM + TO) / 2, SHIFTED + 36, "the same levels after the shift", picture);
  words(FROM, SHIFTED + 56, "1, noise", picture, { "text-anchor": "start" });
  words(TO, SHIFTED + 56, "0, picture", picture, { "text-anchor": "end" });
  const curve = svg("path", { fill: "none", stroke: BLUE, "stroke-width": 2 }, picture);
  const marks = Array.from({ length: model.get("steps") + 1 }, (_, i) => {
    const even = 1 - i / model.get("steps");
    svg("circle", { cx: place(even), cy: EVEN, r: 4, fill: GREY }, picture);
    return {
      line: svg("path", { stroke: BLUE, "stroke-opacity": 0.5, "stroke-width": 1.5 }, picture),
      dot: svg("circle", { cy: SHIFTED, r: 5, fill: BLUE }, picture),
      even,
    };
  });
  card.append(row, picture);
  el.append(card);

  function draw() {
    const m = Number(mu.input.value),
      s = Number(sigma.input.value),
      timesteps = levels(m, s, marks.length - 1);
    mu.show(m.toFixed(2));
    sigma.show(s.toFixed(2));
    const points = Array.from({ length: 101 }, (_, i) => i / 100);
    curve.setAttribute("d", "M" + points.map((t) => `${x(t)} ${y(timeShift(m, s, t))}`).join("L"));
    marks.forEach(({ line, dot, even }, i) => {
      dot.setAttribute("cx", place(timesteps[i]));
      line.setAttribute("d", `M${place(even)} ${EVEN}L${place(timesteps[i])} ${SHIFTED}`);
    });
    card.dataset.levels = JSON.stringify(timesteps);
    const numbers = timesteps.map((t) => t.toFixed(3)).join(", ");
    picture.setAttribute(
      "aria-label",
      `The time shift for μ = ${m} and σ = ${s}. Levels: ${numbers}`,
    );
  }

  let waiting = false; // however often a hand moves, one drawing a frame
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }
  for (const [key, { input }] of [
    ["mu", mu],
    ["sigma", sigma],
  ]) {
    input.addEventListener("input", soon);
    input.addEventListener("change", () => {
      model.set(key, Number(input.value));
      model.save_changes();
    });
    model.on(`change:${key}`, () => {
      input.value = model.get(key);
      soon();
    });
  }
  const first = { mu: model.get("mu"), sigma: model.get("sigma") };
  reset.addEventListener("click", () => {
    for (const key of ["mu", "sigma"]) model.set(key, first[key]);
    model.save_changes();
    [mu.input.value, sigma.input.value] = [first.mu, first.sigma];
    soon();
  });
  draw();
}

export default { render };
