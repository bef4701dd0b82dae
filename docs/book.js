// The book without a kernel: sliders that choose one of the frames drawn beforehand, and figures that the browser computes.

document.addEventListener("input", (event) => {
  const box = event.target.closest(".flux-frames");
  if (!box) return;
  box.querySelectorAll("img").forEach((picture, k) => {
    picture.hidden = k !== Number(event.target.value);
    if (!picture.hidden) box.querySelector("output").textContent = picture.dataset.value;
  });
});

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
    save_changes: () => {},
    on: (name, listener) => (heard[name] ??= []).push(listener),
    off: () => {},
  };
  (typeof widget === "function" ? widget() : widget).render({ model, el });
}
window.fluxLive = fluxLive;
