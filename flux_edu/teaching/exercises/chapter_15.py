"""Exercises of chapter 15, the attention atlas."""

from collections.abc import Callable

import torch
from torch import Tensor

from flux_edu.teaching.exercises.chapter_09 import NOTHING, _same

H, L_TXT, ROWS, COLUMNS = 2, 5, 3, 4  # heads, text tokens, rows and columns of image tokens: no two alike


def _weights(seed: int = 0) -> Tensor:
    """Attention of a small picture, uneven enough that no two mistakes look alike."""
    L = L_TXT + ROWS * COLUMNS
    return (2 * torch.randn(H, L, L, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def _shaped(got: object, shape: tuple[int, ...], what: str) -> Tensor:
    assert got is not None, NOTHING
    got = torch.as_tensor(got)
    assert got.shape == shape, f"your answer has the shape {tuple(got.shape)}; expected {shape}: {what}"
    return got


# ---------------------------------------------------------------- 15.1


def shares(A: Tensor, L_txt: int) -> Tensor:
    rows = A[:, :L_txt].mean(1), A[:, L_txt:].mean(1)
    return torch.stack([torch.stack([row[:, :L_txt].sum(-1), row[:, L_txt:].sum(-1)], -1) for row in rows], -2)


def check_shares(answer: Callable[[Tensor, int], Tensor]) -> None:
    A = _weights()
    L, right = A.shape[-1], shares(A, L_TXT)
    got = _shaped(answer(A.clone(), L_TXT), (H, 2, 2), "for each head a row for text queries and one for image queries")
    sums = torch.stack(
        [torch.stack([A[:, r, c].sum((-1, -2)) for c in (slice(L_TXT), slice(L_TXT, L))], -1)
         for r in (slice(L_TXT), slice(L_TXT, L))], -2
    )  # fmt: skip
    sizes = torch.tensor([[L_TXT * L_TXT, L_TXT * (L - L_TXT)], [L_TXT * (L - L_TXT), (L - L_TXT) ** 2]])
    for told, wrong in [
        (
            "rows and columns are exchanged: a row of the answer is one kind of query, a column what it takes from",
            right.mT,
        ),
        (
            "queries and keys are exchanged: a query is a row of A, its weights lie along the last axis",
            shares(A.mT, L_TXT),
        ),
        ("these are sums over all queries; take the mean over the queries, so that a row sums to 1", sums),
        ("you divided by all queries, text and image; each row has its own number of queries", sums / L),
        (
            "that is the mean weight of a quadrant; a share is the sum along the keys, so that a row sums to 1",
            sums / sizes,
        ),
        ("image first: text tokens come first in every row and column", shares(A, L - L_TXT)),
        (
            "your image row stands above your text row, and your columns are exchanged too: text first",
            right.flip(-1, -2),
        ),
    ]:
        assert not _same(got, wrong), told
    assert _same(got.sum(-1), torch.ones(H, 2)), "a query's weights sum to 1, so the two shares of a row must as well"
    assert _same(got, right), "not the shares: for text and image queries apart, the sum over text keys and image keys"


# ---------------------------------------------------------------- 15.2


def where_a_word_is_read(A: Tensor, tokens: list[int], L_txt: int, grid: tuple[int, int]) -> Tensor:
    return A[:, L_txt:, tokens].sum(-1).mean(0).unflatten(0, grid)


def check_where_a_word_is_read(answer: Callable[[Tensor, list[int], int, tuple[int, int]], Tensor]) -> None:
    A, tokens, grid = _weights(1), [1, 3], (ROWS, COLUMNS)
    right = where_a_word_is_read(A, tokens, L_TXT, grid)
    got = answer(A.clone(), list(tokens), L_TXT, grid)
    assert got is not None, NOTHING
    got = torch.as_tensor(got)
    assert tuple(got.shape) != (H, *grid), "one map is left for every head: take the mean over the heads"
    assert tuple(got.shape) != (COLUMNS, ROWS), "the grid is (rows, columns); yours is lying on its side"
    got = _shaped(got, grid, "(rows, columns) of image tokens")
    per_token = A[:, L_TXT:, tokens].mean(0)
    for told, wrong in [
        ("that is what the word takes from the image; image tokens are the queries here, the word is a key",
         A[:, tokens, L_TXT:].sum(1).mean(0).unflatten(0, grid)),
        ("you took the mean over the word's tokens; a word of two tokens is read with both, so add them",
         per_token.mean(-1).unflatten(0, grid)),
        ("only the word's first token is in it; add the weights of all its tokens",
         per_token[:, 0].unflatten(0, grid)),
        ("the heads are added up; take their mean, so that the map is a share of 1", H * right),
        ("the rows of the first image tokens are missing: image queries begin at L_txt, and text rows are no pixels",
         A[:, : ROWS * COLUMNS, tokens].sum(-1).mean(0).unflatten(0, grid)),
        ("the image tokens are laid out column by column; they come row by row",
         right.flatten().unflatten(0, (COLUMNS, ROWS)).mT),
    ]:  # fmt: skip
        assert not _same(got, wrong), told
    assert _same(got, right), "not the map: A[:, L_txt:, tokens], summed over the word's tokens, mean over the heads"


# ---------------------------------------------------------------- 15.3


def mean_offset(look: Tensor, grid: tuple[int, int]) -> Tensor:
    h, w = grid
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).reshape(h * w, 2).to(look)
    look = look / look.sum(-1, keepdim=True)
    return (look @ place - place).mean(0)


def check_mean_offset(answer: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
    A, grid = _weights(2)[0], (ROWS, COLUMNS)
    look = A[L_TXT:, L_TXT:].clone()
    right = mean_offset(look, grid)
    got = _shaped(answer(look.clone(), grid), (2,), "(down, right)")
    place = (
        torch.stack(torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij"), -1).reshape(-1, 2).float()
    )
    bare = ((look @ place) - look.sum(-1, keepdim=True) * place).mean(0)
    for told, wrong in [
        ("the sign is the other way: the place of the token looked at, less that of the one that looks", -right),
        ("down and right are exchanged: (dy, dx)", right.flip(0)),
        ("the rows of `look` do not sum to 1, since part of the weight went to text: divide each by its sum", bare),
        ("that is where it looks, not how far from itself: take the query's own place away",
         (look / look.sum(-1, keepdim=True) @ place).mean(0)),
        ("you took absolute values: left and right should cancel",
         ((look / look.sum(-1, keepdim=True))[..., None] * (place[None] - place[:, None]).abs()).sum(1).mean(0)),
        ("queries and keys are exchanged: a query is a row of `look`", mean_offset(look.mT, grid)),
        ("token n lies in row n // columns and column n % columns; you divided by the number of rows",
         (lambda n: (look / look.sum(-1, keepdim=True) @ n - n).mean(0))(
             torch.stack([torch.arange(ROWS * COLUMNS) // ROWS, torch.arange(ROWS * COLUMNS) % ROWS], -1).float())),
    ]:  # fmt: skip
        assert not _same(got, wrong), told
    assert _same(got, right), "not the mean offset: Σ_j look_ij (place_j − place_i), mean over the queries i"


# ---------------------------------------------------------------- 15.4


def silence(found: Tensor, head: int, num_heads: int) -> Tensor:
    K = found.shape[-1] // num_heads
    out = found.clone()
    out[..., head * K : (head + 1) * K] = 0
    return out


def check_silence(answer: Callable[[Tensor, int, int], Tensor]) -> None:
    found = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(3))
    kept, right = found.clone(), silence(found, 1, 4)
    got = _shaped(answer(found, 1, 4), (2, 3, 12), "as many channels as before; a silent head's are zero, not gone")
    assert _same(found, kept), "you changed the tensor that was given: work on a clone, the block still needs it"
    taken_in_turn, others, one = found.clone(), found.clone(), found.clone()
    taken_in_turn[..., 1::4] = 0
    others[..., :3] = others[..., 6:] = 0
    one[..., 1] = 0
    token = found.clone()
    token[:, 1] = 0
    for told, wrong in [
        ("nothing is silent: the channels of head 1 are as they were", found),
        ("you silenced every fourth channel; a head's channels lie side by side, (h k)", taken_in_turn),
        ("you silenced all the other heads and left this one", others),
        ("you silenced one channel; a head has K = channels / heads of them", one),
        ("you silenced a token; heads lie along the last axis", token),
        ("heads are counted from 0: you silenced the one before", silence(found, 0, 4)),
    ]:
        assert not _same(got, wrong), told
    assert _same(got, right), "not this head alone: its channels are head·K to (head + 1)·K"


CHECKS = {
    "15.1": check_shares,
    "15.2": check_where_a_word_is_read,
    "15.3": check_mean_offset,
    "15.4": check_silence,
}
SOLUTIONS = {"15.1": shares, "15.2": where_a_word_is_read, "15.3": mean_offset, "15.4": silence}
