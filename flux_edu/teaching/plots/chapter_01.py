"""Figures of chapter 1: the straight path, the line μ(L), the time shift, and the schedule."""

import math
from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.nn.functional import avg_pool2d

from flux_edu.flux2.model import empirical_mu
from flux_edu.io.images import to_picture
from flux_edu.patchify import token_grid
from flux_edu.schedule import get_lin_function, get_schedule, interpolate, time_shift
from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, new_figure

FLUX, FREE = BLUE, RED  # FLUX's own curve, and the one of the sliders
FREE_NAME = "your μ, σ"


def half_point(mu: float, sigma: float) -> float:
    """The level that the shift sends to one half."""
    return 1 / (1 + math.exp(mu / sigma))


def toy_picture(height: int = 48, width: int = 64) -> torch.Tensor:
    """A sun, a hill and a house, "1 3 height width" in [-1, 1]: enough to see what becomes of a picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    paint = [  # (where, colour), later ones on top
        ((x - 0.25) ** 2 + (0.75 * (y - 0.25)) ** 2 < 0.012, (1.0, 0.8, 0.2)),
        (y > 0.8 - 0.3 * torch.exp(-12 * (x - 0.32) ** 2), (0.15, 0.55, 0.3)),
        ((abs(x - 0.75) < 0.16) & (y > 0.5) & (y < 0.85), (0.95, 0.9, 0.8)),
        ((y > 0.25) & (y < 0.5) & (abs(x - 0.75) < 0.85 * (y - 0.25)), (0.8, 0.25, 0.2)),
        ((abs(x - 0.7) < 0.045) & (y > 0.58) & (y < 0.72), (0.2, 0.25, 0.5)),
        ((abs(x - 0.83) < 0.04) & (y > 0.6) & (y < 0.85), (0.45, 0.25, 0.15)),
    ]
    picture = torch.tensor([0.45, 0.7, 0.95]) - (1 - y[..., None]) * torch.tensor([0.2, 0.15, 0.0])
    for where, colour in paint:
        picture = torch.where(where[..., None], torch.tensor(colour), picture)
    return (2 * picture - 1).permute(2, 0, 1)[None]


def straight_path(t: float = 0.5) -> Figure:
    """Eq. (1.1): a picture at noise level t, and what a few of its numbers do on the way."""
    x_0 = toy_picture()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    x_t = interpolate(x_0, noise, torch.tensor([t]))
    fig, (left, right) = new_figure(
        1, 2, width=8.4, height=3.2, width_ratios=[1.25, 1], margins=(0.08, 0.99, 0.16, 0.9), wspace=0.08
    )
    rows, columns = torch.arange(2, 48, 5), torch.arange(60, 5, -6)
    ends = x_0[0, 0, rows, columns], noise[0, 0, rows, columns]
    for a, b in zip(*ends, strict=True):
        left.plot([0, 1], [a, b], color=GREY, lw=1)
        left.plot(t, (1 - t) * a + t * b, "o", color=RED, ms=5)
    left.axvline(t, color=RED, lw=1, ls=":")
    left.set(xlabel="noise level t (1: noise, 0: picture)", ylabel="value of one number of x_t", xlim=(1.02, -0.02))
    left.set_title(f"each number walks a straight line; here t = {t:.2f}", fontsize=10)
    right.imshow(to_picture(x_t[0]))
    right.set_axis_off()
    right.set_title(f"{1 - t:.2f} × picture + {t:.2f} × noise", fontsize=10)
    fig.set_label(
        f"Left: ten numbers of a picture on straight lines from noise (t = 1) to the picture (t = 0), marked at"
        f" t = {t:.2f}. Right: the picture at that level, {1 - t:.0%} picture and {t:.0%} noise."
    )
    return fig


def same_level(t: float = 0.7, factor: int = 4) -> Figure:
    """The same t on a small picture and on one with `factor` times its sides, averaged down, and the level t' that
    hides the large one as well: odds `factor` times as large."""
    generator = torch.Generator().manual_seed(0)

    def noisy(factor: int, t: float) -> torch.Tensor:
        x_0 = toy_picture(48 * factor, 64 * factor)
        return interpolate(x_0, torch.randn(x_0.shape, generator=generator), torch.tensor([t]))

    higher = factor * t / (factor * t + 1 - t)
    large = noisy(factor, t)
    panels = {
        f"small, t = {t:.2f}": noisy(1, t),
        f"{factor} × as wide, t = {t:.2f}": large,
        "… averaged down": avg_pool2d(large, factor),
        f"t' = {higher:.2f}, averaged down": avg_pool2d(noisy(factor, higher), factor),
    }
    fig, axes = new_figure(1, 4, width=9, height=2.1, margins=(0.005, 0.995, 0.01, 0.88), wspace=0.04)
    for ax, (name, x) in zip(axes, panels.items(), strict=True):
        ax.imshow(to_picture(x[0]))
        ax.set_axis_off()
        ax.set_title(name, fontsize=9)
    odds = t / (1 - t) if t < 1 else math.inf
    fig.set_label(
        f"A house at t = {t:.2f}: small, with noise {odds:.2f} times the picture; {factor} times as wide, as noisy;"
        f" that averaged down, with noise {odds / factor:.2f} times the picture; and"
        f" at t' = {higher:.2f}, averaged down, as noisy as the small one."
    )
    return fig


def mu_line(base_shift: float = 0.5, max_shift: float = 1.15, width: int = 1024, height: int = 1024) -> Figure:
    """Eq. (1.2): μ over the number of image tokens, the two points that define it, and one picture size."""
    h, w = token_grid(height, width)
    L, line = h * w, get_lin_function(y1=base_shift, y2=max_shift)
    fig, ax = new_figure(width=7, height=3.2, margins=(0.08, 0.97, 0.16, 0.9))
    end = max(17_000, L)
    ax.plot([0, end], [line(0), line(end)], color=FLUX)
    ax.plot([256, 4096], [base_shift, max_shift], "o", color=FLUX, ms=7)
    ax.annotate("base_shift at 256 tokens", (256, base_shift), (700, -4), textcoords=("data", "offset points"))
    ax.annotate("“max_shift” at 4096 tokens", (4096, max_shift), (4500, -14), textcoords=("data", "offset points"))
    ax.axhline(max_shift, color=GREY, lw=1, ls=":")
    ax.plot(L, line(L), "D", color=RED, ms=8, zorder=3)
    ax.set(xlabel="image tokens L", ylabel="μ", xlim=(-300, end), ylim=(0, max(line(end), 1.3 * max_shift, 1)))
    ax.set_title(f"{width} × {height} px → L = {h} × {w} = {L} tokens → μ(L) = {line(L):.3f}", fontsize=10)
    fig.set_label(
        f"A straight line through ({256}, {base_shift:g}) and ({4096}, {max_shift:g}), μ over image tokens. The picture"
        f" of {width} × {height} pixels has {L} tokens and μ = {line(L):.3f}; nothing stops the line at max_shift."
    )
    return fig


def _curve(ax: Axes, mu: float, sigma: float, color: str, name: str, ls: str = "-") -> None:
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    ax.plot(t, time_shift(mu, sigma, t), color=color, ls=ls, label=name)
    ax.plot(half_point(mu, sigma), 0.5, "o", color=color, ms=6)


def time_shift_curve(mu: float = 1.15, sigma: float = 1.0) -> Figure:
    """Eq. (1.3) and (1.4): t → t', with the half-point t* = sigmoid(-μ/σ), and the same map between logits."""
    star = half_point(mu, sigma)
    fig, (left, right) = new_figure(1, 2, width=8.4, height=3.6, margins=(0.07, 0.98, 0.14, 0.9))
    left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="μ = 0, σ = 1: no change")
    _curve(left, mu, sigma, FREE, f"μ = {mu:.2f}, σ = {sigma:.2f}")
    left.plot([star, star, 0], [0, 0.5, 0.5], color=FREE, lw=1, ls=":")
    left.set(xlabel="t before the shift", ylabel="t' after the shift", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    left.set_title(f"half-point t* = {star:.3f}", fontsize=10)
    left.legend(fontsize=8, loc="lower right", frameon=False)
    x = np.array([-6.0, 6.0])
    right.plot(x, x, color=GREY, lw=1, ls="--")
    right.plot(x, mu + sigma * x, color=FREE)
    right.plot(-mu / sigma, 0, "o", color=FREE, ms=6)
    right.set(xlabel="logit t", ylabel="logit t'", xlim=(-6, 6), ylim=(-8, 8))
    right.set_title(f"a straight line: {mu:.2f} + {sigma:.2f} · logit t", fontsize=10)
    fig.set_label(
        f"Left: t' over t for μ = {mu:.2f}, σ = {sigma:.2f}, which passes one half at t* = {star:.3f}, beside the"
        f" diagonal. Right: the logits of both on a straight line of slope {sigma:.2f} and intercept {mu:.2f}."
    )
    return fig


def schedule(mu: float = 0.5, sigma: float = 1.0, width: int = 1024, height: int = 1024, steps: int = 20) -> Figure:
    """Eq. (1.5) twice: t' over t, and over the step's index; FLUX's own curve beside the freely chosen one."""
    h, w = token_grid(height, width)
    L = h * w
    own = get_lin_function()(L)
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    fig, (left, right) = new_figure(1, 2, width=9, height=3.9, margins=(0.065, 0.985, 0.13, 0.9), wspace=0.2)
    left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="unshifted (schnell)")
    _curve(left, own, 1.0, FLUX, f"FLUX: μ(L) = {own:.2f}, σ = 1")
    _curve(left, mu, sigma, FREE, f"{FREE_NAME}: {mu:.2f}, {sigma:.2f}", ls="-.")
    stars = half_point(own, 1.0), half_point(mu, sigma)
    for star, color in zip(stars, (FLUX, FREE), strict=True):
        left.plot([star, star], [0, 0.5], color=color, lw=1, ls=":")
    left.axhline(0.5, color=GREY, lw=0.7, ls=":")
    left.set(xlabel="t before the shift", ylabel="t' after the shift", xlim=(0, 1), ylim=(0, 1.02))
    left.set_title(f"half-points t*: FLUX {stars[0]:.3f}, yours {stars[1]:.3f}", fontsize=10)
    left.legend(fontsize=8, loc="lower right", frameon=False)
    i = np.arange(steps + 1)
    right.plot(i, even, color=GREY, lw=1, ls="--")
    right.plot(i, get_schedule(steps, L), "o-", color=FLUX, ms=4, lw=1.2)
    right.plot(i, time_shift(mu, sigma, even), "s-.", color=FREE, ms=3.5, lw=1.2)
    right.axhline(0.5, color=GREY, lw=0.7, ls=":")
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set(xlabel=f"step index i of N = {steps}", ylabel="noise level t_i", ylim=(-0.02, 1.03))
    right.set_title(f"{width} × {height} px: L = {h} × {w} = {L}, μ(L) = {own:.3f}", fontsize=10)
    fig.set_label(
        f"Left: t' over t. FLUX's curve for {width} × {height} pixels (L = {L}, μ = {own:.3f}, σ = 1) passes one half"
        f" at {stars[0]:.3f}, the chosen one (μ = {mu:.2f}, σ = {sigma:.2f}) at {stars[1]:.3f}. Right: the same"
        f" curves over the step index, from 1 at i = 0 down to 0 at i = {steps}."
    )
    return fig


