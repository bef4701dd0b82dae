"""Figures of chapter 3, RoPE: frequencies, turning pairs, axes of a token, and what a query sees around it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from flux_edu.patchify import make_img_ids
from flux_edu.rope import EmbedND, apply_rope, rope, rope_frequencies
from flux_edu.teaching.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, TXT, new_figure

AXIS_COLOURS = (PINK, RED, GREEN)  # axis 0, rows, columns
AXIS_NAMES = ("axis 0", "row", "column")


def split_axes(split: str) -> tuple[int, ...]:
    """ "16/56/56" as numbers."""
    return tuple(int(d) for d in split.split("/"))


def rope_spectrum(log10_theta: float = 4.0, dim: int = 56, side: int = 64) -> Figure:
    """ω_j of one axis, and how many tokens a full turn takes, against a picture that is `side` tokens wide."""
    omega = rope_frequencies(dim, 10**log10_theta)
    wavelength = 2 * math.pi / omega
    slow = int((wavelength > side).sum())
    fig, (left, right) = new_figure(1, 2, width=8, margins=(0.085, 0.985, 0.145, 0.9), wspace=0.2)
    left.semilogy(omega, "o", color=BLUE, markersize=4)
    left.set(xlabel="pair j", ylabel="frequency ω_j (radians a token)")
    right.semilogy(wavelength, "o", color=BLUE, markersize=4)
    right.axhline(side, color=ORANGE)
    right.text(dim // 2 - 1, side / 1.2, f"the picture, {side} tokens", ha="right", va="top", fontsize=8)
    right.set(xlabel="pair j", ylabel="one full turn (tokens)")
    left.set(xticks=[0, dim // 4, dim // 2 - 1], yticks=[1, 1e-2, 1e-4, 1e-6], ylim=(1e-6, 2))
    right.set(xticks=[0, dim // 4, dim // 2 - 1], yticks=[10, 1e3, 1e5], ylim=(4, 1e7))
    for ax in (left, right):
        ax.minorticks_off()  # ticks take longer to draw than all the rest: few of them keep a slider quick
    never = f"{slow} of {dim // 2} pairs never turn once"
    fig.suptitle(f"θ = {10**log10_theta:,.0f}, axis of {dim} channels: {never}", y=0.98)
    fig.set_label(
        f"Two log plots against the pair number j. Left, the frequency falls on a straight line from 1 to "
        f"{omega[-1]:.2g} radians a token. Right, the wavelength rises from 6.3 to {wavelength[-1]:,.0f} tokens; "
        f"{slow} of {dim // 2} pairs need more than the picture's {side} tokens for a full turn."
    )
    return fig


def rope_arrows(position: int = 3, log10_theta: float = 4.0, dim: int = 16) -> Figure:
    """Every pair of one axis as an arrow that started at 3 o'clock and has been turned by p ω_j."""
    angle = position * rope_frequencies(dim, 10**log10_theta)
    x, y = angle.cos(), angle.sin()
    fig, ax = new_figure(width=8, height=1.9, margins=(0.005, 0.995, 0.02, 0.87))
    circle = torch.linspace(0, 2 * math.pi, 60)
    for j in range(len(angle)):
        ax.plot(3 * j + circle.cos(), circle.sin(), color="#bbbbbb", linewidth=1)
        ax.text(3 * j, -1.75, f"j = {j}\n{math.degrees(angle[j]):.4g}°", ha="center", va="center", fontsize=8)
    start = 3 * torch.arange(len(angle))
    ax.quiver(start, 0 * start, x, y, angles="xy", scale_units="xy", scale=1, color=BLUE, width=0.005)
    ax.set(xlim=(-1.6, 3 * len(angle) - 1.4), ylim=(-2.4, 1.2), aspect="equal", title=f"position p = {position}")
    ax.axis("off")
    fig.set_label(
        f"{len(angle)} circles with one arrow each, the pairs of an axis at position {position}: turned by "
        + ", ".join(f"{math.degrees(a):.4g}" for a in angle)
        + " degrees against the clock. Each turns more slowly than the one before."
    )
    return fig


