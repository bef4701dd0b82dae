"""Figures of chapter 6: the walk from noise to picture, its sign, its start, its precision, and guidance."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from flux_edu.sampling import euler_step, guide, image_to_image_start
from flux_edu.schedule import get_schedule, time_shift
from flux_edu.teaching.labs.solvers import STEPS, midpoint_step, order, solve
from flux_edu.teaching.labs.toy_flows import gaussian_end, gaussian_velocity, two_blobs_velocity
from flux_edu.teaching.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, new_figure

# ---------------------------------------------------------------- 6.1, 6.2: a flow that can be written down


START = torch.special.ndtri((torch.arange(10, dtype=torch.float64) + 0.5) / 10)  # ten numbers spread like N(0, 1)


def walk(timesteps: Sequence[float], sign: int = 1) -> Float[Tensor, "steps N"]:
    """All states of ten Euler walks from noise to the data -1 and 1; sign = -1 is the notes' mistake."""
    path, two_points = [START], two_blobs_velocity(0.0)
    for t, t_next in pairwise(timesteps):
        path.append(euler_step(path[-1], sign * two_points(path[-1], t), t, t_next))
    return torch.stack(path)


FINE = np.linspace(1, 0, 201).tolist()
EXACT = walk(FINE)  # near enough to the paths themselves


def euler_paths(num_steps: int = 6, wrong_sign: bool = False) -> Figure:
    """Ten numbers walk from noise to the data -1 and 1 by Euler steps, with the right sign and the notes' sign."""
    few = np.linspace(1, 0, num_steps + 1).tolist()
    right, miss = walk(few), (walk(few)[-1].abs() - 1).abs().max().item()
    steps = f"{num_steps} Euler step{'s' * (num_steps > 1)}"
    summary = f"{steps} from ten noise numbers; the farthest end is {miss:.3f} away from -1 or 1."
    fig, ax = new_figure(width=6.4, height=3.2, margins=(0.09, 0.98, 0.155, 0.97))
    ax.plot(FINE, EXACT, color="0.7", lw=1, label=["the exact paths"] + ["_"] * 9)
    ax.plot(few, right, "o-", color=BLUE, ms=3, lw=0.9, label=[steps] + ["_"] * 9)
    if wrong_sign:
        wrong = walk(few, sign=-1)
        ax.plot(few, wrong, "x--", color=RED, ms=4, lw=0.9, label=["the notes' sign"] + ["_"] * 9)
        summary += f" With the sign of the notes they get up to {wrong[-1].abs().max():.1f} away from 0."
    ax.axhline(1, color=GREEN, lw=1, ls=":")
    ax.axhline(-1, color=GREEN, lw=1, ls=":")
    ax.set(xlim=(1.02, -0.02), ylim=(-4, 4), xlabel="noise level t (the walk goes to the right)", ylabel="x")
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    fig.set_label(summary + " Grey: the exact paths. Green dots: the data.")
    return fig


# ---------------------------------------------------------------- 6.2: bfloat16


def bf16_changes(image_seq_len: int = 16384, num_steps: int = 50) -> tuple[list[float], list[float]]:
    """Share of the numbers of x that an Euler step in bfloat16 changes, at every step, for two velocities.

    First for v = ε - x_0 with independent unit Gaussians ε and x_0; then for v = x / t, what a model says that expects
    nothing but the mean, x̂_0 = 0, as any good model must at t = 1. x is the exact state at every step.
    """
    generator = torch.Generator().manual_seed(0)
    noise, x_0 = torch.randn(2, 20_000, generator=generator)
    t = get_schedule(num_steps, image_seq_len)
    shares = []
    for picture in (x_0, torch.zeros_like(x_0)):
        v = (noise - picture).bfloat16()
        states = [((1 - now) * picture + now * noise).bfloat16() for now in t[:-1]]
        steps = zip(states, t[:-1], t[1:], strict=True)
        shares.append([(euler_step(x, v, now, then) != x).float().mean().item() for x, now, then in steps])
    return tuple(shares)


