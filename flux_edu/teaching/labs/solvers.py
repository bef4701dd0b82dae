"""Three ways to follow a velocity, and what can be measured of the walk. Notebook 06; no numbered equations.

A velocity is a function of state and noise level, as `sampling.velocity_field` makes it of a model. Every step takes x
from level t to t_next; h = t_next - t is negative on the way to the picture. `sampling.euler_step` is the first of
them, asked once a step.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flux_edu.sampling import Velocity, euler_step

Step = Callable[[Velocity, Tensor, float, float], Tensor]


def euler(velocity: Velocity, x: Float[Tensor, "B ..."], t: float, t_next: float) -> Float[Tensor, "B ..."]:
    """x + h v(x, t): one evaluation, error of order h in the end, Eq. (6.2)."""
    return euler_step(x, velocity(x, t), t, t_next)


def heun_step(velocity: Velocity, x: Float[Tensor, "B ..."], t: float, t_next: float) -> Float[Tensor, "B ..."]:
    """x + h/2 (v(x, t) + v(x + h v(x, t), t_next)): two evaluations, error of order h².

    Heun, 1900; in diffusion models Karras et al., 2022.
    """
    h, v = t_next - t, velocity(x, t)
    return x + h / 2 * (v + velocity(x + h * v, t_next))


def midpoint_step(velocity: Velocity, x: Float[Tensor, "B ..."], t: float, t_next: float) -> Float[Tensor, "B ..."]:
    """x + h v(x + h/2 v(x, t), t + h/2): two evaluations, error of order h², never asked at t_next."""
    h = t_next - t
    return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)


STEPS: dict[str, tuple[Step, int]] = {  # name → step, evaluations a step
    "Euler": (euler, 1),
    "Heun": (heun_step, 2),
    "midpoint": (midpoint_step, 2),
}


def solve(
    velocity: Velocity, x: Float[Tensor, "B ..."], timesteps: Sequence[float], step: Step = heun_step
) -> Float[Tensor, "B ..."]:
    """Walk from timesteps[0] to timesteps[-1], downwards to the picture or upwards to the noise (inversion).

    The velocity is never asked at t = 0, where a FLUX was not trained: a Heun step that ends there becomes an Euler
    step, and any step that begins there is an Euler step with the velocity of its end, t_next. One such step leaves
    the order as it is.
    """
    for t, t_next in pairwise(timesteps):
        if t_next == 0 and step is heun_step:
            x = euler(velocity, x, t, t_next)
        elif t == 0:
            x = x + t_next * velocity(x, t_next)
        else:
            x = step(velocity, x, t, t_next)
    return x


def order(errors: Sequence[float], steps: Sequence[int]) -> list[float]:
    """The observed order between neighbours: halving h divides the error by 2^order."""
    e, n = torch.tensor(errors, dtype=torch.float64), torch.tensor(steps, dtype=torch.float64)
    return (-(e[1:] / e[:-1]).log() / (n[1:] / n[:-1]).log()).tolist()


def straightness(velocity: Velocity, x: Float[Tensor, "B ..."], timesteps: Sequence[float]) -> float:
    """How far the velocities along a walk are from its chord, mean squared over the walk, relative to the chord.

    ∫ ‖v(x_t, t) - (x_1 - x_0)‖² dt / ‖x_1 - x_0‖² with x_1 the start and x_0 the end: 0 for a straight path at constant
    speed, on which a single Euler step is exact. Liu et al., "Flow Straight and Fast", 2022.
    """
    start, walk = x, []
    for t, t_next in pairwise(timesteps):
        v = velocity(x, t)
        walk.append((t - t_next, v))
        x = euler_step(x, v, t, t_next)
    duration = timesteps[0] - timesteps[-1]
    chord = (start - x) / duration
    off = sum(dt * (v - chord).square().sum().item() for dt, v in walk)
    return off / (duration * chord.square().sum().item())
