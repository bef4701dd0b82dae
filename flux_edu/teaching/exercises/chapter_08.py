"""Exercises of chapter 8, the autoencoder."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flux_edu.teaching.exercises import name_mistake, tensor_of

# ---------------------------------------------------------------- 8.1


def to_latent(moments: Tensor, scale: float, shift: float) -> Tensor:
    mean = moments[:, : moments.shape[1] // 2]
    return scale * (mean - shift)


def check_to_latent(answer: Callable[[Tensor, float, float], Tensor]) -> None:
    moments = torch.randn(2, 10, 3, 7, generator=torch.Generator().manual_seed(8))
    scale, shift = 0.3611, 0.1159
    got = answer(moments.clone(), scale, shift)
    assert not isinstance(got, Tensor) or got.shape != moments.shape, (
        f"the latent has {moments.shape[1]} channels, expected 5: half of the moments are log variances, leave them out"
    )
    got = tensor_of(got, (2, 5, 3, 7), "the latent of moments (2, 10, 3, 7)")
    if torch.allclose(got, to_latent(moments, scale, shift), atol=1e-6):
        return
    mean, log_var = moments.chunk(2, dim=1)
    name_mistake(got, [
        ("you took the second half: those are the log variances, the mean stands first", scale * (log_var - shift)),
        ("you took every other channel: mean and log variance are two halves, not neighbours",
         scale * (moments[:, ::2] - shift)),
        ("you scaled before you shifted: the shift is taken off first, scale · (mean − shift)", scale * mean - shift),
        ("you added the shift; it is subtracted (decoding adds it)", scale * (mean + shift)),
        ("you divided by the scale: that is the way back. Encoding multiplies", (mean - shift) / scale),
        ("that is decoding, mean / scale + shift; encoding is the other way round", mean / scale + shift),
        ("the scale is missing", mean - shift),
        ("the shift is missing", scale * mean),
    ])  # fmt: skip
    again = answer(moments.clone(), scale, shift)
    assert torch.equal(got, again), "two calls give two latents: nothing is drawn, FLUX takes the mean itself"
    raise AssertionError("right shape, wrong numbers: z = scale (mean − shift), with the first half of the channels")


# ---------------------------------------------------------------- 8.2


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)


def check_halve(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 10, 14, generator=generator)
    weight, bias = torch.randn(5, 3, 3, 3, generator=generator), torch.randn(5, generator=generator)
    got = answer(x.clone(), weight.clone(), bias.clone())
    if isinstance(got, Tensor):
        assert got.shape[2:] != (4, 6), (
            f"the output has shape {tuple(got.shape)}: without padding the last row and column are lost"
        )
        assert got.shape[2:] != (10, 14), f"the output has shape {tuple(got.shape)}: the stride of 2 is missing"
    got = tensor_of(got, (2, 5, 5, 7), "half of (2, 3, 10, 14)")
    if torch.allclose(got, halve(x, weight, bias), atol=1e-4):
        return
    conv = lambda pad, **kw: F.conv2d(F.pad(x, pad, **kw), weight, bias, stride=2)  # noqa: E731
    name_mistake(got, [
        ("you padded all round, or above and to the left (the same, as the far zeros are never read): that centres"
         " every output one pixel further up and left than the weights expect", conv((1, 1, 1, 1))),
        ("you padded above and to the right: F.pad counts the last axis first, (left, right, above, below)",
         conv((0, 1, 1, 0))),
        ("you padded below and to the left: F.pad counts the last axis first, (left, right, above, below)",
         conv((1, 0, 0, 1))),
        ("you repeated the border pixels; the padding is zeros", conv((0, 1, 0, 1), mode="replicate")),
        ("the bias is missing: every output channel adds a number of its own", halve(x, weight, 0 * bias)),
    ], 1e-4)  # fmt: skip
    raise AssertionError("right shape, wrong numbers: pad one row of zeros below and one column right, then stride 2")


# ---------------------------------------------------------------- 8.3


def factors(means: Tensor) -> tuple[float, float]:
    return 1 / float(means.std()), float(means.mean())


def check_factors(answer: Callable[[Tensor], tuple[float, float]]) -> None:
    means = 2.5 * torch.randn(7, 4, 5, 6, generator=torch.Generator().manual_seed(3)) + 0.8
    means[:, 1] += 3  # channels differ, and yet there is one number for all
    got = answer(means.clone())
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, tuple | list) and len(got) == 2, "return two numbers, (scale, shift)"
    assert all(not isinstance(x, Tensor) or x.numel() == 1 for x in got), (
        "one scale and one shift for all channels: take mean and standard deviation over everything"
    )
    scale, shift = map(float, got)
    right = factors(means)
    near = lambda a, b: abs(a - b) <= 2e-3 * max(1e-9, abs(b))  # noqa: E731
    if near(scale, right[0]) and near(shift, right[1]):
        return
    for wrong, told in [
        (1 / right[0], "that scale is the standard deviation itself; the latent is multiplied by it, so it is 1 / std"),
        (right[0] ** 2, "that scale is one over the variance; take the root"),
    ]:
        assert not near(scale, wrong), f"scale = {scale:.4f}: {told}"
    for wrong, told in [
        (-right[1], "the sign is the other way: the shift is subtracted in encoding"),
        (right[1] * right[0], "that is the mean after scaling; the shift comes off first, in the encoder's own units"),
    ]:
        assert not near(shift, wrong), f"shift = {shift:.4f}: {told}"
    assert not (near(scale, right[1]) and near(shift, right[0])), "the two are exchanged: return (scale, shift)"
    z = scale * (means - shift)
    raise AssertionError(
        f"with scale = {scale:.4f} and shift = {shift:.4f} the latents have mean {float(z.mean()):.3f} and standard"
        f" deviation {float(z.std()):.3f}; they should have 0 and 1"
    )


# ---------------------------------------------------------------- 8.4


def group_norm(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    parts = x.reshape(b, groups, -1)
    normed = (parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return normed.reshape(b, c, h, w)


def check_group_norm(answer: Callable[[Tensor, int], Tensor]) -> None:
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(4)) * torch.arange(1, 13)[:, None, None] + 2
    got = tensor_of(answer(x.clone(), 4), (2, 12, 3, 5), "the norm of (2, 12, 3, 5)")
    if torch.allclose(got, group_norm(x, 4), atol=1e-4):
        return
    parts = x.reshape(2, 4, -1)
    unbiased = ((parts - parts.mean(-1, keepdim=True)) / parts.std(-1, keepdim=True)).reshape(x.shape)
    no_root = ((parts - parts.mean(-1, keepdim=True)) / parts.var(-1, correction=0, keepdim=True)).reshape(x.shape)
    rms = (parts / parts.square().mean(-1, keepdim=True).sqrt()).reshape(x.shape)
    strided = x.reshape(2, 3, 4, 15).transpose(1, 2).reshape(2, 12, 3, 5)
    strided = group_norm(strided, 4).reshape(2, 4, 3, 15).transpose(1, 2).reshape(x.shape)
    name_mistake(got, [
        ("that is one channel a group (instance norm): every channel has lost its level. A group is 3 channels here",
         group_norm(x, 12)),
        ("that is one group for all channels; split them into `groups` first", group_norm(x, 1)),
        ("you took `groups` for the number of channels in a group; it is the number of groups", group_norm(x, 3)),
        ("a group is made of neighbours: channels 0, 1, 2 belong together, not 0, 4, 8", strided),
        ("you divided by the standard deviation with n − 1; a norm divides by n (correction=0)", unbiased),
        ("you divided by the variance; take its root", no_root),
        ("the mean is not taken away: that is an RMS norm", rms),
        ("the batch was mixed in: every picture is normed by itself",
         F.group_norm(x.transpose(0, 1).reshape(1, 12, 6, 5), 4).reshape(12, 2, 3, 5).transpose(0, 1)),
    ], 1e-4)  # fmt: skip
    raise AssertionError(
        "right shape, wrong numbers: over a group's channels and all places, (x − mean) / √(var + 1e-6)"
    )


CHECKS = {"8.1": check_to_latent, "8.2": check_halve, "8.3": check_factors, "8.4": check_group_norm}
SOLUTIONS = {"8.1": to_latent, "8.2": halve, "8.3": factors, "8.4": group_norm}