def noise_levels(steps: int = 20, threshold: float = 0.9) -> Figure:
    """The noise levels of four schedules as dots on a line: where a model spends its evaluations."""
    rows = [("schnell, no shift", None, GREY), ("256 × 256", 256, GREEN), ("1024 × 1024", 4096, BLUE)]
    rows += [("2048 × 2048", 16384, PINK)]
    fig, ax = new_figure(width=8, height=2.6)
    summaries = []
    for y, (name, L, color) in enumerate(rows):
        timesteps = get_schedule(steps, L or 1, shift=L is not None)[:-1]
        high = sum(t > threshold for t in timesteps)
        ax.plot(timesteps, [y] * steps, "o", color=color, ms=5)
        ax.text(-0.04, y, f"{high} above {threshold:g}", va="center", fontsize=9)
        summaries.append(f"{name}: {high}")
    ax.axvline(threshold, color=ORANGE, zorder=0, lw=1.2)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set(
        xlabel="noise level t at which the model is evaluated",
        ylabel="picture, px",
        xlim=(1.02, -0.02),
        ylim=(3.5, -0.5),
    )
    fig.set_label(
        f"The {steps} noise levels of four schedules on a line from 1 to 0. Evaluations above t = {threshold:g}: "
        + ", ".join(summaries)
    )
    return fig


