"""Exercises of chapter 7, the text encoders."""

from collections.abc import Callable

import torch
from torch import Tensor

PAD, END = 0, 1


# ---------------------------------------------------------------- 7.1


def fit(ids: list[int], length: int) -> list[int]:
    return [*ids[: length - 1], END] + [PAD] * (length - 1 - len(ids))


def check_fit(answer: Callable[[list[int], int], list[int]]) -> None:
    for ids, length in [([7, 8], 6), ([], 4), ([5, 6, 7], 4), ([5, 6, 7, 8], 4), (list(range(2, 30)), 5)]:
        got, right, asked = answer(list(ids), length), fit(ids, length), f"fit({ids}, {length})"
        assert got is not None, "your function returned nothing: did you forget `return`?"
        got = [int(i) for i in got]
        if got == right:
            continue
        assert len(got) == length, f"{asked} has {len(got)} numbers, expected {length}: all texts get the same length"
        assert END in got, (
            f"{asked} = {got}: the end token was cut off, and CLIP pools there: cut the words to length - 1 first"
        )
        assert got != [*ids[: length - 1], *[END] * (length - min(len(ids), length - 1))], (
            f"{asked} = {got}: you padded with the end token, as the published CLIP does; here padding is {PAD}"
        )
        assert got[0] != PAD, f"{asked} = {got}: the padding belongs behind the text, not before it"
        assert got[-1] != END, f"{asked} = {got}: the end token comes directly after the words, the padding after it"
        raise AssertionError(f"{asked} = {got}, expected {right}: words, one end token, padding")


# ---------------------------------------------------------------- 7.2


def pool(states: Tensor, ids: Tensor, end: int) -> Tensor:
    place = (ids == end).int().argmax(dim=1)  # the first of them
    return states[torch.arange(len(ids)), place]


def check_pool(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    states = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(7))
    # the numbers of some words are larger than that of the end token, and one text is padded with the end token
    ids = torch.tensor([[3, 9, 4, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0], [8, 2, 9, 4, 4, 4, 4]])
    got = answer(states.clone(), ids.clone(), 4)
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor), f"your function returned a {type(got).__name__}, expected a tensor"
    assert got.shape == (3, 5), (
        f"pool gave shape {tuple(got.shape)}, expected (3, 5): one vector a text. A single index for the sequence axis"
        " takes the same place of all texts, and a slice keeps the axis"
    )
    right, rows = pool(states, ids, 4), torch.arange(3)
    if torch.allclose(got, right, atol=1e-6):
        return
    first = (ids == 4).int().argmax(dim=1)
    last = 6 - (ids == 4).int().flip(1).argmax(dim=1)
    for told, wrong in [
        ("you took the last state; behind a short text that is padding", states[:, -1]),
        ("you took the first state, as BERT does; with a causal mask it has seen nothing but itself", states[:, 0]),
        ("that is the mean over all states; CLIP takes one of them", states.mean(1)),
        ("you took the token of the largest number; here the end token is not the largest, compare with `end`",
         states[rows, ids.argmax(1)]),
        ("with end tokens as padding there are several: take the first, not the last", states[rows, last]),
        ("you took the state before the end token; it has not seen that the text is over", states[rows, first - 1]),
    ]:  # fmt: skip
        assert not torch.allclose(got, wrong, atol=1e-6), told
    raise AssertionError(
        "right shape, wrong states: find the first place where ids == end in every row, take that state"
    )


# ---------------------------------------------------------------- 7.3


def t5_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return (q @ k.mT + bias).softmax(dim=-1) @ v


def check_t5_attention(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, 7, 5, generator=generator) for _ in range(3))
    bias = torch.randn(3, 7, 7, generator=generator)
    got = answer(q.clone(), k.clone(), v.clone(), bias.clone())
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor), f"your function returned a {type(got).__name__}, expected a tensor"
    assert got.shape == (2, 3, 7, 5), f"the output has shape {tuple(got.shape)}, expected (2, 3, 7, 5), the shape of v"
    if torch.allclose(got, t5_attention(q, k, v, bias), atol=1e-5):
        return
    scores = q @ k.mT
    for told, wrong in [
        ("you divided by the root of the head dimension, as FLUX does; T5 does not, its weights carry that factor",
         (scores / 5**0.5 + bias).softmax(-1) @ v),
        ("you divided scores and bias by the root of the head dimension; T5 divides by nothing",
         ((scores + bias) / 5**0.5).softmax(-1) @ v),
        ("the bias is missing: without it T5 does not know the order of the words", scores.softmax(-1) @ v),
        ("the bias is added to the weights; it belongs to the scores, before the softmax",
         (scores.softmax(-1) + bias) @ v),
        ("you subtracted the bias; it is added", (scores - bias).softmax(-1) @ v),
        ("the bias is transposed: its rows are the tokens that look, its columns those looked at",
         (scores + bias.mT).softmax(-1) @ v),
        ("the softmax runs over the tokens that look; it must run over those looked at, dim=-1",
         (scores + bias).softmax(-2) @ v),
    ]:  # fmt: skip
        assert not torch.allclose(got, wrong, atol=1e-5), told
    raise AssertionError("right shape, wrong numbers: softmax over the last axis of q kᵀ + bias, then times v")


CHECKS = {"7.1": check_fit, "7.2": check_pool, "7.3": check_t5_attention}
SOLUTIONS = {"7.1": fit, "7.2": pool, "7.3": t5_attention}
