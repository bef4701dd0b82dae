"""One look for every figure: a palette that colour-blind readers can tell apart, a solid ground, alternative text."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flux_edu.teaching.plots.html import picture_html

# Okabe & Ito's palette, made for colour-blind readers
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
GREY = "#767676"  # the lightest grey that text on white may have: contrast 4.5 to 1
IMG, TXT = BLUE, ORANGE  # image tokens and text tokens, in every figure


class NotebookFigure(Figure):
    """A figure that a notebook shows when it ends a cell, without pyplot, its label as the alternative text."""

    def _repr_html_(self) -> str:
        return picture_html(self)


def new_figure(
    rows: int | str = 1,
    cols: int = 1,
    width: float = 7.0,
    height: float = 3.4,
    margins: tuple[float, float, float, float] | None = None,
    wspace: float = 0.25,
    **subplots,
) -> tuple[Figure, Axes | np.ndarray | dict[str, Axes]]:
    """A figure that pyplot does not know of (nothing to close), white in light and dark themes, and its axes.

    rows may draw the places of the axes with letters: "AAB;AAC" (matplotlib's subplot_mosaic).
    margins are the left, right, bottom and top ends of the axes, as shares of the figure, and wspace the gap between
    two of them, as a share of one. What a slider draws again has them: where None, matplotlib finds margins that fit,
    which takes nearly half as long again as the drawing, and axes move from picture to picture.
    """
    layout = "constrained" if margins is None else None
    fig = NotebookFigure(figsize=(width, height), facecolor="white", layout=layout)
    axes = fig.subplot_mosaic(rows) if isinstance(rows, str) else fig.subplots(rows, cols, **subplots)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    if margins is not None:
        left, right, bottom, top = margins
        fig.subplots_adjust(left=left, right=right, bottom=bottom, top=top, wspace=wspace)
    return fig, axes
