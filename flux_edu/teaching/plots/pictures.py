"""Figures of several chapters: pictures side by side, and bars of what changes by how much."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.teaching.plots.style import BLUE, RED, new_figure


def frame(ax: Axes) -> None:
    """No ticks, and a thin line around: a picture on white ends somewhere."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="0.8", linewidth=0.5)


def picture_row(pictures: Sequence[Image.Image], names: Sequence[str], said: str = "Pictures side by side") -> Figure:
    """Pictures in a row, each under its name; `said` begins the alternative text."""
    lines = 1 + max(name.count("\n") for name in names)
    fig, axes = new_figure(1, len(pictures), width=1.75 * len(pictures), height=1.9 + 0.2 * lines, squeeze=False)
    for ax, picture, name in zip(axes[0], pictures, names, strict=True):
        ax.imshow(picture)
        frame(ax)
        ax.set_title(name, fontsize=10)
    fig.set_label(f"{said}: {', '.join(names)}")
    return fig


def picture_rows(rows: dict[str, Sequence[Image.Image]], labels: Sequence[str], alt: str, size: float = 1.15) -> Figure:
    """Rows of pictures with a name before each row and a label under each column."""
    fig, axes = new_figure(
        len(rows), len(labels), width=size * len(labels) + 0.5, height=(size + 0.1) * len(rows) + 0.3, squeeze=False
    )
    for (name, row), line in zip(rows.items(), axes, strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for picture, ax in zip(row, line, strict=True):
            ax.imshow(picture, interpolation="nearest")
            frame(ax)
    for label, ax in zip(labels, axes[-1], strict=True):
        ax.set_xlabel(label, fontsize=8)
    fig.set_label(alt)
    return fig


def change_bars(changes: dict[str, float], what: str = "the velocity", kept: Sequence[str] = ()) -> Figure:
    """How far each change, or mistake, moves something, on a logarithmic scale; `kept` are symmetries, in blue."""
    fig, ax = new_figure(width=7.6, height=0.34 * len(changes) + 0.9)
    sizes = [max(size, 1e-8) for size in changes.values()]
    ax.barh(list(changes), sizes, color=[BLUE if name in kept else RED for name in changes], height=0.6)
    for y, size in enumerate(sizes):
        ax.text(1.3 * size, y, f"{size:.1%}" if size > 1e-3 else f"{size:.0e}", va="center", fontsize=8)
    ax.set(xscale="log", xlim=(min(sizes) / 4, 30 * max(sizes)), ylabel="change or mistake")
    ax.set_xlabel(f"relative change of {what}" + " (blue: a symmetry, red: a break)" * bool(kept))
    ax.invert_yaxis()
    fig.set_label(f"Relative change of {what}: " + ", ".join(f"{name} {size:.2g}" for name, size in changes.items()))
    return fig