def bf16_figure(image_seq_len: int = 16384, num_steps: int = 50) -> Figure:
    """What `bf16_changes` counts, step by step."""
    free, expected = bf16_changes(image_seq_len, num_steps)
    side = round(image_seq_len**0.5) * 16
    fig, ax = new_figure(width=6.4, height=2.9, margins=(0.1, 0.98, 0.17, 0.9))
    ax.plot(np.arange(num_steps), 100 * np.array(free), "o-", ms=3, color=BLUE, label="v = ε − x₀, both random")
    ax.plot(np.arange(num_steps), 100 * np.array(expected), "s-", ms=3, color=RED, label="v = x / t (x̂₀ = 0)")
    ax.set(
        xlabel="step i", ylabel="numbers changed, %", ylim=(-3, 103), title=f"bfloat16, L = {image_seq_len} ({side}²)"
    )
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    fig.set_label(
        f"Share of a bfloat16 state that each of {num_steps} Euler steps changes, at {image_seq_len} tokens: the first"
        f" step changes {free[0]:.0%} of the numbers with a random velocity and {expected[0]:.0%} with v = x/t; the"
        f" last {free[-1]:.0%} and {expected[-1]:.0%}."
    )
    return fig


# ---------------------------------------------------------------- 6.3: image to image


def start_level(strength: float, timesteps: list[float]) -> tuple[int, float]:
    """The step i and the noise level t_i at which image to image starts, Eq. (6.3)."""
    nothing = torch.zeros(1, 1)
    _, rest = image_to_image_start(nothing, nothing, timesteps, strength)
    return len(timesteps) - len(rest), rest[0]


def strength_levels(num_steps: int = 50, strength: float = 0.5) -> Figure:
    """From strength to the noise level where the walk begins, at 64 and at 4096 tokens."""
    fig, ax = new_figure(width=6.4, height=3.2, margins=(0.09, 0.98, 0.155, 0.91))
    strengths, summaries = np.linspace(0, 1, 101).tolist(), []
    for tokens, colour in ((64, BLUE), (4096, ORANGE)):
        timesteps = get_schedule(num_steps, tokens)
        starts = [start_level(s, timesteps)[1] for s in strengths]
        i, t = start_level(strength, timesteps)
        ax.plot(strengths, starts, drawstyle="steps-mid", color=colour, label=f"{tokens} tokens: {t:.3f}")
        ax.plot([strength], [t], "o", color=colour)
        summaries.append(f"t = {t:.3f} at {tokens} tokens")
    ax.plot([0, 1], [0, 1], color="0.75", lw=1, label="t = strength")
    ax.axvline(strength, color="0.75", lw=1, ls=":")
    title = f"strength {strength:.2f}: {num_steps - i} of {num_steps} steps are run"
    ax.set(xlabel="strength ς", ylabel="noise level at the start, $t_i$", title=title)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    fig.set_label(f"Strength {strength:.2f} of {num_steps} steps skips {i} and starts at {' and '.join(summaries)}.")
    return fig


# ---------------------------------------------------------------- 6.4: guidance


def guidance_plane(v_uncond: Float[Tensor, "*shape"], v_cond: Float[Tensor, "*shape"], w: float) -> Figure:
    """Both velocities and the guided one, drawn true to length and angle in the plane that they span."""
    a, b = v_uncond.flatten().double(), v_cond.flatten().double()
    along = a / a.norm()
    across = b - (b @ along) * along
    across = across / across.norm().clamp_min(1e-12)

    def place(v: Tensor) -> tuple[float, float]:
        return (v @ along).item(), (v @ across).item()

    guided = guide(a, b, w)
    fig, ax = new_figure(width=6.4, height=3.0, margins=(0.07, 0.66, 0.17, 0.97))
    for v, colour, name in (
        (a, SKY, r"$v_\emptyset$"),
        (b, ORANGE, "$v_c$"),
        (guided, PINK, f"$v_w$ with w = {w:g}"),
    ):
        ax.annotate("", place(v), (0, 0), arrowprops=dict(arrowstyle="->", color=colour, lw=2, shrinkA=0, shrinkB=0))
        ax.plot([], [], color=colour, lw=2, label=f"{name}: length {v.norm():.1f}")
    line = np.array([place(guide(a, b, end)) for end in (0.0, 8.0)])
    ax.plot(*line.T, color="0.75", lw=1, ls=":")
    ax.set(xlabel=r"along $v_\emptyset$", ylabel="across it", xlim=(min(0, *line[:, 0]), 1.05 * max(line[:, 0])))
    ax.set_ylim(-0.03 * line[1, 1] - 0.1, 1.05 * line[1, 1] + 0.1)
    ax.set_aspect("equal")  # lengths and angles are true
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
    fig.set_label(
        f"The plane of the two velocities. The unprompted one is {a.norm():.1f} long, the prompted one {b.norm():.1f},"
        f" cosine {cosine:.3f}. Guidance {w:g} lies on the dotted line through both: length"
        f" {guided.norm():.1f}."
    )
    return fig