def constant_angle(query_at: int = 3, key_at: int = 8, omega: float = 0.3) -> Figure:
    """Eq. (3.5): a pair of channels of q at p_i and of k at p_j; the angle between them is that of p_j - p_i alone."""
    q, k = 0.4, 1.1  # the angles of their contents
    pairs = {
        "at their positions": (q + query_at * omega, k + key_at * omega),
        "the query at 0": (q, k + (key_at - query_at) * omega),
    }
    between = pairs["the query at 0"][1] - q
    fig, axes = new_figure(1, 2, width=8, height=2.9, margins=(0.02, 0.98, 0.02, 0.88))
    circle = torch.linspace(0, 2 * math.pi, 90)
    for ax, (name, ends) in zip(axes, pairs.items(), strict=True):
        ax.plot(circle.cos(), circle.sin(), color="#bbbbbb", lw=1)
        arc = torch.linspace(*ends, 60)
        ax.plot(0.45 * arc.cos(), 0.45 * arc.sin(), color=GREEN, lw=2)
        for angle, label, colour in zip(ends, "qk", (BLUE, ORANGE), strict=True):
            x, y = math.cos(angle), math.sin(angle)
            ax.annotate("", (x, y), (0, 0), arrowprops=dict(arrowstyle="->", color=colour, lw=2, shrinkA=0, shrinkB=0))
            ax.text(1.15 * x, 1.15 * y, label, color=colour, ha="center", va="center")
        ax.set(xlim=(-1.7, 1.7), ylim=(-1.3, 1.3), aspect="equal")
        ax.set_title(f"{name}: from q to k {math.degrees(between):.0f}°, q · k = {math.cos(between):.2f}", fontsize=9)
        ax.axis("off")
    fig.set_label(
        f"Two circles with an arrow q and an arrow k. Left, q turned to position {query_at} and k to {key_at}; right, q"
        f" not turned and k to the difference {key_at - query_at}. In both the angle from q to k is"
        f" {math.degrees(between):.0f} degrees and the product {math.cos(between):.2f}."
    )
    return fig


