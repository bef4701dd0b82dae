"""Figures of chapter 9: a toy whose best velocity is known, losses, noise levels to train on, and composed pictures."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flux_edu.io.images import to_picture
from flux_edu.schedule import get_lin_function, get_schedule, interpolate
from flux_edu.teaching.labs.toy_flows import CENTRES, SPREAD, blob_velocity, draw_blobs, gaussian_floor, share_on_data
from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, new_figure
from flux_edu.train import data
from flux_edu.train.latent_pool import OFTEN, SELDOM, SHARES, batch_of
from flux_edu.train.objectives import shift_logit_normal

# ---------------------------------------------------------------- 9.1: two blobs


@cache
def _pairs(n: int = 100_000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return draw_blobs(n, generator), torch.randn(n, 2, generator=generator)


def targets_at(t: float = 0.7, x: float = 0.6, y: float = 0.2) -> Figure:
    """All the targets ε - x_0 that training shows for one and the same place (x, y) at level t, and their mean."""
    x_0, noise = _pairs()
    here = torch.tensor([[x, y]])
    x_t = interpolate(x_0, noise, torch.full((len(x_0),), t))
    near = (x_t - here).square().sum(1) < 0.1**2
    targets, best = (noise - x_0)[near], blob_velocity(here, torch.tensor([t]))[0]
    fig, (left, right) = new_figure(1, 2, width=8.4, height=3.6, margins=(0.08, 0.98, 0.15, 0.86))
    left.plot(*x_t[:800].T, ".", color=GREY, ms=2, alpha=0.5)
    left.plot(x, y, "o", color=RED, ms=9, mfc="none", mew=2)
    left.set(xlabel="first number of x_t", ylabel="second number of x_t", xlim=(-3.2, 3.6), ylim=(-3.2, 3.2))
    left.set_title(f"800 states x_t at t = {t:.2f}", fontsize=10)
    right.plot(*targets[:400].T, ".", color=SKY, ms=4)
    right.plot(*best, "D", color=RED, ms=8)
    summary = "no pair comes here"
    if len(targets):
        mean = targets.mean(0)
        right.plot(*mean, "+", color="black", ms=14, mew=2)
        summary = f"mean of {len(targets)} targets ({mean[0]:.2f}, {mean[1]:.2f})"
    right.set(xlabel="first number of ε − x₀", ylabel="second number of ε − x₀", xlim=(-6, 6), ylim=(-4.5, 4.5))
    right.set_title(f"{summary}\nclosed form ({best[0]:.2f}, {best[1]:.2f}), red", fontsize=9)
    fig.set_label(
        f"Left: states x_t at t = {t:.2f} as a cloud, with the place ({x:.2f}, {y:.2f}) circled. Right: the targets of"
        f" the pairs that pass within 0.1 of it, scattered; {summary}; the best answer by formula is ({best[0]:.2f},"
        f" {best[1]:.2f})."
    )
    return fig


def velocity_arrows(t: float, answer: Callable[[Tensor, Tensor], Tensor], name: str) -> Figure:
    """The closed form's velocity on a grid of places at level t, and beside it what a network answers there."""
    line = torch.linspace(-3, 3, 13)
    grid = torch.cartesian_prod(line + 0.4, line)
    timesteps = torch.full((len(grid),), t)
    with torch.no_grad():
        fields = {"closed form": blob_velocity(grid, timesteps), name: answer(grid, timesteps)}
    x_t = interpolate(*(pair[:400] for pair in _pairs()), torch.full((400,), t))
    fig, axes = new_figure(1, 2, width=8.6, height=3.9, margins=(0.08, 0.98, 0.14, 0.9))
    for ax, (title, v) in zip(axes, fields.items(), strict=True):
        ax.plot(*x_t.T, ".", color=ORANGE, ms=3, alpha=0.6)
        ax.quiver(*grid.T, *v.T, color=BLUE, angles="xy", scale_units="xy", scale=9, width=0.005)
        ax.set(xlabel="first number of x_t", ylabel="second number of x_t", xlim=(-3.2, 4), ylim=(-3.4, 3.4))
        ax.set_title(f"{title}, t = {t:.2f}", fontsize=10)
    gap = (fields[name] - fields["closed form"]).square().mean().sqrt().item()
    fig.set_label(
        f"Arrows of the velocity at t = {t:.2f} over the plane, with 400 states as dots: {' beside '.join(fields)}."
        f" The two differ by {gap:.2f} (root mean square over the grid)."
    )
    return fig