PLACES = torch.tensor([[1.6, 0.9], [-1.5, 1.0], [0.1, -1.6]], dtype=torch.float64)  # the first one fits the prompt
SPREAD_OF_PLACE = 0.2


def estimate(x: Float[Tensor, "N 2"], t: float, places: Float[Tensor, "P 2"]) -> Float[Tensor, "N 2"]:
    """x̂_0, the mean of the data that x may come from: a Gaussian of deviation 0.2 at every place, all as likely."""
    variance = ((1 - t) * SPREAD_OF_PLACE) ** 2 + t**2
    away = x[:, None] - (1 - t) * places
    weights = (-away.square().sum(-1) / (2 * variance)).softmax(-1)
    means = places + (1 - t) * SPREAD_OF_PLACE**2 / variance * away
    return (weights[..., None] * means).sum(1)


def guided_field(w: float = 3.0, num_steps: int = 12) -> Figure:
    """Eq. (6.2) and (6.4) in two dimensions: walks with guidance w, and x̂_0 of v_∅, v_c and v_w at one state."""

    def guided(x: Tensor, t: float, w: float) -> Tensor:  # with v = (x - x̂_0) / t
        return guide(*((x - estimate(x, t, places)) / t for places in (PLACES, PLACES[:1])), w)

    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    path = [x]
    for t, t_next in pairwise(np.linspace(1, 0, num_steps + 1).tolist()):
        path.append(euler_step(path[-1], guided(path[-1], t, w), t, t_next))
    walks = torch.stack(path)
    fig, ax = new_figure(width=6.6, height=4.0, margins=(0.1, 0.72, 0.13, 0.97))
    ax.plot(*walks.unbind(-1), "o-", color="0.6", ms=2.5, lw=0.9, label=[f"{num_steps} Euler steps"] + ["_"] * 7)
    ax.plot(*walks[-1].T, "o", color=BLUE, ms=5, label="where they end")
    for place, name, colour in zip(PLACES, ("the prompt's data", "other data", "_"), (GREEN, RED, RED), strict=True):
        ax.plot(*place, "s", color=colour, ms=9, mfc="none", mew=2, label=name)
    names = {0.0: (SKY, r"$v_\emptyset$"), 1.0: (ORANGE, "$v_c$"), w: (PINK, f"$v_w$, w = {w:g}")}
    start = x[x.norm(dim=-1).argmax()]
    for at, (colour, name) in names.items():
        aim = start - guided(start[None], 1.0, at)[0]  # x̂_0 = x - t v at t = 1
        ax.plot(*torch.stack([start, aim]).T, "--", color=colour, lw=1.4, label=f"tangent of {name}")
        ax.plot(*aim, "*", color=colour, ms=11)
    ax.set(xlim=(-3.6, 7.2), ylim=(-3.4, 4.6), xlabel="first number of x", ylabel="second number of x")
    ax.set_aspect("equal")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    near = torch.cdist(walks[-1], PLACES).argmin(1).bincount(minlength=3)
    off = (walks[-1] - PLACES[0]).norm(dim=-1).mean()
    fig.set_label(
        f"Eight walks of {num_steps} Euler steps with guidance {w:g} in a plane with three places of data: {near[0]}"
        f" end nearest to the one of the prompt, {near[1:].sum()} nearest to another; on average {off:.2f} from the"
        " prompt's. Dashed tangents at one state lead to the estimates of the unprompted, prompted and guided velocity."
    )
    return fig


