"""Sliders above the picture they draw."""

import html
import inspect
import time
import traceback
from collections.abc import Callable

import ipywidgets as W
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.io.advice import collect
from flux_edu.teaching.language import translate
from flux_edu.teaching.plots.html import picture_html
from flux_edu.teaching.widgets import Labels


def show_picture(picture: Image.Image, alt: str) -> HTML:
    """A picture with words for those who do not see it; IPython by itself would show it without."""
    picture = picture.copy()
    picture.info["alt"] = alt
    return HTML(picture_html(picture))


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
        self.live = [control for control in controls.values() if getattr(control, "continuous_update", False)]
        start = time.perf_counter()
        drawn = draw(**self.first)  # in the open: a broken drawing fails its cell
        self.picture = W.HTML(picture_html(drawn))
        self._pace(time.perf_counter() - start)
        height = round(drawn.bbox.height) if isinstance(drawn, Figure) else drawn.height
        self.picture.layout.min_height = f"{height}px"
        reset = W.Button(
            description=translate("Reset"),
            icon="undo",
            tooltip=translate("Back to the first picture"),
            layout=W.Layout(width="90px"),
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

    def _redraw(self, _=None) -> None:
        start = time.perf_counter()
        try:
            with collect() as advice:
                picture = picture_html(self.draw(**self.values()))
            advice_below = "".join(f'<p class="flux-advice">{html.escape(text)}</p>' for text in advice)
            self.picture.value, self.error = picture + advice_below, None
        except Exception as error:  # a callback has nobody to raise to: show it where the reader looks
            self.error = "".join(traceback.format_exception(error))
            message = html.escape(f"{type(error).__name__}: {error}")
            self.picture.value = f'<pre role="alert" class="flux-error" style="color: #b00020">{message}</pre>'
        self._pace(time.perf_counter() - start)

    def _pace(self, seconds: float) -> None:
        """Draw while a slider moves where that is quick, else when it is let go."""
        for control in self.live:
            control.continuous_update = seconds < LIVE


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
    for name, abbreviation in sliders.items():
        if isinstance(abbreviation, W.Widget):
            control = abbreviation
        else:
            control = W.interactive.widget_from_abbrev(abbreviation, parameters[name].default)
        control.description = translate(control.description or name.replace("_", " "))
        if hasattr(control, "style"):  # MaskCanvas has none
            control.style.description_width = "initial"
        if isinstance(control, W.Text):
            control.continuous_update = False
        controls[name] = control
    return Panel(draw, controls)
