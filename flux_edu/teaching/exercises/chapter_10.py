"""Exercises and questions of chapter 10, guidance distillation."""

import torch
from torch import Tensor

from flux_edu.sampling import guide
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, apart, velocity
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 10.1


def student_target(v_uncond: Tensor, v_cond: Tensor, w: Tensor) -> Tensor:
    return v_uncond + w[:, None, None] * (v_cond - v_uncond)


GUIDANCE = torch.tensor([1.5, 3.0, 5.0])
STUDENT_TARGET = Exercise(
    "10.1",
    student_target,
    inputs=[  # as many tokens and channels, then channels alone, as samples: shapes hide nothing
        (normal(3, 3, 3), normal(3, 3, 3, seed=1), GUIDANCE),
        (normal(2, 2, 2), normal(2, 2, 2, seed=1), GUIDANCE[1:]),
    ],
    mistakes={
        "every channel got its own w: w belongs to the samples, give it the shape (B, 1, 1)":
            lambda v_uncond, v_cond, w: v_uncond + w * (v_cond - v_uncond),
        "the two passes are swapped: that walks away from the caption":
            lambda v_uncond, v_cond, w: student_target(v_cond, v_uncond, w),
        "you began at v_c: that is 1 + w in Eq. (10.1), where w = 1 is the prompted velocity":
            lambda v_uncond, v_cond, w: student_target(v_uncond, v_cond, 1 + w),
        "you multiplied the prompted velocity alone; only the difference is stretched":
            lambda v_uncond, v_cond, w: w[:, None, None] * v_cond,
    },
    advice="The target is v_∅ + w (v_c - v_∅), with one w a sample; it has the shape of v_c.",
)  # fmt: skip

# ---------------------------------------------------------------- 10.2


def relative_loss(v: Tensor, v_w: Tensor) -> Tensor:
    return ((v - v_w).square().mean(dim=(1, 2)) / v_w.square().mean(dim=(1, 2))).mean()


STRETCH = torch.tensor([1.0, 4.0, 0.5])[:, None, None]
RELATIVE_LOSS = Exercise(
    "10.2",
    relative_loss,
    inputs=[
        (normal(3, 5, 7), normal(3, 5, 7, seed=1) * STRETCH),
        (normal(2, 3, 11), normal(2, 3, 11, seed=1) * STRETCH[:2]),
    ],
    mistakes={
        "this is the plain mean square: samples with a strong guidance would drown all others":
            lambda v, v_w: (v - v_w).square().mean(),
        "you divided after the mean over the batch: long velocities still weigh most. Divide for each sample first":
            lambda v, v_w: (v - v_w).square().mean() / v_w.square().mean(),
        "you divided by the student's length: it could lower the loss by answering long":
            lambda v, v_w: relative_loss(v_w, v),
    },
    advice="‖v - v_w‖² / ‖v_w‖² a sample, then their mean.",
)  # fmt: skip

EXERCISES = [STUDENT_TARGET, RELATIVE_LOSS]

# ---------------------------------------------------------------- questions


def neutral_guidance() -> int:
    empty, prompted = normal(1, 4, 5), normal(1, 4, 5, seed=1)
    return min((0, 1, 3), key=lambda w: float((guide(empty, prompted, float(w)) - prompted).norm()))


QUESTIONS = [
    Question(
        section="Eq. 10.1 · What the student is to learn",
        text="v_w = v_∅ + w (v_c − v_∅). Which w gives the prompted network as it is?",
        choices={"w = 0": lambda w: w == 0, "w = 1": lambda w: w == 1, "w = 3": lambda w: w == 3},
        measure=neutral_guidance,
        result="The nearest to v_c is w = {}.",
        why="At w = 0 the prompt is ignored; above 1 the network is pushed further than it would go by itself.",
    ),
    Question(
        section="The trained tiny dev",
        text="The distilled tiny-dev is asked once a step. You turn its w from 1 to 6. Does its velocity change?",
        choices={
            "no: guidance needs a second pass": lambda moved: moved < 1e-3,
            "yes: w is an input like the time": lambda moved: moved > 0.01,
        },
        measure=lambda: apart(velocity(CATS, name="tiny-dev", w=6.0), velocity(CATS, name="tiny-dev", w=1.0)),
        result="It moves by {:.0%} of its length.",
        why="It has learned to say what two passes of its teacher would have said for this w.",
    ),
]
