"""Exercises and questions of chapter 7, the text encoders."""

import torch
from torch import Tensor

from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, tiny, velocity
from flux_edu.teaching.exercises.question import Question

PAD, END = 0, 1

# ---------------------------------------------------------------- 7.1


def fit(ids: list[int], length: int) -> list[int]:
    return [*ids[: length - 1], END] + [PAD] * (length - 1 - len(ids))


FIT = Exercise(
    "7.1",
    fit,
    inputs=[([7, 8], 6), ([], 4), ([5, 6, 7], 4), ([5, 6, 7, 8], 4), (list(range(2, 29)), 5)],
    mistakes={
        "the end token was cut off, and CLIP pools there: cut the words to length - 1 first":
            lambda ids, length: ([*ids, END] + [PAD] * length)[:length],
        "you padded with the end token, as the published CLIP does; here padding is 0":
            lambda ids, length: [*ids[: length - 1], END] + [END] * (length - 1 - len(ids)),
        "the end token comes directly after the words, the padding after it":
            lambda ids, length: [*ids[: length - 1], *[PAD] * (length - 1 - len(ids)), END],
    },
    advice="First the words, then one end token, then padding.",
)  # fmt: skip

# ---------------------------------------------------------------- 7.2


def t5_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return (q @ k.mT + bias).softmax(dim=-1) @ v


def attention_inputs(B: int, H: int, L: int, D: int) -> tuple[Tensor, ...]:
    return *(normal(B, H, L, D, seed=seed) for seed in (1, 2, 3)), normal(H, L, L)


T5_ATTENTION = Exercise(
    "7.2",
    t5_attention,
    inputs=[attention_inputs(2, 3, 7, 5), attention_inputs(1, 2, 5, 11)],
    mistakes={
        "you divided by the root of the head dimension, as FLUX does; T5 does not, its weights carry that factor":
            lambda q, k, v, bias: t5_attention(q / q.shape[-1] ** 0.5, k, v, bias),
        "the bias is missing: without it T5 does not know the order of the words":
            lambda q, k, v, bias: t5_attention(q, k, v, 0 * bias),
        "the bias is added to the weights; it belongs to the scores, before the softmax":
            lambda q, k, v, bias: ((q @ k.mT).softmax(-1) + bias) @ v,
        "the bias is transposed: its rows are the tokens that look, its columns those looked at":
            lambda q, k, v, bias: t5_attention(q, k, v, bias.mT),
    },
    advice="Softmax over the last axis of q kᵀ + bias, then times v.",
)  # fmt: skip

# ---------------------------------------------------------------- 7.3


def first_end(ids: Tensor, end: int) -> Tensor:
    return (ids == end).int().argmax(dim=1)


def state_at(states: Tensor, place: Tensor) -> Tensor:
    return states[torch.arange(len(states)), place]


def pool(states: Tensor, ids: Tensor, end: int) -> Tensor:
    return state_at(states, first_end(ids, end))


# the numbers of some words are larger than that of the end token, and some texts are padded with the end token
TEXTS = torch.tensor([[3, 9, 4, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0], [8, 2, 9, 4, 4, 4, 4]])
POOL = Exercise(
    "7.3",
    pool,
    inputs=[(normal(3, 7, 5), TEXTS, 4), (normal(2, 5, 3), torch.tensor([[6, 2, 2, 2, 2], [5, 7, 9, 2, 0]]), 2)],
    mistakes={
        "you took the last state; behind a short text that is padding": lambda states, ids, end: states[:, -1],
        "you took the first state, as BERT does; with a causal mask it has seen nothing but itself":
            lambda states, ids, end: states[:, 0],
        "you took the token of the largest number; here the end token is not the largest, compare with `end`":
            lambda states, ids, end: state_at(states, ids.argmax(1)),
        "with end tokens as padding there are several: take the first, not the last":
            lambda states, ids, end: state_at(states, ids.shape[1] - 1 - first_end(ids.flip(1), end)),
    },
    advice="Find the first place where ids == end in every row, take that state.",
)  # fmt: skip

EXERCISES = [FIT, T5_ATTENTION, POOL]

# ---------------------------------------------------------------- questions


def whose_order() -> float:
    other = CATS.replace("cat", "?").replace("dog", "cat").replace("?", "dog")
    at_t5, at_clip = velocity(CATS), velocity(other)
    mixed = velocity(CATS, vec=tiny().clip([other]))
    way = at_clip - at_t5
    return float(((mixed - at_t5) * way).sum() / way.square().sum())


def long_text() -> int:
    try:
        return tiny().t5(["cat " * 100]).shape[1]
    except ValueError:
        return -1


QUESTIONS = [
    Question(
        section="Where order comes from",
        text="T5 reads “a 3d cat face left of a dog face”, CLIP “a 3d dog face left of a cat face”, with the same"
        " background. T5 gives one vector a word, CLIP one for the whole text. Whose order does the tiny FLUX's"
        " velocity follow?",
        choices={
            "T5's": lambda share: share < 0.2,
            "CLIP's": lambda share: share > 0.8,
            "neither: it lies half-way": lambda share: 0.2 <= share <= 0.8,
        },
        measure=whose_order,
        result="It goes {:.0%} of the way from T5's order to CLIP's.",
        why="Either could carry the order. Trained together, in this model CLIP does; T5's vectors name the things.",
    ),
    Question(
        section="77 and 512: what is cut off",
        text="The tiny T5 reads 32 tokens. You give it a text of 100 words. What do you get?",
        choices={
            "100 or more vectors": lambda count: count >= 100,
            "32 vectors, the rest of the text is cut": lambda count: count == 32,
            "an error": lambda count: count < 0,
        },
        measure=long_text,
        result="It gave {} vectors (and a warning).",
        why="The number of text tokens is fixed. What does not fit is cut off at the end, and the package says so.",
    ),
]
