"""Exercises and questions of chapter 15, the attention atlas."""

import math
from functools import cache

import torch
from torch import Tensor

from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, tiny
from flux_edu.teaching.exercises.question import Question
from flux_edu.teaching.labs import attention_maps

Grid = tuple[int, int]


def weights(H: int, L: int, seed: int) -> Tensor:
    """Attention of a small picture, uneven enough that no two mistakes look alike."""
    return (2 * normal(H, L, L, seed=seed)).softmax(dim=-1)


# ---------------------------------------------------------------- 15.1


def shares(A: Tensor, L_txt: int) -> Tensor:
    rows = A[:, :L_txt].mean(1), A[:, L_txt:].mean(1)
    return torch.stack([torch.stack([row[:, :L_txt].sum(-1), row[:, L_txt:].sum(-1)], -1) for row in rows], -2)


SHARES = Exercise(
    "15.1",
    shares,
    inputs=[(weights(2, 17, 0), 5), (weights(3, 13, 1), 7)],
    mistakes={
        "rows and columns are exchanged: a row of the answer is one kind of query, a column what it takes from":
            lambda A, L_txt: shares(A, L_txt).mT,
        "queries and keys are exchanged: a query is a row of A, its weights lie along the last axis":
            lambda A, L_txt: shares(A.mT, L_txt),
        "these are sums over all queries; take the mean over the queries, so that a row sums to 1":
            lambda A, L_txt: shares(A, L_txt) * torch.tensor([[L_txt], [A.shape[-1] - L_txt]]),
        "image first, and cut at the wrong place: text tokens come first in every row and column":
            lambda A, L_txt: shares(A, A.shape[-1] - L_txt),
    },
    advice="For text and image queries apart, the sum over text keys and image keys; the two of a row sum to 1.",
)  # fmt: skip

# ---------------------------------------------------------------- 15.2


def where_a_word_is_read(A: Tensor, tokens: list[int], L_txt: int, grid: Grid) -> Tensor:
    return A[:, L_txt:, tokens].sum(-1).mean(0).unflatten(0, grid)


WHERE_A_WORD_IS_READ = Exercise(
    "15.2",
    where_a_word_is_read,
    inputs=[(weights(2, 17, 2), [1, 3], 5, (3, 4)), (weights(3, 17, 3), [0, 2, 6], 7, (5, 2))],
    mistakes={
        "that is what the word takes from the image; image tokens are the queries here, the word is a key":
            lambda A, tokens, L_txt, grid: where_a_word_is_read(A.mT, tokens, L_txt, grid),
        "you took the mean over the word's tokens; a word of two tokens is read with both, so add them":
            lambda A, tokens, L_txt, grid: where_a_word_is_read(A, tokens, L_txt, grid) / len(tokens),
        "only the word's first token is in it; add the weights of all its tokens":
            lambda A, tokens, L_txt, grid: where_a_word_is_read(A, tokens[:1], L_txt, grid),
        "the rows of the first image tokens are missing: image queries begin at L_txt, and text rows are no pixels":
            lambda A, tokens, L_txt, grid: A[:, : math.prod(grid), tokens].sum(-1).mean(0).unflatten(0, grid),
    },
    advice="A[:, L_txt:, tokens], summed over the word's tokens, mean over the heads.",
)  # fmt: skip

# ---------------------------------------------------------------- 15.3


def places(grid: Grid) -> Tensor:
    """Row and column of every token, row by row."""
    h, w = grid
    return torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).reshape(h * w, 2).float()


def mean_offset(look: Tensor, grid: Grid) -> Tensor:
    place, look = places(grid), look / look.sum(-1, keepdim=True)
    return (look @ place - place).mean(0)


def without_normalising(look: Tensor, grid: Grid) -> Tensor:
    return (look @ places(grid) - look.sum(-1, keepdim=True) * places(grid)).mean(0)