# ---------------------------------------------------------------- the laboratory

BANDS = (1.0, 0.9, 0.7, 0.4, 0.0)
SHADES = ("#08306b", "#2e7ebc", "#94c4df", "#dce9f6")  # from noise (dark) to picture (light)
MUS = {
    "schnell": lambda L, steps: 0.0,
    "FLUX.1": lambda L, steps: get_lin_function()(L),
    "FLUX.2": empirical_mu,
}
LOOKS = {"schnell": (GREY, "--"), "FLUX.1": (BLUE, "-"), "FLUX.2": (PINK, "-.")}


def step_size(t_shifted: float | np.ndarray, mu: float, steps: int) -> float | np.ndarray:
    """About how far the schedule goes in one step at level t': dt'/dt over N, with σ = 1 and t written through t'.

    dt'/dt = t'(1 - t') / (t(1 - t)) = (t' + e^μ (1 - t'))² / e^μ
    """
    return (t_shifted + np.exp(mu) * (1 - t_shifted)) ** 2 / np.exp(mu) / steps


def step_sizes(width: int = 1024, height: int = 1024, steps: int = 28) -> Figure:
    """The length of every step over the level at its middle, of three schedules, on the curve that predicts it."""
    h, w = token_grid(height, width)
    even, where = np.linspace(1, 0, steps + 1), np.linspace(0, 1, 101)
    fig, ax = new_figure(width=7, height=3.2, margins=(0.1, 0.98, 0.16, 0.9))
    summaries = []
    for name, rule in MUS.items():
        mu, (color, ls) = rule(h * w, steps), LOOKS[name]
        t = time_shift(mu, 1.0, torch.from_numpy(even)).numpy()
        ax.plot(where, step_size(where, mu, steps), color=color, ls=ls, lw=1, label=f"{name}: μ = {mu:.2f}")
        ax.plot((t[:-1] + t[1:]) / 2, t[:-1] - t[1:], "o", color=color, ms=4)
        summaries.append(f"{name} from {t[0] - t[1]:.4f} to {t[-2]:.4f}")
    ax.set(xlabel="noise level t'", ylabel="length of a step", xlim=(1.02, -0.02), ylim=(0, None))
    ax.set_title(f"{width} × {height} px, L = {h * w} tokens, N = {steps}", fontsize=10)
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    fig.set_label(
        f"Length of each of {steps} steps over its noise level at {h * w} tokens, first and last:"
        f" {'; '.join(summaries)}."
        " Dots lie on the curves that the slope of the shift predicts."
    )
    return fig


