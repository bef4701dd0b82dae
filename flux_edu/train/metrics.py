"""Numbers of pictures: how much fine detail they have, and how far one is from another."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def fine_detail(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """The share of a picture's variance at high frequencies. The judges forgive blur, this does not.

    Σ |X(u, v)|² over √(u² + v²) > 0.2, divided by Σ |X(u, v)|² over all (u, v) ≠ 0. X is the Fourier transform of
    the grey picture, the mean of its three channels; u and v are in cycles a pixel, from -1/2 to 1/2. A plain picture
    has 0. Numbers of one size can be compared: a larger picture of the same drawing has less.
    """
    grey = pictures.double().mean(dim=1)
    power = torch.fft.fft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square()
    u, v = (torch.fft.fftfreq(side, dtype=power.dtype, device=power.device) for side in grey.shape[1:])
    high = torch.hypot(u[:, None], v[None]) > 0.2
    return power[:, high].sum(dim=1) / power.sum(dim=(1, 2)).clamp(min=1e-12)


def psnr_where(one: Tensor, other: Tensor, where: Bool[Tensor, "B 1 H W"]) -> float:
    """Peak signal to noise in decibel over these pixels of all pictures together; the range of a number is 2."""
    error = (one - other).square().mean(dim=1, keepdim=True)
    return float(10 * torch.log10(4 / error[where].double().mean()))
