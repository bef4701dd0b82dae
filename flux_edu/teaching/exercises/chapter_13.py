"""Exercises of chapter 13, the published models."""

from collections.abc import Callable

import torch
from torch import Tensor

# ---------------------------------------------------------------- 13.1


def tflop_of_a_picture(width: int, height: int, text_tokens: int, steps: int) -> float:
    D, blocks = 3072, 19 + 38
    L = (width // 16) * (height // 16) + text_tokens
    return steps * blocks * (24 * D**2 * L + 4 * D * L**2) / 1e12


def check_tflop_of_a_picture(answer: Callable[[int, int, int, int], float]) -> None:
    for W, H, T, N in [(1024, 1024, 512, 1), (512, 768, 256, 4), (2048, 1024, 77, 28)]:
        got = answer(W, H, T, N)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        asked = f"my_tflop({W}, {H}, {T}, {N})"
        D, right, L = 3072, tflop_of_a_picture(W, H, T, N), W * H // 256 + T

        def with_(linear: float, square: float, L: int = L, steps: int = N, blocks: int = 57) -> float:
            return steps * blocks * (linear * D**2 * L + square * D * L**2) / 1e12  # noqa: B023

        for told, wrong in [
            ("attention is missing: QKᵀ and AV are 2 L² D each, in every block", with_(24, 0)),
            ("the matrices of the block are missing: 12 D² numbers see every token", with_(0, 4)),
            ("a multiply-add counts as two, so 12 D² weights cost 24 D² a token", with_(12, 4)),
            ("attention multiplies twice, QKᵀ and AV: 4 L² D and not 2 L² D", with_(24, 2)),
            ("the text tokens go through every block too", with_(24, 4, L - T)),
            ("that is one step; a picture takes `steps` of them", right / N if N > 1 else None),
            ("that is with 64 tokens of latent a token: one token is 16 × 16 pixels", with_(24, 4, W * H // 64 + T)),
            (
                "a double block splits the tokens between its two sets of weights: it costs what a single one does",
                N * ((2 * 19 + 38) * 24 * D**2 * L + 57 * 4 * D * L**2) / 1e12,
            ),
            (
                "that is 2 · parameters · tokens: half of a double block's parameters see a token, modulation none",
                N * 2 * 11_901_408_320 * L / 1e12,
            ),
        ]:
            assert wrong is None or abs(got / wrong - 1) > 1e-4, f"{asked} = {got:.4g}: {told}"
        assert abs(got / right - 1) < 1e-3, f"{asked} = {got:.4g}, expected {right:.4g}: 57 (24 D² L + 4 D L²) a step"


# ---------------------------------------------------------------- 13.2


def swap_last_layer(weight: Tensor) -> Tensor:
    shift, scale = weight.chunk(2)
    return torch.cat([scale, shift])


def check_swap_last_layer(answer: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    got = answer(x.clone())
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor), f"expected a tensor, got {type(got).__name__}"
    assert got.shape == x.shape, f"the result has shape {tuple(got.shape)}, expected that of the matrix, (10, 3)"
    a, b = x.chunk(2)
    for told, wrong in [
        ("nothing has changed: this loads, and paints something else", x),
        ("all rows are reversed; only the two halves change places, each in its own order", x.flip(0)),
        ("columns are reversed; outputs are the rows of a weight", x.flip(1)),
        ("even and odd rows are apart: the halves are the first five and the last five", torch.cat([x[1::2], x[::2]])),
        ("the halves are alternated row by row; put one below the other", torch.stack([b, a], 1).flatten(0, 1)),
    ]:
        assert not torch.equal(got, wrong), told
    assert torch.equal(got, torch.cat([b, a])), "the numbers differ: second half, then first half, untouched"


# ---------------------------------------------------------------- 13.3


def audit_names(wanted: dict[str, tuple], found: dict[str, tuple]) -> tuple[list[str], list[str], list[str]]:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    return missing, extra, [name for name in wanted if name in found and wanted[name] != found[name]]


def check_audit_names(answer: Callable[[dict, dict], tuple]) -> None:
    wanted = {"img_in.weight": (8, 4), "img_in.bias": (8,), "txt_in.weight": (8, 5), "txt_in.bias": (8,)}
    found = {"img_in.weight": (8, 6), "txt_in.weight": (8, 5), "txt_in.bias": (8,), "more.bias": (3,)}
    got = answer(dict(wanted), dict(found))
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, tuple) and len(got) == 3, "expected three lists: missing, extra, misshapen"
    missing, extra, misshapen = map(list, got)
    right = audit_names(wanted, found)
    assert (missing, extra) != (right[1], right[0]), "missing and extra are exchanged: missing is what the file lacks"
    assert "img_in.weight" in misshapen, "img_in.weight is (8, 6) and should be (8, 4): compare shapes, not only names"
    assert not {"img_in.bias", "more.bias"} & set(misshapen), (
        "a name that one side does not have cannot be misshapen: only compare the shapes of names in both"
    )
    assert misshapen == ["img_in.weight"], f"misshapen = {misshapen}: those whose shapes are equal are well"
    assert missing == right[0], f"missing = {missing}, expected {right[0]}: in the model, not in the file"
    assert extra == right[1], f"extra = {extra}, expected {right[1]}: in the file, not in the model"


CHECKS = {"13.1": check_tflop_of_a_picture, "13.2": check_swap_last_layer, "13.3": check_audit_names}
SOLUTIONS = {"13.1": tflop_of_a_picture, "13.2": swap_last_layer, "13.3": audit_names}