def mu_rules(width: int = 1024, height: int = 1024, steps: int = 28) -> Figure:
    """μ over the number of tokens by three rules: FLUX.1's, the √ rule of Stable Diffusion 3, FLUX.2's."""
    h, w = token_grid(height, width)
    here = h * w
    L = np.unique(np.concatenate([np.geomspace(64, 17_000, 120).astype(int), [4300, 4301]]))
    rules = {
        "FLUX.1: line through (256, 0.5), (4096, 1.15)": (BLUE, "-", get_lin_function()),
        "√ rule: μ = ½ ln(L/256)": (GREEN, "--", lambda n: 0.5 * math.log(n / 256)),
        f"FLUX.2, {steps} steps": (PINK, "-.", lambda n: empirical_mu(int(n), steps)),
    }
    fig, ax = new_figure(width=7.4, height=3.6, margins=(0.09, 0.98, 0.15, 0.9))
    summaries = []
    for name, (color, ls, rule) in rules.items():
        ax.plot(L, [rule(n) for n in L], color=color, ls=ls, label=name)
        ax.plot(here, rule(here), "o", color=color, ms=6)
        summaries.append(f"{name}: {rule(here):.2f}")
    ax.plot(4096, math.log(3), "D", color=GREEN, ms=6, label="SD3 at 1024²: α = 3, μ = ln 3")
    ax.axvline(here, color=GREY, lw=0.8, ls=":")
    ax.set_xscale("log")
    ax.set(xlabel="image tokens L (logarithmic)", ylabel="μ", ylim=(-0.8, 3.6))
    ax.set_xticks([64, 256, 1024, 4096, 16_384], ["64", "256", "1024", "4096", "16384"])
    ax.set_title(f"{width} × {height} px: L = {here}", fontsize=10)
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    fig.set_label(f"μ over image tokens by three rules. At L = {here} tokens: {'; '.join(summaries)}.")
    return fig


