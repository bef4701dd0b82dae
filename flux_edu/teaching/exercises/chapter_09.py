"""Exercises and questions of chapter 9, training."""

from functools import partial

import torch
from torch import Tensor

from flux_edu.schedule import time_shift
from flux_edu.teaching.exercises.chapter_01 import mu_of, tokens
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.question import Question
from flux_edu.train.objectives import logit_normal

# ---------------------------------------------------------------- 9.1


def training_pair(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    t = t.reshape(-1, 1, 1)
    return (1 - t) * x_0 + t * noise, noise - x_0


T = torch.tensor([0.1, 0.4, 0.8])
TRAINING_PAIR = Exercise(
    "9.1",
    training_pair,
    inputs=[  # as many tokens, then channels, as samples: shapes hide nothing
        (normal(3, 3, 5), normal(3, 3, 5, seed=1), T),
        (normal(3, 3, 3), normal(3, 3, 3, seed=1), T),
    ],
    mistakes={
        "your x_t has t the other way round: at t = 1 it must be the noise, at t = 0 the picture":
            lambda x_0, noise, t: training_pair(x_0, noise, 1 - t),
        "your x_t uses one noise level for the whole batch; every sample has its own":
            lambda x_0, noise, t: training_pair(x_0, noise, t[:1].expand(len(t))),
        "your target is x_0 - ε: it points to the picture, and Eq. (6.2) would walk away from it":
            lambda x_0, noise, t: (training_pair(x_0, noise, t)[0], x_0 - noise),
        "your target is the noise ε: that is what other diffusion models learn; here it is ε - x_0":
            lambda x_0, noise, t: (training_pair(x_0, noise, t)[0], noise),
    },
    advice="x_t = (1 - t) x_0 + t ε with one t a sample, target = d x_t / dt.",
)  # fmt: skip

# ---------------------------------------------------------------- 9.2


def variance(t: float, s: float) -> float:
    return (1 - t) ** 2 * s**2 + t**2


def best_guess(x_t: Tensor, t: float, s: float) -> Tensor:
    return (t - (1 - t) * s**2) / variance(t, s) * x_t


STATES = torch.tensor([-1.7, 0.3, 2.0], dtype=torch.float64)
BEST_GUESS = Exercise(
    "9.2",
    best_guess,
    inputs=[(STATES, t, s) for t, s in [(0.3, 1.0), (0.5, 2.0), (0.8, 0.4), (1.0, 0.7), (0.0, 1.3)]],
    mistakes={
        "the sign is the other way: E[ε | x_t] minus E[x_0 | x_t]": lambda x_t, t, s: -best_guess(x_t, t, s),
        "you returned E[x_0 | x_t], the picture to expect; the velocity is E[ε | x_t] minus that":
            lambda x_t, t, s: (1 - t) * s**2 / variance(t, s) * x_t,
        "you returned E[ε | x_t], the noise to expect; take E[x_0 | x_t] away from it":
            lambda x_t, t, s: t / variance(t, s) * x_t,
        "right for s = 1 only: the picture's share of the variance is (1 - t)² s²":
            lambda x_t, t, s: best_guess(x_t, t, 1.0),
    },
    advice="The covariance of target and state, divided by the variance of the state, times x_t.",
)  # fmt: skip

# ---------------------------------------------------------------- 9.3


def training_levels(normals: Tensor, a: float, c: float, width: int, height: int, *, sign: float = 1.0) -> Tensor:
    return torch.sigmoid(sign * mu_of(tokens(width, height)) + a + c * normals)


NORMALS = torch.tensor([-1.5, -0.2, 0.0, 0.9], dtype=torch.float64)
TRAINING_LEVELS = Exercise(
    "9.3",
    training_levels,
    inputs=[(NORMALS, 0.0, 1.0, 128, 128), (NORMALS, 0.3, 0.8, 1024, 768), (NORMALS, -0.5, 1.4, 1000, 512)],
    mistakes={
        "these are logits; a noise level is their sigmoid": lambda *args: torch.logit(training_levels(*args)),
        "the levels are not shifted: μ(L) is missing": partial(training_levels, sign=0),
        "the sign of μ is the other way: larger pictures are trained at higher levels":
            partial(training_levels, sign=-1),
        "you added μ to the level; it is added to the logit of the level":
            lambda normals, a, c, width, height: torch.sigmoid(a + c * normals) + mu_of(tokens(width, height)),
    },
    advice="The logits have mean μ(L) + a and deviation c; the levels are their sigmoid.",
)  # fmt: skip

# ---------------------------------------------------------------- 9.4

Captions = tuple[Tensor, Tensor]


def drop_captions(txt: Tensor, vec: Tensor, empty: Captions, drop: Tensor) -> Captions:
    return torch.where(drop[:, None, None], empty[0], txt), torch.where(drop[:, None], empty[1], vec)


def drop_inputs(drop: list[bool], L: int, C: int, vec_width: int) -> tuple:
    B = len(drop)
    empty = normal(1, L, C, seed=2), normal(1, vec_width, seed=3)
    return normal(B, L, C), normal(B, vec_width, seed=1), empty, torch.tensor(drop)


DROP_CAPTIONS = Exercise(
    "9.4",
    drop_captions,
    inputs=[drop_inputs([True, False, False, True], 4, 6, 3), drop_inputs([False, True, True], 3, 5, 7)],
    mistakes={
        "CLIP's vector still tells the caption: drop both, or the 'empty' prompt is none":
            lambda txt, vec, empty, drop: (drop_captions(txt, vec, empty, drop)[0], vec),
        "T5's states still tell the caption: drop both, or the 'empty' prompt is none":
            lambda txt, vec, empty, drop: (txt, drop_captions(txt, vec, empty, drop)[1]),
        "the captions to drop were kept and all others dropped: torch.where takes its second argument where True":
            lambda txt, vec, empty, drop: drop_captions(txt, vec, empty, ~drop),
        "you put zeros there; the sampler will pass the encoded empty text, so training must show that":
            lambda txt, vec, empty, drop: drop_captions(txt, vec, (0 * empty[0], 0 * empty[1]), drop),
    },
    advice="Where drop is True both tensors must be those of the empty text, elsewhere as they came.",
)  # fmt: skip

EXERCISES = [TRAINING_PAIR, BEST_GUESS, TRAINING_LEVELS, DROP_CAPTIONS]

# ---------------------------------------------------------------- questions


def one_step() -> float:
    x_0 = torch.randint(0, 2, (400_000,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    eps = normal(400_000, seed=1)
    bins = ((eps + 3) / 0.5).long().clamp(0, 11)  # the mean of the target ε − x_0 for every ε is what training finds
    count = torch.zeros(12).index_add_(0, bins, torch.ones_like(eps))
    best = torch.zeros(12).index_add_(0, bins, eps - x_0) / count
    ends = torch.zeros(12).index_add_(0, bins, eps) / count - best
    return float((ends.abs() * count / count.sum()).sum())


def shifted_levels() -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        t = logit_normal(0.0, 1.0, 20_000)
    return float((time_shift(1.0, 1.0, t) > 0.5).float().mean())


QUESTIONS = [
    Question(
        section="What a perfect network answers",
        text="The data are the two numbers −1 and +1, equally often. A perfectly trained network walks from noise ε to"
        " t = 0 in a single step. Where does it end?",
        choices={
            "at −1 or +1, whichever is nearer to ε": lambda distance: distance > 0.8,
            "at ε: one step is not enough": lambda distance: 0.2 <= distance <= 0.8,
            "at 0, which is no data": lambda distance: distance < 0.2,
        },
        measure=one_step,
        result="It ends {:.2f} from 0 on average.",
        why="At t = 1 the state says nothing about the data, so the best velocity is ε less their mean.",
    ),
    Question(
        section="Eq. 9.3 · The shift moves the levels of training",
        text="Training draws its levels t from a logit-normal with mean 0. Now you shift them with μ = 1. What is"
        " practised more?",
        choices={
            "high noise": lambda share: share > 0.55,
            "low noise": lambda share: share < 0.45,
            "both ends alike, the middle less": lambda share: 0.45 <= share <= 0.55,
        },
        measure=shifted_levels,
        result="{:.0%} of the levels lie above ½.",
        why="The same map as in sampling: logit t moves up by μ.",
    ),
]
