"""Every control of a panel moved over its places, and the pictures that come of it, kept for the book.

`conftest.py` runs this file in a notebook's kernel after the last cell. Each control is moved from the panel's first
picture, the others staying where they were: a slider to some values, both ends among them, a menu to all its options,
a box to both its states, a text field to EXAMPLES. Plots are kept as lossless WebP, other pictures as lossy.
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

PLACES = 11  # of a slider, at most
SEEDS = 6  # of a seed, whose values have no order
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
    seconds: float | None
    error: str | None
    file: str = ""
    alt: str = ""
    advice: str = ""


def places(name: str, control, first) -> list[tuple[str, object]]:
    """Where a control is moved to, each place with its words; `first`, its first value, is one of them."""
    if hasattr(control, "min"):
        most = SEEDS if name == "seed" else PLACES
        count = round((control.max - control.min) / control.step)
        steps = {round(k * count / (most - 1)) for k in range(most)}
        values = {first, control.max, *(control.min + k * control.step for k in steps)}
        values = sorted({type(first)(round(value, 6)) for value in values if value <= control.max})
        return [(f"{value:g}", value) for value in values]
    if hasattr(control, "options"):  # values, or pairs of a label and a value
        pairs = [option if isinstance(option, tuple) else (option, option) for option in control.options]
        return [(str(label), value) for label, value in pairs]
    if isinstance(first, bool):
        return [("no", False), ("yes", True)]
    texts = [first, *EXAMPLES.get(first.partition(" ")[0], [])]
    return [(text, text) for text in dict.fromkeys(texts)]


def keep(picture: str, folder: Path, name: str) -> dict[str, str]:
    """Write a panel's picture, which is HTML, as WebP; its file, its words, and the package's advice below it."""
    alt, data, advice = PICTURE.match(picture).groups()
    image = Image.open(io.BytesIO(b64decode(data)))
    how = {"lossless": True, "method": 2} if image.mode == "RGBA" else {"quality": 90}
    image.convert("RGB").save(folder / f"{name}.webp", **how)
    return {"file": f"{name}.webp", "alt": unescape(alt), "advice": advice}


def sweep(panel, folder: Path | None = None, number: int = 0) -> list[Move]:
    """Every control at each of its places, from the first picture; last the first picture, which Reset brings back.

    The pictures go to `folder`, where there is one, under the panel's number.
    """

    def now(name: str, place: int, value: object, seconds: float | None) -> Move:
        kept = keep(panel.picture.value, folder, f"{number}-{name}-{place}") if folder and not panel.error else {}
        return Move(name, place, value, seconds, panel.error, **kept)

    stops = [
        (name, place, value)
        for name, control in panel.controls.items()
        for place, (_, value) in enumerate(places(name, control, panel.first[name]))
        if value != panel.first[name]
    ]
    moves, first = [], now("Reset", 0, None, None)
    for name, place, value in stops:
        start = time.perf_counter()
        panel.set(**panel.first | {name: value})
        moves.append(now(name, place, value, time.perf_counter() - start))
    return [*moves, first]


def described(panel, name: str) -> dict:
    """What the book's own control is made from."""
    control, first = panel.controls[name], panel.first[name]
    options = places(name, control, first)
    menu = hasattr(control, "options") or isinstance(first, bool)
    return {
        "name": name,
        "label": control.description,
        "kind": "range" if hasattr(control, "min") else "menu" if menu else "text",
        "places": [text for text, _ in options],
        "first": [value for _, value in options].index(first),
    }


def inputs(panel, folder: Path, number: int) -> dict[str, str]:
    """Name → file of the notebook's pictures that the drawing function takes; those of a dict are NAME.KEY."""
    code, cells = getattr(panel.draw, "__code__", None), getattr(panel.draw, "__globals__", {})
    pictures = {name: cells.get(name) for name in (code.co_names if code else ())}
    for name, value in list(pictures.items()):
        if isinstance(value, dict):
            pictures |= {f"{name}.{key}": picture for key, picture in value.items()}
    files = {}
    for name, picture in pictures.items():
        if isinstance(picture, Image.Image):
            files[name] = f"{number}-{name.replace(' ', '_')}.png"
            picture.save(folder / files[name])
    return files


def record(panel, folder: Path, number: int) -> dict:
    """A panel, its controls, what it draws from, and what came of moving them."""
    return {
        "draw": getattr(panel.draw, "__name__", repr(panel.draw)),
        "inputs": inputs(panel, folder, number),
        "model": panel.model_id,
        "controls": [described(panel, name) for name in panel.controls],
        "moves": [dataclasses.asdict(move) for move in sweep(panel, folder, number)],
    }


def sweep_panels(folder: str) -> str:
    """All panels of this kernel as JSON; their pictures go to `folder`."""
    Path(folder).mkdir(parents=True)
    module = sys.modules.get("flux_edu.teaching.panel")
    panels = [record(panel, Path(folder), number) for number, panel in enumerate(module.PANELS if module else [])]
    return json.dumps(panels, default=str)
