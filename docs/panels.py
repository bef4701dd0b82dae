"""A notebook's widgets in the book: what they show without a kernel.

A slider of FRAMES is drawn now, a picture a place; an anywidget runs its own JavaScript; of all others the book keeps
pictures, texts and choices, and says what the notebook moves.
"""

import ast
import html
import inspect
import json
import re
from base64 import b64decode
from importlib import import_module
from pathlib import Path

import nbformat

from flux_edu.teaching.panel import explore

# Sliders that the book plays without a kernel: name of the drawing → its file in plots, the slider that moves
FRAMES = {
    "straight_path": ("chapter_01", "t"),
    "time_shift_curve": ("chapter_01", "mu"),
    "step_sizes": ("chapter_01", "width"),
    "follow_patch": ("chapter_02", "column"),
    "rope_arrows": ("chapter_03", "position"),
    "time_embedding": ("chapter_04", "t"),
    "modulated_token": ("chapter_04", "scale"),
    "euler_paths": ("chapter_06", "num_steps"),
    "strength_levels": ("chapter_06", "strength"),
    "logit_normal_levels": ("chapter_09", "a"),
    "few_step_walks": ("chapter_11", "steps"),
    "gated_unit": ("chapter_16", "gate"),
}
FRAME_COUNT = 13


class Broken(SystemExit):
    """Something that would make a page wrong; the message names it."""


def widget_states(metadata: dict) -> dict[str, dict]:
    """What a notebook's metadata know of its widgets."""
    return metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


class Widgets:
    """What is kept of a notebook's widgets: pictures, texts, choices, and figures that the browser computes."""

    def __init__(self, notebook: nbformat.NotebookNode, static: Path):
        self.models, self.static = widget_states(notebook.metadata), static
        notebook.metadata.pop("widgets", None)

    def below(self, key: str) -> list[tuple[str, dict]]:
        """A widget and all in it, in order."""
        model = self.models[key]
        children = [child.removeprefix("IPY_MODEL_") for child in model["state"].get("children", [])]
        return [(key, model), *(each for child in children for each in self.below(child))]

    def as_html(self, key: str, code: str) -> str:
        if key not in self.models:
            raise Broken(f"a widget of this cell has no state; execute the notebook again: {code}")
        parts, moved = [], []
        for each, model in self.below(key):
            state, kind = model["state"], model["model_name"]
            if kind == "HTMLModel":
                parts.append(state.get("value", ""))
            elif kind == "RadioButtonsModel":
                parts.append("<ul>" + "".join(f"<li>{html.escape(o)}</li>" for o in state["_options_labels"]) + "</ul>")
            elif kind == "AnyModel" and "LiveSchedule" in str(state.get("_anywidget_id", "")):
                return self.live(each, state)
            elif "description" in state and kind not in ("ButtonModel", "HTMLModel"):
                moved.append(state["description"])
        if frames := self.frames(code):
            return frames
        if moved and "explore(" in code:
            parts.append(f'<p class="flux-still">In the notebook you move: {html.escape(", ".join(moved))}.</p>')
        if any("Your guess" in str(model["state"].get("description")) for _, model in self.below(key)):
            parts.append('<p class="flux-still">In the notebook you choose, and an experiment answers.</p>')
        return f'<div class="flux-panel">{"".join(parts)}</div>'

    def live(self, key: str, state: dict) -> str:
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
            f'<div class="flux-live" id="live-{key}" data-values="{html.escape(json.dumps(values))}"></div>'
            f'<script type="module">import widget from "../_static/live/{key}.js"; fluxLive(widget, "{key}")</script>'
        )

    def frames(self, code: str) -> str | None:
        """A slider of FRAMES as a row of pictures drawn now, and a native range input that chooses one."""
        call = panel_call(code)
        if call is None or call[0] not in FRAMES:
            return None
        name, sliders = call
        chapter, moving = FRAMES[name]
        draw, limits = drawing(chapter, name), sliders[moving]
        values, panel = spread(*limits), explore(draw, **{moving: limits})
        first = min(range(len(values)), key=lambda k: abs(values[k] - default_of(draw, moving)))
        folder = self.static / "frames"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        for k, value in enumerate(values):
            panel.set(**{moving: value})
            if panel.error:
                raise Broken(f"{name}, {moving} = {value}: {panel.error}")
            alt, picture = re.search(r'alt="([^"]*)".*base64,([^"]+)"', panel.picture.value).groups()
            (folder / f"{name}-{k}.png").write_bytes(b64decode(picture))
            hidden = "" if k == first else " hidden"
            pictures.append(f'<img alt="{alt}" data-value="{value:g}" src="../_static/frames/{name}-{k}.png"{hidden}>')
        word = moving.replace("_", " ")
        others = [other.replace("_", " ") for other in sliders if other != moving]
        still = f'<span class="flux-still">The notebook also moves {html.escape(", ".join(others))}.</span>'
        return (
            f'<div class="flux-frames"><label>{word} <input type="range" min="0" max="{len(values) - 1}"'
            f' value="{first}" aria-label="{word}"></label> <output>{values[first]:g}</output> '
            f"{still if others else ''}{''.join(pictures)}</div>"
        )


def panel_call(code: str) -> tuple[str, dict[str, object]] | None:
    """name and sliders of `explore(plots.name, …)` in a cell, if its last call is one with plain numbers."""
    try:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return None
    for call in calls:
        if getattr(call.func, "id", "") == "explore" and ast.unparse(call.args[0]).startswith("plots."):
            sliders = {}
            for keyword in call.keywords:
                try:
                    sliders[keyword.arg] = ast.literal_eval(keyword.value)
                except ValueError:
                    sliders[keyword.arg] = None
            return ast.unparse(call.args[0]).removeprefix("plots."), sliders
    return None


def drawing(chapter: str, name: str):
    """The function of this name in a file of plots."""
    return getattr(import_module(f"flux_edu.teaching.plots.{chapter}"), name)


def spread(low: float, high: float, step: float) -> list[float]:
    """At most FRAME_COUNT values from low to high, both ends among them, all on the slider's own steps."""
    count = round((high - low) / step)
    places = sorted({round(k * count / (FRAME_COUNT - 1)) for k in range(FRAME_COUNT)})
    whole = all(isinstance(each, int) for each in (low, high, step))
    return [low + place * step if whole else round(low + place * step, 6) for place in places]


def default_of(draw, name: str) -> float:
    """Where a slider begins."""
    return inspect.signature(draw).parameters[name].default
