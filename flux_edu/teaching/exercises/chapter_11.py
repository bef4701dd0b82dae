"""Exercises and questions of chapter 11, few steps."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.question import Question
from flux_edu.teaching.labs.toy_flows import toy_walk

Velocity = Callable[[Tensor, float], Tensor]


def bent(x: Tensor, t: float) -> Tensor:
    """A velocity that changes with place and level, so that every mistake shows."""
    return torch.sin(2 * x) + t * x + 0.5


# ---------------------------------------------------------------- 11.1


def segment_target(v: Velocity, x: Tensor, t: float, t_next: float, m: int) -> Tensor:
    start, h = x, (t_next - t) / m
    for j in range(m):
        x = x + h * v(x, t + j * h)
    return (x - start) / (t_next - t)


SEGMENT_TARGET = Exercise(
    "11.1",
    segment_target,
    inputs=[
        (bent, normal(2, 3, 5), 0.75, 0.5, 3),
        (bent, normal(1, 2, 7), 1.0, 0.4, 1),
        (bent, normal(3, 2, 2), 0.5, 0.1, 5),
    ],
    mistakes={
        "that is the place where the teacher arrives; the target is the velocity that leads there":
            lambda v, x, t, t_next, m: x + (t_next - t) * segment_target(v, x, t, t_next, m),
        "that has the wrong sign: divide by t_next - t, which is negative because t falls":
            lambda v, x, t, t_next, m: -segment_target(v, x, t, t_next, m),
        "that is divided by one small step; the student makes the whole one, from t to t_next":
            lambda v, x, t, t_next, m: m * segment_target(v, x, t, t_next, m),
        "your teacher asks for the velocity at t every time; after j small steps the level is t + j h":
            lambda v, x, t, t_next, m: segment_target(lambda y, _: v(y, t), x, t, t_next, m),
    },
    advice="The mean velocity: m equal Euler steps, then (x_next - x) / (t_next - t).",
)  # fmt: skip

# ---------------------------------------------------------------- 11.2


def students_places(v: Velocity, noise: Tensor, timesteps: list[float]) -> list[Tensor]:
    places = [noise]
    for t, t_next in pairwise(timesteps[:-1]):
        places.append(places[-1] + (t_next - t) * v(places[-1], t))
    return places


STUDENTS_PLACES = Exercise(
    "11.2",
    students_places,
    inputs=[(bent, normal(2, 3, 5), [1.0, 0.8, 0.5, 0.1, 0.0]), (bent, normal(1, 2, 7), [1.0, 0.4, 0.3, 0.0])],
    mistakes={
        "the first place is missing, the noise itself: the student begins there":
            lambda v, noise, timesteps: students_places(v, noise, timesteps)[1:],
        "you add (t - t_next) v: the sign is the other way, t falls":
            lambda v, noise, timesteps: students_places(lambda x, t: -v(x, t), noise, timesteps),
        "all your places lie on the line of the first velocity: after each step the student looks again":
            lambda v, noise, timesteps: [noise + (t - 1) * v(noise, 1.0) for t in timesteps[:-1]],
    },
    advice="The student's places are x_{k+1} = x_k + (t_{k+1} - t_k) v(x_k, t_k), as many as there are steps.",
)  # fmt: skip

EXERCISES = [SEGMENT_TARGET, STUDENTS_PLACES]

# ---------------------------------------------------------------- questions


def one_for_many() -> int:
    velocities: list[Tensor] = []

    def teacher(x: Tensor, t: float) -> Tensor:
        velocities.append(torch.sin(3 * x) + x * t)
        return velocities[-1]

    one = segment_target(teacher, normal(1, 2, 3), 0.75, 0.5, 5)
    candidates = [velocities[0], torch.stack(velocities).mean(0), velocities[-1]]
    return min(range(3), key=lambda i: float((candidates[i] - one).norm()))


QUESTIONS = [
    Question(
        section="What few steps cost",
        text="The toy's data are two blobs. You walk from 500 noises with a single step along the best velocity. How do"
        " the ends lie?",
        choices={
            "half of them on each blob": lambda spread: spread > 0.3,
            "all in one point between the blobs": lambda spread: spread < 0.05,
            "spread like the noise": lambda spread: 0.05 <= spread <= 0.3,
        },
        measure=lambda: float(toy_walk(1)[-1].std(dim=0).max()),
        result="The ends spread by {:.3f}; the noise by 1.",
        why="One step leads to the mean of all data, from every noise. Few-step models are trained for something else.",
    ),
    Question(
        section="Eq. 11.1 · The mean velocity of a segment",
        text="A teacher walks a segment in m small steps of equal length. The one velocity that leads to the same end"
        " is …",
        choices={
            "the teacher's velocity at the beginning": lambda i: i == 0,
            "the mean of the m velocities it met": lambda i: i == 1,
            "the teacher's velocity at the end": lambda i: i == 2,
        },
        measure=one_for_many,
        result="Of the three, number {} (counted from 0) leads to the same end.",
        why="Equal steps: the way is the sum of the velocities times the length of a step.",
    ),
]
