"""Exercises and questions of chapter 2, patchify."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, apart, velocity
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 2.1


def token_of_pixel(y: int, x: int, width: int) -> int:
    return (y // 16) * -(-width // 16) + x // 16


TOKEN_OF_PIXEL = Exercise(
    "2.1",
    token_of_pixel,
    inputs=[(37, 50, 176), (40, 90, 100), (0, 0, 64), (0, 17, 64), (16, 0, 64), (95, 1, 112)],
    mistakes={
        "a width that is no multiple of 16 still needs whole tokens: round up":
            lambda y, x, width: (y // 16) * (width // 16) + x // 16,
        "that counts places of the latent, 8 × 8 pixels; a token has 16 × 16":
            lambda y, x, width: (y // 8) * -(-width // 8) + x // 8,
        "rows and columns are exchanged: tokens run row by row, y // 16 rows come first":
            lambda y, x, width: (x // 16) * -(-width // 16) + y // 16,
        "a row holds ⌈width/16⌉ tokens, not width": lambda y, x, width: (y // 16) * width + x // 16,
    },
    advice="Count the full rows above, then add the place in this row.",
)  # fmt: skip

# ---------------------------------------------------------------- 2.2


def my_patchify(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // 2, 2, w // 2, 2)  # b c h ph w pw
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


MY_PATCHIFY = Exercise(
    "2.2",
    my_patchify,
    inputs=[(normal(2, 3, 10, 14),), (normal(1, 5, 6, 22),)],
    mistakes={
        "the channel must come first inside a token: (c ph pw), not (ph pw c)":
            lambda x: rearrange(x, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=2, pw=2),
        "ph and pw are exchanged: inside a channel read row by row":
            lambda x: rearrange(x, "b c (h ph) (w pw) -> b (h w) (c pw ph)", ph=2, pw=2),
        "the tokens run column by column; they must run row by row, (h w)":
            lambda x: rearrange(x, "b c (h ph) (w pw) -> b (w h) (c ph pw)", ph=2, pw=2),
        "a plain reshape has the right shape and cuts the picture into strips; the axes must be permuted in between":
            lambda x: x.reshape(my_patchify(x).shape),
    },
    advice="Split to (b, c, h, ph, w, pw), permute to (b, h, w, c, ph, pw), then join.",
)  # fmt: skip

# ---------------------------------------------------------------- 2.3


def repair(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b l (ph pw c) -> b l (c ph pw)", ph=2, pw=2)


REPAIR = Exercise(
    "2.3",
    repair,
    inputs=[(normal(2, 5, 28),), (normal(3, 2, 20),)],
    mistakes={
        "the tokens came back unchanged": lambda tokens: tokens,
        "you applied the mistake a second time: the left side of the pattern says what is there, (ph pw c)":
            lambda tokens: rearrange(tokens, "b l (c ph pw) -> b l (ph pw c)", ph=2, pw=2),
        "the channel is first now, but ph and pw are exchanged":
            lambda tokens: rearrange(tokens, "b l (ph pw c) -> b l (c pw ph)", ph=2, pw=2),
    },
    advice="From (ph pw c) to (c ph pw), and the tokens themselves stay in place.",
)  # fmt: skip

# ---------------------------------------------------------------- 2.4


def broken_one(noise: Tensor, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, vec: Tensor) -> str:
    h, w = noise.shape[2] // 2, noise.shape[3] // 2
    right = {"img": patchify(noise), "img_ids": make_img_ids(1, h, w), "txt_ids": make_txt_ids(1, txt.shape[1])}
    for name, made in {"img": img, "img_ids": img_ids, "txt_ids": txt_ids}.items():
        if not torch.equal(made, right[name]):
            return name
    return "vec" if vec.ndim != 2 else "txt"


def five(h: int, w: int, name: str, spoil: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """A latent of h × w tokens and what `prepare` makes of it, one of the five spoiled."""
    noise = normal(1, 16, 2 * h, 2 * w)
    made = {"img": patchify(noise), "img_ids": make_img_ids(1, h, w), "txt": normal(1, 5, 7)}
    made |= {"txt_ids": make_txt_ids(1, 5), "vec": normal(1, 6)}
    return noise, *(made | {name: spoil(made[name])}).values()


def not_seeing(blind: Callable[..., bool]) -> Callable[..., str]:
    """A test that takes one kind of spoiled set for a whole one and is left with the text."""
    return lambda *tensors: "txt" if blind(*tensors) else broken_one(*tensors)


BROKEN_ONE = Exercise(
    "2.4",
    broken_one,
    inputs=[
        five(3, 5, "img", lambda x: rearrange(x, "b l (c ph pw) -> b l (ph pw c)", ph=2, pw=2)),
        five(4, 3, "img_ids", lambda ids: ids[..., [0, 2, 1]]),
        five(1, 300, "img_ids", lambda ids: ids.bfloat16().float()),
        five(2, 5, "txt_ids", lambda ids: ids + torch.arange(5.0)[None, :, None]),
        five(5, 2, "txt", lambda txt: txt.where(txt < txt.max(), torch.nan)),
        five(2, 3, "vec", lambda vec: vec[:, None].expand(-1, 5, -1)),
    ],
    mistakes={
        "the same numbers in another order are another patch: compare img with `patchify(noise)`, not its sum or shape":
            not_seeing(lambda noise, img, *rest: not torch.equal(img, patchify(noise))),
        "an id is (0, row, column): in one of the sets row and column are exchanged":
            not_seeing(lambda noise, img, ids, *rest: ids.shape[1] == 12 and ids[0, 1, 1] == 1),
        "look at the wide picture: through bfloat16 the columns from 257 on fall together":
            not_seeing(lambda noise, img, ids, *rest: ids.shape[1] == 300),
        "text stands at the origin, all of it: `make_txt_ids`": not_seeing(lambda *tensors: bool(tensors[4].any())),
        "CLIP gives one vector a prompt, not one a token": not_seeing(lambda *tensors: tensors[5].ndim != 2),
    },
    advice="Make img, img_ids and txt_ids yourself from noise and the length of txt, and compare.",
)  # fmt: skip

EXERCISES = [TOKEN_OF_PIXEL, MY_PATCHIFY, REPAIR, BROKEN_ONE]

# ---------------------------------------------------------------- questions


def wrong_twice() -> float:
    x = normal(1, 16, 4, 6)
    wrong = rearrange(x, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=2, pw=2)
    back = rearrange(wrong, "b (h w) (ph pw c) -> b c (h ph) (w pw)", h=2, ph=2, pw=2)
    return float((back - x).abs().max())


def shuffled_tokens() -> float:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    img, ids = patchify(get_noise(1, 128, 128, "cpu", torch.float32, 0)), make_img_ids(1, 8, 8)
    shuffled = velocity(CATS, img=img[:, order], img_ids=ids[:, order])
    return apart(shuffled, velocity(CATS)[:, order])


QUESTIONS = [
    Question(
        section="Wrong orders load silently",
        text="You cut a latent into patches in the wrong order, (ph pw c), and put it together again in the same wrong"
        " order. Is the latent what it was?",
        choices={"yes, exactly": lambda off: off == 0, "no, patches are scrambled": lambda off: off > 0.1},
        measure=wrong_twice,
        result="Largest difference: {}.",
        why="Two equal mistakes undo each other, so no round trip finds this one. Only the trained network notices.",
    ),
    Question(
        section="Eq. 2.4 · Image ids",
        text="You shuffle the image tokens of a noisy picture and their ids in the same way. What happens to the"
        " velocity of each token?",
        choices={
            "nothing: it goes with its token": lambda moved: moved < 1e-3,
            "it changes: tokens now have other neighbours": lambda moved: moved > 0.01,
        },
        measure=shuffled_tokens,
        result="The velocities, put back in order, differ by {:.1e} of their length.",
        why="A token's place is its id and not its number in the sequence.",
    ),
]
