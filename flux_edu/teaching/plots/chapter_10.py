"""Figures of chapter 10, guidance distillation: what guidance adds at each level, a short training, a file's size."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from flux_edu.configs import configs
from flux_edu.model import Flux
from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, new_figure


def guidance_by_level(timesteps: Sequence[float], moved: dict[float, Sequence[float]]) -> Figure:
    """How far the guided velocity lies from the prompted one, over the noise level, a curve for every w."""
    fig, ax = new_figure(width=7, height=3.2)
    summaries = []
    for (w, values), colour, marker in zip(moved.items(), (SKY, BLUE, ORANGE, PINK), "osD^", strict=False):
        ax.plot(timesteps, values, marker + "-", color=colour, ms=4, label=f"w = {w:g}")
        summaries.append(
            f"w = {w:g}: {values[0]:.2f} at t = {timesteps[0]:.2f}, {values[-1]:.2f} at {timesteps[-1]:.2f}"
        )
    ax.set(xlabel="noise level t (0: picture, 1: noise)", ylabel="‖v_w − v_c‖ / ‖v_w‖", xlim=(-0.02, 1.02))
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    fig.set_label(
        "What guidance changes, in parts of the guided velocity, over the noise level. " + "; ".join(summaries)
    )
    return fig


def student_losses(losses: Sequence[float], other: tuple[float, float] | None = None) -> Figure:
    """The loss of Eq. (10.2) over the steps of a short training; `other` is that of another batch, before and after."""
    steps = np.arange(len(losses))
    fig, ax = new_figure(width=6.4, height=2.9)
    ax.plot(steps, losses, "o-", color=BLUE, ms=4, label="the batch trained on")
    summary = f"from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps"
    if other:
        ax.plot([0, len(losses)], other, "D", color=RED, ms=6, label="another batch, before and after")
        summary += f"; on another batch from {other[0]:.3f} to {other[1]:.3f}"
    ax.set(xlabel="steps taken", ylabel="loss, parts of ‖v_w‖²")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(f"The loss of the student falls {summary}.")
    return fig


def count_delta(rank: int, name: str = "tiny-dev") -> tuple[int, int, int]:
    """Numbers of: the model, the low-rank delta of all its linear layers, the `guidance_in` that comes whole.

    A matrix with a side shorter than the rank gets that side as its rank, as in `lora.make_trainable`.
    """
    with torch.device("meta"):
        model = Flux(configs[name].params)
    linear = {key: part for key, part in model.named_modules() if isinstance(part, nn.Linear)}
    shapes = [part.weight.shape for key, part in linear.items() if not key.startswith("guidance_in")]
    low_rank = sum(min(rank, *shape) * sum(shape) for shape in shapes)
    whole = 0 if model.guidance_in is None else sum(p.numel() for p in model.guidance_in.parameters())
    return sum(p.numel() for p in model.parameters()) - whole, low_rank, whole


def delta_size(rank: int = 32) -> Figure:
    """How many numbers a delta of this rank takes, beside the model that it changes."""
    model, low_rank, whole = count_delta(rank)
    counts = {"the tiny FLUX": model, f"B and A, rank {rank}": low_rank, "guidance_in, whole": whole}
    fig, ax = new_figure(width=7, height=2.2, margins=(0.23, 0.97, 0.26, 0.87))
    bars = ax.barh(list(counts), [n / 1e6 for n in counts.values()], color=(GREY, BLUE, GREEN))
    ax.bar_label(bars, [f"{n / 1e6:.2f} M" for n in counts.values()], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel="million numbers", ylabel="", xlim=(0, 25))
    ax.set_title(f"what is trained is {(low_rank + whole) / model:.1%} of the model", fontsize=10)
    fig.set_label(
        f"Numbers in millions: the model {model / 1e6:.2f}, its delta of rank {rank} {low_rank / 1e6:.2f}, the"
        f" guidance embedder {whole / 1e6:.2f}."
    )
    return fig
