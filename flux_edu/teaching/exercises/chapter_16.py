"""Exercises of chapter 16, from FLUX.1 to FLUX.2."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- 16.1


def swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def check_swiglu(answer: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = answer(x.clone())
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor), f"expected a tensor, got {type(got).__name__}"
    assert got.shape != x.shape, (
        f"the result has shape {tuple(got.shape)}, the input's: one half of the channels is the gate and is used up, so"
        " half as many come out"
    )
    assert got.shape == (2, 3, 5), f"the result has shape {tuple(got.shape)}, expected (2, 3, 5)"
    first, second = x.chunk(2, dim=-1)
    even, odd = x[..., ::2], x[..., 1::2]
    for told, wrong in [
        ("the halves are exchanged: the first half is the gate, the second the value", first * F.silu(second)),
        ("that gate is a sigmoid; SiLU(a) is a · sigmoid(a)", torch.sigmoid(first) * second),
        ("that gate is a GELU (GEGLU); FLUX.2 has SiLU", F.gelu(first) * second),
        ("that gate is a GELU (GEGLU); FLUX.2 has SiLU", F.gelu(first, approximate="tanh") * second),
        ("the gate has no activation: put SiLU on the first half", first * second),
        ("SiLU on both halves: the value passes as it is", F.silu(first) * F.silu(second)),
        ("you split into even and odd channels: the halves are the first and the last channels", F.silu(even) * odd),
    ]:
        assert not torch.allclose(got, wrong), told
    assert torch.allclose(got, swiglu(x)), "the numbers differ: SiLU of the first half, times the second half"


# ---------------------------------------------------------------- 16.2


def saved_by_sharing(width: int, double_blocks: int, single_blocks: int) -> int:
    def linear(outputs: int) -> int:
        return (width + 1) * outputs

    return (double_blocks - 1) * 2 * linear(6 * width) + (single_blocks - 1) * linear(3 * width)


def check_saved_by_sharing(answer: Callable[[int, int, int], int]) -> None:
    for D, M, N in [(3072, 19, 38), (10, 2, 3), (320, 3, 6)]:
        got = answer(D, M, N)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        asked = f"my_saving({D}, {M}, {N})"
        double, single = (D + 1) * 12 * D, (D + 1) * 3 * D
        for told, wrong in [
            (
                "that is all modulation there is; three modules stay, two for double and one for single blocks",
                M * double + N * single,
            ),
            ("that is what stays; subtract it from what was there", double + single),
            (
                "the biases are missing: FLUX.1's linear layers have one number more for every output",
                (M - 1) * 12 * D * D + (N - 1) * 3 * D * D,
            ),
            (
                "a double block has two streams of two branches each: twelve vectors, you counted six",
                (M - 1) * double // 2 + (N - 1) * single,
            ),
            (
                "a single block has one branch: three vectors, not six",
                (M - 1) * double + (N - 1) * 2 * single,
            ),
        ]:
            assert got != wrong, f"{asked} = {got:,}: {told}"
        right = saved_by_sharing(D, M, N)
        assert got == right, f"{asked} = {got:,}, expected {right:,}: (blocks - 1) times the modulation of one"


CHECKS = {"16.1": check_swiglu, "16.2": check_saved_by_sharing}
SOLUTIONS = {"16.1": swiglu, "16.2": saved_by_sharing}
