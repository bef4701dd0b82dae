"""What the notebooks add to the package: read a function, move a slider, check an exercise."""

import gc
import html
import inspect
import io
import time
import traceback
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets as W
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.io.advice import collect
from flux_edu.teaching.plots import canvas
from flux_edu.teaching.plots.style import redrawing
from flux_edu.teaching.widgets import Labels

# ---------------------------------------------------------------- show


# ---------------------------------------------------------------- explore


def picture_html(drawn: Figure | Image.Image) -> str:
    """A figure or picture as an <img> with its alternative text: a figure's label, a picture's `info["alt"]`."""
    if isinstance(drawn, Figure):
        data, alt, look = canvas.png(drawn), drawn.get_label(), ""
    elif isinstance(drawn, Image.Image):
        file = io.BytesIO()
        drawn.save(file, format="png", compress_level=1)
        data, alt, look = file.getvalue(), drawn.info.get("alt", ""), "image-rendering: pixelated;"
    else:
        raise TypeError(
            f"a drawing function must return a matplotlib Figure or a PIL image, this one gave {type(drawn)}"
        )
    if not alt:
        raise ValueError("the drawing has no alternative text: set fig.set_label(...) or picture.info['alt']")
    source = f"data:image/png;base64,{b64encode(data).decode()}"
    return f'<img alt="{html.escape(alt, quote=True)}" style="max-width: 100%; {look}" src="{source}">'


def show_picture(picture: Image.Image, alt: str) -> HTML:
    """A picture with words for those who do not see it; IPython by itself would show it without."""
    picture = picture.copy()
    picture.info["alt"] = alt
    return HTML(picture_html(picture))


@dataclass
class Move:
    """One slider set to one value: how long the new picture took, and the error if there was one."""

    control: str
    value: object
    seconds: float
    error: str | None


LIVE = 0.5  # seconds: what takes longer is drawn when the slider is let go
PANELS: list["Panel"] = []  # every panel of this kernel, so that a test can move all their sliders


class Panel(W.VBox):
    """Sliders above the picture they draw, and a button that brings the first picture back.

    The picture is a PNG inside `W.HTML`, which is quick, keeps its height and carries alternative text.
    An error of the drawing function is shown in the picture's place and kept in `error`; what the package has to say
    about the values (an unknown word, a rounded size) is shown under the picture.
    """

    def __init__(self, draw: Callable[..., Figure | Image.Image], controls: dict[str, W.Widget]):
        self.draw, self.controls, self.error = draw, controls, None
        self.first = {name: control.value for name, control in controls.items()}
        self.picture, self.places, self.figures = W.HTML(), [], {}
        self.live = [control for control in controls.values() if getattr(control, "continuous_update", False)]
        start = time.perf_counter()
        with redrawing(self.figures):
            drawn = draw(**self.first)  # in the open: a broken drawing fails its cell
        self.picture.value = picture_html(drawn)
        self._pace(time.perf_counter() - start)
        if isinstance(drawn, Figure):
            self.places = [ax.get_position(original=True) for ax in drawn.axes]
        height = round(drawn.bbox.height) if isinstance(drawn, Figure) else drawn.height
        self.picture.layout.min_height = f"{height}px"
        reset = W.Button(
            description="Reset", icon="undo", tooltip="Back to the first picture", layout=W.Layout(width="90px")
        )
        reset.on_click(lambda _: self.set(**self.first))
        for control in controls.values():
            control.observe(self._redraw, names="value")
        row = W.HBox([*controls.values(), reset], layout=W.Layout(flex_flow="row wrap"))
        row.add_class("flux-controls")
        self.picture.add_class("flux-picture")
        super().__init__([row, self.picture, Labels()])
        self.add_class("flux-panel")
        PANELS.append(self)

    def values(self) -> dict[str, object]:
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values) -> None:
        """Move several controls and draw once."""
        for control in self.controls.values():
            control.unobserve(self._redraw, names="value")
        for name, value in values.items():
            self.controls[name].value = value
        for control in self.controls.values():
            control.observe(self._redraw, names="value")
        self._redraw()

    def sweep(self) -> list[Move]:
        """Every control to each of its ends (or options) in turn, the others at their first value; then Reset.

        Where an end is the first value there is nothing to move; Reset draws that picture again.
        """
        tries = [(name, value) for name, control in self.controls.items() for value in ends(control)]
        moves = []
        for name, value in [each for each in tries if each[1] != self.first[each[0]]] + [("Reset", None)]:
            start = time.perf_counter()
            self.set(**(self.first | ({} if name == "Reset" else {name: value})))
            moves.append(Move(name, value, time.perf_counter() - start, self.error))
        return moves

    def _redraw(self, _=None) -> None:
        start = time.perf_counter()
        gc.disable()  # a collection walks over all of torch; it can wait until the picture is there
        try:
            with collect() as advice, redrawing(self.figures):
                drawn = self.draw(**self.values())
            told = "".join(f'<p class="flux-advice">{html.escape(text)}</p>' for text in advice)
            self.picture.value = picture_html(self._settled(drawn)) + told
            self.error = None
        except Exception as error:  # a callback has nobody to raise to: show it where the reader looks
            self.error = "".join(traceback.format_exception(error))
            told = html.escape(f"{type(error).__name__}: {error}")
            self.picture.value = f'<pre role="alert" class="flux-error" style="color: #b00020">{told}</pre>'
        finally:
            gc.enable()
        self._pace(time.perf_counter() - start)

    def _settled(self, drawn: Figure | Image.Image) -> Figure | Image.Image:
        """The axes where the first figure had them: the picture stands still, and nothing is laid out again."""
        if isinstance(drawn, Figure) and drawn.get_layout_engine() and len(drawn.axes) == len(self.places):
            drawn.set_layout_engine("none")
            for ax, place in zip(drawn.axes, self.places, strict=True):
                ax.set_position(place)
        return drawn

    def _pace(self, seconds: float) -> None:
        """Draw while a slider moves where that is quick, else when it is let go."""
        for control in self.live:
            control.continuous_update = seconds < LIVE


def ends(control: W.Widget) -> list:
    """The values of a control worth trying: both ends of a slider, all options of a menu, both states of a box."""
    if hasattr(control, "min"):
        return [control.min, control.max]
    if hasattr(control, "options"):
        return [value for _, value in control._options_full]
    return [False, True] if isinstance(control.value, bool) else [control.value]


def explore(draw: Callable[..., Figure | Image.Image], **sliders) -> Panel:
    """A panel with a control for every keyword, above what `draw` makes of their values.

    (low, high, step) is a slider, a list a menu, True or False a box, a string a text field, a widget itself. The first
    values are the defaults of `draw`. Fields and slow pictures are drawn when the control is let go.
    """
    parameters = inspect.signature(draw).parameters
    unknown = set(sliders) - set(parameters)
    if unknown:
        raise TypeError(
            f"{draw.__name__} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(parameters)}"
        )
    controls = {}
    for name, wanted in sliders.items():
        default = parameters[name].default
        control = wanted if isinstance(wanted, W.Widget) else W.interactive.widget_from_abbrev(wanted, default)
        control.description = control.description or name.replace("_", " ")
        if hasattr(control, "style"):  # a canvas has none
            control.style.description_width = "initial"
        if isinstance(control, W.Text):
            control.continuous_update = False
        controls[name] = control
    return Panel(draw, controls)


# ---------------------------------------------------------------- check