def where_walks_end(ends: dict[str, Tensor]) -> Figure:
    """Where walks of the sampler end, one panel a network, with the blobs' centres and 3-s circles."""
    fig, axes = new_figure(1, len(ends), width=1.95 * len(ends), height=2.3, sharex=True, sharey=True, squeeze=False)
    summaries = []
    for ax, (name, points) in zip(axes[0], ends.items(), strict=True):
        ax.plot(*points[:800].T, ".", color=BLUE, ms=1.5)
        for centre in CENTRES.tolist():
            angle = np.linspace(0, 2 * np.pi, 60)
            ax.plot(centre[0] + 3 * SPREAD * np.cos(angle), centre[1] + 3 * SPREAD * np.sin(angle), color=RED, lw=1)
        share = share_on_data(points)
        ax.set(xlim=(-4, 5), ylim=(-4.5, 4.5), aspect="equal")
        ax.set_title(name, fontsize=9)
        ax.set_xlabel(f"{share:.0%} inside", fontsize=9)
        summaries.append(f"{name}: {share:.0%}")
    axes[0, 0].set_ylabel("second number", fontsize=9)
    fig.set_label("Ends of sampled walks beside circles of three deviations round the two blobs. Share inside: "
                  + "; ".join(summaries))  # fmt: skip
    return fig


# ---------------------------------------------------------------- losses


def loss_by_level(curves: dict[str, tuple[Sequence[float], Sequence[float]]], hill: bool = True) -> Figure:
    """Losses over the noise level; `hill` adds what a guess reaches that knows nothing but mean and variance."""
    fig, ax = new_figure(width=7, height=3.4)
    summaries = []
    if hill:
        t = torch.linspace(0, 1, 101)
        ax.plot(t, gaussian_floor(t), color=GREY, ls="--", lw=1.3, label="known: variance 1 (formula)")
        summaries.append("the dashed hill of a guess that knows the variance alone rises from 1 to 2 and falls to 1")
    for (name, (timesteps, losses)), color, marker in zip(
        curves.items(), (BLUE, ORANGE, GREEN, PINK), "osD^", strict=False
    ):
        ax.plot(timesteps, losses, marker + "-", color=color, ms=4, label=name)
        low = int(np.argmin(losses))
        summaries.append(f"{name}: {losses[0]:.2f} at t = {timesteps[0]:.2f}, least {losses[low]:.2f} at"
                    f" {timesteps[low]:.2f}, {losses[-1]:.2f} at {timesteps[-1]:.2f}")  # fmt: skip
    ax.set(xlabel="noise level t (0: picture, 1: noise)", ylabel="loss, mean square a number", xlim=(-0.02, 1.02))
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    fig.set_label("Loss over the noise level. " + "; ".join(summaries) + ".")
    return fig


