"""Exercises and questions of chapter 12, the FLUX.1 tools."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.patchify import make_img_ids, make_txt_ids, patchify
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import apart, tiny
from flux_edu.teaching.exercises.question import Question
from flux_edu.tools import fill_cond

# ---------------------------------------------------------------- 12.1


def mask_tokens(mask: Tensor) -> Tensor:
    return rearrange(mask, "b 1 (h ph p) (w pw q) -> b (h w) (p q ph pw)", ph=2, pw=2, p=8, q=8)


def read_as(token: str) -> Callable[[Tensor], Tensor]:
    """Tokens whose channels are read in another order."""
    return lambda mask: rearrange(mask, f"b 1 (h ph p) (w pw q) -> b (h w) {token}", ph=2, pw=2, p=8, q=8)


MASK_TOKENS = Exercise(
    "12.1",
    mask_tokens,
    inputs=[(normal(2, 1, 32, 48),), (normal(1, 1, 80, 32),)],
    mistakes={
        "you cut 16 × 16 squares at once: first 8 × 8 pixels become the 64 channels of a latent place, then 2 × 2"
        " places a token, channel first": read_as("(ph p pw q)"),
        "you put the 2 × 2 places before the channels; a patch is read channel first, (c ph pw)":
            read_as("(ph pw p q)"),
        "you swapped rows and columns inside the 8 × 8 squares: the row comes first, (p q)": read_as("(q p ph pw)"),
        "that is 1 − m: 1 marks what is painted anew, leave the mask as it is": lambda mask: mask_tokens(1 - mask),
    },
    advice="8 × 8 pixels → 64 channels, then patchify, Eq. (2.2).",
)  # fmt: skip

# ---------------------------------------------------------------- 12.2


def reference_ids(h: int, w: int, index: int) -> Tensor:
    return torch.stack([torch.tensor([index, row, column]) for row in range(h) for column in range(w)]).float()


REFERENCE_IDS = Exercise(
    "12.2",
    reference_ids,
    inputs=[(2, 3, 2), (5, 3, 1), (3, 2, 7)],
    mistakes={
        "the first axis is 0: then the reference stands exactly where the picture does":
            lambda h, w, index: reference_ids(h, w, 0),
        "row and column are swapped: the id is (index, row, column)": lambda *args: reference_ids(*args)[:, [0, 2, 1]],
        "you moved the reference away in its columns; only the first axis tells the pictures apart":
            lambda h, w, index: reference_ids(h, w, index) + torch.tensor([0, 0, w]),
        "the first axis is 1 whatever the index is; a second reference gets a 2":
            lambda h, w, index: reference_ids(h, w, 1),
    },
    advice="(index, row, column), row by row.",
)  # fmt: skip

EXERCISES = [MASK_TOKENS, REFERENCE_IDS]

# ---------------------------------------------------------------- questions


def mask_channels() -> int:
    z, mask = torch.zeros(1, 16, 2, 2), torch.ones(1, 1, 16, 16)
    return fill_cond(z, mask).shape[-1] - patchify(z).shape[-1]


def shuffled_picture() -> float:
    flux, text = tiny("tiny-schnell").model, normal(1, 20, 256)
    noise, ids = normal(1, 64, 64, seed=1), make_img_ids(1, 8, 8)
    order = torch.cat([torch.arange(5), 5 + torch.randperm(15, generator=torch.Generator().manual_seed(2))])
    rest = (make_txt_ids(1, 20), torch.tensor([0.6]), normal(1, 256, seed=3))
    return apart(flux(noise, ids, text, *rest), flux(noise, ids, text[:, order], *rest))


QUESTIONS = [
    Question(
        section="Eq. 12.2 · Fill: a picture with a hole",
        text="A token of Fill covers 16 × 16 pixels. How many of its channels tell which of these are to be painted?",
        choices={
            "1, a share": lambda count: count == 1,
            "64, as the latent has": lambda count: count == 64,
            "256": lambda count: count == 256,
        },
        measure=mask_channels,
        result="{:.0f} channels.",
        why="One number a pixel: 8 × 8 to a place of the latent, 2 × 2 places to a token. Nothing of the mask is lost.",
    ),
    Question(
        section="Eq. 12.4 · Redux: a picture in place of words",
        text="Redux appends the tokens of a picture to the text. Somebody shuffles them. The velocity …",
        choices={
            "stays: FLUX sees no order in them": lambda moved: moved < 1e-3,
            "changes a little": lambda moved: 1e-3 <= moved < 0.5,
            "is another one altogether": lambda moved: moved >= 0.5,
        },
        measure=shuffled_picture,
        result="It moves by {:.0e} of its length.",
        why="All text stands at the origin, where rotations are none. What had an order has to say so itself.",
    ),
]
