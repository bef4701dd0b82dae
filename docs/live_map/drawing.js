// The network's drawing: boxes that can be walked through, each with what passes there now.

import { label, line, matrix, scaled, shape, signed, bright } from "./draw.js";
import { drawing as words } from "./words.js";

// key: station, place [x, y, width, height] in the wide drawing and in the narrow one, kind of what flows in it
const BOXES = {
  schedule: { station: 3, wide: [8, 8, 150, 74], tall: [4, 4, 112, 66], kind: "vec" },
  guidance: { station: 11, wide: [8, 92, 150, 40], tall: [124, 4, 112, 66], kind: "vec" },
  prompt: { station: 1, wide: [8, 146, 150, 92], tall: [4, 92, 112, 84], kind: "txt" },
  noise: { station: 2, wide: [8, 252, 150, 134], tall: [4, 200, 112, 112], kind: "img" },
  clip: { station: 1, wide: [194, 92, 110, 46], tall: [244, 92, 112, 84], kind: "vec" },
  t5: { station: 1, wide: [194, 150, 110, 88], tall: [124, 92, 112, 84], kind: "txt" },
  tokens: { station: 2, wide: [194, 252, 110, 134], tall: [124, 200, 112, 112], kind: "img" },
  rope: { station: 6, wide: [194, 404, 110, 60], tall: [244, 200, 112, 112], kind: "pos" },
  vec: { station: 4, wide: [340, 8, 110, 74], tall: [244, 4, 112, 66], kind: "vec" },
  double0: {
    station: 7,
    block: 0,
    wide: [340, 118, 110, 84],
    tall: [4, 338, 112, 92],
    kind: "both",
  },
  double1: {
    station: 7,
    block: 1,
    wide: [340, 210, 110, 84],
    tall: [124, 338, 112, 92],
    kind: "both",
  },
  double2: {
    station: 7,
    block: 2,
    wide: [340, 302, 110, 84],
    tall: [244, 338, 112, 92],
    kind: "both",
  },
  single0: { station: 9, block: 3, wide: [492, 118, 84, 84], tall: [4, 452, 112, 62], kind: "img" },
  single1: {
    station: 9,
    block: 4,
    wide: [492, 210, 84, 84],
    tall: [124, 452, 112, 62],
    kind: "img",
  },
  single2: {
    station: 9,
    block: 5,
    wide: [492, 302, 84, 84],
    tall: [244, 452, 112, 62],
    kind: "img",
  },
  single3: { station: 9, block: 6, wide: [586, 118, 84, 84], tall: [4, 522, 112, 62], kind: "img" },
  single4: {
    station: 9,
    block: 7,
    wide: [586, 210, 84, 84],
    tall: [124, 522, 112, 62],
    kind: "img",
  },
  single5: {
    station: 9,
    block: 8,
    wide: [586, 302, 84, 84],
    tall: [244, 522, 112, 62],
    kind: "img",
  },
  last: { station: 10, wide: [712, 252, 110, 134], tall: [4, 606, 112, 112], kind: "img" },
  answer: { station: 10, wide: [712, 100, 110, 134], tall: [124, 606, 112, 112], kind: "img" },
  euler: { station: 10, wide: [712, 404, 110, 60], tall: [244, 606, 112, 112], kind: "vec" },
  decoder: { station: 12, wide: [852, 330, 140, 56], tall: [4, 744, 112, 130], kind: "img" },
  picture: { station: 0, wide: [852, 118, 140, 176], tall: [124, 744, 232, 130], kind: "img" },
};

