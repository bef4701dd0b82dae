"""What runs in the reader's browser: names for sliders, a schedule that follows the hand, a mask drawn on a picture.

All are anywidgets whose JavaScript stands beside this file and travels with the notebook: nothing comes from the web.
"""

import io
import re
from base64 import b64encode
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image

HERE = Path(__file__).parent
SQUARES = 32  # a side of a drawn mask


class Labels(anywidget.AnyWidget):
    """Invisible. Gives every slider of the panel it stands in the name that a screen reader reads.

    The handles of ipywidgets' sliders have a role and a value but no name; here they get that of their description.
    """

    _esm = HERE / "labels.js"


class LiveSchedule(anywidget.AnyWidget):
    """The time shift of Eq. (1.3) and the levels of Eq. (1.5), drawn in the browser while μ or σ is dragged.

    mu and sigma are back in Python when the slider is let go.
    """

    _esm = HERE / "schedule.js"
    mu = traitlets.Float(1.15).tag(sync=True)
    sigma = traitlets.Float(1.0).tag(sync=True)
    steps = traitlets.Int(8).tag(sync=True)


class MaskCanvas(anywidget.AnyWidget):
    """A picture to draw a mask on, with mouse, pen or keys; sent when a stroke ends.

    `value` has a letter for each of 32 × 32 squares, row by row: 1 is to be painted. A control of `panel.Panel` like
    any other; `mask_of(value, size)` makes the mask.
    """

    _esm = HERE / "mask.js"
    value = traitlets.Unicode("0" * SQUARES**2).tag(sync=True)
    picture = traitlets.Unicode().tag(sync=True)
    description = traitlets.Unicode("mask").tag(sync=True)

    def __init__(self, picture: Image.Image, mask: Image.Image | None = None, **how):
        file = io.BytesIO()
        picture.convert("RGB").save(file, "png")
        address = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
        first = {} if mask is None else {"value": letters_of(mask)}
        super().__init__(picture=address, **first, **how)

    @traitlets.validate("value")
    def _whole(self, proposal: dict) -> str:
        if not re.fullmatch(f"[01]{{{SQUARES**2}}}", proposal["value"]):
            raise traitlets.TraitError(f"a mask is {SQUARES**2} letters, each 0 or 1: {proposal['value'][:20]!r}…")
        return proposal["value"]


def letters_of(mask: Image.Image) -> str:
    """A mask as `MaskCanvas` keeps it: a square is painted if most of it is white."""
    small = np.array(mask.convert("L").resize((SQUARES, SQUARES), Image.Resampling.BOX))
    return "".join("01"[int(grey > 127)] for grey in small.flatten())


def mask_of(letters: str, size: tuple[int, int]) -> Image.Image:
    """White where the letter is 1, as large as the picture."""
    squares = np.array([255 * int(letter) for letter in letters], np.uint8).reshape(SQUARES, SQUARES)
    return Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)
