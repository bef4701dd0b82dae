"""Exercises of chapter 6: what the model has in mind, the sampling loop, where image to image starts, Heun's step."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from flux_edu.sampling import image_to_image_start, predict_x0
from flux_edu.schedule import get_schedule


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-6)


# ---------------------------------------------------------------- 6.1


def picture_and_noise(x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
    return predict_x0(x, v, t), x + (1 - t) * v


def check_picture_and_noise(answer: Callable) -> None:
    torch.manual_seed(6)
    x_0, noise, t = torch.randn(2, 5, 3), torch.randn(2, 5, 3), 0.3
    x, v = (1 - t) * x_0 + t * noise, noise - x_0
    out = answer(x.clone(), v.clone(), t)
    assert isinstance(out, tuple) and len(out) == 2, "return two tensors: the picture and the noise"
    picture, eps = out
    assert not (near(picture, noise) and near(eps, x_0)), "the two are swapped: return the picture first"
    assert not near(picture, x + t * v), (
        "the picture: you added t·v. v points to the noise, so walk against it: minus t·v"
    )
    assert not near(picture, x - v), "the picture: you walked a whole v. From level t it is only t of the way"
    assert not near(picture, x - (1 - t) * v), "the picture: the way to t = 0 is t long, not 1 - t"
    assert near(picture, x_0), "the picture is not x_0 for x = (1 - t) x_0 + t ε and v = ε - x_0"
    assert not near(eps, x - (1 - t) * v), "the noise lies in the direction of v: plus (1 - t)·v"
    assert not near(eps, x + v), "the noise: you walked a whole v. From level t there are only 1 - t left to t = 1"
    assert not near(eps, v), "v is noise minus picture, not the noise"
    assert near(eps, noise), "the noise is not ε for x = (1 - t) x_0 + t ε and v = ε - x_0"


# ---------------------------------------------------------------- 6.2


def walk(velocity: Callable, x: Tensor, timesteps: list[float]) -> Tensor:
    for t, t_next in pairwise(timesteps):
        x = x + (t_next - t) * velocity(x, t)
    return x


def check_walk(answer: Callable) -> None:
    torch.manual_seed(6)
    start, seen = torch.randn(3, 4, dtype=torch.float64), []

    def velocity(x, t):
        seen.append(float(t))
        return torch.cos(x) + t * x

    timesteps = get_schedule(5, 64)

    def run(step: Callable) -> Tensor:
        x = start.clone()
        for t, t_next in pairwise(timesteps):
            x = step(x, t, t_next)
        return x

    right, against = (run(lambda x, t, u, s=s: x + s * (u - t) * velocity(x, t)) for s in (1, -1))
    late = run(lambda x, t, u: x + (u - t) * velocity(x, u))
    unit = run(lambda x, t, u: x - velocity(x, t) / 5)
    seen.clear()
    given = start.clone()
    out = answer(velocity, given, list(timesteps))
    assert isinstance(out, Tensor), "return the last x"
    assert near(given, start), "the x that was passed in has changed: write x = x + …, not x += …"
    assert not near(out, start), "x has not moved: does the loop put the new x back into x?"
    assert not near(out, against), "that is the sign of the notes: t_next - t is negative, and it has to be"
    assert not near(out, late), "the velocity was asked for at t_next; Euler asks at the beginning of the step, at t"
    assert not near(out, unit), "all your steps are 1/N long; the schedule is shifted, so a step is t_next - t long"
    assert 0.0 not in seen, f"the model was evaluated at t = 0 ({len(seen)} evaluations): 5 steps ask it 5 times"
    assert len(seen) == 5, f"6 noise levels are 5 steps; the model was asked {len(seen)} times"
    assert near(out, right), "not the end of x_{i+1} = x_i + (t_{i+1} - t_i) v(x_i, t_i)"


# ---------------------------------------------------------------- 6.3


def start_index(strength: float, num_steps: int) -> int:
    nothing = torch.zeros(1)
    _, rest = image_to_image_start(nothing, nothing, torch.linspace(1, 0, num_steps + 1).tolist(), strength)
    return num_steps + 1 - len(rest)


def check_start_index(answer: Callable) -> None:
    assert answer(1.0, 50) != 50 or answer(0.0, 50) != 0, (
        "the other way round: strength 1 starts at step 0, from pure noise"
    )
    assert answer(1.0, 50) == 0, f"strength 1 is text to image: it starts at step 0, not {answer(1.0, 50)}"
    assert answer(0.0, 50) == 50, f"strength 0 takes no step: it starts at step 50 of 50, not {answer(0.0, 50)}"
    assert answer(0.8, 50) != 9, (
        "(1 - 0.8) * 50 is 9.999999999999998, and int() cuts it to 9: round to the nearest instead"
    )
    assert answer(0.8, 50) == 10, f"strength 0.8 of 50 steps starts at step 10, not {answer(0.8, 50)}"
    assert answer(0.01, 28) != 28, (
        "strength 0.01 of 28 steps takes no step at all; a strength above 0 should take at least one"
    )
    assert answer(0.5, 5) != 2, "2.5 is halfway: take the larger index, 3; Python's round() goes to the even one, 2"
    assert answer(0.9, 5) != 0, (
        "(1 - 0.9) * 5 is 0.4999999999999999 and means one half: add a tiny number before rounding"
    )
    for strength, num_steps in ((0.25, 10), (0.9, 5), (0.35, 10), (0.5, 5), (0.3, 28), (0.01, 4), (0.95, 50)):
        right, got = start_index(strength, num_steps), answer(strength, num_steps)
        assert isinstance(got, int), f"an index is an int, not a {type(got).__name__}"
        assert got == right, f"strength {strength} of {num_steps} steps should start at step {right}, not {got}"


# ---------------------------------------------------------------- 6.4


def heun_step(velocity: Callable, x: Tensor, t: float, t_next: float) -> Tensor:
    v = velocity(x, t)
    euler = x + (t_next - t) * v
    return euler if t_next == 0 else x + (t_next - t) * (v + velocity(euler, t_next)) / 2


def check_heun_step(answer: Callable) -> None:
    torch.manual_seed(6)
    x, t, u = torch.randn(3, 4, dtype=torch.float64), 0.7, 0.4

    def velocity(x, t):
        assert t > 0, "the velocity was asked for at t = 0; make the last step a plain Euler step"
        return torch.cos(x) + t * x

    d, v = u - t, velocity(x, t)
    euler = x + d * v
    out = answer(velocity, x.clone(), t, u)
    assert not near(out, euler), "that is Euler's step; Heun asks for the velocity again where it ends, and averages"
    assert not near(out, x + d * velocity(euler, u)), "you kept only the second velocity; take the mean of both"
    assert not near(out, x + d * (v + velocity(x, u)) / 2), "the second velocity belongs to where Euler's step ends"
    assert not near(out, x + d * (v + velocity(euler, t)) / 2), "the second velocity belongs to the level t_next"
    assert not near(out, x + d * (v + velocity(euler, u))), "you added the velocities; halve the sum"
    assert not near(out, euler + d * (v + velocity(euler, u)) / 2), (
        "start from x again, not from the end of the Euler step"
    )
    assert near(out, heun_step(velocity, x, t, u)), "not x + (t_next - t)(v(x, t) + v(x', t_next))/2"
    assert near(answer(velocity, x.clone(), t, 0.0), x - t * v), "to t = 0 it should be a plain Euler step"


CHECKS = {
    "6.1": check_picture_and_noise,
    "6.2": check_walk,
    "6.3": check_start_index,
    "6.4": check_heun_step,
}
SOLUTIONS = {"6.1": picture_and_noise, "6.2": walk, "6.3": start_index, "6.4": heun_step}
