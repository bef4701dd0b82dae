"""Shares with their intervals, fine detail, paired differences, and the tables of all."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flux_edu.train.data import ONE, Scenes

Z = 1.959964  # of 95 %
MEASURES = {
    "one": ("object", "style", "colour", "all", "strict object", "strict style", "fine detail", "count", "tint"),
    "two": ("object", "style", "colour", "position", "all", "strict object", "strict style", "fine detail"),
}
Right = dict[str, np.ndarray]  # measure → which of the pictures are right; of "fine detail" how much each one has

# ---------------------------------------------------------------- fine detail


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


# ---------------------------------------------------------------- noise


def psnr_where(one: Tensor, other: Tensor, where: Bool[Tensor, "B 1 H W"]) -> float:
    """Peak signal to noise in decibel over these pixels of all pictures together; the range of a number is 2."""
    error = (one - other).square().mean(dim=1, keepdim=True)
    return float(10 * torch.log10(4 / error[where].double().mean()))


# ---------------------------------------------------------------- intervals


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, sensible near 0 and 1 too.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = right/n. Wilson, 1927.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z**2 / n
    middle, reach = p + z2 / 2, Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return (middle - reach) / (1 + z2), (middle + reach) / (1 + z2)


def paired_difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Share of the first minus share of the second on the same prompts, with its 95 % interval.

    Only prompts where the two differ say anything: b with the first right alone, c with the second. Half a prompt is
    added to each of the four cells, so that no difference at all does not pass for certainty. Agresti & Min, 2005.
    """
    n, b, c = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    middle = (b - c) / (n + 2)
    reach = Z * math.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    return (b - c) / max(n, 1), max(-1.0, middle - reach), min(1.0, middle + reach)


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """A mean and its 95 % interval: Wilson's for right or wrong, ± z s/√n for numbers."""
    if values.dtype == bool:
        return float(values.mean()), *wilson(int(values.sum()), len(values))
    mean, reach = float(values.mean()), Z * float(values.std()) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


# ---------------------------------------------------------------- tables


def score_table(name: str, right: Right, scenes: Scenes, minus: Right | None = None) -> list[dict]:
    """Rows of the table, singles and pairs apart: each measure's share, or its paired difference, with the interval."""
    rows = []
    for objects, chosen in (("one", scenes.layout == ONE), ("two", scenes.layout != ONE)):
        for measure in MEASURES[objects]:
            if measure not in right or minus is not None and measure not in minus:
                continue
            one, n = right[measure][chosen], int(chosen.sum())
            if n == 0:
                continue
            if minus is None:
                share, low, high = mean_with_interval(one)
            elif one.dtype == bool:
                share, low, high = paired_difference(one, minus[measure][chosen])
            else:
                share, low, high = mean_with_interval(one - minus[measure][chosen])
            rows.append(dict(what=name, objects=objects, measure=measure, n=n, share=share, low=low, high=high))
    return rows