// Paths of the arrows, as SVG writes points.
const ARROWS = {
  wide: [
    "158,45 340,45",
    "158,112 176,112 176,58 340,58",
    "158,170 176,170 176,115 194,115",
    "158,196 194,196",
    "304,115 322,115 322,70 340,70",
    "304,194 340,194",
    "158,320 194,320",
    "304,320 340,320",
    "249,386 249,404",
    "304,434 395,434 395,386",
    "395,434 581,434 581,386",
    "450,45 767,45 767,84 690,84 690,290 712,290",
    "395,82 395,118",
    "581,45 581,118",
    "450,252 492,252",
    "670,330 712,330",
    "767,252 767,234",
    "767,386 767,404",
    "712,452 176,452 176,350 194,350",
    "822,434 922,434 922,386",
    "922,330 922,294",
  ],
  tall: [
    "116,46 120,46 120,78 300,78 300,70",
    "236,30 244,30",
    "116,120 124,120",
    "60,92 60,84 270,84 270,92",
    "320,92 320,70",
    "180,176 180,190 240,190 240,326 180,326 180,338",
    "116,256 124,256",
    "180,312 180,338",
    "300,312 300,338",
    "180,430 180,452",
    "60,584 60,606",
    "116,660 124,660",
    "60,718 60,730 300,730 300,718",
    "356,660 358,660 358,320 236,320 236,312",
    "244,700 240,700 240,736 60,736 60,744",
    "116,810 124,810",
  ],
};

const SIZES = { wide: [1000, 472], tall: [360, 880] };

export class Drawing {
  /** `go(station, block)` is called when a box is chosen. */
  constructor(holder, go) {
    Object.assign(this, { holder, go, layout: null });
    this.narrow = window.matchMedia("(max-width: 640px)");
    this.narrow.addEventListener("change", () => this.view && this.update(this.view));
  }
  build(layout) {
    this.layout = layout;
    const [width, height] = SIZES[layout];
    const svg = shape("svg", {
      viewBox: `0 0 ${width} ${height}`,
      class: "network",
      role: "group",
      "aria-label": words.title,
    });
    for (const path of ARROWS[layout]) {
      const points = path.split(" ").map((point) => point.split(",").map(Number));
      svg.append(line(points, { color: "var(--line)", arrow: true }));
    }
    this.boxes = Object.fromEntries(
      Object.entries(BOXES).map(([key, box]) => [key, this.box(svg, key, box)]),
    );
    this.holder.replaceChildren(svg);
  }
  box(svg, key, { station, block, kind, ...places }) {
    const [x, y, width, height] = places[this.layout];
    const link = shape("a", {
      href: `#station=${station}`,
      class: `box ${kind}`,
      "aria-label": words.boxes[key].long,
    });
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.go(station, block);
    });
    link.append(shape("rect", { x, y, width, height, rx: 7 }));
    link.append(
      label(words.boxes[key].short, x + width / 2, y + 16, {
        anchor: "middle",
        size: 13,
        bold: true,
      }),
    );
    const inside = shape("g", { class: "inside" });
    link.append(inside);
    svg.append(link);
    return { link, inside, place: [x + 6, y + 22, width - 12, height - 28] };
  }
  /** What passes in every box, for this painting and this step; the boxes of the station stand out. */
  update(view) {
    this.view = view;
    const layout = this.narrow.matches ? "tall" : "wide";
    if (layout !== this.layout) this.build(layout);
    for (const [key, { link, inside, place }] of Object.entries(this.boxes)) {
      const { station, block } = BOXES[key];
      const lit =
        view.lit.includes(key) ||
        (view.station === station && (block === undefined || block === view.block));
      link.classList.toggle("lit", lit);
      if (lit) link.setAttribute("aria-current", "step");
      else link.removeAttribute("aria-current");
      inside.replaceChildren(...contents(key, view, place));
    }
  }
}

/** A canvas in the drawing, as large as there is room, or stretched to all of it. */
function picture(canvas, [x, y, width, height], stretch = false) {
  const style = {
    x,
    y,
    width,
    height,
    preserveAspectRatio: stretch ? "none" : "xMidYMid meet",
    class: "matrix",
  };
  return shape("image", { href: canvas.toDataURL(), ...style });
}

function lines(texts, [x, y, width, height], size = 12) {
  const top = y + height / 2 - ((texts.length - 1) * (size + 3)) / 2 + size / 3;
  return texts.map((text, i) =>
    label(text, x + width / 2, top + i * (size + 3), { anchor: "middle", size }),
  );
}

const letterCount = (text) => [...text].reduce((sum, one) => sum + (one > "\u2e80" ? 2 : 1), 0);

