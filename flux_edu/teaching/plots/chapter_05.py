"""Figures of notebook 05: what blocks cost, attention and MLP side by side, what happens inside the blocks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from flux_edu.configs import DEV
from flux_edu.flux2.architectures import FLUX1_DEV, flops
from flux_edu.patchify import token_grid
from flux_edu.teaching.labs.attention_maps import quadrant_shares
from flux_edu.teaching.plots.style import BLUE, GREEN, IMG, ORANGE, PINK, SKY, TXT, new_figure


def block_costs(side: int = 1024, L_txt: int = 512) -> Figure:
    """Parameters and work of one double and one single block of FLUX.1, for a square picture of `side` pixels."""
    D, ratio = DEV.hidden_size, DEV.mlp_ratio
    rows, cols = token_grid(side, side)
    work = flops(replace(FLUX1_DEV, double_blocks=1, single_blocks=0), rows * cols, L_txt)
    work = {"linears": work["matrices"], "attention": work["attention"]}
    parts = {  # millions of parameters: (double, single)
        "attention": (8 * D**2, 4 * D**2),
        "MLP": (4 * ratio * D**2, 2 * ratio * D**2),
        "modulation": (12 * D**2, 3 * D**2),
    }
    fig, (left, right) = new_figure(
        1, 2, width=7.6, height=2.7, sharey=True, margins=(0.11, 0.985, 0.185, 0.89), wspace=0.1
    )
    for ax, stack, unit, colours in (
        (left, {k: [n / 1e6 for n in v] for k, v in parts.items()}, "parameters (million)", (BLUE, SKY, PINK)),
        (
            right,
            {k: [n / 1e12] * 2 for k, n in work.items()},
            f"work (TFLOP a step, {side} × {side} pixels)",
            (GREEN, ORANGE),
        ),
    ):
        start = [0.0, 0.0]
        for (name, sizes), colour in zip(stack.items(), colours, strict=True):
            ax.barh([0, 1], sizes, left=start, color=colour, label=name, height=0.6)
            start = [a + b for a, b in zip(start, sizes, strict=True)]
        ax.set(xlabel=unit, ylabel="block", xlim=(0, 1.5 * max(start)))
        ax.set_yticks([0, 1], ["double", "single"])
        ax.invert_yaxis() if ax is left else None
        ax.legend(loc="lower right", fontsize=8, frameon=False)
    total = (DEV.depth + DEV.depth_single_blocks) * sum(work.values()) / 1e12
    share = work["attention"] / sum(work.values())
    right.set_title(f"all 57: {total:.1f} TFLOP, {share:.0%} of it attention", fontsize=9)
    left.set_title("19 double blocks, 38 single blocks", fontsize=9)
    fig.set_label(
        f"Bars. Left, parameters: a double block has {sum(v[0] for v in parts.values()) / 1e6:.0f} million, a single"
        f" one {sum(v[1] for v in parts.values()) / 1e6:.0f} million. Right, work at {side} by {side} pixels with"
        f" {L_txt} text tokens: the same for both, {work['linears'] / 1e12:.3f} TFLOP in linear layers and"
        f" {work['attention'] / 1e12:.3f} in attention."
    )
    return fig


def parallel_gap(gates: Sequence[float], gaps: Sequence[float], at: float = 0.1) -> Figure:
    """How far the parallel block is from attention first, MLP second, against the size of the gate."""
    fig, ax = new_figure(width=5.6, height=3.0, margins=(0.13, 0.93, 0.17, 0.97))
    ax.loglog(gates, gaps, color=BLUE, lw=2)
    near = min(range(len(gates)), key=lambda i: abs(gates[i] - at))
    ax.plot(gates[near], gaps[near], "o", color=ORANGE, ms=9)
    ax.annotate(f"{gaps[near]:.1%}", (gates[near], gaps[near]), textcoords="offset points", xytext=(9, -12))
    ax.minorticks_off()
    ax.set(xlabel="size of the gate g (factor)", ylabel="difference, share of the update")
    fig.set_label(
        f"A rising curve on logarithmic axes: the difference between attention and MLP side by side and one after the"
        f" other, as a share of the update, grows from {gaps[0]:.2g} at gate {gates[0]:.2g} to {gaps[-1]:.2g} at"
        f" gate {gates[-1]:.2g}; at gate {gates[near]:.2g} it is {gaps[near]:.2g}."
    )
    return fig


def ablation(names: Sequence[str], attention: Sequence[float], mlp: Sequence[float], t: float = 0.7) -> Figure:
    """How much the velocity changes when one block's attention, or its MLP, adds nothing."""
    fig, ax = new_figure(width=7.2, height=3.0, margins=(0.085, 0.985, 0.25, 0.91))
    x = torch.arange(len(names)).numpy()
    ax.bar(x - 0.2, attention, 0.38, color=BLUE, label="without attention")
    ax.bar(x + 0.2, mlp, 0.38, color=ORANGE, label="without MLP")
    ax.set_xticks(x, names, rotation=30, ha="right", fontsize=8)
    ax.set(xlabel="block", ylabel="change of the velocity (relative)", title=f"noise level t = {t:.2f}")
    ax.set_ylim(0, 1.2 * max(*attention, *mlp, 1e-6))  # room for the legend
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    summary = ", ".join(f"{n} {a:.2g} and {m:.2g}" for n, a, m in zip(names, attention, mlp, strict=True))
    fig.set_label(
        f"Two bars a block at noise level {t:.2f}: the relative change of the velocity without the block's attention"
        f" and without its MLP: {summary}."
    )
    return fig