MEAN_OFFSET = Exercise(
    "15.3",
    mean_offset,
    inputs=[(weights(1, 17, 4)[0, 5:, 5:], (3, 4)), (weights(1, 15, 5)[0, 5:, 5:], (5, 2))],
    mistakes={
        "the sign is the other way: the place of the token looked at, less that of the one that looks":
            lambda look, grid: -mean_offset(look, grid),
        "down and right are exchanged: (dy, dx)": lambda look, grid: mean_offset(look, grid).flip(0),
        "the rows of `look` do not sum to 1, since part of the weight went to text: divide each by its sum":
            without_normalising,
        "that is where it looks, not how far from itself: take the query's own place away":
            lambda look, grid: mean_offset(look, grid) + places(grid).mean(0),
    },
    advice="Σ_j look_ij (place_j − place_i), mean over the queries i.",
)  # fmt: skip

# ---------------------------------------------------------------- 15.4


def silence(mixed: Tensor, head: int, num_heads: int) -> Tensor:
    K, out = mixed.shape[-1] // num_heads, mixed.clone()
    out[..., head * K : (head + 1) * K] = 0
    return out


SILENCE = Exercise(
    "15.4",
    silence,
    inputs=[(normal(2, 3, 12), 1, 4), (normal(1, 5, 10), 4, 5)],
    mistakes={
        "you silenced channels that lie apart; a head's channels lie side by side, (h k)":
            lambda mixed, head, num_heads: mixed * (torch.arange(mixed.shape[-1]) % num_heads != head),
        "you silenced all the other heads and left this one":
            lambda mixed, head, num_heads: mixed - silence(mixed, head, num_heads),
        "you silenced one channel; a head has K = channels / heads of them":
            lambda mixed, head, num_heads: mixed * (torch.arange(mixed.shape[-1]) != head),
    },
    advice="This head alone is silent: its channels are head·K to (head + 1)·K.",
)  # fmt: skip

EXERCISES = [SHARES, WHERE_A_WORD_IS_READ, MEAN_OFFSET, SILENCE]

# ---------------------------------------------------------------- questions


@cache
def painting() -> attention_maps.AttentionRecord:
    return attention_maps.record_attention(tiny("tiny-schnell"), CATS)


def first_look() -> float:
    survey = painting()
    A = survey.attention[0].mean((0, 1))
    return attention_maps.place_of(attention_maps.word_map(A, survey.tokens("cat"), survey.L_txt, survey.grid))[1]


def without_compass() -> float:
    survey = painting()
    _, tokens = attention_maps.mean_offset(survey.attention.mean(0), survey.L_txt, survey.grid)
    block, head = divmod(int(tokens.argmin()), tokens.shape[1])
    name = attention_maps.block_names(tiny("tiny-schnell").model)[block]
    still = torch.eye(2).expand_as(survey.traced["pe_embedder"])
    unturned = type(survey.traced)(survey.traced | {"pe_embedder": still}).attention(name)[:, head]
    return float(attention_maps.mean_offset(unturned.mean(0), survey.L_txt, survey.grid)[1] / tokens.min())


QUESTIONS = [
    Question(
        section="Which word paints where",
        text="“a 3d cat face left of a dog face …”: the first step, when the state is pure noise. Where do image tokens"
        " take most from the word “cat”?",
        choices={
            "on the left": lambda column: column < -0.5,
            "everywhere alike: there is no cat yet": lambda column: -0.5 <= column <= 0.5,
            "on the right": lambda column: column > 0.5,
        },
        measure=first_look,
        result="The mean column is {:+.1f} tokens from the middle.",
        why="The layout is read from the text before anything is painted: image tokens know their places, and CLIP's"
        " vector says who is on the left.",
    ),
    Question(
        section="With a compass, and without",
        text="The sharpest of the 45 heads looks at very few image tokens. You take the rotations of RoPE away. Does it"
        " stay sharp?",
        choices={
            "yes: it goes by what tokens show": lambda ratio: ratio < 1.5,
            "no: it looks at many more tokens": lambda ratio: ratio > 2,
        },
        measure=without_compass,
        result="Without rotations it looks at {:.1f} times as many tokens.",
        why="Such a head looks at a fixed neighbour, and only positions tell it which one that is.",
    ),
]