/** A text in lines of at most so many letters; a Chinese character has the width of two, and may end a line. */
function wrapped(text, letters, most) {
  const rows = [""];
  for (const word of text.match(/[\u2e80-\uffff]\s?|[^\s\u2e80-\uffff]+\s?/g) ?? []) {
    if (rows.at(-1) && letterCount(rows.at(-1) + word.trimEnd()) > letters) rows.push(word);
    else rows[rows.length - 1] += word;
  }
  if (rows.length > most) {
    rows.length = most;
    while (letterCount(rows[most - 1]) >= letters) rows[most - 1] = rows[most - 1].slice(0, -1);
    rows[most - 1] += "…";
  }
  return rows.map((row) => row.trimEnd());
}

function contents(key, view, place) {
  const { painting, step } = view;
  const block = BOXES[key].block;
  const draw = {
    schedule: () => levels(painting, step, place),
    guidance: () =>
      lines(
        [painting.model === "tiny-schnell" ? words.noGuidance : `w = ${painting.guidance}`],
        place,
      ),
    prompt: () => lines(wrapped(painting.prompt, Math.floor(place[2] / 6.4), 4), place, 12),
    noise: () => [picture(view.preview(painting.states()[0]), place)],
    clip: () => [
      picture(
        matrix(scaled(painting.textRows().y), 1, painting.textRows().y.length, signed),
        place,
        true,
      ),
    ],
    t5: () => {
      const { rows, columns, numbers } = painting.textRows();
      return [
        picture(
          matrix(scaled(numbers, 2.5 * deviation(numbers)), rows, columns, signed),
          place,
          true,
        ),
      ];
    },
    tokens: () => {
      const x = painting.states()[step];
      return [picture(matrix(scaled(x, 2.5), x.length / 64, 64, signed), place, true)];
    },
    rope: () => {
      const angles = Array.from({ length: 8 * 28 }, (_, i) =>
        Math.cos(Math.floor(i / 28) * 10000 ** (-(i % 28) / 28)),
      );
      return [picture(matrix(angles, 8, 28, signed), place, true)];
    },
    vec: () => {
      const rows = Object.values(painting.modulation(step)).flat();
      return [
        picture(
          matrix(
            scaled(
              rows.flatMap((row) => [...row]),
              1.5,
            ),
            rows.length,
            rows[0].length,
            signed,
          ),
          place,
          true,
        ),
      ];
    },
    last: () => [picture(view.preview(painting.velocity(step), true), place)],
    answer: () => [picture(painting.clean[step], place)],
    euler: () =>
      lines(
        [`${painting.levels[step].toFixed(2)} → ${painting.levels[step + 1].toFixed(2)}`],
        place,
        13,
      ),
    decoder: () => lines(["16 × 8 × 8 → 1"], place, 12),
    picture: () => [picture(painting.picture, place)],
  };
  if (key.startsWith("double")) {
    const A = painting.attention(step, block, -1);
    const n = painting.tokens;
    return [picture(matrix(scaled(A.map(Math.sqrt), 0.45), n, n, bright), place)];
  }
  if (key.startsWith("single")) return bars(painting.change.at(step)[block], place);
  return draw[key]?.() ?? [];
}

const deviation = (numbers) =>
  Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0) / numbers.length);

/** How much a single block changes text (above) and image (below). */
function bars(change, [x, y, width, height]) {
  return change.flatMap((amount, i) => {
    const [top, tall] = [y + (i * height) / 2 + 1, height / 2 - 6];
    const rect = {
      x,
      y: top,
      width: width * Math.min(1, amount),
      height: tall,
      class: i ? "img-bar" : "txt-bar",
    };
    return [shape("rect", { x, y: top, width, height: tall, class: "track" }), shape("rect", rect)];
  });
}

/** The levels from 1 to 0 on a line, the one of this step large. */
function levels(painting, step, [x, y, width, height]) {
  const middle = y + height / 2 - 4;
  const at = (t) => x + 6 + (1 - t) * (width - 12);
  const dots = painting.levels.map((t, i) =>
    shape("circle", {
      cx: at(t),
      cy: middle,
      r: i === step ? 6 : 3,
      class: i === step ? "dot now" : "dot",
    }),
  );
  const now = label(`t = ${painting.levels[step].toFixed(2)}`, x + width / 2, y + height - 2, {
    anchor: "middle",
    size: 12,
  });
  return [
    line(
      [
        [at(1), middle],
        [at(0), middle],
      ],
      { color: "var(--line)" },
    ),
    ...dots,
    now,
  ];
}
