"""Exercises and questions of chapter 6: the sampling loop, image to image's start, a wrong line, Heun's step."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from flux_edu.sampling import euler_step, image_to_image_start
from flux_edu.schedule import get_schedule
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.question import Question

Velocity = Callable[[Tensor, float], Tensor]


def bent(x: Tensor, t: float) -> Tensor:
    """A velocity that changes with place and level. It has no value at t = 0, where no sampler needs one."""
    return torch.cos(x) + t * x if t > 0 else torch.full_like(x, math.nan)


# ---------------------------------------------------------------- 6.1


def walk(velocity: Velocity, x: Tensor, timesteps: list[float]) -> Tensor:
    for t, t_next in pairwise(timesteps):
        x = x + (t_next - t) * velocity(x, t)
    return x


def walk_asking_late(velocity: Velocity, x: Tensor, timesteps: list[float]) -> Tensor:
    for t, t_next in pairwise(timesteps):
        x = x + (t_next - t) * velocity(x, t_next)
    return x


def walk_evenly(velocity: Velocity, x: Tensor, timesteps: list[float]) -> Tensor:
    for t in timesteps[:-1]:
        x = x - velocity(x, t) / (len(timesteps) - 1)
    return x


WALK = Exercise(
    "6.1",
    walk,
    inputs=[
        (bent, normal(3, 4).double(), get_schedule(5, 64)),
        (bent, normal(2, 7, seed=1).double(), [0.9, 0.6, 0.5, 0.2]),
    ],
    mistakes={
        "that is the sign of the notes: t_next - t is negative, and it has to be":
            lambda velocity, x, timesteps: walk(lambda x, t: -velocity(x, t), x, timesteps),
        "the velocity was asked for at t_next; Euler asks at the beginning of the step, at t": walk_asking_late,
        "all your steps are 1/N long; the schedule is shifted, so a step is t_next - t long": walk_evenly,
    },
    advice="A step is x_{i+1} = x_i + (t_{i+1} - t_i) v(x_i, t_i).",
)  # fmt: skip

# ---------------------------------------------------------------- 6.2


def start_index(strength: float, num_steps: int) -> int:
    i = math.floor((1 - strength) * num_steps + 0.5 + 1e-9)
    return min(i, num_steps - 1) if strength > 0 else num_steps


START_INDEX = Exercise(
    "6.2",
    start_index,
    inputs=[(1.0, 50), (0.0, 50), (0.8, 50), (0.01, 28), (0.5, 5), (0.9, 5), (0.25, 10), (0.35, 10), (0.3, 28)],
    mistakes={
        "strength 0.01 of 28 steps takes no step at all; a strength above 0 should take at least one":
            lambda strength, num_steps: math.floor((1 - strength) * num_steps + 0.5 + 1e-9),
        "strength 0.01 of 28 steps takes no step at all, and round() takes 2.5 to the even 2: halves go up":
            lambda strength, num_steps: round((1 - strength) * num_steps),
        "(1 - 0.8) * 50 is 9.999999999999998, and int() cuts it to 9: round to the nearest instead":
            lambda strength, num_steps: int((1 - strength) * num_steps),
        "the other way round: strength 1 starts at step 0, from pure noise":
            lambda strength, num_steps: round(strength * num_steps),
    },
    advice="Strength 1 starts at step 0, strength 0 takes no step, and between them the nearest step counts.",
)  # fmt: skip

# ---------------------------------------------------------------- 6.3


def mended(prompted: Velocity, empty: Velocity, x: Tensor, timesteps: list[float], w: float) -> Tensor:
    return walk(lambda x, t: empty(x, t) + w * (prompted(x, t) - empty(x, t)), x, timesteps)


def unprompted(x: Tensor, t: float) -> Tensor:
    return torch.sin(2 * x) - t


MENDED = Exercise(
    "6.3",
    mended,
    inputs=[
        (bent, unprompted, normal(3, 4).double(), get_schedule(5, 64), 3.0),
        (bent, unprompted, normal(2, 7, seed=1).double(), [0.9, 0.6, 0.5, 0.2], 0.0),
    ],
    mistakes={
        "that is the sampler as it was: at w = 0 it walks with v_c, where Eq. 6.4 has v_∅":
            lambda prompted, empty, x, timesteps, w: mended(prompted, empty, x, timesteps, w + 1),
        "v_c and v_∅ are exchanged: w = 1 must give the prompted velocity":
            lambda prompted, empty, x, timesteps, w: mended(empty, prompted, x, timesteps, w),
        "the sign of the step was right: t_next - t is negative, and v points to the noise":
            lambda prompted, empty, x, timesteps, w:
                walk(lambda x, t: -(empty(x, t) + w * (prompted(x, t) - empty(x, t))), x, timesteps),
    },
    advice="Try w = 0 and w = 1, where Eq. 6.4 is v_∅ and v_c.",
)  # fmt: skip

# ---------------------------------------------------------------- 6.4


def heun_step(velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
    v = velocity(x, t)
    trial = x + (t_next - t) * v
    return trial if t_next == 0 else x + (t_next - t) * (v + velocity(trial, t_next)) / 2


HEUN_STEP = Exercise(
    "6.4",
    heun_step,
    inputs=[(bent, normal(3, 4).double(), 0.7, 0.4), (bent, normal(2, 5).double(), 0.4, 0.0)],
    mistakes={
        "that is Euler's step; Heun asks for the velocity again where it ends, and averages":
            lambda velocity, x, t, u: x + (u - t) * velocity(x, t),
        "the second velocity belongs to where Euler's step ends":
            lambda velocity, x, t, u: heun_step(lambda _, level: velocity(x, level), x, t, u),
        "the second velocity belongs to the level t_next":
            lambda velocity, x, t, u: heun_step(lambda place, _: velocity(place, t), x, t, u),
        "the velocity was asked for at t = 0, where it has no value; make the last step a plain Euler step":
            lambda velocity, x, t, u: x + (u - t) * (velocity(x, t) + velocity(x + (u - t) * velocity(x, t), u)) / 2,
    },
    advice="Both velocities belong to the whole step: x + (t_next - t)(v(x, t) + v(trial, t_next))/2.",
)  # fmt: skip

EXERCISES = [WALK, START_INDEX, MENDED, HEUN_STEP]

# ---------------------------------------------------------------- questions


def wrong_sign() -> float:
    x_0, eps = normal(50), normal(50, seed=1)
    x = eps
    for t, t_next in pairwise(get_schedule(7, 64)):
        x = euler_step(x, eps - x_0, t_next, t)  # the levels exchanged: the other sign
    return float((x - x_0).norm() / (eps - x_0).norm())


def start_level() -> float:
    _, left = image_to_image_start(normal(1, 2), normal(1, 2), get_schedule(28, 4096), 0.5)
    return left[0]


QUESTIONS = [
    Question(
        section="The wrong sign",
        text="Your sampler adds (t_i − t_{i+1}) v instead of (t_{i+1} − t_i) v. On a straight path from noise ε, where"
        " does it end? (The picture is at distance 1 from ε.)",
        choices={
            "at the picture": lambda distance: distance < 0.1,
            "at the noise, where it began": lambda distance: abs(distance - 1) < 0.1,
            "as far behind the noise as the picture is before it": lambda distance: abs(distance - 2) < 0.1,
        },
        measure=wrong_sign,
        result="Its end is {:.2f} times as far from the picture as the noise is.",
        why="v points to the noise, and t falls, so the factor must be negative. The other sign walks away from"
        " pictures.",
    ),
    Question(
        section="Eq. 6.3 · Image to image",
        text="Image to image with strength 0.5 and 28 steps, at 1024 × 1024 pixels. How much noise is in the state it"
        " starts from?",
        choices={
            "half: 0.5": lambda t: 0.45 < t < 0.55,
            "less than half": lambda t: t <= 0.45,
            "more than half": lambda t: t >= 0.55,
        },
        measure=start_level,
        result="It starts at t = {:.2f}.",
        why="Strength counts steps, and the shifted schedule spends half of them above t = 0.7.",
    ),
]
