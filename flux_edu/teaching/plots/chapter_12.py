"""Figures of chapter 12: what goes into the transformer beside text and noise."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from flux_edu.rope import rope
from flux_edu.schedule import get_schedule
from flux_edu.teaching.plots.chapter_06 import start_level
from flux_edu.teaching.plots.chapter_08 import as_pixels
from flux_edu.teaching.plots.style import BLUE, GREEN, ORANGE, RED, SKY, new_figure
from flux_edu.tools import KONTEXT_SIZES, hide, kontext_size, pack_mask

PICTURE = torch.linspace(-1, 1, 3 * 128 * 128).reshape(3, 128, 128)  # where none is given


def box(left: int = 40, top: int = 24, side: int = 60, size: int = 128) -> Float[Tensor, "1 1 H W"]:
    """A mask: 1 in a square of so many pixels, cut off where the picture ends."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., top : top + side, left : left + side] = 1
    return mask


def hole(left: int = 40, top: int = 24, side: int = 60, size: int = 128) -> Image.Image:
    """The same mask as a picture: white is to be painted."""
    return Image.fromarray((255 * box(left, top, side, size)[0, 0]).byte().numpy())


def beside(*pictures: Image.Image, alt: str, side: int = 256) -> Image.Image:
    """Pictures next to each other on white, each so many pixels high: what goes in, what comes out."""
    both = Image.new("RGB", (len(pictures) * (side + 8) - 8, side), "white")
    for i, picture in enumerate(pictures):
        both.paste(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), (i * (side + 8), 0))
    both.info["alt"] = alt
    return both


