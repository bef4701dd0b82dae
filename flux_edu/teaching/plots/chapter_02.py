"""Figures of chapter 2: a patch on its way from pixels to a token, patch orders, and where the tokens stand."""

import math

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from flux_edu.io.images import to_picture
from flux_edu.patchify import make_img_ids, make_txt_ids, patchify, token_grid, unpatchify
from flux_edu.teaching.plots.chapter_01 import toy_picture
from flux_edu.teaching.plots.style import IMG, RED, TXT, new_figure

GRID = "#ffffff"


def _dct() -> Tensor:
    """16 orthonormal patterns on 3 × 8 × 8 numbers: five low frequencies a colour, and one more of the brightness."""
    u = torch.arange(8)
    wave = [torch.cos(math.pi * k * (u + 0.5) / 8) * math.sqrt((1 if k == 0 else 2) / 8) for k in range(3)]
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]
    rows = [torch.eye(3)[c][:, None, None] * wave[i][:, None] * wave[j] for i, j in pairs for c in range(3)]
    rows.append(torch.full((3, 1, 1), 3**-0.5) * wave[2][:, None] * wave[0])
    return torch.stack([row.flatten() for row in rows])


def toy_encode(picture: Tensor) -> Tensor:
    """A stand-in for the autoencoder of chapter 8: 8 × 8 pixels become one place with 16 channels.

    Channels 0 to 2 are the mean colour of the 64 pixels, the others the coarsest waves in them.
    """
    blocks = rearrange(picture, "b c (h y) (w x) -> b h w (c y x)", y=8, x=8)
    return rearrange(blocks @ _dct().T, "b h w k -> b k h w") / 8


def toy_decode(latent: Tensor) -> Tensor:
    """Back from `toy_encode`; what 16 numbers cannot hold is blurred."""
    blocks = rearrange(latent * 8, "b k h w -> b h w k") @ _dct()
    return rearrange(blocks, "b h w (c y x) -> b c (h y) (w x)", c=3, y=8, x=8)


def _grid(ax: Axes, rows: int, columns: int, every: int) -> None:
    """Lines between the patches; pixel edges lie at half numbers."""
    ax.hlines(np.arange(every, rows, every) - 0.5, -0.5, columns - 0.5, color=GRID, lw=0.5, alpha=0.6)
    ax.vlines(np.arange(every, columns, every) - 0.5, -0.5, rows - 0.5, color=GRID, lw=0.5, alpha=0.6)
    ax.set(xticks=[], yticks=[])


def _frame(ax: Axes, mask: Tensor) -> None:
    """A red frame around the True entries of a mask."""
    (top, left), (bottom, right) = mask.nonzero().amin(0).tolist(), mask.nonzero().amax(0).tolist()
    place = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
    ax.add_patch(Rectangle(*place, fill=False, edgecolor=RED, lw=2.5))


def follow_patch(width: int = 160, height: int = 112, row: int = 4, column: int = 7) -> Figure:
    """Eq. (2.2) and (2.3): one patch as pixels, as four places of the latent, and as a token of 64 numbers.

    The frames in the first two panels are computed on the way back: all tokens but one are zero, then unpatchified.
    A row or column beyond the picture is its last one.
    """
    h, w = token_grid(height, width)
    row, column = min(row, h - 1), min(column, w - 1)
    n = row * w + column
    picture = toy_picture(16 * h, 16 * w)
    latent = toy_encode(picture)
    tokens = patchify(latent)
    back = torch.zeros_like(tokens)
    back[0, n] = 1
    back = unpatchify(back, height, width)[0, 0] > 0

    fig, (pixels, places, sequence, token) = new_figure(
        1, 4, width=10, height=3.5, margins=(0.01, 0.985, 0.13, 0.84), wspace=0.24, width_ratios=[1.3, 1.3, 0.8, 0.5]
    )
    pixels.imshow(to_picture(picture[0]))
    _grid(pixels, 16 * h, 16 * w, 16)
    _frame(pixels, back.repeat_interleave(8, 0).repeat_interleave(8, 1))
    pixels.set_title(f"pixels: 3 × {16 * h} × {16 * w}\npatch ({row}, {column}): 16 × 16 of them", fontsize=9)
    places.imshow(to_picture(latent[0, :3]))
    _grid(places, 2 * h, 2 * w, 2)
    _frame(places, back)
    places.set_title(f"latent: 16 × {2 * h} × {2 * w}\nthe patch: 2 × 2 places", fontsize=9)
    strong = 0.6
    sequence.imshow(tokens[0].numpy(), aspect="auto", cmap="PuOr", vmin=-strong, vmax=strong, interpolation="nearest")
    sequence.axhspan(n - 0.5, n + 0.5, facecolor="none", edgecolor=RED, lw=2)
    sequence.set_title(f"tokens: {h * w} × 64\nthe patch: token {n} = {row} · {w} + {column}", fontsize=9)
    sequence.set_xlabel("feature 4c + 2ph + pw", fontsize=9)
    sequence.set_ylabel("token", fontsize=9, labelpad=-9)
    sequence.set(xticks=[0, 32, 63], yticks=sorted({0, h * w - 1}))
    one = rearrange(tokens[0, n], "(c ph pw) -> c (ph pw)", ph=2, pw=2)
    token.imshow(one.numpy(), aspect="auto", cmap="PuOr", vmin=-strong, vmax=strong)
    token.set_title(f"token {n},\n64 numbers", fontsize=9)
    token.set_ylabel("channel c", fontsize=9)
    token.set(xticks=range(4), yticks=[0, 5, 10, 15])
    token.set_xticklabels(["00", "01", "10", "11"], fontsize=8)
    token.set_xlabel("ph pw", fontsize=9)
    fig.set_label(
        f"Four panels. A picture of {16 * w} × {16 * h} pixels with patch ({row}, {column}) framed; its latent of"
        f" {2 * w} × {2 * h} places with the same patch framed as 2 × 2 places; the {h * w} tokens as rows of 64"
        f" numbers with row {n} framed; and the 64 numbers of this token, channel by channel."
    )
    return fig


