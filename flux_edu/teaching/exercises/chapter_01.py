"""Exercises and questions of chapter 1, the schedule."""

import math

import torch
from torch import Tensor

from flux_edu.schedule import get_lin_function, time_shift
from flux_edu.teaching.exercises.exercise import Exercise
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 1.1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def unshift(mu: float, sigma: float, t_shifted: Tensor) -> Tensor:
    return torch.sigmoid((torch.logit(t_shifted) - mu) / sigma)


LEVELS = torch.tensor([0.05, 0.2, 0.5, 0.7, 0.93], dtype=torch.float64)
UNSHIFT = Exercise(
    "1.1",
    unshift,
    inputs=[(1.15, 1.0, LEVELS), (0.8, 2.0, LEVELS[1:]), (-0.6, 0.5, LEVELS)],
    mistakes={
        "it shifts once more instead of undoing the shift: solve logit t' = μ + σ logit t for t": time_shift,
        "the μ was taken back but σ was not: the inverse has σ' = 1/σ as well":
            lambda mu, sigma, t: time_shift(-mu, sigma, t),
        "the inverse has 1/σ, but its μ' is -μ/σ, not -μ: subtract μ first, then divide all of it":
            lambda mu, sigma, t: time_shift(-mu, 1 / sigma, t),
    },
    advice="Shift your answer again with Eq. (1.3): the levels that were given must come back.",
)  # fmt: skip

# ---------------------------------------------------------------- 1.2


def mu_of(L: int) -> float:
    return 0.5 + (L - 256) * (1.15 - 0.5) / (4096 - 256)


def even(num_steps: int) -> list[float]:
    return [1 - i / num_steps for i in range(num_steps + 1)]


def shifted(num_steps: int, mu: float) -> list[float]:
    return [t * math.exp(mu) / (t * math.exp(mu) + 1 - t) for t in even(num_steps)]


def tokens(width: int, height: int) -> int:
    return math.ceil(width / 16) * math.ceil(height / 16)


def wide_picture(num_steps: int, mu: float = mu_of(96 * 40)) -> tuple[float, float]:
    return mu, shifted(num_steps, mu)[1]


WIDE_PICTURE = Exercise(
    "1.2",
    wide_picture,
    inputs=[(4,), (20,)],
    mistakes={
        "μ is right, and the first level of every schedule is 1: the question is about the next one":
            lambda num_steps: (mu_of(96 * 40), 1.0),
        "μ is right, the level is not shifted yet: multiply its odds, N - 1, by e^μ":
            lambda num_steps: (mu_of(96 * 40), 1 - 1 / num_steps),
        "you counted pixels; L is the number of tokens, one for 16 × 16 pixels":
            lambda num_steps: wide_picture(num_steps, mu_of(1536 * 640)),
        "1.15 belongs to 4096 tokens; this picture has a few less": lambda num_steps: wide_picture(num_steps, 1.15),
    },
    advice="First the tokens, then μ by Eq. 1.2, then the odds N - 1 times e^μ.",
    tolerance=1e-3,
)  # fmt: skip

# ---------------------------------------------------------------- 1.3


def my_schedule(num_steps: int, width: int, height: int) -> list[float]:
    return shifted(num_steps, mu_of(tokens(width, height)))


MY_SCHEDULE = Exercise(
    "1.3",
    my_schedule,
    inputs=[(4, 256, 256), (7, 1024, 1024), (5, 1360, 768), (1, 64, 48), (3, 100, 50)],
    mistakes={
        "a division by zero: the last level is t = 0, where 1/t has no value. Multiply numerator and denominator by t:"
        " t' = e^μ t / (e^μ t + 1 - t)": lambda N, width, height: [1 / (1 + (1 / t - 1)) for t in even(N)],
        "the levels are evenly spaced: that is right so far, the time shift of Eq. (1.3) is missing":
            lambda N, width, height: even(N),
        "a picture whose sides are no multiples of 16 still needs whole tokens: round up, ⌈width/16⌉":
            lambda N, width, height: shifted(N, mu_of((width // 16) * (height // 16))),
        "you counted pixels; L is the number of tokens, one for 16 × 16 pixels":
            lambda N, width, height: shifted(N, mu_of(width * height)),
    },
    advice="Check L, then μ(L), then Eq. (1.3), each by itself.",
)  # fmt: skip

# ---------------------------------------------------------------- 1.4


def my_slope(mu: float, sigma: float, t: float) -> float:
    s = sigmoid(mu + sigma * math.log(t / (1 - t)))
    return sigma * s * (1 - s) / (t * (1 - t))


MY_SLOPE = Exercise(
    "1.4",
    my_slope,
    inputs=[(0.0, 1.0, 0.3), (1.15, 1.0, 0.5), (1.15, 1.0, 0.9), (0.5, 2.0, 0.2), (-1.0, 0.7, 0.6)],
    mistakes={
        "a factor σ is missing, d(σ logit t) = σ d(logit t)": lambda mu, sigma, t: my_slope(mu, sigma, t) / sigma,
        "that is dt'/d(logit t); the chain rule still needs d(logit t)/dt = 1/(t(1-t))":
            lambda mu, sigma, t: my_slope(mu, sigma, t) * t * (1 - t),
        "that is dt/dt', the fraction is upside down": lambda mu, sigma, t: 1 / my_slope(mu, sigma, t),
        "σ is the slope between the logits; between t and t' it is another one": lambda mu, sigma, t: sigma,
    },
    advice="Differentiate logit t' = μ + σ logit t.",
    tolerance=1e-4,  # a numerical derivative is an answer too
)  # fmt: skip

EXERCISES = [UNSHIFT, WIDE_PICTURE, MY_SCHEDULE, MY_SLOPE]

# ---------------------------------------------------------------- questions


def measured_half_point() -> float:
    t = torch.linspace(0.001, 0.999, 4001)
    return float(t[(time_shift(1.0, 1.0, t) - 0.5).abs().argmin()])


QUESTIONS = [
    Question(
        section="Eq. 1.3 · Time shift",
        text="You raise μ from 0 to 1, with σ = 1. The curve t → t′ passes t′ = ½ at some t. Where does that point go?",
        choices={
            "to the left, to a smaller t": lambda t: t < 0.45,
            "it stays at t = ½": lambda t: 0.45 <= t <= 0.55,
            "to the right, to a larger t": lambda t: t > 0.55,
        },
        measure=measured_half_point,
        result="With μ = 1 the curve passes ½ at t = {:.3f}.",
        why="logit t′ = μ + logit t: a larger μ lifts the whole curve, so ½ is reached earlier.",
    ),
    Question(
        section="`max_shift` is no maximum",
        text="At 1024 × 1024 pixels μ is max_shift = 1.15. What is it at 2048 × 2048?",
        choices={
            "1.15: it is the maximum": lambda mu: abs(mu - 1.15) < 0.01,
            "larger than 1.15": lambda mu: mu > 1.2,
            "smaller: larger pictures need less shift": lambda mu: mu < 1.1,
        },
        measure=lambda: get_lin_function()(128 * 128),
        result="μ(16384 tokens) = {:.2f}.",
        why="μ is a straight line through two points. Nothing clamps it.",
    ),
]
