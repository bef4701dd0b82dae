"""Exercises of chapter 10, guidance distillation."""

from collections.abc import Callable

import torch
from torch import Tensor

NOTHING = "your function returned nothing: did you forget `return`?"


def _same(a: object, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-6)


# ---------------------------------------------------------------- 10.1


def student_target(v_uncond: Tensor, v_cond: Tensor, w: Tensor) -> Tensor:
    return v_uncond + w[:, None, None] * (v_cond - v_uncond)


def check_student_target(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    v_uncond, v_cond = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)  # shapes hide nothing
    w = torch.tensor([1.5, 3.0, 5.0], dtype=torch.float64)
    got, right = answer(v_uncond, v_cond, w), student_target(v_uncond, v_cond, w)
    assert got is not None, NOTHING
    if _same(got, right):
        return
    step = v_cond - v_uncond
    for told, wrong in [
        ("every channel got its own w: w belongs to the samples, give it the shape (B, 1, 1)", v_uncond + w * step),
        ("every token got its own w: w belongs to the samples, (B, 1, 1)", v_uncond + w[:, None] * step),
        ("the two passes are swapped: that walks away from the caption", student_target(v_cond, v_uncond, w)),
        ("you began at v_c: that is 1 + w in Eq. (10.1), where w = 1 is the prompted velocity", right + step),
        ("you multiplied the prompted velocity alone; only the difference is stretched", w[:, None, None] * v_cond),
        ("one w for the whole batch; every sample has its own", student_target(v_uncond, v_cond, w[:1].expand(3))),
    ]:
        assert not _same(got, wrong), told
    raise AssertionError("the target is v_∅ + w (v_c - v_∅), with one w a sample; it has the shape of v_c")


# ---------------------------------------------------------------- 10.2


def relative_loss(v: Tensor, v_w: Tensor) -> Tensor:
    return ((v - v_w).square().mean(dim=(1, 2)) / v_w.square().mean(dim=(1, 2))).mean()


def check_relative_loss(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    v, v_w = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    v_w = v_w * torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)[:, None, None]
    got, right = answer(v, v_w), relative_loss(v, v_w)
    assert got is not None, NOTHING
    if _same(got, right):
        return
    miss, length = (v - v_w).square(), v_w.square()
    each = miss.mean((1, 2)) / length.mean((1, 2))
    for told, wrong in [
        ("this is the plain mean square: samples with a strong guidance would drown all others", miss.mean()),
        (
            "you divided after the mean over the batch: long velocities still weigh most. Divide for each sample first",
            miss.mean() / length.mean(),
        ),
        ("you divided by the student's length: it could lower the loss by answering long", relative_loss(v_w, v)),
        ("you divided number by number: a target near zero would be all that counts", (miss / length).mean()),
        ("you took the root; the loss is the mean square", each.sqrt().mean()),
        ("you took the root; the loss is the mean square", each.mean().sqrt()),
        ("one loss a sample is right so far; return their mean", each),
        ("you summed over the batch; the loss is the mean", each.sum()),
    ]:
        assert not _same(got, wrong), told
    raise AssertionError(f"expected {right.item():.4f}, got {got}: ‖v - v_w‖² / ‖v_w‖² a sample, then their mean")


CHECKS = {"10.1": check_student_target, "10.2": check_relative_loss}
SOLUTIONS = {"10.1": student_target, "10.2": relative_loss}