# ---------------------------------------------------------------- the solver laboratory

LOOKS = {"Euler": (BLUE, "o"), "Heun": (RED, "s"), "midpoint": (GREEN, "^")}
SPREAD = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)  # 200 numbers spread like N(0, 1)
COUNTS = (4, 8, 16, 32, 64, 128)  # evaluations


def shifted_levels(steps: int, mu: float = 0.0) -> list[float]:
    """N + 1 levels from 1 to 0, shifted by μ."""
    return time_shift(mu, 1.0, torch.linspace(1, 0, steps + 1, dtype=torch.float64)).tolist()


@cache
def two_blobs_end(deviation: float) -> Tensor:
    """Where `two_blobs_velocity` takes `SPREAD`, by very many midpoint steps."""
    return solve(two_blobs_velocity(deviation), SPREAD, shifted_levels(1000), midpoint_step)


def solver_errors(data: str = "Gaussian", mu: float = 0.0, deviation: float = 0.3) -> dict[str, list[float]]:
    """Root mean square error of each solver over `COUNTS` evaluations, where the exact velocity is known."""
    if data == "Gaussian":
        velocity, end = gaussian_velocity(0.5, deviation), gaussian_end(SPREAD, 0.5, deviation)
    else:
        velocity, end = two_blobs_velocity(deviation), two_blobs_end(deviation)
    errors = {}
    for name, (step, cost) in STEPS.items():
        ends = [solve(velocity, SPREAD, shifted_levels(n // cost, mu), step) for n in COUNTS]
        errors[name] = [(x - end).square().mean().sqrt().item() for x in ends]
    return errors


def solver_figure(errors: dict[str, list[float]], counts: Sequence[int], title: str = "") -> Figure:
    """Error over evaluations, both logarithmic, a line a solver; the slope is its order."""
    fig, ax = new_figure(width=6.4, height=3.3, margins=(0.11, 0.98, 0.155, 0.91))
    summaries = []
    for name, values in errors.items():
        colour, marker = LOOKS.get(name, (PINK, "d"))
        slope = order(values[-2:], counts[-2:])[0]
        ax.plot(counts, values, marker=marker, color=colour, ms=5, lw=1.2, label=f"{name}: last slope −{slope:.1f}")
        summaries.append(f"{name} from {values[0]:.0e} to {values[-1]:.0e}, order {slope:.1f}")
    ax.set(xscale="log", yscale="log", xlabel="evaluations of the velocity", ylabel="error at the end", title=title)
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    fig.set_label(f"Error at the end over {counts[0]} to {counts[-1]} evaluations. {'; '.join(summaries)}.")
    return fig


def solver_orders(data: str = "Gaussian", mu: float = 0.0, deviation: float = 0.3) -> Figure:
    """`solver_errors` as a figure."""
    return solver_figure(solver_errors(data, mu, deviation), COUNTS, f"{data}, μ = {mu:g}, deviation {deviation:g}")


def shift_errors(errors: dict[str, list[float]], mus: Sequence[float]) -> Figure:
    """Error at the end over the shift of the schedule, a line for every way of walking."""
    fig, ax = new_figure(width=6.4, height=3.0)
    summaries = []
    for (name, values), colour in zip(errors.items(), (BLUE, RED, GREEN, ORANGE), strict=False):
        best = int(np.argmin(values))
        ax.plot(mus, values, "o-", ms=4, lw=1.2, color=colour, label=f"{name}: best at μ = {mus[best]:g}")
        summaries.append(f"{name}: best {values[best]:.2g} at μ = {mus[best]:g}")
    ax.set(xlabel="shift μ of the schedule", ylabel="error at the end", yscale="log")
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(f"Error at the end over the shift of the schedule. {'; '.join(summaries)}.")
    return fig
