"""Chapter 1, the schedule: the straight path, its noise levels, and their shift with size. Eq. (1.1) to (1.5)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def interpolate(
    x_0: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], t: Float[Tensor, "B"]
) -> Float[Tensor, "B ..."]:
    """The straight path between a picture and noise.

    Eq. (1.1):  x_t = (1 - t) x_0 + t ε,  t = 1 is noise, t = 0 is the picture.

    One noise level a sample, in [0, 1]. Liu et al., "Flow Straight and Fast", 2022; the direction of t is FLUX's.
    """
    if x_0.shape != noise.shape:
        raise ValueError(f"picture {tuple(x_0.shape)} and noise {tuple(noise.shape)} must have one shape")
    t = t.reshape(-1, *[1] * (x_0.ndim - 1)).to(x_0.dtype)
    return (1 - t) * x_0 + t * noise


def get_lin_function(x1: float = 256, y1: float = 0.5, x2: float = 4096, y2: float = 1.15) -> Callable[[float], float]:
    """The line through two points, which FLUX uses to read μ off the number of image tokens.

    Eq. (1.2):  μ(L) = m L + b through (256, 0.5) and (4096, 1.15).

    It is a line and not a ramp: nothing is clamped, so "max_shift" is passed as soon as L > 4096.
    The default points belong to 256 × 256 and 1024 × 1024 pixels (FLUX reference code).
    """
    if x1 == x2:
        raise ValueError(f"two points at the same x = {x1} give no line; pass two different numbers of tokens")
    m = (y2 - y1) / (x2 - x1)
    b = y1 - m * x1
    return lambda x: m * x + b


def time_shift(mu: float, sigma: float, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Move noise levels: the odds t/(1-t) are raised to σ and multiplied by e^μ.

    Eq. (1.3):  t' = e^μ / (e^μ + (1/t - 1)^σ)

    t in [0, 1], σ > 0; FLUX always has σ = 1. Dividing by t would make the gradient at t = 0 a NaN, so this is written
    with the smaller of t and 1 - t over the larger, a ratio r in [0, 1] that cannot overflow: the values are those of
    the equation, finite at both ends for every σ (in float32 as long as |μ| < 88). So are the slopes for σ ≥ 1; for
    σ < 1 the curve itself is vertical there.
    """
    if sigma <= 0:
        raise ValueError(
            f"sigma = {sigma}: it must be positive (FLUX uses 1.0); sigma = 0 would send every t to the same level"
        )
    if t.numel() and not (0 <= t.min() and t.max() <= 1):
        raise ValueError(
            f"noise levels from {t.min():.4g} to {t.max():.4g}: t must lie in [0, 1], 0 is the picture and 1 is noise"
        )
    noisy = t >= 0.5
    r = torch.where(noisy, 1 - t, t) / torch.where(noisy, t, 1 - t)
    sign = 1 - 2 * noisy.to(t.dtype)
    odds = torch.exp(sign * mu) * r**sigma  # t'/(1 - t') where t < 1/2, its inverse above
    return torch.where(noisy, 1, odds) / (1 + odds)


def time_shift_logit(mu: float, sigma: float, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same map seen through the logit, where it is a straight line.

    Eq. (1.4):  logit t' = μ + σ logit t

    Use it to think with: two shifts add their μ, the inverse is (-μ/σ, 1/σ), and a logit-normal t stays logit-normal.
    """
    return torch.sigmoid(mu + sigma * torch.logit(t))


def get_schedule(
    num_steps: int, image_seq_len: int, base_shift: float = 0.5, max_shift: float = 1.15, shift: bool = True
) -> list[float]:
    """The N + 1 noise levels from 1 down to 0 that a sampler steps through.

    Eq. (1.5):  t_i = time_shift(μ(L), 1, 1 - i/N),  i = 0 … N

    The model is evaluated at t_0 … t_{N-1} and never at 0. L is the number of image tokens, (height/16)(width/16).
    shift=False leaves the levels evenly spaced, as FLUX.1 schnell wants them.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed to get from noise to a picture")
    if image_seq_len < 1:
        raise ValueError(f"image_seq_len = {image_seq_len}: a picture has (height/16)(width/16) tokens, at least one")
    # float64: a schedule is a list of Python floats, so its precision costs nothing
    t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    if shift:
        mu = get_lin_function(y1=base_shift, y2=max_shift)(image_seq_len)
        t = time_shift(mu, 1.0, t)
    return t.tolist()
