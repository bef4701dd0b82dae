"""Pictures side by side, as every notebook shows them."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from flux_edu.teaching.plots.style import new_figure


def picture_row(pictures: Sequence[Image.Image], names: Sequence[str], said: str = "Pictures side by side") -> Figure:
    """Pictures in a row, each under its name; `said` begins the alternative text."""
    fig, axes = new_figure(1, len(pictures), width=1.75 * len(pictures), height=2.1, squeeze=False)
    for ax, picture, name in zip(axes[0], pictures, names, strict=True):
        ax.imshow(picture)
        ax.set_axis_off()
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
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for label, ax in zip(labels, axes[-1], strict=True):
        ax.set_xlabel(label, fontsize=8)
    fig.set_label(alt)
    return fig
