"""Every control of a panel moved over its places, and the pictures that come of it, kept for the book.

`conftest.py` runs this file in a notebook's kernel after the last cell. Each control is moved from the panel's first
picture, the others staying where they were: a slider to at most PLACES values, both ends among them, a menu to all its
options, a box to both its states, a text field to EXAMPLES. Plots are kept as lossless WebP, other pictures as lossy.
"""

import dataclasses
import io
import json
import re
import sys
import time
from base64 import b64decode
from html import unescape
from pathlib import Path

from PIL import Image

PLACES = 11
PICTURE = re.compile(r'<img alt="([^"]*)"[^>]*;base64,([^"]+)">(.*)', re.DOTALL)
EXAMPLES = {  # by the first word of the text that stands in the field
    "a": [
        "a 3d fox on a blue background",
        "a sticker rocket on a yellow background",
        "a flat red apple left of a pizza on a white background",
        "a noto house above a dog on a green background",
    ],
    "make": ["make the background green", "make the background black", "remove the apple", "swap the two"],
}


@dataclasses.dataclass
class Move:
    """One control at one place: the picture's file and words, how long it took, and the error if there was one."""

    control: str
    place: int
    value: object
    seconds: float
    error: str | None
    file: str = ""
    alt: str = ""
    advice: str = ""


def places(control) -> list[tuple[str, object]]:
    """Where a control is moved to, each place with its words; the value that it has now is one of them."""
    if hasattr(control, "min"):
        count = round((control.max - control.min) / control.step)
        steps = {round(k * count / (PLACES - 1)) for k in range(PLACES)}
        values = {control.min, control.max, control.value, *(control.min + k * control.step for k in steps)}
        values = sorted({type(control.value)(round(value, 6)) for value in values if value <= control.max})
        return [(f"{value:g}", value) for value in values]
    if hasattr(control, "options"):  # values, or pairs of a label and a value
        pairs = [option if isinstance(option, tuple) else (option, option) for option in control.options]
        return [(str(label), value) for label, value in pairs]
    if isinstance(control.value, bool):
        return [("no", False), ("yes", True)]
    texts = [control.value, *EXAMPLES.get(control.value.partition(" ")[0], [])]
    return [(text, text) for text in dict.fromkeys(texts)]


def keep(picture: str, folder: Path, name: str) -> dict[str, str]:
    """Write a panel's picture, which is HTML, as WebP; its file, its words, and the package's advice below it."""
    alt, data, advice = PICTURE.match(picture).groups()
    image = Image.open(io.BytesIO(b64decode(data)))
    how = {"lossless": True, "method": 2} if image.mode == "RGBA" else {"quality": 90}
    image.convert("RGB").save(folder / f"{name}.webp", **how)
    return {"file": f"{name}.webp", "alt": unescape(alt), "advice": advice}


def sweep(panel, number: int, folder: Path) -> dict:
    """Every control at each of its places, from the first picture; then Reset, which is the first picture again."""
    controls, moves = {}, []
    for name, control in panel.controls.items():
        options = places(control)
        first = next(k for k, (_, value) in enumerate(options) if value == panel.first[name])
        controls[name] = {
            "label": control.description,
            "kind": "range" if hasattr(control, "min") else "menu",
            "places": [text for text, _ in options],
            "first": first,
        }
        moves += [(name, place, value) for place, (_, value) in enumerate(options) if place != first]
    done = []
    for name, place, value in [*moves, ("Reset", 0, None)]:
        start = time.perf_counter()
        panel.set(**(panel.first if name == "Reset" else panel.first | {name: value}))
        move = Move(name, place, value, time.perf_counter() - start, panel.error)
        if panel.error is None:
            move = dataclasses.replace(move, **keep(panel.picture.value, folder, f"{number}-{name}-{place}"))
        done.append(dataclasses.asdict(move))
    draw = getattr(panel.draw, "__name__", repr(panel.draw))
    return {"draw": draw, "model": panel.model_id, "controls": controls, "moves": done}


def sweep_panels(folder: str) -> str:
    """All panels of this kernel as JSON; their pictures go to `folder`."""
    Path(folder).mkdir(parents=True)
    module = sys.modules.get("flux_edu.teaching.panel")
    panels = [sweep(panel, number, Path(folder)) for number, panel in enumerate(module.PANELS if module else [])]
    return json.dumps(panels, default=str)
