"""Exercises of chapter 2, patchify."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.teaching.exercises import tensor_of

# ---------------------------------------------------------------- 2.1


def token_of_pixel(y: int, x: int, width: int) -> int:
    return (y // 16) * -(-width // 16) + x // 16


def check_token_of_pixel(answer: Callable[[int, int, int], int]) -> None:
    for y, x, width in [(37, 50, 176), (40, 90, 100), (0, 0, 64), (0, 17, 64), (16, 0, 64), (95, 1, 112)]:
        got, right = answer(y, x, width), token_of_pixel(y, x, width)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        if got == right:
            continue
        asked, columns = f"token_of_pixel({y}, {x}, {width})", -(-width // 16)
        told = {
            (y // 8) * -(-width // 8) + x // 8: "that counts places of the latent, 8 × 8 pixels; a token has 16 × 16",
            (y // 16) * (width // 16) + x // 16: "a width that is no multiple of 16 still needs whole tokens: round up",
            (x // 16) * columns + y // 16: "rows and columns are exchanged: tokens run row by row, y // 16 rows come"
            " first",
            right + 1: "count from 0, as Python does",
            y * width + x: "that is the number of the pixel; 16 × 16 pixels share a token",
            (y // 16) * width + x // 16: "a row holds ⌈width/16⌉ tokens, not width",
        }
        assert got not in told, f"{asked} gave {got}, expected {right}: {told[got]}"
        raise AssertionError(f"{asked} gave {got}, expected {right}: full rows above, plus the place in this row")


# ---------------------------------------------------------------- 2.2


def my_patchify(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // 2, 2, w // 2, 2)  # b c h ph w pw
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


def check_my_patchify(answer: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 10, 14, generator=torch.Generator().manual_seed(2))
    got = tensor_of(answer(x.clone()), (2, 35, 12), "my_patchify of (2, 3, 10, 14)")
    if torch.equal(got, my_patchify(x)):
        return
    for pattern, told in [
        ("b c (h p) (w q) -> b (h w) (p q c)", "the channel must come first inside a token: (c ph pw), not (ph pw c)"),
        ("b c (h p) (w q) -> b (h w) (c q p)", "ph and pw are exchanged: inside a channel read row by row"),
        ("b c (h p) (w q) -> b (w h) (c p q)", "the tokens run column by column; they must run row by row, (h w)"),
        (
            "b c (p h) (q w) -> b (h w) (c p q)",
            "you split h into (2, h/2); a patch is made of neighbours, so the 2 comes last: (h/2, 2)",
        ),
    ]:
        assert not torch.equal(got, rearrange(x, pattern, p=2, q=2)), told
    assert not torch.equal(got, x.reshape(2, 35, 12)), (
        "a plain reshape has the right shape and cuts the picture into strips; the axes must be permuted in between"
    )
    raise AssertionError(
        "right shape, wrong order: split to (b, c, h, ph, w, pw), permute to (b, h, w, c, ph, pw), then join"
    )


# ---------------------------------------------------------------- 2.3


def my_ids(h: int, w: int, first: float) -> Tensor:
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([torch.full((h, w), first), row, column], dim=-1).reshape(h * w, 3).float()


def check_my_ids(answer: Callable[[int, int, float], Tensor]) -> None:
    for h, w, first in [(3, 5, 0.0), (4, 2, 1.0), (2, 300, 1.0)]:
        got, right = tensor_of(answer(h, w, first), (h * w, 3), f"my_ids({h}, {w}, {first})"), my_ids(h, w, first)
        if got.dtype == torch.float32 and torch.equal(got, right):
            continue
        assert got.dtype not in (torch.bfloat16, torch.float16), (
            f"ids in {got.dtype}: bfloat16 cannot count beyond 256, float16 beyond 2048; return float32"
        )
        assert got.is_floating_point(), f"ids are {got.dtype}: RoPE multiplies them by frequencies, return float32"
        got = got.float()
        assert torch.equal(got[:, 0], right[:, 0]), (
            f"the first number of every id must be {first}: 0 for the picture that is painted, 1 for a reference"
        )
        assert not torch.equal(got[:, 1:], right[:, [2, 1]]), (
            "row and column are exchanged: an id is (first, row, column)"
        )
        assert not torch.equal(got[:, 1], torch.arange(h * w).float()), (
            "that is the serial number of the token; an id is a place, (first, row, column)"
        )
        assert not torch.equal(got[:, 1:], right[:, 1:] + 1), "count from 0: the upper left token is (first, 0, 0)"
        byrow = right.reshape(h, w, 3).transpose(0, 1).reshape(h * w, 3)
        assert not torch.equal(got, byrow), "the ids run column by column; tokens run row by row"
        raise AssertionError(f"my_ids({h}, {w}, {first}) begins {got[:4].tolist()}, expected {right[:4].tolist()}")


# ---------------------------------------------------------------- 2.4


def repair(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b l (ph pw c) -> b l (c ph pw)", ph=2, pw=2)


def check_repair(answer: Callable[[Tensor], Tensor]) -> None:
    right = torch.randn(2, 5, 28, generator=torch.Generator().manual_seed(4))  # 7 channels
    wrong = rearrange(right, "b l (c ph pw) -> b l (ph pw c)", ph=2, pw=2)
    got = tensor_of(answer(wrong.clone()), (2, 5, 28), "repair of (2, 5, 28)")
    if torch.equal(got, right):
        return
    assert not torch.equal(got, wrong), "the tokens came back unchanged"
    again = rearrange(wrong, "b l (c ph pw) -> b l (ph pw c)", ph=2, pw=2)
    assert not torch.equal(got, again), (
        "you applied the mistake a second time: the left side of the pattern says what is there, (ph pw c)"
    )
    turned = rearrange(wrong, "b l (ph pw c) -> b l (c pw ph)", ph=2, pw=2)
    assert not torch.equal(got, turned), "the channel is first now, but ph and pw are exchanged"
    raise AssertionError(
        "right shape, wrong order: from (ph pw c) to (c ph pw), and the tokens themselves stay in place"
    )


CHECKS = {"2.1": check_token_of_pixel, "2.2": check_my_patchify, "2.3": check_my_ids, "2.4": check_repair}
SOLUTIONS = {"2.1": token_of_pixel, "2.2": my_patchify, "2.3": my_ids, "2.4": repair}
