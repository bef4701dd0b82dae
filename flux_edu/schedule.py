"""Chapter 1, the schedule: the path and its noise levels. Eq. (1.1) to (1.5)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def interpolate(
    x_0: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], t: Float[Tensor, "B"]
) -> Float[Tensor, "B ..."]:
    """The straight path between a picture and noise.

    Eq. (1.1):  x_t = (1 - t) x_0 + t ε,  t = 1 is noise, t = 0 is the picture.

    One noise level a sample, in [0, 1]. Liu et al., "Flow Straight and Fast", 2022; the
    direction of t is FLUX's.
    """
    assert x_0.shape == noise.shape, f"picture {x_0.shape}, but noise {noise.shape}"
    t = t.reshape(-1, *[1] * (x_0.ndim - 1)).to(x_0.dtype)
    return (1 - t) * x_0 + t * noise


def get_lin_function(
    x1: float = 256,
    y1: float = 0.5,
    x2: float = 4096,
    y2: float = 1.15,
) -> Callable[[float], float]:
    """The line through two points: FLUX reads μ off it for the number of image tokens.

    Eq. (1.2):  μ(L) = m L + b through (256, 0.5) and (4096, 1.15).

    It is a line and not a ramp: nothing is clamped, so "max_shift" is passed as soon as
    L > 4096. The default points belong to 256 × 256 and 1024 × 1024 pixels (FLUX
    reference code).
    """
    assert x1 != x2, f"two points at x = {x1} give no line"
    m = (y2 - y1) / (x2 - x1)
    b = y1 - m * x1
    return lambda x: m * x + b


def time_shift(
    mu: float,
    sigma: float,
    t: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Move noise levels: the odds t/(1-t) are raised to σ and multiplied by e^μ.

    Eq. (1.3):  t' = e^μ / (e^μ + (1/t - 1)^σ)

    t in [0, 1], σ > 0; FLUX always has σ = 1. e^μ must be a number of t's type: |μ| <
    700 in float64, < 88 in float32. The slopes at the ends are e^μ and e^-μ for σ = 1
    and 0 for σ > 1; for σ < 1 the curve is vertical there.
    """
    assert sigma > 0, f"σ = {sigma}: must be positive"
    assert ((t >= 0) & (t <= 1)).all(), f"t from {t.min()} to {t.max()}: not in [0, 1]"
    # Eq. (1.3) with numerator and denominator times t^σ, so nothing is divided by t
    a, b = math.exp(mu) * t**sigma, (1 - t) ** sigma
    return a / (a + b)


def time_shift_logit(
    mu: float,
    sigma: float,
    t: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """The same map seen through the logit, where it is a straight line.

    Eq. (1.4):  logit t' = μ + σ logit t

    Use it to think with: two shifts add their μ, the inverse is (-μ/σ, 1/σ), and a
    logit-normal t stays logit-normal.
    """
    return torch.sigmoid(mu + sigma * torch.logit(t))


def get_schedule(
    num_steps: int,
    image_seq_len: int,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    shift: bool = True,
) -> list[float]:
    """The N + 1 noise levels from 1 down to 0 that a sampler steps through.

    Eq. (1.5):  t_i = time_shift(μ(L), 1, 1 - i/N),  i = 0 … N

    The model is evaluated at t_0 … t_{N-1} and never at 0. L is the number of image
    tokens, (height/16)(width/16). shift=False leaves the levels evenly spaced, as
    FLUX.1 schnell wants them.
    """
    assert num_steps >= 1, f"num_steps = {num_steps}: must be at least 1"
    assert image_seq_len >= 1, f"image_seq_len = {image_seq_len}: must be at least 1"
    # float64: a schedule is a list of Python floats, so its precision costs nothing
    t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    if shift:
        mu = get_lin_function(y1=base_shift, y2=max_shift)(image_seq_len)
        t = time_shift(mu, 1.0, t)
    return t.tolist()
