"""Figures of chapter 13: what the 12B model takes in memory, arithmetic and time, and what few bits do to numbers."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from flux_edu.configs import get_spec
from flux_edu.flux2.architectures import DESIGNS, flops, parameters
from flux_edu.io import memory
from flux_edu.teaching.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, new_figure

BYTES = {"float32": 4.0, "bfloat16": 2.0, "fp8": 1.0, "4 bits": 0.5}  # a weight
DEV = DESIGNS["FLUX.1 dev"]


def cost_of_a_picture(
    variant: str = "flux-dev",
    width: int = 1024,
    height: int = 1024,
    text_tokens: int = 512,
    steps: int = 50,
    precision: str = "bfloat16",
    tflops: float = 600.0,
) -> Figure:
    """Weights by part, and the work of one picture by kind, with the seconds it takes at a given rate."""
    spec = get_spec(variant)
    tokens = (width // 16) * (height // 16)
    held = memory.weights(spec)
    parts = {name: held[name] * BYTES[precision] / 1e9 for name in ("transformer", "T5-XXL", "CLIP-L", "autoencoder")}
    work = flops(replace(DEV, guidance=spec.params.guidance_embed), tokens, text_tokens)
    picture = {name: steps * work[name] / 1e12 for name in ("matrices", "attention")}
    seconds = sum(picture.values()) / tflops
    fig, (left, right) = new_figure(1, 2, width=7.8, height=2.5, margins=(0.03, 0.97, 0.22, 0.88), wspace=0.12)
    for ax, values, colours in ((left, parts, (BLUE, ORANGE, PINK, GREEN)), (right, picture, (BLUE, SKY))):
        start = 0.0
        for (name, value), colour in zip(values.items(), colours, strict=True):
            ax.barh(
                0,
                value,
                left=start,
                color=colour,
                edgecolor="white",
                label=f"{name} {value:,.{2 if value < 10 else 1 if value < 100 else 0}f}",
            )
            start += value
        ax.set_yticks([])
        ax.set_ylim(-0.6, 1.6)
        ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    left.set_title(f"weights in {precision}: {sum(parts.values()):.1f} GB", fontsize=10)
    right.set_title(f"{steps} steps: {sum(picture.values()):,.0f} TFLOP, {seconds:.2f} s", fontsize=10)
    left.set(xlabel="GB", xlim=(0, 70))
    right.set(xlabel=f"TFLOP; seconds are at {tflops:.0f} TFLOP/s")
    fig.set_label(
        f"{variant} at {width} × {height} with {text_tokens} text tokens: weights in {precision} take"
        f" {sum(parts.values()):.1f} GB, of which the transformer {parts['transformer']:.1f}; {steps} steps take"
        f" {sum(picture.values()):,.0f} TFLOP, {picture['attention'] / sum(picture.values()):.0%} of it attention, and"
        f" {seconds:.2f} seconds at {tflops:.0f} TFLOP/s."
    )
    return fig


def scaling(text_tokens: int = 512) -> Figure:
    """Work of one evaluation against the picture's side: matrices grow with the tokens, attention with their square."""
    sides = np.array([256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072])
    each = [flops(DEV, int(side // 16) ** 2, text_tokens) for side in sides]
    matrices, attention = (np.array([work[kind] for work in each]) / 1e12 for kind in ("matrices", "attention"))
    crossing = 16 * np.sqrt(6 * DEV.width - text_tokens)
    fig, ax = new_figure(width=6.8, height=3.3, margins=(0.1, 0.98, 0.16, 0.97))
    ax.plot(sides, matrices, "o-", color=BLUE, ms=4, label="matrices: 57 · 24 D² L")
    ax.plot(sides, attention, "s-", color=SKY, ms=4, label="attention: 57 · 4 D L²")
    ax.plot(sides, matrices + attention, "-", color="0.4", lw=1, label="together")
    ax.axvline(crossing, color=RED, lw=1, ls="--")
    ax.annotate(f"equal at {crossing:.0f} px", (crossing, 1.0), (-4, 0), textcoords="offset points", ha="right")
    ax.set(xlabel="side of the picture, pixels", ylabel="TFLOP an evaluation", xscale="log", yscale="log")
    ax.set_xticks([256, 512, 1024, 2048, 3072], ["256", "512", "1024", "2048", "3072"])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=9)
    share = attention[3] / (attention + matrices)[3]
    fig.set_label(
        f"TFLOP of one evaluation over the picture's side with {text_tokens} text tokens, both axes logarithmic."
        f" Attention is {share:.0%} at 1024 and overtakes the matrices at {crossing:.0f} pixels."
    )
    return fig


def parameters_and_work() -> Figure:
    """Shares of the parameters beside those of the arithmetic: modulation is a quarter of one, none of the other."""
    n, work = parameters(DEV), flops(DEV, 4096)
    whole, total = sum(n.values()), sum(work.values())
    blocks = DEV.double_blocks + DEV.single_blocks
    of_blocks = work["matrices"] + work["attention"]
    shares = {
        "double blocks": (n["double blocks"] / whole, of_blocks * DEV.double_blocks / blocks / total),
        "single blocks": (n["single blocks"] / whole, of_blocks * DEV.single_blocks / blocks / total),
        "modulation": (n["modulation of the blocks"] / whole, work["modulation"] / total),
        "the rest": (n["inputs, vector, last layer"] / whole, 0.0),
    }
    fig, ax = new_figure(width=7.0, height=2.3, margins=(0.16, 0.96, 0.24, 0.86))
    left = np.zeros(2)
    for (name, values), colour in zip(shares.items(), (BLUE, SKY, ORANGE, GREEN), strict=True):
        ax.barh([0, 1], np.array(values) * 100, left=left, color=colour, edgecolor="white", height=0.6, label=name)
        left += np.array(values) * 100
    ax.set_yticks([0, 1], ["parameters", "arithmetic"])
    ax.set(xlabel="share, %", xlim=(0, 100), ylim=(1.5, -0.5))
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0.0, 1.22))
    summary = "; ".join(
        f"{name} {a:.1%} of the parameters, {b:.1%} of the arithmetic" for name, (a, b) in shares.items()
    )
    fig.set_label(f"FLUX.1 dev at 1024 × 1024: {summary}.")
    return fig
