// A mask drawn on a picture with mouse or pen, or with arrow keys and space: `value` has a letter a square, 1 is painted.

const WIDE = 256,
  BRUSH = 2.5; // pixels on the page; squares

function render({ model, el }) {
  const side = Math.sqrt(model.get("value").length),
    square = WIDE / side;
  let cells = [...model.get("value")],
    column = side / 2,
    row = side / 2,
    last = null;

  const card = document.createElement("div");
  card.className = "flux-mask";
  card.style.cssText =
    "background: #ffffff; color: #000000; padding: 8px; width: max-content; font-size: 13px";
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: WIDE, height: WIDE, tabIndex: 0 });
  canvas.style.cssText = "display: block; cursor: crosshair; touch-action: none";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("data-lm-suppress-shortcuts", "true"); // else JupyterLab takes the keys
  const clear = document.createElement("button");
  clear.textContent = "Clear the mask";
  const help = document.createElement("div");
  help.textContent = "Draw, or: arrows move, space marks, delete unmarks.";
  card.append(canvas, clear, help);
  el.append(card);

  const pen = canvas.getContext("2d"),
    picture = new Image();
  picture.onload = draw;
  picture.src = model.get("picture");

  function draw() {
    const marked = cells.filter((cell) => cell === "1").length;
    pen.drawImage(picture, 0, 0, WIDE, WIDE);
    pen.fillStyle = "rgba(140, 140, 140, 0.85)";
    cells.forEach((cell, i) => {
      if (cell === "1")
        pen.fillRect((i % side) * square, Math.floor(i / side) * square, square, square);
    });
    pen.strokeStyle = "#D55E00";
    pen.lineWidth = 2;
    if (document.activeElement === canvas)
      pen.strokeRect(column * square, row * square, square, square);
    const summary = `Mask: ${marked} of ${cells.length} squares are to be painted. ${help.textContent}`;
    canvas.setAttribute("aria-label", `${summary} Row ${row + 1}, column ${column + 1}.`);
  }

  function mark(x, y, letter = "1") {
    cells = cells.map((cell, i) =>
      Math.hypot((i % side) - x, Math.floor(i / side) - y) < BRUSH ? letter : cell,
    );
  }

  function send() {
    model.set("value", cells.join(""));
    model.save_changes();
    draw();
  }

  const place = (event) => [event.offsetX / square - 0.5, event.offsetY / square - 0.5];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    mark(...last);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event),
      steps = Math.ceil(Math.hypot(next[0] - last[0], next[1] - last[1])) || 1;
    for (let i = 1; i <= steps; i++)
      mark(...last.map((from, axis) => from + ((next[axis] - from) * i) / steps));
    last = next;
    draw();
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => {
      if (last) send(); // once a stroke: every new mask is painted
      last = null;
    });

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const inside = (k) => Math.min(side - 1, Math.max(0, k)),
      letter = { " ": "1", Delete: "0", Backspace: "0" }[event.key];
    if (event.key in moves)
      [column, row] = [inside(column + moves[event.key][0]), inside(row + moves[event.key][1])];
    else if (letter) mark(column, row, letter);
    else return;
    event.preventDefault();
    if (letter) send();
    else draw();
  });
  for (const change of ["focus", "blur"]) canvas.addEventListener(change, draw);
  clear.addEventListener("click", () => {
    cells.fill("0");
    send();
  });
  model.on("change:value", () => {
    cells = [...model.get("value")];
    draw();
  });
  draw();
}

export default { render };
