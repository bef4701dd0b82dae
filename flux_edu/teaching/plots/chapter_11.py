"""Figures of chapter 11: walks with few steps, how far velocities are from the chord."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from flux_edu.teaching.labs.toy_flows import share_on_data, toy_walk
from flux_edu.teaching.plots.style import BLUE, GREEN, ORANGE, PINK, RED, new_figure


def few_step_walks(steps: int = 4) -> Figure:
    """Walks to the two blobs in so many steps, beside the walks in 50."""
    fig, axes = new_figure(1, 2, width=7.6, height=3.4, sharex=True, sharey=True, margins=(0.08, 0.98, 0.15, 0.9))
    summaries = []
    for ax, n in zip(axes, (steps, 50), strict=True):
        walk = toy_walk(n)
        ax.plot(walk[:, :20, 0], walk[:, :20, 1], "-", color=BLUE, lw=0.7, alpha=0.6)
        ax.plot(walk[0, :, 0], walk[0, :, 1], ".", color=ORANGE, ms=2)
        ax.plot(walk[-1, :, 0], walk[-1, :, 1], ".", color=RED, ms=3)
        share = share_on_data(walk[-1])
        ax.set(xlabel="first number", ylabel="second number", xlim=(-3.5, 4), ylim=(-3.5, 3.5))
        ax.set_title(f"{n} step{'s' if n > 1 else ''}: {share:.0%} end on the data", fontsize=10)
        summaries.append(f"{n}: {share:.0%}")
    fig.set_label(f"Walks from noise (orange) to their ends (red). Share that ends on the data, by steps: {summaries}.")
    return fig


def off_the_chord(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """How far a walk's velocity is from its chord, in parts of the chord's length, over the noise level."""
    fig, ax = new_figure(width=6.6, height=3.0)
    summaries = []
    for (name, (timesteps, off)), color in zip(curves.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
        ax.plot(timesteps, off, "o-", color=color, ms=3, label=name)
        summaries.append(f"{name}: {off[0]:.2f} at t = {timesteps[0]:.2f}, {off[-1]:.2f} at t = {timesteps[-1]:.2f}")
    ax.set(xlabel="noise level t (0: picture, 1: noise)", ylabel="|v − chord| / |chord|", xlim=(1.02, -0.02))
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False)
    fig.set_label("Distance of the velocity from the chord of its walk. " + "; ".join(summaries) + ".")
    return fig