def band_shares(mu: float) -> list[float]:
    """Which share of all steps falls into each of `BANDS`: the difference of its ends before the shift."""
    ends = time_shift(-mu, 1.0, torch.tensor(BANDS, dtype=torch.float64)).tolist()
    return [above - below for above, below in pairwise(ends)]


def noise_bands(width: int = 1024, height: int = 1024, steps: int = 28) -> Figure:
    """How three schedules share out their steps over four bands of noise level."""
    h, w = token_grid(height, width)
    fig, ax = new_figure(width=7.4, height=2.7, margins=(0.14, 0.98, 0.2, 0.78))
    summaries = []
    for y, (name, rule) in enumerate(MUS.items()):
        shares, left = band_shares(rule(h * w, steps)), 0.0
        for share, shade in zip(shares, SHADES, strict=True):
            ax.barh(y, share, left=left, color=shade, edgecolor="white", height=0.62)
            if share > 0.06:
                dark = shade in SHADES[:2]
                ax.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", color="w" if dark else "k")
            left += share
        summaries.append(f"{name} " + ", ".join(f"{share:.0%}" for share in shares))
    names = [f"t from {a:g} to {b:g}" for a, b in pairwise(BANDS)]
    for shade, name in zip(SHADES, names, strict=True):
        ax.barh(0, 0, color=shade, label=name)
    ax.set_yticks(range(len(MUS)), [f"{name}\nμ = {rule(h * w, steps):.2f}" for name, rule in MUS.items()])
    ax.set(xlabel="share of all steps", ylabel="schedule", xlim=(0, 1), ylim=(len(MUS) - 0.5, -0.5))
    ax.set_title(f"{width} × {height} px, L = {h * w}, N = {steps}", fontsize=10, loc="left")
    ax.legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1.12), frameon=False, columnspacing=1)
    fig.set_label(
        f"Share of the steps above t = 0.9, from 0.9 to 0.7, from 0.7 to 0.4 and below, at {h * w} tokens:"
        f" {'; '.join(summaries)}."
    )
    return fig
