"""Exercises of chapter 14, the errata: predict what the wrong forms do. The chapter asks no questions beside them."""

from torch import Tensor

from flux_edu.teaching.exercises.exercise import Exercise, normal

# ---------------------------------------------------------------- 14.1


def whole_products(num_steps: int) -> list[int]:
    return [p for p in range(101) if (100 - p) * num_steps % 100 == 0]


def float_traps(num_steps: int) -> list[int]:
    return [p for p in whole_products(num_steps) if int((1 - p / 100) * num_steps) != (100 - p) * num_steps // 100]


FLOAT_TRAPS = Exercise(
    "14.1",
    float_traps,
    inputs=[(50,), (20,), (28,), (25,)],
    mistakes={
        "there are none in yours. Compute (1 - p / 100) * N in floating point, as the reference does; in whole numbers"
        " nothing goes wrong": lambda num_steps: [],
        "some of yours are strengths where (1 - ς) N is no whole number. There rounding and cutting differ by intent;"
        " keep those where (100 - p) N is a multiple of 100": lambda num_steps: [
            p for p in range(101) if int((1 - p / 100) * num_steps) != round((100 - p) * num_steps / 100)
        ],
        "right strengths; give them in per cent, as whole numbers": lambda num_steps: [
            p / 100 for p in float_traps(num_steps)
        ],
        "these are the strengths where int() is right; asked are those where it is not": lambda num_steps: [
            p for p in whole_products(num_steps) if p not in float_traps(num_steps)
        ],
    },
    advice="Compare int((1 - p / 100) * N) with (100 - p) * N // 100, for whole products alone.",
)  # fmt: skip

# ---------------------------------------------------------------- 14.2


def where_it_ends(x_0: Tensor, noise: Tensor) -> Tensor:
    return noise + (noise - x_0)


WHERE_IT_ENDS = Exercise(
    "14.2",
    where_it_ends,
    inputs=[(normal(3, 5), normal(3, 5, seed=1)), (normal(2, 7), normal(2, 7, seed=1))],
    mistakes={
        "that is where the right sign ends, at the picture; the notes' factor t_n - t_next is positive":
            lambda x_0, noise: x_0,
        "that is where the walk begins; over all steps the factors add up to 1, not to 0": lambda x_0, noise: noise,
        "that is v itself, how far it walks; add where it begins": lambda x_0, noise: noise - x_0,
    },
    advice="From ε it walks along v = ε - x_0, and the factors t_n - t_next of all steps add up to 1.",
)  # fmt: skip

EXERCISES = [FLOAT_TRAPS, WHERE_IT_ENDS]
QUESTIONS = ()
