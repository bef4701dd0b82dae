// Names what ipywidgets leaves nameless in a panel of flux_edu.teaching.panel.explore; menus keep their arrow keys.

function name(panel) {
  for (const slider of panel.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label")?.textContent ?? "";
    slider.querySelector(".noUi-handle")?.setAttribute("aria-label", label);
    slider.querySelector(".widget-readout")?.setAttribute("aria-label", `${label}, type a value`);
  }
  // else JupyterLab takes the arrow keys and walks to another cell
  for (const menu of panel.querySelectorAll("select"))
    menu.setAttribute("data-lm-suppress-shortcuts", "true");
}

function render({ el }) {
  el.style.display = "none";
  // its neighbours are drawn at about the same time: look again whenever one of them has come
  const panel = () => el.closest(".flux-panel");
  const watcher = new MutationObserver(() => panel() && name(panel()));
  const start = () => {
    if (!panel()) return el.isConnected || requestAnimationFrame(start);
    name(panel());
    watcher.observe(panel().querySelector(".flux-controls") ?? panel(), {
      childList: true,
      subtree: true,
    });
  };
  start();
  return () => watcher.disconnect();
}

export default { render };