def rope_pairings(position: int = 1, dim: int = 16) -> Figure:
    """R(p) of one axis as a matrix, for adjacent pairs (FLUX) and for half-split pairs (Llama in transformers)."""
    table = rope(torch.tensor([float(position)]), dim, 10_000)[0]
    pairs = {
        "adjacent (2j, 2j+1): FLUX": [(2 * j, 2 * j + 1) for j in range(dim // 2)],
        f"half-split (j, j+{dim // 2}): others": [(j, j + dim // 2) for j in range(dim // 2)],
    }
    fig, axes = new_figure(1, 2, width=7, height=3.4)
    for ax, (title, places) in zip(axes, pairs.items(), strict=True):
        matrix = torch.zeros(dim, dim)
        for block, (a, b) in zip(table, places, strict=True):
            matrix[[[a, a], [b, b]], [[a, b], [a, b]]] = block
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ticks = [0, dim // 2 - 1, dim - 1]
        ax.set(title=title, xlabel="channel of q", ylabel="channel of q̃", xticks=ticks, yticks=ticks)
    fig.colorbar(image, ax=axes, shrink=0.8, label="entry of R(p)")
    fig.set_label(
        f"Two {dim} by {dim} rotation matrices at position {position}. Left, adjacent pairs: 2 by 2 blocks along the "
        f"diagonal. Right, half-split pairs: the same numbers spread over the diagonal and two side diagonals "
        f"{dim // 2} channels away."
    )
    return fig


def rope_axes(axis_0: int = 0, row: int = 5, col: int = 40, split: str = "16/56/56") -> Figure:
    """The rotations of one token: how far each pair of the head has turned, coloured by the axis that turns it."""
    dims = split_axes(split)
    ids = torch.tensor([[[axis_0, row, col]]], dtype=torch.float32)
    table = EmbedND(sum(dims), 10_000, dims)(ids)[0, 0, 0]
    cos = table[:, 0, 0]
    fig, ax = new_figure(width=8, height=2.8, margins=(0.07, 0.99, 0.175, 0.89))
    first = 0
    for dim, colour, name, p in zip(dims, AXIS_COLOURS, AXIS_NAMES, (axis_0, row, col), strict=True):
        j = torch.arange(first, first + dim // 2)
        label = f"{name} = {p}: {dim // 2} pairs"
        ax.vlines(j, 0, cos[j], color=colour, linewidth=6, label=label)  # one artist, where bars would be 64
        first += dim // 2
    ax.axhline(0, color=BLACK, linewidth=0.6)
    ax.set(xlabel="pair of the head (64 of them)", ylabel="cos of its angle", ylim=(-1.1, 1.1))
    ax.set(xticks=[0, 8, 16, 24, 32, 40, 48, 56, 63], yticks=[-1, 0, 1])
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=8)
    turned = [int((c < 1).sum()) for c in cos.split([d // 2 for d in dims])]
    fig.set_label(
        f"Bars of the cosine of 64 angles of the token ({axis_0}, {row}, {col}), axes {split}. Turned at all: "
        + ", ".join(f"{n} pairs of {name}" for n, name in zip(turned, AXIS_NAMES, strict=True))
        + ". In every axis the slowest pair stays near 1."
    )
    return fig


def score_map(
    row: int = 12,
    col: int = 20,
    look_down: int = 0,
    look_right: int = 0,
    split: str = "16/56/56",
    log10_theta: float = 4.0,
    side: int = 32,
) -> Figure:
    """The scores q̃ · k̃ / √d_h of one query against every image position, all keys holding the same content.

    Keys are all ones, as long as a normed key is. The query is the same vector, turned so that it looks `look_down`
    rows and `look_right` columns away: what a head can learn to put into W_q.
    """
    dims = split_axes(split)
    embed = EmbedND(sum(dims), 10**log10_theta, dims)
    ids = make_img_ids(1, side, side)
    k = torch.ones(1, 1, side * side, sum(dims))
    away = embed(torch.tensor([[[0.0, look_down, look_right]]]))
    q = apply_rope(k[:, :, :1], away)
    q = apply_rope(q, embed(torch.tensor([[[0.0, row, col]]])))
    k = apply_rope(k, embed(ids))
    scores = ((k @ q.mT) / sum(dims) ** 0.5).reshape(side, side)
    fig, (ax, cut) = new_figure(
        1, 2, width=7, height=3.2, width_ratios=[1, 1.15], margins=(0.085, 0.99, 0.155, 0.9), wspace=0.3
    )
    ax.imshow(scores.numpy(), cmap="viridis")
    ax.plot(col, row, "o", color=RED, markeredgecolor="white", label="query")
    ax.plot(0, 0, "s", color=TXT, markeredgecolor="white", label="text (0, 0)")
    ticks = [0, side // 4, side // 2, 3 * side // 4, side - 1]
    ax.set(xlabel="column of the key", ylabel="row of the key", xticks=ticks, yticks=ticks)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    peak_row, peak_col = divmod(int(scores.argmax()), side)
    cut.plot(scores[:, peak_col], color=AXIS_COLOURS[1], label=f"down column {peak_col}")
    cut.plot(scores[peak_row], color=AXIS_COLOURS[2], label=f"along row {peak_row}")
    cut.set(xlabel="row or column of the key", ylabel="score q̃ · k̃ / √d_h (no unit)")
    cut.set(ylim=(-4, 12), xticks=ticks, yticks=[-4, 0, 4, 8, 12])
    cut.legend(loc="lower left", frameon=False, fontsize=8)
    fig.set_label(
        f"Left, a {side} by {side} heat map of the score of the query at row {row}, column {col}; axes {split}, theta "
        f"{10**log10_theta:,.0f}. It is brightest, {scores.max():.1f}, at row {peak_row}, column {peak_col}, and falls "
        f"to {scores.min():.1f}. Right, the cuts through the peak down its column and along its row."
    )
    return fig


def rope_precision(errors: dict[str, Float[Tensor, "L"]]) -> Figure:
    """The largest error of a table of rotations up to each position, one line a way of computing it."""
    fig, ax = new_figure(width=7, height=3)
    for (name, error), colour in zip(errors.items(), (BLUE, ORANGE, RED, GREEN), strict=False):
        so_far = error.cummax(0).values[1:].clamp_min(1e-9)
        ax.loglog(range(1, len(error)), so_far, color=colour, label=name)
    ax.set(xlabel="position (tokens)", ylabel="largest error up to here", ylim=(1e-8, 4))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(errors), frameon=False, fontsize=8)
    fig.set_label(
        "Largest error of a cosine or sine up to each position, both logarithmic. At the end: "
        + "; ".join(f"{name}, {error.max():.2g}" for name, error in errors.items())
        + "."
    )
    return fig


# ---------------------------------------------------------------- beyond the trained size


def angles_beyond(factor: int = 2, trained: int = 16, dim: int = 28, log10_theta: float = 4.0) -> Figure:
    """The largest angle of every pair of an axis in pictures of the trained size, and of `factor` times that side.

    A pair that has turned once round within the trained size meets no new angle beyond it; a slower one does.
    """
    omega = rope_frequencies(dim, 10**log10_theta)
    pair = np.arange(dim // 2)
    seen, larger = (omega.numpy() * (side - 1) for side in (trained, trained * factor))
    full = 2 * math.pi
    repeats, stretches = (larger > full).sum(), ((larger > seen) & (seen < full)).sum()
    fig, ax = new_figure(width=7, height=3.2, margins=(0.1, 0.98, 0.15, 0.9))
    ax.bar(pair, larger, color=PINK, width=0.75, label=f"{factor * trained} tokens a side")
    ax.bar(pair, seen, color=BLUE, width=0.75, label=f"{trained} tokens a side, as trained")
    ax.axhline(full, color=ORANGE, lw=1.2, label="once round, 2π")
    ax.set_yscale("log")
    ax.set(xlabel="pair of channels j", ylabel="largest angle, radians", ylim=(1e-3, 200), xticks=pair[::3])
    ax.minorticks_off()
    ax.set_title(f"{repeats} of {dim // 2} pairs come round; {stretches} meet angles never seen", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(
        f"Largest angle of each of {dim // 2} pairs, on a logarithmic scale, at {trained} tokens a side and at"
        f" {factor * trained}: {repeats} pairs turn more than once round at the larger size, and {stretches} reach"
        " angles that the trained size never has."
    )
    return fig


def lag_correlation(tokens: Float[Tensor, "1 L C"], rows: int) -> tuple[Float[Tensor, "down"], Float[Tensor, "right"]]:
    """How much a picture's tokens resemble those d places below and to the right of them, d = 0 … ¾ of the side."""
    grid = rearrange(tokens[0].double(), "(h w) c -> h w c", h=rows)
    grid = grid - grid.mean((0, 1))
    correlations = []
    for turned in (grid, grid.transpose(0, 1)):
        side = len(turned)
        lags = range(3 * side // 4)
        pairs = [(turned[: side - d].flatten(), turned[d:].flatten()) for d in lags]
        correlations.append(torch.stack([(a @ b) / (a.norm() * b.norm()) for a, b in pairs]))
    return tuple(correlations)


def repetition(curves: dict[str, tuple[Tensor, Tensor]], wavelengths: Sequence[float] = ()) -> Figure:
    """`lag_correlation` of several pictures, below and to the right, with wavelengths of RoPE's pairs as lines."""
    fig, axes = new_figure(cols=2, width=8, height=3.0, sharey=True)
    summaries = []
    for way, ax in enumerate(axes):
        place = ("below", "to the right")[way]
        for (name, both), colour in zip(curves.items(), (BLUE, PINK, GREEN, ORANGE, RED), strict=False):
            ax.plot(range(len(both[way])), both[way], "o-", color=colour, ms=3, lw=1, label=name)
            if len(both[way]) > 8:
                best = 6 + int(both[way][6:].argmax())
                summaries.append(f"{name}: highest {both[way][best]:.2f} at {best} tokens {place}")
        for wavelength in wavelengths:
            ax.axvline(wavelength, color="0.5", lw=1, ls=":")
        ax.axhline(0, color="0.8", lw=0.8)
        ax.set(xlabel=f"tokens {place} (dotted: wavelengths of pairs)", ylim=(-1, 1.05))
    axes[0].set_ylabel("correlation")
    axes[0].legend(fontsize=8, frameon=False, loc="lower left")
    fig.set_label(
        f"Correlation of a picture's tokens with those at a distance, beyond 5 tokens. {'; '.join(summaries)}."
    )
    return fig