def token_norms(names: Sequence[str], txt: Sequence[float], img: Sequence[float]) -> Figure:
    """The mean length of text and image tokens after every block."""
    fig, ax = new_figure(width=7.0, height=3.0, margins=(0.1, 0.985, 0.25, 0.97))
    x = list(range(len(names)))
    for values, colour, name, mark in ((txt, TXT, "text tokens", "s-"), (img, IMG, "image tokens", "o-")):
        ax.semilogy(x, values, mark, color=colour, lw=2, label=name)
    ax.set_xticks(x, names, rotation=30, ha="right", fontsize=8)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="after …", ylabel="mean ‖x‖ (log)")
    ax.legend(frameon=False)
    fig.set_label(
        f"Two lines over the blocks, logarithmic: text tokens go from length {txt[0]:.3g} to {txt[-1]:.3g}, image"
        f" tokens from {img[0]:.3g} to {img[-1]:.3g}."
    )
    return fig


def block_inside(gates: Tensor, branches: Sequence[str], weights: Tensor, L_txt: int, title: str = "") -> Figure:
    """One block at work: its gates, a number a channel, and the attention map of one head with its four quadrants.

    gates has a row a branch; weights is L × L, text first, row i what token i takes from every token.
    """
    fig, (left, right) = new_figure(
        1, 2, width=7.6, height=3.3, width_ratios=(1, 1.05), margins=(0.075, 0.99, 0.15, 0.91), wspace=0.18
    )
    for row, name, colour in zip(gates, branches, (IMG, ORANGE, GREEN, PINK), strict=False):
        left.plot(row.sort().values.numpy(), color=colour, lw=1.6, label=name)
    left.axhline(0, color="#888888", lw=0.8)
    left.set(xlabel="channels, sorted by gate", ylabel="gate g", title=title)
    left.locator_params(nbins=4)
    left.legend(frameon=False, fontsize=8)
    L, shares = len(weights), quadrant_shares(weights, L_txt).flatten().tolist()
    share = dict(zip(("text from text", "text from image", "image from text", "image from image"), shares, strict=True))
    # the square root shows small weights beside large ones
    right.imshow(weights.sqrt().numpy(), cmap="Blues", vmin=0, interpolation="nearest")
    for line in (right.axhline, right.axvline):
        line(L_txt - 0.5, color=ORANGE, lw=1)
    for (name, part), (y, x) in zip(
        share.items(), [(0.02, 0.02), (0.02, 0.98), (0.98, 0.02), (0.98, 0.98)], strict=True
    ):
        side, edge = "left" if x < 0.5 else "right", "top" if y < 0.5 else "bottom"
        ground = {"fc": "white", "alpha": 0.7, "lw": 0}
        right.text(
            x, 1 - y, f"{name}\n{part:.0%}", transform=right.transAxes, fontsize=7, ha=side, va=edge, bbox=ground
        )
    right.set(
        xlabel=f"from token j ({L_txt} text, {L - L_txt} image)", ylabel="to token i", title="attention weights (√)"
    )
    summary = ", ".join(f"{name} {part:.0%}" for name, part in share.items())
    about = ", ".join(f"{n} mean {g.abs().mean():.2g}" for n, g in zip(branches, gates, strict=True))
    fig.set_label(
        f"{title}. Left, sorted gates, size on average: {about}. Right, the attention map in four quadrants: {summary}."
    )
    return fig


