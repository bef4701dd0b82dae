"""Figures of chapter 15, the attention atlas: quadrants, words, offsets, and what goes without a head."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from flux_edu.teaching.labs.attention_maps import place_of
from flux_edu.teaching.plots.style import BLACK, BLUE, GREEN, IMG, ORANGE, PINK, RED, TXT, new_figure

QUADRANTS = ("text from text", "text from image", "image from text", "image from image")


def quadrant_atlas(shares: Float[Tensor, "blocks H 2 2"], names: Sequence[str], said: str = "") -> Figure:
    """The quadrants as four tables, a row a block and a column a head; numbers in per cent of a query's weight."""
    fig, axes = new_figure(1, 4, width=9, height=3.5, sharey=True, margins=(0.095, 0.995, 0.14, 0.9), wspace=0.06)
    H = shares.shape[1]
    places = [(i, head) for i in range(len(names)) for head in range(H)]
    for ax, title, table in zip(axes, QUADRANTS, shares.flatten(-2).unbind(-1), strict=True):
        ax.imshow(table.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        if "from text" in title:  # the other two are 100 less these
            for (i, head), share in zip(places, table.flatten().tolist(), strict=True):
                colour = "white" if share < 0.6 else BLACK
                ax.text(head, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
        ax.set_title(title, fontsize=10)
        ax.set(xlabel="head", xticks=range(H))
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylabel("block")
    mean = shares.mean(dim=(0, 1))
    top = divmod(int(shares[..., 1, 0].argmax()), H)
    fig.set_label(
        f"{said}Share of a query's weight in per cent, a row a block and a column a head. Mean over all: text takes"
        f" {mean[0, 0]:.0%} from text, image takes {mean[1, 0]:.0%} from text. Of the image queries {names[top[0]]},"
        f" head {top[1]} takes most from text, {shares[(*top, 1, 0)]:.0%}."
    )
    return fig


def word_atlas(maps: Mapping[str, Float[Tensor, "h w"]], picture: Image.Image) -> Figure:
    """The picture, then for every word where it is read, each map on its own scale; the title has the mean weight."""
    cols = 6
    rows = -(-(len(maps) + 1) // cols)
    fig, axes = new_figure(
        rows, cols, width=9, height=1.75 * rows, squeeze=False, margins=(0.01, 0.99, 0.01, 0.94), wspace=0.08
    )
    for ax in axes.flat:
        ax.set_axis_off()
    axes.flat[0].imshow(picture)
    axes.flat[0].set_title("picture", fontsize=9)
    for ax, (word, each) in zip(axes.flat[1:], maps.items(), strict=False):
        ax.imshow(each.numpy(), cmap="viridis", vmin=0)
        ax.set_title(f"{word}: {each.mean():.1%}", fontsize=9)
    summary = ", ".join(f"“{word}” {_side(each)}" for word, each in maps.items())
    fig.set_label(f"The picture, and a map for every word of how much each image token takes from it. {summary}.")
    return fig


def _side(weights: Float[Tensor, "h w"]) -> str:
    """Where a map's weight lies, in a word or two."""
    dy, dx = place_of(weights)
    words = [
        a if size < -0.5 else b for size, a, b in ((dy, "above", "below"), (dx, "left", "right")) if abs(size) > 0.5
    ]
    return " ".join(words) or "all over or in the middle"


def word_over_picture(
    weights: Float[Tensor, "h w"], picture: Image.Image, word: str, even: float, said: str = ""
) -> Figure:
    """One word's map beside the picture, and laid over it: bright where image tokens take much from the word."""
    fig, axes = new_figure(1, 3, width=7.8, height=2.8, margins=(0.01, 0.99, 0.1, 0.9), wspace=0.05)
    axes[0].imshow(picture)
    top = max(float(weights.max()), 1e-9)
    axes[1].imshow(weights.numpy(), cmap="viridis", vmin=0, vmax=top)
    ghost = Image.fromarray((255 * weights / top).round().byte().numpy()).resize(picture.size, Image.Resampling.NEAREST)
    axes[2].imshow(Image.composite(picture, Image.new("RGB", picture.size, "#202020"), ghost))
    for ax, title in zip(axes, ("picture", f"“{word}”, largest {top:.3f}", "lit where it is read"), strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    fig.text(0.01, 0.02, f"{said}mean {weights.mean():.3f}; an even share would be {even:.3f}", fontsize=9)
    dy, dx = place_of(weights)
    fig.set_label(
        f"{said}How much image tokens take from “{word}”: at most {top:.3f}, mean {weights.mean():.3f}, an even share"
        f" would be {even:.3f}. Its middle lies {abs(dx):.1f} tokens to the {'right' if dx > 0 else 'left'} and"
        f" {abs(dy):.1f} {'below' if dy > 0 else 'above'} the picture's middle."
    )
    return fig


def words_by_block(curves: Mapping[str, Sequence[float]], names: Sequence[str], width: int = 8) -> Figure:
    """The mean column at which words are read, block by block."""
    fig, ax = new_figure(width=7.4, height=3.0)
    summaries = []
    for (name, columns), colour in zip(curves.items(), (BLUE, ORANGE, GREEN, PINK, RED, BLACK), strict=False):
        ax.plot(range(len(names)), list(columns), "o-", ms=4, color=colour, label=name)
        summaries.append(f"{name}: {columns[0]:+.1f} in the first block, {columns[-1]:+.1f} in the last")
    ax.axhline(0, color=BLACK, lw=0.6)
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="block", ylabel="mean column, tokens\n(left −, right +)", ylim=(-width / 2, width / 2))
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(
        f"Mean column at which a word is read, in tokens from the middle of the picture. {'; '.join(summaries)}."
    )
    return fig


def offset_atlas(profiles: Float[Tensor, "blocks H p q"], names: Sequence[str], reach: int = 4) -> Figure:
    """Every head's offset profile as a tile, a row a block and a column a head, each on its own scale."""
    blocks, H, p, q = profiles.shape
    tiles = profiles[..., p // 2 - reach : p // 2 + reach + 1, q // 2 - reach : q // 2 + reach + 1]
    side, peaks = 2 * reach + 1, profiles.flatten(-2).amax(-1)
    wall = torch.full((blocks * (side + 1) - 1, H * (side + 1) - 1), float("nan"))
    for i in range(blocks):
        for j in range(H):
            top, left = i * (side + 1), j * (side + 1)
            wall[top : top + side, left : left + side] = (tiles[i, j] / tiles[i, j].max()).sqrt()
    fig, ax = new_figure(width=5.2, height=8.4, margins=(0.19, 0.99, 0.06, 0.995))
    ax.imshow(wall.numpy(), cmap="viridis", vmin=0, vmax=1)
    middles = [[n * (side + 1) + reach for n in range(count)] for count in (H, blocks)]
    for j, x in enumerate(middles[0]):
        for i, y in enumerate(middles[1]):
            ax.plot(x, y, "+", color="white", ms=5, mew=0.8)
            ax.text(
                x + reach + 0.3, y - reach - 0.3, f"{peaks[i, j]:.0f}×", ha="right", va="top", color="white", fontsize=7
            )
    ax.set_xticks(middles[0], [str(h) for h in range(H)])
    ax.set_yticks(middles[1], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=f"head (a tile reaches ±{reach} tokens; + is the token itself)", ylabel="block")
    sharp = peaks.flatten().topk(min(4, peaks.numel()))
    summary = "; ".join(
        f"{names[n // H]}, head {n % H}: {value:.0f} times even at {offset_name(*_peak(profiles[n // H, n % H]))}"
        for value, n in zip(sharp.values.tolist(), sharp.indices.tolist(), strict=True)
    )
    fig.set_label(f"How much an image token takes by offset, a tile a head. The sharpest: {summary}.")
    return fig


def _peak(profile: Float[Tensor, "p q"]) -> tuple[int, int]:
    """The offset (dy, dx) with the largest value."""
    row, column = divmod(int(profile.argmax()), profile.shape[1])
    return row - profile.shape[0] // 2, column - profile.shape[1] // 2


def offset_name(dy: int, dx: int) -> str:
    """ "1 up, 2 right" for (-1, 2)."""
    steps = [
        f"{abs(n)} {minus if n < 0 else plus}" for n, minus, plus in ((dy, "up", "down"), (dx, "left", "right")) if n
    ]
    return ", ".join(steps) or "the token itself"


def offset_head(
    profile: Float[Tensor, "p q"],
    mean: Sequence[float],
    spread: float,
    by_order: Mapping[int, float],
    tokens: int,
    said: str = "",
) -> Figure:
    """One head: image-image by offset, with the mean offset as an arrow, beside text-text by order in the prompt."""
    fig, (left, right) = new_figure(1, 2, width=8.2, height=3.4, margins=(0.07, 0.99, 0.2, 0.9), wspace=0.3)
    p, q = (n // 2 for n in profile.shape)
    top = max(float(profile.max()), 1e-9)
    left.imshow(profile.numpy(), cmap="viridis", vmin=0, vmax=top, extent=(-q - 0.5, q + 0.5, p + 0.5, -p - 0.5))
    left.plot(0, 0, "+", color="white", ms=8)
    left.annotate("", tuple(mean)[::-1], (0, 0), arrowprops={"arrowstyle": "->", "color": RED, "lw": 2})
    left.set(xlabel="dx, tokens (right +)", ylabel="dy, tokens (down +)")
    where = offset_name(*_peak(profile))
    left.set_title(f"image: {top:.1f} × even at {where}", fontsize=10)
    right.bar(list(by_order), list(by_order.values()), color=TXT, width=0.8)
    right.axhline(1, color=BLACK, lw=0.8, ls=":")
    right.set(xlabel="words earlier (−) or later (+) in the prompt", ylabel="weight, times even")
    right.set_title("text, by the order of the words", fontsize=10)
    fig.text(0.01, 0.015, f"{said}; an image token looks at {spread:.0f} of {tokens}", fontsize=9)
    fig.set_label(
        f"{said}. In the image the most is taken at {where}, {top:.1f} times an even share; mean offset"
        f" {mean[0]:+.2f} down, {mean[1]:+.2f} right; {spread:.0f} of {tokens} tokens are looked at. A text token takes"
        f" {by_order.get(0, 0):.1f} times an even share from itself."
    )
    return fig


def one_look(look: Float[Tensor, "h w"], picture: Image.Image, row: int, column: int, said: str = "") -> Figure:
    """Where one image token looks in the image: its place framed in the picture, the weights beside it."""
    h, w = look.shape
    fig, axes = new_figure(1, 2, width=6.2, height=3.1, margins=(0.09, 0.99, 0.2, 0.9), wspace=0.2)
    axes[0].imshow(picture, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    axes[1].imshow(look.numpy(), cmap="viridis", vmin=0)
    for ax, colour in zip(axes, (BLACK, "white"), strict=True):
        frame = [(column + a, row + b) for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))]
        ax.plot(*zip(*frame, strict=True), color=colour, lw=2)
        ax.set(xlabel="column", ylabel="row", xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
    y, x = divmod(int(look.argmax()), w)
    axes[0].set_title("this token looks …", fontsize=10)
    axes[1].set_title(f"… most at row {y}, column {x}: {look.max():.0%}", fontsize=10)
    fig.text(0.01, 0.015, said, fontsize=9)
    fig.set_label(
        f"{said}. The image token in row {row}, column {column} takes most from row {y}, column {x}: {look.max():.0%}"
        " of what it takes from the image."
    )
    return fig


def heads_sharp_and_wide(
    spread: Mapping[str, Float[Tensor, "blocks H"]], names: Sequence[str], tokens: int = 64
) -> Figure:
    """How many tokens each head looks at, a dot a head, for one or more conditions side by side."""
    fig, ax = new_figure(width=7.4, height=3.2)
    summaries, n = [], len(spread)
    for k, ((name, each), colour) in enumerate(zip(spread.items(), (IMG, ORANGE, GREEN), strict=False)):
        x = torch.arange(len(names))[:, None] + 0.22 * (k - (n - 1) / 2) + torch.zeros_like(each)
        ax.plot(x.flatten(), each.flatten(), "os^"[k], ms=5, color=colour, label=name, alpha=0.85)
        summaries.append(f"{name}: from {each.min():.1f} to {each.max():.1f}")
    ax.axhline(tokens, color=BLACK, lw=0.8, ls=":")
    ax.set_yscale("log")
    ax.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    ax.minorticks_off()
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="block", ylabel="tokens looked at", ylim=(1, 1.2 * tokens))
    ax.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    fig.set_label(
        f"Number of image tokens that a head looks at, exp of the entropy, a dot a head. {'; '.join(summaries)}."
    )
    return fig


def ablation_table(moved: Float[Tensor, "blocks parts"], names: Sequence[str], parts: Sequence[str]) -> Figure:
    """How far the painted latent moves, in per cent of its length, without a whole block or one of its heads."""
    fig, ax = new_figure(width=6.4, height=3.8)
    ax.imshow(moved.numpy(), cmap="viridis", vmin=0, vmax=0.5, aspect="auto")
    for i in range(len(names)):
        for j in range(len(parts)):
            colour = "white" if moved[i, j] < 0.3 else BLACK
            ax.text(j, i, f"{100 * moved[i, j]:.0f} %", ha="center", va="center", fontsize=8, color=colour)
    ax.axvline(0.5, color="white", lw=3)
    ax.set_xticks(range(len(parts)), parts)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.set(xlabel="left out", ylabel="block")
    worst, best = (divmod(int(pick(moved[:, 1:])), len(parts) - 1) for pick in (torch.argmax, torch.argmin))
    most, least = (f"{names[i]}, {parts[j + 1]} ({moved[i, j + 1]:.0%})" for i, j in (worst, best))
    block = int(moved[:, 0].argmax())
    fig.set_label(
        f"Distance of the painted latent from the whole model's. Without {names[block]} {moved[block, 0]:.0%}, the"
        f" most of the blocks. Of the heads {most} matters most, {least} least."
    )
    return fig


def read_and_needed(rows: Mapping[str, tuple[float, float]]) -> Figure:
    """Words as points: how much they are read, and how far the picture moves without them."""
    fig, ax = new_figure(width=6.6, height=3.2)
    for word, (read, moved) in rows.items():
        ax.plot(100 * read, 100 * moved, "o", color=TXT, ms=6)
        if read < 0.02 and moved < 0.05:
            continue  # a crowd of words that are neither; the alternative text has them
        ax.annotate(word, (100 * read, 100 * moved), (4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel="read: mean weight of image tokens, %", ylabel="needed: latent moves, %")
    ax.margins(0.12, 0.15)
    summary = "; ".join(f"“{word}” read {read:.1%}, moves {moved:.0%}" for word, (read, moved) in rows.items())
    fig.set_label(f"For every word how much it is read and how far the latent moves when it is blanked. {summary}.")
    return fig
