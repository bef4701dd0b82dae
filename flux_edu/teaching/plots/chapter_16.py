"""Figures of chapter 16: FLUX.1 and FLUX.2 side by side, in parameters and in arithmetic."""

from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from flux_edu.flux2.architectures import DESIGNS, FLUX1_DEV, Design, flops, parameters
from flux_edu.teaching.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, new_figure

COLOURS = dict(zip(parameters(FLUX1_DEV), (BLUE, SKY, ORANGE, GREEN), strict=True))


def where_parameters_are(share: bool = False) -> Figure:
    """A bar a design, cut by kind of part; in billions, or in shares of the whole."""
    fig, ax = new_figure(width=7.6, height=3.0, margins=(0.19, 0.99, 0.17, 0.87))
    summaries = []
    for y, (name, design) in enumerate(DESIGNS.items()):
        counted = parameters(design)
        whole, left = sum(counted.values()), 0.0
        for part, number in counted.items():
            size = 100 * number / whole if share else number / 1e9
            ax.barh(y, size, left=left, color=COLOURS[part], edgecolor="white", height=0.62)
            left += size
        ax.text(left, y, f" {whole / 1e9:.2f} B", va="center", fontsize=9)
        summaries.append(
            f"{name} {whole / 1e9:.2f} billion, modulation {counted['modulation of the blocks'] / whole:.0%}"
        )
    for part, colour in COLOURS.items():
        ax.barh(0, 0, color=colour, label=part)
    ax.set_yticks(range(len(DESIGNS)), list(DESIGNS))
    ax.set(xlabel="share of the parameters, %" if share else "parameters, billions", ylabel="model")
    ax.set(ylim=(len(DESIGNS) - 0.5, -0.5), xlim=(0, 112 if share else 37))
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.2), ncols=4, columnspacing=1)
    fig.set_label(f"Parameters by part. {'; '.join(summaries)}.")
    return fig


def cost_plane(
    width: int = 3072,
    double_blocks: int = 19,
    single_blocks: int = 38,
    shared_modulation: bool = False,
    gated_mlp: bool = False,
) -> Figure:
    """Parameters against arithmetic at 1024 × 1024, with the published designs and one of your own."""
    yours = replace(
        FLUX1_DEV,
        width=width,
        heads=width // 128,
        double_blocks=double_blocks,
        single_blocks=single_blocks,
        shared_modulation=shared_modulation,
        gated_mlp=gated_mlp,
        mlp_ratio=3.0 if gated_mlp else 4.0,  # as in FLUX.2
    )

    def place_of(design: Design) -> tuple[float, float]:
        return sum(parameters(design).values()) / 1e9, sum(flops(design, 4096).values()) / 1e12

    fig, ax = new_figure(width=7.2, height=3.6, margins=(0.1, 0.98, 0.14, 0.97))
    for name, design in DESIGNS.items():
        if name != "FLUX.1 schnell":  # on top of dev
            x, y = place_of(design)
            ax.plot(x, y, "o", color=BLUE if name.startswith("FLUX.1") else PINK, ms=7)
            shift, side = ((-7, 4), "right") if name == "FLUX.2 klein 9B" else ((7, -13), "left")
            ax.annotate(name, (x, y), shift, textcoords="offset points", fontsize=9, ha=side)
    x, y = place_of(yours)
    ax.plot(x, y, "D", color=RED, ms=8, mfc="none", mew=2, label=f"yours: {x:.2f} B, {y:.1f} TFLOP")
    ax.set(xscale="log", yscale="log", xlim=(0.5, 80), ylim=(4, 800))
    ax.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    ax.set_yticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    ax.minorticks_off()
    ax.set(xlabel="parameters, billions", ylabel="TFLOP an evaluation at 1024²")
    ax.legend(loc="upper left", frameon=False)
    fig.set_label(
        f"Published designs by parameters and arithmetic, and a chosen one of width {width} with {double_blocks} double"
        f" and {single_blocks} single blocks: {x:.2f} billion parameters, {y:.1f} TFLOP an evaluation at 1024 × 1024."
    )
    return fig


def gated_unit(gate: float = 1.0) -> Figure:
    """Left GELU, which looks at one number; right SwiGLU, where a second number decides how much passes."""
    x = np.linspace(-4, 4, 161)
    gelu = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh")
    silu = gate / (1 + np.exp(-gate))
    fig, (left, right) = new_figure(1, 2, width=7.4, height=2.9, sharey=True, margins=(0.08, 0.98, 0.19, 0.88))
    left.plot(x, gelu, color=BLUE)
    left.set(xlabel="input", ylabel="output", ylim=(-4.2, 4.2))
    left.set_title("FLUX.1: GELU", fontsize=10)
    for fixed in (-2.0, 0.0, 2.0):
        right.plot(x, x * fixed / (1 + np.exp(-fixed)), color="0.75", lw=1)
        slope = fixed / (1 + np.exp(-fixed))
        below = -11 if fixed < 0 else 3
        name = f"gate {fixed:g}".replace("-", "−")
        right.annotate(name, (1.5, 1.5 * slope), (4, below), textcoords="offset points", fontsize=8)
    right.plot(x, silu * x, color=PINK, lw=2)
    right.set(xlabel="value", ylabel="output")
    right.set_title(f"FLUX.2: SiLU({gate:.1f}) · value = {silu:.2f} · value", fontsize=10)
    fig.set_label(
        f"Left: GELU over its input. Right: SwiGLU over the value for gate {gate:.1f}, a straight line of slope"
        f" {silu:.2f}; a gate of 0 lets nothing pass, a negative one a little with the sign reversed."
    )
    return fig
