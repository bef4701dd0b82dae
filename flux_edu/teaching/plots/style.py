"""One look for every figure: a palette that colour-blind readers can tell apart, a solid ground, alternative text."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

# Okabe & Ito's palette, made for colour-blind readers
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
IMG, TXT = BLUE, ORANGE  # image tokens and text tokens, in every figure


class NotebookFigure(Figure):
    """A figure that a notebook shows when it ends a cell, without pyplot, its label as the alternative text."""

    def __init__(self, *args, **kwargs):
        self.bars = {}  # the scale of colours beside an axes; used again like the axes
        super().__init__(*args, **kwargs)

    def colorbar(self, mappable: ScalarMappable, *, ax: Axes | np.ndarray, **look) -> Colorbar:
        key = tuple(np.ravel(ax)), repr(look)
        if key in self.bars:
            self.bars[key][0].update_normal(mappable)
        else:
            bar = super().colorbar(mappable, ax=ax, **look)
            self.bars[key] = bar, [(each, each.get_position(original=True)) for each in (bar.ax, *key[0])]
        bar, places = self.bars[key]
        for each, position in places:
            each._set_position(position)  # the public one would take it out of the layout
        return bar

    def _repr_html_(self) -> str:
        from flux_edu.teaching.panel import picture_html  # here, so that plots do not need ipywidgets

        return picture_html(self)


def new_figure(
    rows: int | str = 1, cols: int = 1, width: float = 7.0, height: float = 3.4, **subplots
) -> tuple[Figure, Axes | np.ndarray | dict[str, Axes]]:
    """A figure that pyplot does not know of (nothing to close), white in light and dark themes, and its axes.

    rows may draw the places of the axes with letters: "AAB;AAC" (matplotlib's subplot_mosaic).
    """
    size = (rows, cols, width, height, repr(subplots))
    made = KEPT.last.pop(size, None)
    if made is None or not _emptied(*made):
        fig = NotebookFigure(figsize=(width, height), facecolor="white", layout="constrained")
        axes = fig.subplot_mosaic(rows) if isinstance(rows, str) else fig.subplots(rows, cols, **subplots)
        for ax in fig.axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_title("", y=1.0)  # a height of its own: else every draw lays the labels out twice to find one
        made = fig, axes, list(fig.axes)
    KEPT.made[size] = made
    return made[:2]


class Kept(threading.local):
    """Of each thread its own: JupyterLab draws what a slider asks for in another one than the cells."""

    def __init__(self):
        self.last: dict[tuple, tuple] = {}  # figures that may be used again, by their sizes; empty but for `redrawing`
        self.made: dict[tuple, tuple] = {}  # figures made since then


KEPT = Kept()


@contextmanager
def redrawing(figures: dict) -> Iterator[None]:
    """Figures made inside are those of the last time, emptied: axes and ticks cost more than what is drawn on them.

    `figures` keeps them from one time to the next. What a drawing function always sets (scales, limits, ticks, labels)
    it sets again; so it must set the same properties every time, whatever its arguments.
    """
    KEPT.last.update(figures)
    KEPT.made.clear()
    try:
        yield
    finally:
        KEPT.last.clear()
        figures.clear()
        figures.update(KEPT.made)
        KEPT.made.clear()


def _emptied(fig: Figure, _: Axes | np.ndarray | dict[str, Axes], made: list[Axes]) -> bool:
    """Take away what was drawn on a figure; False where more was added than can be taken away safely."""
    own = [ax.child_axes or ax.xaxis.have_units() or ax.yaxis.have_units() for ax in made]
    if fig.axes != made + [bar.ax for bar, _ in fig.bars.values()] or any(own):
        return False
    drawn = [*fig.lines, *fig.patches, *fig.images, *fig.texts, *fig.legends, *fig.artists]
    for ax in made:
        drawn += [*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts, *ax.artists, *ax.tables]
        drawn += [ax.get_legend()] if ax.get_legend() else []
    for artist in drawn:
        artist.remove()
    fig._suptitle = fig._supxlabel = fig._supylabel = None  # else the removed ones would get the next text
    for ax in made:
        for where in ("left", "center", "right"):
            ax.set_title("", loc=where, y=1.0)
        ax.containers.clear()
        ax.set_axis_on()
        ax.set_aspect("auto")
        ax.set_subplotspec(ax.get_subplotspec())  # where it was before anything was laid out
        ax.set_prop_cycle(None)
        ax.relim()
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_view_interval(0, 1, ignore=True)
        ax.set_autoscale_on(True)
    return True


def place(fig: Figure, left: float, right: float, bottom: float, top: float = 0.9, wspace: float = 0.25) -> None:
    """Fixed margins for a figure that a slider draws again and again: the automatic ones lay everything out first."""
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=left, right=right, bottom=bottom, top=top, wspace=wspace)