def live_loss(losses: Sequence[float] = (2.0,), total: int = 80, smooth: int = 10) -> Figure:
    """The losses of a training so far, each step and their running mean; `total` steps are planned."""
    fig, ax = new_figure(width=6.4, height=2.8, margins=(0.1, 0.98, 0.18, 0.89))
    ax.plot(np.arange(1, len(losses) + 1), losses, color=SKY, lw=1, label="each step")
    mean = [float(np.mean(losses[max(0, i - smooth + 1) : i + 1])) for i in range(len(losses))]
    ax.plot(np.arange(1, len(losses) + 1), mean, color=BLUE, lw=2, label=f"mean of {smooth} steps")
    ax.set(xlabel="step", ylabel="loss, mean square a number", xlim=(0, total + 1), ylim=(0, 2.2))
    ax.set_title(f"step {len(losses)} of {total}: {mean[-1]:.3f}", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    fig.set_label(f"Loss over {len(losses)} of {total} training steps, from {mean[0]:.2f} to {mean[-1]:.2f}.")
    return fig


def full_run() -> dict[str, np.ndarray]:
    """The run that made the tiny FLUX's weights: the columns of full_run.txt by name, nan where not measured.

    Under a number stands the held-out loss at that noise level.
    """
    head, *rows = (resources.files("flux_edu.teaching.plots") / "full_run.txt").read_text("utf-8").splitlines()
    return dict(zip(head.split(), np.array([row.split() for row in rows], float).T, strict=True))


def _logarithmic(ax: Axes, steps: Sequence[int] | np.ndarray, losses: Sequence[float], name: str) -> None:
    """Ticks of losses over steps: 1, 1.5, 2, 3, 5, 7 of each decade, and doubled steps, written out."""
    low, high = 0.8 * min(losses), 1.2 * max(losses)
    ticks = [x for x in (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2) if low <= x <= high]
    ax.set_yticks(ticks, [f"{x:g}" for x in ticks])
    marks = [x for x in (250 * 2**i for i in range(14)) if steps[0] <= x <= steps[-1] * 1.1]
    ax.set_xticks(marks, [f"{x:,}" for x in marks])
    ax.minorticks_off()
    ax.set(xlabel="step (logarithmic)", ylabel=f"{name} (logarithmic)")


def run_history(steps: Sequence[int], losses: Sequence[float], held_out: dict[int, float], ends: str = "") -> Figure:
    """A long run's losses over its steps, both axes logarithmic, with what was measured on held-out combinations."""
    fig, ax = new_figure(width=7, height=3.2)
    ax.loglog(steps, losses, color=BLUE, lw=1.5, label="combinations trained on")
    summary = f"from {losses[0]:.3f} at step {steps[0]:,} to {losses[-1]:.3f} at step {steps[-1]:,}"
    if held_out:
        ax.loglog(list(held_out), list(held_out.values()), "o", color=RED, ms=4, label="held-out combinations")
        last = max(held_out)
        summary += f"; on held-out combinations {held_out[last]:.3f} at step {last:,}"
    _logarithmic(ax, steps, [*losses, *held_out.values()], "loss")
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(f"The full run's loss {summary}. {ends}".strip())
    return fig


def history_by_level(run: dict[str, np.ndarray], mark: tuple[float, float] | None = None) -> Figure:
    """A run's held-out loss at several noise levels apart, over its steps, both axes logarithmic; `mark` is shaded."""
    names = [name for name in run if name.replace(".", "").isdigit()]
    measured = ~np.isnan(run[names[0]])
    steps = run["step"][measured]
    fig, ax = new_figure(width=7, height=3.6)
    if mark:
        ax.axvspan(*mark, color="#eeeeee", lw=0)
    summaries = []
    for name, color, marker in zip(names, (SKY, BLUE, GREEN, ORANGE, RED, PINK), "osD^vP", strict=False):
        losses = run[name][measured]
        ax.loglog(steps, losses, marker + "-", color=color, ms=3.5, lw=1.2, label=f"t = {name}")
        summaries.append(f"t = {name}: {losses[0]:.3f} to {losses[-1]:.3f}")
    _logarithmic(ax, steps, [loss for name in names for loss in run[name][measured]], "held-out loss")
    ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=6, columnspacing=1.2)
    between = f" Steps {mark[0]:,} to {mark[1]:,} are shaded." if mark else ""
    fig.set_label(
        f"Held-out loss from step {steps[0]:,.0f} to {steps[-1]:,.0f}, by noise level: {'; '.join(summaries)}.{between}"
    )
    return fig


# ---------------------------------------------------------------- 9.2, 9.3: noise levels


