"""The notes on preparing picture and prompt."""

import inspect

import torch

from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, prepare
from flux_edu.teaching.errata.arguments import small_flux, small_inputs
from flux_edu.teaching.errata.entry import Check


def signature_notes():
    return ["self", "img", "prompt"]


def signature_right():
    return list(inspect.signature(prepare).parameters)


def three_texts(prompts: list[str]) -> torch.Tensor:
    """A stand-in for a text encoder: a row of zeros a prompt."""
    return torch.zeros(len(prompts), 4, 8)


def batch_notes():
    img, txt = torch.zeros(2, 16, 4, 4), three_texts(["a", "b", "c"])  # repeats only what is 1 long
    return f"{len(img)} pictures with {len(txt)} texts"


def batch_right():
    try:
        return prepare(three_texts, three_texts, torch.zeros(2, 16, 4, 4), ["a", "b", "c"])["img"].shape
    except AssertionError:
        return "refused"


def encoders_notes():
    return "one vector a text", "one vector a token"  # global, local


def encoders_right():
    t5, clip = tiny_embedders(TINY_FOLDER / "tokenizer.json", 32)
    prepared = prepare(t5, clip, torch.zeros(1, 16, 4, 4), ["a fox", "a cat"])
    kinds = {(2, 256): "one vector a text", (2, 32, 256): "one vector a token"}
    return [kinds[tuple(prepared[name].shape)] for name in ("vec", "txt")]


def moved_by_shuffling(txt_ids: torch.Tensor) -> bool:
    """Whether the velocity of the image notices that text tokens change places."""
    inputs, vec = small_inputs(), torch.randn(1, 7)
    model, order = small_flux(), [2, 0, 1]
    both = [model(inputs["img"], inputs["img_ids"], txt, txt_ids, torch.ones(1), vec)
            for txt in (inputs["txt"], inputs["txt"][:, order])]  # fmt: skip
    return not torch.allclose(*both, atol=1e-5)


def order_notes():
    counted = make_txt_ids(1, 3)
    counted[..., 2] = torch.arange(3)  # a place of its own for every text token
    return moved_by_shuffling(counted)


def order_right():
    return moved_by_shuffling(make_txt_ids(1, 3))


def pieces_notes():
    return (1024 // 2) * (1024 // 2)


def pieces_right():
    return patchify(get_noise(1, 1024, 1024, "cpu", torch.float32, seed=0)).shape[1]


def numbers_notes():
    return [[width * row + column for row, column in ((2, 1), (1, 1))] for width in (4, 7)]


def step_down(ids) -> list:
    """From the second to the third row, in the second column, of pictures 4 and 7 tokens wide."""
    return [below - above for below, above in ids]


def serial_notes():
    return step_down(numbers_notes())


def serial_right():
    grids = [make_img_ids(1, 3, width).reshape(3, width, 3) for width in (4, 7)]
    return step_down([(grid[2, 1], grid[1, 1]) for grid in grids])


CHECKS = [
    Check(29, "imprecise", "arguments of prepare", signature_notes, signature_right, ("t5", "clip", "img", "prompt")),
    Check(38, "missing", "two pictures, three prompts", batch_notes, batch_right, "refused", speaker="the reference"),
    Check(32, "right", "vec and txt", encoders_notes, encoders_right, ("one vector a text", "one vector a token")),
    Check(
        28,
        "missing",
        "shuffling text tokens changes the velocity",
        order_notes,
        order_right,
        False,
        (moved_by_shuffling,),
        "a guess",
    ),
    Check(26, "imprecise", "tokens of 1024 × 1024 pixels", pieces_notes, pieces_right, 4096),
    Check(27, "imprecise", "one step down, 4 and 7 tokens wide", serial_notes, serial_right, ((0, 1, 0), (0, 1, 0))),
]
