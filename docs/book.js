// The book without a kernel: panels whose controls choose one of the pictures drawn beforehand, figures that the browser
// computes, and formulas that are made to fit.

const picturesOf = (box) =>
  (box.pictures ??= JSON.parse(box.querySelector('script[type="application/json"]').textContent));

// a slider says in words where it stands
function say(slider) {
  const words = JSON.parse(slider.dataset.places)[slider.value];
  slider.setAttribute("aria-valuetext", words);
  slider.nextElementSibling.textContent = words;
}

// every control moves from the panel's first picture: the others go back to their first place
function show(box, moved) {
  for (const control of box.querySelectorAll("[data-control]")) {
    if (control !== moved) control.value = control.dataset.first;
    if (control.type === "range") say(control);
  }
  const pictures = picturesOf(box);
  const { control, first } = moved.dataset;
  const there = pictures.find(
    (picture) => picture.control === control && picture.place === Number(moved.value),
  );
  const picture = moved.value === first ? pictures.at(-1) : there;
  const img = box.querySelector("img");
  img.src = box.dataset.folder + picture.file;
  img.alt = picture.alt;
  box.querySelector(".flux-advice").innerHTML = picture.advice;
}

document.addEventListener("input", (event) => {
  const box = event.target.closest(".flux-frames");
  if (!box) return;
  if (!("live" in box.dataset)) show(box, event.target);
  else if (event.target.type === "range") say(event.target);
});

// a control's pictures are fetched when a hand or the keyboard comes to it
function fetchPictures(event) {
  const { control } = event.target.dataset ?? {};
  const box = control && event.target.closest(".flux-frames");
  if (!box || event.target.fetched) return;
  event.target.fetched = picturesOf(box)
    .filter((picture) => picture.control === control)
    .map((picture) => Object.assign(new Image(), { src: box.dataset.folder + picture.file }));
}
// what the search finds in Chinese are pairs of characters behind a _ (bigrams.py), which no page has
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const summary = Search.makeSearchSummary;
  Search.makeSearchSummary = (page, words, anchor) =>
    summary(page, new Set([...words].map((word) => word.replace(/^_/, ""))), anchor);
});

for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, fetchPictures);

// an anywidget's render() on a model that remembers values and tells nobody else
function fluxLive(widget, key) {
  const el = document.getElementById(`live-${key}`);
  const values = JSON.parse(el.dataset.values);
  const heard = {};
  const model = {
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
      (heard[`change:${name}`] ?? []).forEach((listener) => listener());
    },
    save_changes: () => el.dispatchEvent(new Event("input", { bubbles: true })),
    on: (name, listener) => (heard[name] ??= []).push(listener),
    off: () => {},
  };
  el.fluxValues = values;
  (typeof widget === "function" ? widget() : widget).render({ model, el });
}
window.fluxLive = fluxLive;

// a displayed formula wider than its column is set smaller, as far as it can still be read; then it scrolls
function fitFormulas() {
  for (const box of document.querySelectorAll("div.math")) {
    box.style.fontSize = "";
    const formula = box.querySelector("mjx-container"); // without a number it scrolls by itself
    const share = box.clientWidth / Math.max(box.scrollWidth, formula?.scrollWidth ?? 0);
    if (share < 1) box.style.fontSize = `${Math.max(0.6, 0.98 * share)}em`;
  }
}
window.addEventListener("load", () => window.MathJax?.startup?.promise.then(fitFormulas));
window.addEventListener("resize", fitFormulas);

// in a table a name of the code may break behind a dot or an underscore, and not behind its dashes
function lettingNamesBreak() {
  for (const name of document.querySelectorAll(".bd-article td code span.pre")) {
    const parts = name.textContent.split(/(?<=[._\s])(?=\S)/).map((part) => {
      const span = document.createElement("span");
      span.textContent = part;
      if (part.startsWith("-")) span.style.whiteSpace = "nowrap";
      return span;
    });
    name.replaceChildren(
      ...parts.flatMap((part) => [document.createElement("wbr"), part]).slice(1),
    );
  }
}
document.addEventListener("DOMContentLoaded", lettingNamesBreak);

// on paper everything is shown, and nothing waits to be scrolled to
function unfold() {
  for (const picture of document.querySelectorAll("img")) picture.loading = "eager";
  for (const folded of document.querySelectorAll("details")) folded.open = true;
}
if (new URLSearchParams(location.search).has("print"))
  document.addEventListener("DOMContentLoaded", unfold);
