"""One look for every figure: a palette that colour-blind readers can tell apart, a solid ground, alternative text."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's palette, made for colour-blind readers
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
IMG, TXT = BLUE, ORANGE  # image tokens and text tokens, in every figure


class NotebookFigure(Figure):
    """A figure that a notebook shows when it ends a cell, without pyplot, its label as the alternative text."""

    def _repr_html_(self) -> str:
        from flux_edu.learn import picture_html  # here, so that plots do not need ipywidgets

        return picture_html(self)


def new_figure(
    rows: int = 1, cols: int = 1, width: float = 7.0, height: float = 3.4, **subplots
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure that pyplot does not know of (nothing to close), white in light and dark themes, and its axes."""
    fig = NotebookFigure(figsize=(width, height), facecolor="white", layout="constrained")
    axes = fig.subplots(rows, cols, **subplots)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title("", y=1.0)  # a height of its own: else every draw lays the labels out twice to find one
    return fig, axes


def place(fig: Figure, left: float, right: float, bottom: float, top: float = 0.9, wspace: float = 0.25) -> None:
    """Fixed margins for a figure that a slider draws again and again: the automatic ones lay everything out first."""
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=left, right=right, bottom=bottom, top=top, wspace=wspace)
