"""Exercises of chapter 12, the FLUX.1 tools."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.teaching.exercises import name_mistake, tensor_of

# ---------------------------------------------------------------- 12.1


def mask_tokens(mask: Tensor) -> Tensor:
    return rearrange(mask, "b 1 (h ph p) (w pw q) -> b (h w) (p q ph pw)", ph=2, pw=2, p=8, q=8)


def check_mask_tokens(answer: Callable[[Tensor], Tensor]) -> None:
    mask = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(12))
    got = tensor_of(answer(mask.clone()), (2, 6, 256), "the tokens of a mask (2, 1, 32, 48)")
    if torch.allclose(got, mask_tokens(mask), atol=1e-6):
        return
    name_mistake(got, [
        ("you cut 16 × 16 squares at once: first 8 × 8 pixels become the 64 channels of a latent place, then 2 × 2"
         " places a token, channel first", rearrange(mask, "b 1 (h p) (w q) -> b (h w) (p q)", p=16, q=16)),
        ("you put the 2 × 2 places before the channels; a patch is read channel first, (c ph pw)",
         rearrange(mask, "b 1 (h ph p) (w pw q) -> b (h w) (ph pw p q)", ph=2, pw=2, p=8, q=8)),
        ("you swapped rows and columns inside the 8 × 8 squares: the row comes first, (p q)",
         rearrange(mask, "b 1 (h ph p) (w pw q) -> b (h w) (q p ph pw)", ph=2, pw=2, p=8, q=8)),
        ("that is 1 − m: 1 marks what is painted anew, leave the mask as it is", mask_tokens(1 - mask)),
        ("the tokens run column by column; they run row by row, (h w)",
         rearrange(mask, "b 1 (h ph p) (w pw q) -> b (w h) (p q ph pw)", ph=2, pw=2, p=8, q=8)),
        ("you took the width for the height: a mask is (B, 1, H, W)", mask_tokens(mask.mT)),
    ])  # fmt: skip
    raise AssertionError("right shape, wrong numbers: (8 × 8 pixels → 64 channels), then patchify, Eq. (2.2)")


# ---------------------------------------------------------------- 12.2


def reference_ids(h: int, w: int, index: int = 1) -> Tensor:
    return torch.stack([torch.tensor([index, row, column]) for row in range(h) for column in range(w)]).float()


def check_reference_ids(answer: Callable[[int, int, int], Tensor]) -> None:
    got = tensor_of(answer(2, 3, 2), (6, 3), "the ids of 2 × 3 tokens")
    assert got.is_floating_point(), f"ids are {got.dtype}; they are float32, as RoPE multiplies them with frequencies"
    right = reference_ids(2, 3, 2)
    if torch.allclose(got, right, atol=1e-6):
        return
    name_mistake(got, [
        ("the first axis is 0: then the reference stands exactly where the picture does",
         right * torch.tensor([0, 1, 1])),
        ("row and column are swapped: the id is (index, row, column)", right[:, [0, 2, 1]]),
        ("the index stands last: it is the first of the three axes", right[:, [1, 2, 0]]),
        ("you moved the reference away in its rows or columns; only the first axis tells the pictures apart",
         right + torch.tensor([0, 0, 3])),
        ("you moved the reference away in its rows or columns; only the first axis tells the pictures apart",
         right + torch.tensor([0, 2, 0])),
        ("the first axis is 1 whatever the index is; a second reference gets a 2", reference_ids(2, 3, 1)),
    ])  # fmt: skip
    raise AssertionError("right shape, wrong numbers: (index, row, column), row by row")


# ---------------------------------------------------------------- 12.3


def merged(W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    return W + scale * B @ A


def check_merged(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    W, A, B = (torch.randn(*shape, generator=generator) for shape in ((6, 6), (2, 6), (6, 2)))
    got = tensor_of(answer(W.clone(), A.clone(), B.clone(), 0.7), (6, 6), "the merged matrix")
    if torch.allclose(got, merged(W, A, B, 0.7), atol=1e-5):
        return
    name_mistake(got, [
        ("the scale is missing: W + scale · B A", W + B @ A),
        ("you scaled A and B both, so the difference by scale²", W + 0.49 * B @ A),
        ("you scaled W too; the base stays whole, W + scale · B A", 0.7 * (W + B @ A)),
        ("you blended W away, (1 − scale) W: a LoRA adds", 0.3 * W + 0.7 * B @ A),
        ("that is the transpose of B A: A comes first when the layer reads x, so B stands left", W + 0.7 * (B @ A).T),
        ("you subtracted: that unmerges", W - 0.7 * B @ A),
        ("the base is missing: that is the difference alone", 0.7 * B @ A),
    ])  # fmt: skip
    raise AssertionError("right shape, wrong numbers: W + scale · B A")


CHECKS = {"12.1": check_mask_tokens, "12.2": check_reference_ids, "12.3": check_merged}
SOLUTIONS = {"12.1": mask_tokens, "12.2": reference_ids, "12.3": merged}
