"""Figures of chapter 18: which steps a cache leaves out, error against cost, and what few bits make of a matrix."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from flux_edu.speed.few_bits import round_rest, round_to_bits
from flux_edu.speed.step_cache import relative_change
from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, new_figure


def whole_steps(added: Float[Tensor, "N ..."], timesteps: Sequence[float], threshold: float = 0.1) -> Figure:
    """The rule of Eq. (18.2) on what the first block added in a painting: each step's change, and what follows."""
    changes, whole, last = [], [], None
    for adds in added:
        changes.append(0.0 if last is None else relative_change(adds, last))
        whole.append(last is None or changes[-1] > threshold)
        last = adds if whole[-1] else last
    fig, ax = new_figure(width=7.2, height=2.9, margins=(0.09, 0.98, 0.18, 0.88))
    colours = [BLUE if one else ORANGE for one in whole]
    ax.bar(range(len(changes)), changes, color=colours, width=0.75)
    ax.axhline(threshold, color=RED, lw=1, ls="--")
    for colour, label in ((BLUE, "computed whole"), (ORANGE, "first block only")):
        ax.bar(0, 0, color=colour, label=label)
    ax.set(xlabel="step", ylabel="δ since the last whole step", ylim=(0, max(0.25, 1.05 * max(changes))))
    ax.set_title(f"θ = {threshold:.2f}: {sum(whole)} of {len(whole)} steps are whole", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="upper center", ncols=2)
    skipped = [f"{t:.2f}" for t, one in zip(timesteps, whole, strict=True) if not one]
    fig.set_label(
        f"Change of what the first block adds, step by step, with threshold {threshold:.2f}: {sum(whole)} of"
        f" {len(whole)} steps are computed whole. Left out are those at t = {', '.join(skipped) or 'none'}."
    )
    return fig


def error_and_cost(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """How near a picture comes to that of all steps, over the evaluations that it takes; a curve a way to save."""
    fig, ax = new_figure(width=6.6, height=3.2)
    summaries = []
    for (name, (costs, decibels)), colour in zip(curves.items(), (GREY, BLUE, ORANGE, GREEN, PINK), strict=False):
        ax.plot(costs, decibels, "o-", color=colour, ms=4, label=name)
        points = ", ".join(f"{d:.1f} dB for {c:.1f}" for c, d in zip(costs, decibels, strict=True))
        summaries.append(f"{name}: {points}")
    ax.set(xlabel="whole evaluations of the network", ylabel="PSNR to the full run, dB")
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(f"Nearness to the picture of all steps over whole evaluations. {'; '.join(summaries)}.")
    return fig


def rounded_matrix(W: Float[Tensor, "out in"], bits: int = 4, rank: int = 0) -> Figure:
    """Left a row of a matrix and what few bits make of it; right the error with a scale a row or a block."""
    ways = {"a scale a row": None, "a scale for 64": 64, "a scale for 32": 32}
    errors = {}
    for name, block in ways.items():
        Q = round_rest(W, bits, block, rank) if rank else round_to_bits(W, bits, block)
        errors[name] = float((Q - W).norm() / W.norm())
    fig, (left, right) = new_figure(1, 2, width=7.4, height=2.9, margins=(0.09, 0.97, 0.2, 0.87), wspace=0.6)
    left.plot(W[0], Q[0], ".", color=BLUE, ms=4)
    low, high = torch.aminmax(W[0])
    left.plot([low, high], [low, high], color=GREY, lw=0.7)
    left.set(xlabel="weight", ylabel="as it is kept")
    left.set_title(f"{bits} bits, rank {rank}, a scale for 32", fontsize=10)
    right.barh(list(errors), [100 * e for e in errors.values()], color=[RED, ORANGE, BLUE], height=0.6)
    for y, error in enumerate(errors.values()):
        right.text(100 * error, y, f" {error:.1%}", va="center", fontsize=8)
    right.set(xlabel="error of the matrix, % of its length", xlim=(0, 130 * max(errors.values())))
    right.set_ylabel("scales")
    right.invert_yaxis()
    fig.set_label(
        f"A matrix in {bits} bits beside a part of rank {rank}: "
        + ", ".join(f"with {name} {error:.1%} of its length is lost" for name, error in errors.items())
    )
    return fig