def patch_mistakes(width: int = 160, height: int = 112) -> Figure:
    """What wrong orders do to a picture: right, features (ph pw c), tokens by column, height and width exchanged."""
    h, w = token_grid(height, width)
    latent = toy_encode(toy_picture(16 * h, 16 * w))
    wrong = {
        "right: (h w) (c ph pw)": patchify(latent),
        "features (ph pw c)": rearrange(latent, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2),
        "tokens (w h), column by column": rearrange(latent, "b c (h p) (w q) -> b (w h) (c p q)", p=2, q=2),
    }
    pictures = {name: toy_decode(unpatchify(tokens, height, width)) for name, tokens in wrong.items()}
    pictures["height and width exchanged"] = toy_decode(unpatchify(patchify(latent), width, height))
    fig, axes = new_figure(1, 4, width=10, height=2.7)
    for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
        ax.imshow(to_picture(picture[0]))
        ax.set_axis_off()
        ax.set_title(name, fontsize=9)
    fig.set_label(
        "Four pictures decoded from tokens of the same shape. In the right order it is a house on a hill; with the"
        " features in the order (ph pw c) every patch is garbled; with tokens by column the patches are scattered;"
        " with height and width exchanged the rows are broken at the wrong places."
    )
    return fig


def token_places(width: int = 160, height: int = 112, text_tokens: int = 32) -> Figure:
    """Eq. (2.4) and (2.5): the ids of all tokens as places; every text token stands on the first patch."""
    h, w = token_grid(height, width)
    img, txt = make_img_ids(1, h, w)[0], make_txt_ids(1, text_tokens)[0]
    fig, ax = new_figure(width=7.5, height=3.8, margins=(0.08, 0.98, 0.1, 0.79))
    size = 0.75 * min(7.5 * 0.88 * 72 / w, 3.8 * 0.7 * 72 / h)
    ax.plot(img[:, 2], img[:, 1], "s", color=IMG, ms=size, alpha=0.35, mew=0, label=f"{h * w} image tokens")
    ax.plot(txt[:, 2], txt[:, 1], "o", color=TXT, ms=0.7 * size, label=f"all {text_tokens} text tokens")
    if h * w <= 150:
        for n, (_, r, c) in enumerate(img.int().tolist()):
            ax.text(c, r, n, ha="center", va="center", fontsize=8)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(xlabel="third number of the id: column", ylabel="second number of the id: row")
    ax.set(xlim=(-0.6, w - 0.4), ylim=(h - 0.4, -0.6), aspect="equal")
    numbers = "; in each square its serial number" if h * w <= 150 else ""
    fig.suptitle(f"{width} × {height} px: {h} × {w} = {h * w} image tokens{numbers}", fontsize=10)
    for handle in fig.legend(ncols=2, fontsize=9, loc="lower right", frameon=False).legend_handles:
        handle.set_markersize(8)
    fig.set_label(
        f"A grid of {h} rows and {w} columns of image tokens, each at its own row and column, and all {text_tokens}"
        " text tokens on top of each other at row 0, column 0."
    )
    return fig
