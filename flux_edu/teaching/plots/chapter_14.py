"""Figures of chapter 14, the errata: three wrong statements beside what is right."""

from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flux_edu.rope import EmbedND, apply_rope
from flux_edu.sampling import euler_step
from flux_edu.schedule import get_schedule, time_shift
from flux_edu.teaching.plots.style import BLUE, GREY, RED, new_figure


def mu_directions(mu: float = 1.15, steps: int = 20) -> Figure:
    """No. 12: one shift in two plots. Over t the half-point moves to the left, over the step index to the right."""
    fig, (left, right) = new_figure(1, 2, width=8.6, height=3.5, margins=(0.075, 0.985, 0.15, 0.9), wspace=0.22)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    star = torch.sigmoid(torch.tensor(-mu)).item()
    left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="μ = 0")
    left.plot(t, time_shift(mu, 1.0, t), color=BLUE, label=f"μ = {mu:.2f}")
    left.plot(t, time_shift(-mu, 1.0, t), color=RED, ls=":", label="the notes: the other way")
    left.plot([star, 0.5], [0.5, 0.5], "o-", color=BLUE, ms=5, lw=1)
    left.set(xlabel="t before the shift", ylabel="t' after the shift", xlim=(0, 1), ylim=(0, 1.01))
    left.set_title(f"over t: one half at t* = {star:.3f}", fontsize=10)
    left.legend(fontsize=8, frameon=False, loc="lower right")
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    right.plot(even, color=GREY, lw=1, ls="--")
    right.plot(time_shift(mu, 1.0, even), "o-", color=BLUE, ms=3.5, lw=1)
    right.plot([steps / 2, (1 - star) * steps], [0.5, 0.5], "o-", color=BLUE, ms=5, lw=1)
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set(xlabel=f"step index i of N = {steps}", ylabel="noise level t_i", ylim=(-0.02, 1.02))
    right.set_title(f"over the step index: one half at i = {(1 - star) * steps:.1f}", fontsize=10)
    fig.set_label(
        f"Left: t' over t. With μ = {mu:.2f} one half is reached at t = {star:.3f}, where the straight line"
        " has 0.5; dotted, the other direction. Right: the same shift over the step index, where one half is"
        f" reached at step {(1 - star) * steps:.1f} of {steps} and not at {steps / 2:g}."
    )
    return fig


def scores_by_distance(seed: int = 0, reach: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Scores of q (row 0) and -q (row 1) with one key 0 … reach columns away: added to, and turned."""
    q, k = torch.randn(2, 1, 1, 1, 128, generator=torch.Generator().manual_seed(seed))
    ids = torch.zeros(1, reach + 1, 3)
    ids[..., 2] = torch.arange(reach + 1)
    pe = EmbedND(128, 10_000, (16, 56, 56))(ids)
    turned = apply_rope(k.expand(1, 1, reach + 1, 128), pe)
    rope = (q * turned).sum(-1).flatten() / 128**0.5
    bias = -0.1 * torch.arange(reach + 1)
    plain = (q * k).sum() / 128**0.5
    return torch.stack([plain + bias, -plain + bias]).numpy(), torch.stack([rope, -rope]).numpy()


def added_or_turned(seed: int = 0) -> Figure:
    """No. 3: a term added to the scores acts on every query alike; a rotation acts on -q the opposite way."""
    added, turned = scores_by_distance(seed)
    fig, axes = new_figure(1, 2, width=8.6, height=3.3, sharey=True, margins=(0.075, 0.985, 0.15, 0.9), wspace=0.08)
    titles = "the notes: QKᵀ/√d + φ(P)", "FLUX: q and k are turned"
    for ax, scores, title in zip(axes, (added, turned), titles, strict=True):
        for row, color, name in zip(scores, (BLUE, RED), ("q", "−q"), strict=True):
            ax.plot(row, "o-", color=color, ms=3, lw=1, label=name)
        ax.axhline(0, color=GREY, lw=0.7)
        ax.set(xlabel="distance of the key (columns)", title=title)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylabel("score (before the softmax)")
    axes[0].legend(fontsize=8, frameon=False)
    same, flipped = (
        np.corrcoef(scores[0] - scores[0, 0], scores[1] - scores[1, 0])[0, 1] for scores in (added, turned)
    )
    fig.set_label(
        "Scores of a query q and of −q with a key 0 to 20 columns away. Left, with a term added: both fall alike"
        f" (correlation {same:.0f}). Right, turned by RoPE: what distance does to −q mirrors what it does to q"
        f" (correlation {flipped:.0f})."
    )
    return fig


def walks(steps: int = 8) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Levels, and three numbers of a state at each of them: with the right sign, and with the notes'."""
    timesteps = get_schedule(steps, 4096)
    x_0, noise = torch.tensor([[0.8, 0.0, -0.9]]), torch.tensor([[-0.5, 1.2, 0.2]])
    both = []
    for sign in (1, -1):
        states = [noise]
        for t, t_next in pairwise(timesteps):
            states.append(euler_step(states[-1], sign * (noise - x_0), t, t_next))
        both.append(torch.cat(states).numpy())
    return timesteps, *both


def step_sign(steps: int = 8) -> Figure:
    """No. 1: three numbers of a state on their way from noise; the notes' sign walks away from the picture."""
    timesteps, right, notes = walks(steps)
    fig, ax = new_figure(width=7.4, height=3.4, margins=(0.075, 0.985, 0.15, 0.9), wspace=0.22)
    for j in range(3):
        ax.plot(timesteps, right[:, j], "o-", color=BLUE, ms=4, lw=1.2, label="Eq. (6.2)" if j == 0 else None)
        ax.plot(timesteps, notes[:, j], "s:", color=RED, ms=4, lw=1.2, label="the notes' sign" if j == 0 else None)
        ax.plot(0, right[-1, j], "*", color="black", ms=11, label="the picture" if j == 0 else None)
    ax.set(xlabel="noise level t, falling", ylabel="three numbers of x", xlim=(1.02, -0.04))
    ax.set_title(f"{steps} steps with the true velocity", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    far = np.abs(notes[-1] - right[-1]).max()
    fig.set_label(
        f"Three numbers on their way through {steps} steps from noise (t = 1) to t = 0. With the right sign they end on"
        f" the picture's stars; with the notes' sign they walk away from it and end up to {far:.1f} off."
    )
    return fig