def logit_normal_density(t: Float[Tensor, "N"], mean: float, deviation: float) -> Float[Tensor, "N"]:
    """p(t) = N(logit t; a, c²) / (t (1 - t)): the Gaussian of the logit, times how fast the logit moves with t."""
    z = (torch.logit(t) - mean) / deviation
    return torch.exp(-z.square() / 2) / (deviation * math.sqrt(2 * math.pi) * t * (1 - t))


def share_above(level: float, mean: float, deviation: float) -> float:
    """The share of logit-normal levels above one: 1 - Φ((logit level - a) / c)."""
    z = (math.log(level / (1 - level)) - mean) / deviation
    return 0.5 * math.erfc(z / math.sqrt(2))


_T = torch.linspace(0.001, 0.999, 401)


def logit_normal_levels(a: float = 0.0, c: float = 1.0) -> Figure:
    """Eq. (9.2): where a logit-normal draw of noise levels puts its levels, against a draw that prefers none."""
    draws = torch.sigmoid(a + c * torch.randn(20_000, generator=torch.Generator().manual_seed(0)))
    median, low, high = 1 / (1 + math.exp(-a)), 1 - share_above(0.1, a, c), share_above(0.9, a, c)
    fig, ax = new_figure(width=7, height=3.2, margins=(0.08, 0.98, 0.16, 0.9))
    heights, edges = np.histogram(draws.numpy(), 50, range=(0, 1), density=True)
    ax.stairs(heights, edges, fill=True, color=SKY, alpha=0.6, label="20,000 draws")
    ax.plot(_T, logit_normal_density(_T, a, c), color=BLUE, lw=2, label="formula")
    ax.axhline(1, color=GREY, lw=1, ls="--", label="all levels alike")
    ax.axvline(median, color=RED, lw=1, ls=":")
    ax.set(xlabel="noise level t (0: picture, 1: noise)", ylabel="density", xlim=(0, 1), ylim=(0, 5.6))
    ax.set_title(f"median {median:.2f}; below 0.1: {low:.1%}, above 0.9: {high:.1%}", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(
        f"Density of logit-normal levels for a = {a:.2f}, c = {c:.2f}: median {median:.2f}, {low:.1%} of them below"
        f" 0.1, {high:.1%} above 0.9. A flat line shows levels drawn alike."
    )
    return fig


def shifted_levels(a: float = 0.0, c: float = 1.0, width: int = 1024, height: int = 1024, steps: int = 20) -> Figure:
    """Eq. (9.3): training's levels before and after the shift of a picture's size, over the steps of a schedule."""
    L = -(-width // 16) * -(-height // 16)
    mu = get_lin_function()(L)
    mean, deviation = shift_logit_normal(a, c, mu)
    timesteps = get_schedule(steps, L)[:-1]
    trained, walked = share_above(0.9, mean, deviation), sum(t > 0.9 for t in timesteps) / steps
    fig, ax = new_figure(width=7.4, height=3.3, margins=(0.08, 0.98, 0.16, 0.9))
    ax.plot(_T, logit_normal_density(_T, a, c), color=GREY, ls="--", label=f"before: a = {a:.2f}, c = {c:.2f}")
    after = f"after: a = {mean:.2f}, c = {deviation:.2f}"
    ax.plot(_T, logit_normal_density(_T, mean, deviation), color=BLUE, lw=2, label=after)
    ax.plot(timesteps, [-0.25] * steps, "|", color=RED, ms=11, mew=1.5, label=f"the schedule's {steps} levels")
    ax.axvline(0.9, color=ORANGE, lw=1, ls=":")
    ax.set(xlabel="noise level t (0: picture, 1: noise)", ylabel="density", xlim=(0, 1), ylim=(-0.5, 5.2))
    ax.set_title(
        f"{width} × {height}: L = {L}, μ = {mu:.2f}; above 0.9: {trained:.0%} trained, {walked:.0%} walked", fontsize=10
    )
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    fig.set_label(
        f"Density of the levels trained on before the shift (a = {a:.2f}, c = {c:.2f}) and after it (a = {mean:.2f},"
        f" c = {deviation:.2f}) for {L} tokens; {trained:.0%} lie above 0.9, and of a schedule's {steps} levels"
        f" {walked:.0%}."
    )
    return fig


# ---------------------------------------------------------------- sizes


def size_buckets(batch: int = 427) -> Figure:
    """How often a step takes pictures of a size, and how many: as many tokens as `batch` of 128 × 128 have."""
    often, seldom = sorted(OFTEN, key=math.prod), sorted(SELDOM)
    names = [f"{width} × {height}" for width, height in often] + [f"{len(seldom)} others"]
    shares = [SHARES[size] for size in often] + [sum(SHARES[size] for size in seldom)]
    pictures = [batch_of(batch, size) for size in often] + [np.mean([batch_of(batch, size) for size in seldom])]
    fig, (left, right) = new_figure(1, 2, width=8.4, height=3.2, margins=(0.13, 0.98, 0.16, 0.98), sharey=True)
    left.barh(names, [100 * share for share in shares], color=BLUE)
    left.set(xlabel="share of the steps, %")
    right.barh(names, pictures, color=ORANGE)
    right.set(xlabel="pictures in a step's batch")
    left.invert_yaxis()
    bars = zip(names, shares, pictures, strict=True)
    summary = "; ".join(f"{name}: {share:.0%} of the steps, {n:.0f} pictures" for name, share, n in bars)
    fig.set_label(f"Sizes of the training's pictures. {summary}.")
    return fig


# ---------------------------------------------------------------- data

LAYOUTS = {"one": data.ONE, "left of": data.BESIDE, "above": data.ABOVE}


@cache
def drawings() -> data.Drawings:
    """The drawings that travel with the package, read once."""
    return data.load_drawings()


def compose(layout: str, style: str, first: str, second: str, colour: str) -> tuple[data.Scenes, str]:
    """One scene with everything in the middle of its place, and its caption."""
    kind, where = LAYOUTS[layout], np.full((1, 2, 2), data.SIZE / 2)
    if kind != data.ONE:
        where[0, :, 0 if kind == data.BESIDE else 1] += [-data.SIZE / 4, data.SIZE / 4]
    side = np.full((1, 2, 1), 104.0 if kind == data.ONE else 58.0)
    rows = np.array([[drawings().find(style, first), drawings().find(style, second)]])
    number = np.array([[*data.COLOURS].index(colour)])
    scene = data.Scenes(np.array([kind]), rows, np.concatenate([side, where], -1), number)
    return scene, data.caption_english(kind, colour, (style, first), (None, second))


def why_held_out(layout: str, style: str, first: str, second: str, colour: str) -> list[str]:
    """The parts of a scene that training never sees together."""
    names = [first] if layout == "one" else [first, second]
    parts = [f"{style} {name}" for name in names if data.held_out(style=style, name=name)]
    parts += [f"{name} on {colour}" for name in names if data.held_out(name=name, colour=colour)]
    return parts + [f"{first} with {second}"] * (layout != "one" and data.held_out(name=first, other=second))


def composed(
    layout: str = "left of", style: str = "flat", first: str = "fox", second: str = "red apple", colour: str = "white"
) -> Figure:
    """One composed picture under its caption, and whether training may see it."""
    scene, caption = compose(layout, style, first, second, colour)
    never = why_held_out(layout, style, first, second, colour)
    summary = f"held out: {', '.join(never)}" if never else "training may see this"
    fig, ax = new_figure(width=5.4, height=2.9, margins=(0.02, 0.98, 0.17, 0.9))
    ax.imshow(to_picture(data.render(drawings(), scene)[0]))
    ax.set(xticks=[], yticks=[], xlabel="128 pixels", ylabel="128 pixels")
    ax.spines[:].set(visible=True, color="0.8")
    ax.set_title(f"“{caption}”", fontsize=9)
    fig.text(0.5, 0.02, summary, ha="center", fontsize=9, color=RED if never else "black")
    fig.set_label(f"A composed picture: {caption}. {summary[0].upper()}{summary[1:]}.")
    return fig