def covered(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What Fill sees of a picture: middle grey, 0 in a range of -1 to 1, where the mask is white."""
    return Image.composite(Image.new("RGB", picture.size, (128, 128, 128)), picture.convert("RGB"), mask.convert("L"))


def fill_inputs(left: int = 40, top: int = 24, side: int = 60, picture: Float[Tensor, "3 H W"] = PICTURE) -> Figure:
    """What a Fill model is given: the picture without its masked part, the mask, and the mask as 64 small ones."""
    mask = box(left, top, side, picture.shape[-1])
    packed = pack_mask(mask)[0]
    fig, axes = new_figure(1, 3, width=8.0, height=2.9, margins=(0.01, 0.99, 0.03, 0.9), wspace=0.04)
    rows = packed.reshape(8, 8, *packed.shape[1:]).permute(0, 2, 1, 3).reshape(mask.shape[-2:])
    shown = (as_pixels(hide(picture[None], mask)[0]), mask[0, 0].numpy(), rows.numpy())
    titles = ("picture ⊙ (1 − m)", "mask m", "packed: 64 channels of 16 × 16")
    for ax, image, title in zip(axes, shown, titles, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=9)
    for line in range(16, 128, 16):
        axes[2].axhline(line - 0.5, color=BLUE, lw=0.5)
        axes[2].axvline(line - 0.5, color=BLUE, lw=0.5)
    share = packed.mean(dim=(1, 2))
    fig.set_label(
        f"The picture with a grey square, the mask, and its 64 channels of 16 × 16: {mask.mean():.0%} of the pixels are"
        f" masked; the channels' shares run from {share.min():.0%} to {share.max():.0%}, as its edges cut places."
    )
    return fig


def kontext_sizes(width: int = 1920, height: int = 1080) -> Figure:
    """The sizes that Kontext prefers, and the one that a picture of width × height is resized to."""
    chosen = kontext_size(width, height)
    fig, ax = new_figure(width=5.4, height=3.2, margins=(0.135, 0.98, 0.16, 0.91))
    ax.plot(*zip(*KONTEXT_SIZES, strict=True), "o", color=BLUE, ms=4)
    ax.plot(*chosen, "o", color=RED, ms=9)
    reach = min(1650 / width, 1650 / height)
    ax.plot([0, width * reach], [0, height * reach], color=ORANGE, lw=1)
    ax.set(xlabel="width, pixels", ylabel="height, pixels", xlim=(500, 1650), ylim=(500, 1650))
    ax.set_title(f"{width} × {height}  →  {chosen[0]} × {chosen[1]}", fontsize=10)
    fig.set_label(
        f"The 17 sizes of Kontext as points, and the line of the aspect {width} : {height}. Nearest in aspect:"
        f" {chosen[0]} × {chosen[1]}, {chosen[0] * chosen[1] / 1e6:.2f} million pixels."
    )
    return fig


def two_planes(index: int = 1, row: int = 4, column: int = 4, axes_dim: tuple[int, ...] = (8, 28, 28)) -> Figure:
    """How well one and the same vector at (0, 4, 4) and at (index, row, c) fit after rotation, over c.

    The share of each axis in the head is that of the tiny FLUX. 1 is what the vector scores with itself.
    """
    columns = torch.arange(9)
    total = torch.zeros(len(columns))
    for size, here, there in zip(axes_dim, (0, 4, 4), (index, row, columns), strict=True):
        delta = torch.as_tensor(there).expand(len(columns)) - here
        total += rope(delta.float(), size, 10_000)[..., 0, 0].sum(-1).float()
    fit = total / (sum(axes_dim) / 2)
    fig, ax = new_figure(width=5.6, height=2.9, margins=(0.125, 0.98, 0.17, 0.91))
    ax.bar(columns.tolist(), fit.tolist(), color=[GREEN if c == column else BLUE for c in columns.tolist()])
    ax.set(xlabel="column of the other token", ylabel="score beside that with itself", ylim=(-0.2, 1.05))
    ax.set_title(f"axis 0: 0 and {index};  row 4 and {row};  column {column}: {fit[column]:.3f}", fontsize=9)
    fig.set_label(
        f"Scores of a vector of ones at (0, 4, 4) with itself at ({index}, {row}, c): {fit[column]:.3f} at column"
        f" {column}, from {fit.min():.2f} to {fit.max():.2f} over the columns 0 to 8."
    )
    return fig


def where_strength_enters(
    painted: Image.Image | None = None, strength: float = 0.5, num_steps: int = 28, tokens: int = 4096
) -> Figure:
    """Left what was painted from a start picture, right the noise level at which its walk began, Eq. (6.3).

    Blue is FLUX's own schedule for so many tokens, orange one of even steps; thin, for comparison, those of 64 tokens
    (the tiny FLUX) and of 4096 (1024 × 1024 pixels). Steps are counted, so a strength means another level on each.
    """
    painted = Image.new("RGB", (128, 128), (140, 140, 140)) if painted is None else painted
    schedules = {"shifted": get_schedule(num_steps, tokens), "even": get_schedule(num_steps, tokens, shift=False)}
    strengths, summaries = np.linspace(0, 1, 201).tolist(), []
    fig, (left, right) = new_figure(
        1, 2, width=7.2, height=3.2, width_ratios=[2.4, 3.7], margins=(0.02, 0.98, 0.15, 0.9), wspace=0.26
    )
    left.imshow(painted, interpolation="nearest", aspect="auto", extent=(0, 1, 0, 1))
    left.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], title=f"strength {strength:.2f}")
    for other, colour in ((64, SKY), (4096, GREEN)):
        if other == tokens:
            continue
        timesteps = get_schedule(num_steps, other)
        steps = [start_level(s, timesteps)[1] for s in strengths]
        right.plot(strengths, steps, color=colour, lw=1, ls="--", label=f"{other} tokens")
    for (name, timesteps), colour in zip(schedules.items(), (BLUE, ORANGE), strict=True):
        label = f"{tokens} tokens, this walk" if name == "shifted" else name
        right.plot(strengths, [start_level(s, timesteps)[1] for s in strengths], color=colour, label=label)
        i, t = start_level(strength, timesteps)
        right.plot([strength], [t], "o", color=colour)
        summaries.append(f"{t:.2f} on the {name} schedule")
    right.axhline(0.5, color="0.75", lw=1, ls=":")
    right.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), xlabel="strength ς", ylabel="noise level at the start")
    right.set_title(f"{num_steps - i} of {num_steps} steps", fontsize=9)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    fig.set_label(
        f"A picture painted with strength {strength:.2f}, and the noise level at which {num_steps} steps begin over"
        f" strength at {tokens} tokens: {' and '.join(summaries)}."
    )
    return fig
