"""A notebook's widgets in the book, without a kernel.

A panel becomes native controls over the pictures that tests/sweep.py has kept of it: each control moves from the first
picture. An anywidget runs its own JavaScript; of all others the book keeps pictures, texts and choices.
"""

import html
import json
import re
import shutil
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import nbformat

from flux_edu.teaching.language import translate

TICKED = {"yes": translate("yes"), "no": translate("no")}  # the places of a box
INLINE = re.compile(r'src="data:image/(\w+);base64,([^"]+)"')


class Broken(SystemExit):
    """Something that would make a page wrong; the message names it."""


def widget_states(metadata: dict) -> dict[str, dict]:
    """What a notebook's metadata know of its widgets."""
    return metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


def outside(page: str, static: Path) -> str:
    """HTML whose pictures lie in files, loaded when they come into view, and no longer in the page itself."""

    def moved(source: re.Match) -> str:
        data = b64decode(source[2])
        file = static / "pictures" / f"{sha256(data).hexdigest()[:16]}.{source[1]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return f'loading="lazy" src="../_static/pictures/{file.name}"'

    return INLINE.sub(moved, page)


class Widgets:
    """A notebook's widgets as HTML: `frames` has the pictures of its panels, what pages need goes to `static`."""

    def __init__(self, notebook: nbformat.NotebookNode, frames: Path, static: Path):
        self.models, self.frames, self.static = widget_states(notebook.metadata), frames, static
        self.panels = {panel["model"]: panel for panel in notebook.metadata.get("sweep", [])}
        notebook.metadata.pop("widgets", None)

    def below(self, key: str) -> list[tuple[str, dict]]:
        """A widget and all in it, in order."""
        model = self.models[key]
        children = [child.removeprefix("IPY_MODEL_") for child in model["state"].get("children", [])]
        return [(key, model), *(each for child in children for each in self.below(child))]

    def as_html(self, key: str, code: str) -> str:
        if key not in self.models:
            raise Broken(f"a widget of this cell has no state; execute the notebook again: {code}")
        if key in self.panels:
            return self.panel(self.panels[key])
        parts = []
        for each, model in self.below(key):
            state, kind = model["state"], model["model_name"]
            if kind == "HTMLModel":
                parts.append(state.get("value", ""))
            elif kind == "RadioButtonsModel":
                parts.append("<ul>" + "".join(f"<li>{html.escape(o)}</li>" for o in state["_options_labels"]) + "</ul>")
            elif kind == "AnyModel" and "LiveSchedule" in str(state.get("_anywidget_id", "")):
                return self.live(each, state)
        if any("Your guess" in str(model["state"].get("description")) for _, model in self.below(key)):
            still = translate("In the notebook you choose, and an experiment answers.")
            parts.append(f'<p class="flux-still">{still}</p>')
        return outside(f'<div class="flux-panel">{"".join(parts)}</div>', self.static)

    def live(self, key: str, state: dict, hidden: str = "") -> str:
        """An anywidget without Python: its own JavaScript, on a model that only remembers."""
        file = self.static / "live" / f"{key}.js"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(state["_esm"], encoding="utf-8")
        values = {
            name: value
            for name, value in state.items()
            if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")
        }
        return (
            f'<div class="flux-live" id="live-{key}" data-values="{html.escape(json.dumps(values))}"{hidden}></div>'
            f'<script type="module">import widget from "../_static/live/{key}.js"; fluxLive(widget, "{key}")</script>'
        )

    def panel(self, panel: dict) -> str:
        """Native controls above the panel's first picture; book.js shows the picture of the place they stand at.

        Controls of one place have nothing to move and are left out.
        """
        folder = self.static / "frames" / self.frames.name
        folder.mkdir(parents=True, exist_ok=True)
        for move in panel["moves"]:
            if move["error"]:
                raise Broken(f"{panel['draw']}, {move['control']} = {move['value']}: {move['error']}")
            shutil.copy(self.frames / move["file"], folder)
        for file in panel["inputs"].values():  # paint.js starts from them
            shutil.copy(self.frames / file, folder)
        kept = ("control", "place", "file", "alt", "advice")
        pictures = [{key: move[key] for key in kept} for move in panel["moves"]]
        first = pictures[-1]  # of Reset
        controls = [control(each) for each in panel["controls"] if len(each["places"]) > 1]
        data = json.dumps(pictures, ensure_ascii=False).replace("<", "\\u003c")
        address = f"../_static/frames/{self.frames.name}/"
        return (
            f'<div class="flux-frames" data-draw="{panel["draw"]}" data-folder="{address}"'
            f' data-inputs="{html.escape(json.dumps(panel["inputs"]))}">'
            f'<div class="flux-controls">{"".join(controls)}</div>{self.mask(panel["model"])}'
            f'<img alt="{html.escape(first["alt"])}" src="{address}{first["file"]}" loading="lazy">'
            f'<div class="flux-advice" role="status">{first["advice"]}</div>'
            f'<script type="application/json">{data}</script></div>'
        )

    def mask(self, key: str) -> str:
        """The canvas of a panel's mask, for paint.js to show once the page paints by itself; else nothing."""
        masks = [(k, m) for k, m in self.below(key) if "MaskCanvas" in str(m["state"].get("_anywidget_id", ""))]
        return "".join(self.live(key, model["state"], " hidden") for key, model in masks)


def control(control: dict) -> str:
    """A slider with the words of its places, or a menu; that of a text field is marked."""
    name, label = control["name"], html.escape(control["label"])
    first, places = control["first"], control["places"]
    if control["kind"] == "range":
        words = html.escape(json.dumps(places))
        return (
            f'<label><span>{label}</span><input type="range" data-control="{name}" min="0" max="{len(places) - 1}"'
            f' value="{first}" data-first="{first}" data-places="{words}" aria-valuetext="{places[first]}">'
            f"<output>{places[first]}</output></label>"
        )
    options = "".join(
        f'<option value="{place}"{" selected" if place == first else ""}>{html.escape(TICKED.get(text, text))}</option>'
        for place, text in enumerate(places)
    )
    text = " data-text" if control["kind"] == "text" else ""
    menu = f'<select data-control="{name}" data-first="{first}"{text}>{options}</select>'
    return f"<label><span>{label}</span>{menu}</label>"
