"""Exercises of chapter 1, the schedule."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _logit(t: float) -> float:
    return math.log(t / (1 - t))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _near(a: float, b: float, tolerance: float = 1e-6) -> bool:
    return abs(a - b) <= tolerance


# ---------------------------------------------------------------- 1.1


def half_point(mu: float, sigma: float) -> float:
    return 1 / (1 + math.exp(mu / sigma))


def check_half_point(answer: Callable[[float, float], float]) -> None:
    for mu, sigma in [(0.0, 1.0), (1.15, 1.0), (0.5, 1.0), (1.15, 2.0), (-0.7, 0.5)]:
        got = answer(mu, sigma)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        got = float(got)
        if _near(got, half_point(mu, sigma)):
            continue
        asked = f"half_point({mu}, {sigma})"
        assert not _near(got, _sigmoid(mu / sigma)), (
            f"{asked} gave {got:.4f}: the sign is the other way. With μ > 0 less noise than one half is already sent to"
            " one half, so t* lies left of 0.5; solve 0 = μ + σ logit t*"
        )
        assert not _near(got, -mu / sigma), (
            f"{asked} gave {got:.4f}: that is the logit of t*. Turn it into a noise level with the sigmoid,"
            " 1 / (1 + e^-x)"
        )
        assert not _near(got, _sigmoid(-mu)), (
            f"{asked} gave {got:.4f}: right for σ = 1 only. In 0 = μ + σ logit t* the logit is divided by σ as well"
        )
        assert not _near(got, _sigmoid(-mu * sigma)), (
            f"{asked} gave {got:.4f}: you multiplied by σ; solving 0 = μ + σ logit t* divides by it"
        )
        raise AssertionError(f"{asked} gave {got:.4f}, expected {half_point(mu, sigma):.4f}; solve 0 = μ + σ logit t*")


# ---------------------------------------------------------------- 1.2


def my_schedule(num_steps: int, width: int, height: int) -> list[float]:
    L = math.ceil(width / 16) * math.ceil(height / 16)
    mu = 0.5 + (L - 256) * (1.15 - 0.5) / (4096 - 256)
    timesteps = [1 - i / num_steps for i in range(num_steps + 1)]
    return [t * math.exp(mu) / (t * math.exp(mu) + 1 - t) for t in timesteps]


def check_my_schedule(answer: Callable[[int, int, int], list[float]]) -> None:
    for num_steps, width, height in [(4, 256, 256), (7, 1024, 1024), (5, 1360, 768), (1, 64, 48), (3, 100, 50)]:
        asked = f"my_schedule({num_steps}, {width}, {height})"
        try:
            got = answer(num_steps, width, height)
        except ZeroDivisionError:
            raise AssertionError(
                f"{asked} divided by zero: the last level is t = 0, where 1/t has no value. Multiply numerator and"
                " denominator by t: t' = e^μ t / (e^μ t + 1 - t)"
            ) from None
        assert got is not None, "your function returned nothing: did you forget `return`?"
        got = [float(t) for t in got]
        assert len(got) != num_steps, (
            f"{asked} has {num_steps} levels: {num_steps} steps need {num_steps + 1} points, both ends included"
        )
        assert len(got) == num_steps + 1, f"{asked} has {len(got)} levels, expected {num_steps + 1}"
        right = my_schedule(num_steps, width, height)
        if all(_near(a, b) for a, b in zip(got, right, strict=True)):
            continue
        assert not (got[0] < got[-1]), f"{asked} rises: it must start at 1 (noise) and end at 0 (the picture)"
        even = [1 - i / num_steps for i in range(num_steps + 1)]
        assert not all(_near(a, b) for a, b in zip(got, even, strict=True)), (
            f"{asked} is evenly spaced: the levels are right, the time shift of Eq. (1.3) is missing"
        )
        _name_wrong_length(asked, got, even, width, height)
        raise AssertionError(
            f"{asked} = {[round(t, 4) for t in got]}, expected {[round(t, 4) for t in right]}; check L, then μ(L), then"
            " Eq. (1.3), each by itself"
        )


def _name_wrong_length(asked: str, got: list[float], even: list[float], width: int, height: int) -> None:
    """Read μ off the answer and see which number of tokens, or which sign, it belongs to."""
    if len(got) < 3 or not 0 < got[1] < 1:
        return
    mu = _logit(got[1]) - _logit(even[1])
    line = lambda L: 0.5 + (L - 256) * 0.65 / 3840  # noqa: E731
    L = math.ceil(width / 16) * math.ceil(height / 16)
    for told, wrong in [
        ("you counted pixels; L is the number of tokens, one a 16 × 16 pixels", width * height),
        ("you counted the places of the latent (8 × 8 pixels each); a token is a 2 × 2 patch of those", L * 4),
        (
            "a picture whose sides are no multiples of 16 still needs whole tokens: round up, ⌈width/16⌉",
            (width // 16) * (height // 16),
        ),
    ]:
        assert not (wrong != L and _near(mu, line(wrong), 1e-4)), f"{asked} used L = {wrong}, expected {L}: {told}"
    assert not _near(mu, -line(L), 1e-4), (
        f"{asked} used μ = {mu:.3f}, expected {line(L):.3f}: the sign is the other way. A positive μ keeps the levels"
        " high, so that more steps are spent on noisy pictures"
    )


# ---------------------------------------------------------------- 1.3


def unshift(mu: float, sigma: float, t_shifted: Tensor) -> Tensor:
    return torch.sigmoid((torch.logit(t_shifted) - mu) / sigma)


def check_unshift(answer: Callable[[float, float, Tensor], Tensor]) -> None:
    t = torch.tensor([0.05, 0.2, 0.5, 0.7, 0.93], dtype=torch.float64)
    for mu, sigma in [(1.15, 1.0), (0.8, 2.0), (-0.6, 0.5)]:
        shifted = torch.sigmoid(mu + sigma * torch.logit(t))
        got = answer(mu, sigma, shifted)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        assert isinstance(got, Tensor), f"your function returned a {type(got).__name__}, expected a tensor of levels"
        if got.shape == t.shape and torch.allclose(got.double(), t, atol=1e-6):
            continue
        asked = f"with μ = {mu}, σ = {sigma}"
        for told, wrong in [
            ("it shifts once more instead of undoing the shift: solve logit t' = μ + σ logit t for t", (mu, sigma)),
            ("the μ was taken back but σ was not: the inverse has σ' = 1/σ as well", (-mu, sigma)),
            (
                "the inverse has 1/σ, but its μ' is -μ/σ, not -μ: subtract μ first, then divide all of it",
                (-mu, 1 / sigma),
            ),
        ]:
            bad = torch.sigmoid(wrong[0] + wrong[1] * torch.logit(shifted))
            assert not torch.allclose(got.double(), bad, atol=1e-6), f"{asked} {told}"
        raise AssertionError(f"{asked} t = {t.tolist()} did not come back: got {[round(x, 4) for x in got.tolist()]}")


# ---------------------------------------------------------------- 1.4


def slope(mu: float, sigma: float, t: float) -> float:
    shifted = _sigmoid(mu + sigma * _logit(t))
    return sigma * shifted * (1 - shifted) / (t * (1 - t))


def check_slope(answer: Callable[[float, float, float], float]) -> None:
    for mu, sigma, t in [(0.0, 1.0, 0.3), (1.15, 1.0, 0.5), (1.15, 1.0, 0.9), (0.5, 2.0, 0.2), (-1.0, 0.7, 0.6)]:
        got = answer(mu, sigma, t)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        got, shifted = float(got), _sigmoid(mu + sigma * _logit(t))
        right = slope(mu, sigma, t)
        if _near(got, right, 1e-4 * max(1.0, right)):
            continue
        asked = f"slope({mu}, {sigma}, {t})"
        assert not _near(got, right / sigma), (
            f"{asked} gave {got:.4f}: a factor σ is missing, d(σ logit t) = σ d(logit t)"
        )
        assert not _near(got, sigma * shifted * (1 - shifted)), (
            f"{asked} gave {got:.4f}: that is dt'/d(logit t); the chain rule still needs d(logit t)/dt = 1/(t(1-t))"
        )
        assert not _near(got, 1 / right), f"{asked} gave {got:.4f}: that is dt/dt', the fraction is upside down"
        assert not _near(got, sigma), (
            f"{asked} gave {got:.4f}: σ is the slope between the logits; between t and t' it is another one"
        )
        raise AssertionError(f"{asked} gave {got:.4f}, expected {right:.4f}; differentiate logit t' = μ + σ logit t")


CHECKS = {"1.1": check_half_point, "1.2": check_my_schedule, "1.3": check_unshift, "1.4": check_slope}
SOLUTIONS = {"1.1": half_point, "1.2": my_schedule, "1.3": unshift, "1.4": slope}