def modulation_moves(
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    ts: Sequence[float],
    over_t: Sequence[float],
    t: float,
    ws: Sequence[float],
    over_w: Sequence[float],
    w: float,
) -> Figure:
    """A block's modulation at (t, w), and how far it moves along each of the two: relative change of the gate."""
    fig, (left, middle, right) = new_figure(
        1, 3, width=8.4, height=2.7, width_ratios=(1.5, 1, 1), margins=(0.07, 0.985, 0.19, 0.89), wspace=0.35
    )
    for values, name, colour in ((shift, "shift b", BLUE), (scale, "scale s", ORANGE), (gate, "gate g", GREEN)):
        left.plot(values.numpy(), ".-", color=colour, lw=1, ms=4, label=name)
    edge = float(torch.stack([shift, scale, gate]).abs().max())
    title = f"t = {t:.2f}, w = {w:.1f}"
    left.set(xlabel="channel (the first ones)", ylabel="modulation", title=title, ylim=(-1.6 * edge, 1.1 * edge))
    left.legend(frameon=False, fontsize=7, ncols=3, loc="lower left")
    for ax, xs, ys, x, name in ((middle, ts, over_t, t, "noise level t"), (right, ws, over_w, w, "guidance w")):
        ax.plot(xs, ys, color=BLUE, lw=1.6)
        ax.axvline(x, color=ORANGE, lw=1.2)
        ax.set(xlabel=name, ylabel="change of the gate", ylim=(0, 1.05 * max(*over_t, *over_w, 1e-3)))
        ax.locator_params(nbins=3)  # few ticks draw quickly
    middle.set_xlim(1.02, -0.02)
    left.locator_params(nbins=4)
    fig.set_label(
        f"Left, shift, scale and gate of the first channels at t = {t:.2f} and guidance {w:.1f}. Right, relative"
        f" change of the gate: up to {max(over_t):.2f} when only t moves, {max(over_w):.2f} when only w does."
    )
    return fig


def gates_over_t(names: Sequence[str], ts: Sequence[float], sizes: Tensor) -> Figure:
    """The mean size of every block's gates (rows) over the noise level (columns)."""
    fig, ax = new_figure(width=7.0, height=3.2)
    picture = ax.imshow(sizes.numpy(), cmap="Blues", aspect="auto", vmin=0, interpolation="nearest")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ticks = range(0, len(ts), max(1, (len(ts) - 1) // 5))
    ax.set_xticks(ticks, [f"{ts[i]:.1f}" for i in ticks])
    ax.set(xlabel="noise level t", ylabel="gate", xlim=(len(ts) - 0.5, -0.5))
    bar = fig.colorbar(picture, ax=ax)
    bar.ax.set(xlabel=" ", ylabel="mean |g|")
    lines = ", ".join(f"{n} {row[0]:.2g} to {row[-1]:.2g}" for n, row in zip(names, sizes, strict=True))
    fig.set_label(f"A map of gate sizes, a row a gate, from t = {ts[0]:.1f} (on the right) to {ts[-1]:.1f}: {lines}.")
    return fig
