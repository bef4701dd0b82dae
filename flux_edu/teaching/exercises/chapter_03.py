"""Exercises and questions of chapter 3: wavelengths, rotation by real pairs, ids of a reference, half-split pairs."""

import math

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.attention import attention_weights
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.rope import EmbedND, rope_frequencies
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import MOVES
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 3.1


def wavelengths(dim: int, theta: float) -> Tensor:
    return 2 * math.pi / rope_frequencies(dim, theta)


WAVELENGTHS = Exercise(
    "3.1",
    wavelengths,
    inputs=[(56, 10_000.0), (14, 700.0)],
    mistakes={
        "you gave 1/ω_j: that turns one radian, a full turn has 2π of them": lambda *args: 1 / rope_frequencies(*args),
        "you gave 2π ω_j: a wavelength is 2π divided by the frequency":
            lambda dim, theta: 2 * math.pi * rope_frequencies(dim, theta),
        "you gave the frequencies ω_j; the wavelength is 2π / ω_j": rope_frequencies,
        "your exponent is j/dim: Eq. (3.1) has 2j/dim, so that the pairs of one axis span all of θ":
            lambda dim, theta: 2 * math.pi * theta ** (torch.arange(dim // 2) / dim),
    },
    advice="A full turn is 2π, and pair j turns by ω_j at every token.",
    tolerance=1e-4,
)  # fmt: skip

# ---------------------------------------------------------------- 3.2


def interleave(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=-1).flatten(-2)


def rotate_pairs(x: Tensor, pos: Tensor, theta: float) -> Tensor:
    a, b = x[:, 0::2], x[:, 1::2]
    angle = pos[:, None] * rope_frequencies(x.shape[1], theta).to(x.dtype)
    return interleave(angle.cos() * a - angle.sin() * b, angle.sin() * a + angle.cos() * b)


def half_split(x: Tensor, pos: Tensor, theta: float) -> Tensor:
    """Channel j is turned with channel j + K/2."""
    turned = rotate_pairs(interleave(*x.chunk(2, dim=1)), pos, theta)
    return torch.cat([turned[:, 0::2], turned[:, 1::2]], dim=1)


POSITIONS = torch.tensor([0.0, 1, 2, 11, 30], dtype=torch.float64)
ROTATE_PAIRS = Exercise(
    "3.2",
    rotate_pairs,
    inputs=[(normal(5, 14).double(), POSITIONS, 700.0), (normal(3, 6).double(), POSITIONS[1:4], 50.0)],
    mistakes={
        "you paired channel j with j + K/2, half-split, as transformers' Llama does; FLUX pairs the neighbours 2j and"
        " 2j+1": half_split,
        "the rotation is right, but all first halves now stand before all second halves: interleave the pairs again":
            lambda x, pos, theta: rearrange(rotate_pairs(x, pos, theta), "l (j half) -> l (half j)", half=2),
        "you turned the wrong way round: (a, b) becomes (cos a - sin b, sin a + cos b)":
            lambda x, pos, theta: rotate_pairs(x, -pos, theta),
        "every token turned by ω_j alone: the angle is position times frequency":
            lambda x, pos, theta: rotate_pairs(x, torch.ones_like(pos), theta),
    },
    advice="Go through R(p) x of Eq. (3.3) for one pair.",
)  # fmt: skip

# ---------------------------------------------------------------- 3.3


def kontext_ids(h: int, w: int) -> Tensor:
    target, reference = make_img_ids(1, h, w), make_img_ids(1, h, w)
    reference[..., 0] = 1
    return torch.cat([target, reference], dim=1)


KONTEXT_IDS = Exercise(
    "3.3",
    kontext_ids,
    inputs=[(3, 5), (7, 2)],
    mistakes={
        "row and column are swapped: an id is (axis 0, row, column)": lambda h, w: kontext_ids(h, w)[..., [0, 2, 1]],
        "the order is the other way: the picture being painted comes first and keeps 0 on axis 0":
            lambda h, w: kontext_ids(h, w).roll(h * w, dims=1),
        "both pictures have the same ids: every token of the reference would be confused with the one it stands on;"
        " axis 0 tells them apart": lambda h, w: make_img_ids(1, h, w).repeat(1, 2, 1),
        "axis 0 of the reference is still 0 and its columns are moved instead: FLUX.1 Kontext keeps the places and sets"
        " axis 0 to 1": (
                lambda h, w: torch.cat([make_img_ids(1, h, w), make_img_ids(1, h, w) + torch.tensor([0, 0, w])], dim=1)
            ),
    },
    advice="First the ids (0, row, column), then (1, row, column).",
)  # fmt: skip

# ---------------------------------------------------------------- 3.4


def halves_to_neighbours(W: Tensor) -> Tensor:
    return rearrange(W, "(half j) d -> (j half) d", half=2)


HALVES_TO_NEIGHBOURS = Exercise(
    "3.4",
    halves_to_neighbours,
    inputs=[(normal(12, 7),), (normal(10, 3),)],
    mistakes={
        "the rows have not moved: channel j + K/2 must become the neighbour of channel j": lambda W: W,
        "that is the way back, from adjacent pairs to halves: new row 2j is old row j, new row 2j+1 is old row j + K/2"
        "": lambda W: rearrange(W, "(j half) d -> (half j) d", half=2),
        "right but for one row: the pairs begin with an even channel": lambda W: halves_to_neighbours(W).roll(1, 0),
    },
    advice="Only the order of the rows may change: new row 2j is old row j, new row 2j+1 is old row j + K/2.",
)  # fmt: skip

EXERCISES = [WAVELENGTHS, ROTATE_PAIRS, KONTEXT_IDS, HALVES_TO_NEIGHBOURS]

# ---------------------------------------------------------------- questions


def scores(rows_down: float) -> Tensor:
    """Scores of a text token at 0 and of four image tokens among themselves, the image moved down by so many rows."""
    ids = make_img_ids(1, 2, 2)
    ids[..., 1] += rows_down
    pe = EmbedND(24, 10_000, (8, 8, 8))(torch.cat([make_txt_ids(1, 1), ids], dim=1))
    q, k = normal(1, 1, 5, 24), normal(1, 1, 5, 24, seed=1)
    return attention_weights(q, k, pe)[0, 0].log()  # the differences within a row are those of the scores


def moved_image() -> float:
    a, b = (scores(rows)[1:, 1:] for rows in (0, 5))
    return float(((a - a[:, :1]) - (b - b[:, :1])).abs().max())


def moved_from_text() -> float:
    a, b = (scores(rows)[1:] for rows in (0, 5))
    return float(((a[:, :1] - a[:, 1:2]) - (b[:, :1] - b[:, 1:2])).abs().max())


QUESTIONS = [
    Question(
        section="Eq. 3.5 · Only differences count",
        text="You add 5 to the row of every image token. What happens to the scores between image tokens?",
        choices=MOVES,
        measure=moved_image,
        result="They move by {:.1e}.",
        why="A rotated query and a rotated key see only the difference of their positions.",
    ),
    Question(
        section="Three consequences",
        text="The same: 5 more for the row of every image token. And the scores between image and text?",
        choices=MOVES,
        measure=moved_from_text,
        result="They move by {:.2f}.",
        why="Text tokens stay at (0, 0, 0), so their distance to the image changes.",
    ),
]
