"""Exercises of chapter 11, few steps."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from flux_edu.teaching.exercises.chapter_09 import NOTHING, _same

Velocity = Callable[[Tensor, float], Tensor]


def _bent(x: Tensor, t: float) -> Tensor:
    """A velocity that changes with place and level, so that every mistake shows."""
    return torch.sin(2 * x) + t * x + 0.5


# ---------------------------------------------------------------- 11.1


def segment_target(v: Velocity, x: Tensor, t: float, t_next: float, m: int) -> Tensor:
    start, h = x, (t_next - t) / m
    for j in range(m):
        x = x + h * v(x, t + j * h)
    return (x - start) / (t_next - t)


def check_segment_target(answer: Callable[[Velocity, Tensor, float, float, int], Tensor]) -> None:
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    t, t_next, m = 0.75, 0.5, 3
    right, h = segment_target(_bent, x, t, t_next, m), (t_next - t) / m
    got = answer(_bent, x.clone(), t, t_next, m)
    assert got is not None, NOTHING
    if _same(got, right):
        assert _same(answer(_bent, x, 1.0, 0.4, 1), _bent(x, 1.0)), "with m = 1 the mean is the one velocity met"
        return
    still = x
    for _ in range(m):
        still = still + h * _bent(still, t)
    for told, wrong in [
        (
            "that is the place where the teacher arrives; the target is the velocity that leads there",
            x + (t_next - t) * right,
        ),
        ("that has the wrong sign: divide by t_next - t, which is negative because t falls", -right),
        ("that is the velocity at the beginning: the teacher shall walk, and its velocity changes", _bent(x, t)),
        ("that is divided by one small step; the student makes the whole one, from t to t_next", m * right),
        ("that is not divided by anything: it is the way, not the velocity", (t_next - t) * right),
        (
            "your teacher asks for the velocity at t every time; after j small steps the level is t + j h",
            (still - x) / (t_next - t),
        ),
    ]:
        assert not _same(got, wrong), told
    raise AssertionError("not the mean velocity: m equal Euler steps, then (x_next - x) / (t_next - t)")


# ---------------------------------------------------------------- 11.2


def students_places(v: Velocity, noise: Tensor, timesteps: list[float]) -> list[Tensor]:
    places = [noise]
    for t, t_next in pairwise(timesteps[:-1]):
        places.append(places[-1] + (t_next - t) * v(places[-1], t))
    return places


def check_students_places(answer: Callable[[Velocity, Tensor, list[float]], list[Tensor]]) -> None:
    noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    timesteps = [1.0, 0.8, 0.5, 0.1, 0.0]
    right = students_places(_bent, noise, timesteps)
    got = answer(_bent, noise.clone(), timesteps)
    assert got is not None, NOTHING
    got = list(got)
    end = right[-1] + (timesteps[-1] - timesteps[-2]) * _bent(right[-1], timesteps[-2])
    assert not (len(got) == 5 and _same(got[-1], end)), (
        "you give a lesson at the end too: nobody steps from a finished picture, leave the last place out"
    )
    assert len(got) == 4, f"four steps begin at four places; you return {len(got)}"
    assert _same(got[0], noise), "the first place is the noise itself: the student begins there"
    for told, wrong in [
        (
            "you add (t - t_next) v: the sign is the other way, t falls",
            noise - (timesteps[1] - timesteps[0]) * _bent(noise, 1.0),
        ),
        (
            "your steps are all of one length; they are t_next - t, and these times are not evenly spaced",
            noise - 0.25 * _bent(noise, 1.0),
        ),
    ]:
        assert not _same(got[1], wrong), told
    first = [noise + (t - 1) * _bent(noise, 1.0) for t in timesteps[:-1]]
    assert not all(map(_same, got, first)), (
        "all your places lie on the line of the first velocity: after each step the student looks again"
    )
    assert all(map(_same, got, right)), "not the student's places: x_{k+1} = x_k + (t_{k+1} - t_k) v(x_k, t_k)"


CHECKS = {"11.1": check_segment_target, "11.2": check_students_places}
SOLUTIONS = {"11.1": segment_target, "11.2": students_places}
