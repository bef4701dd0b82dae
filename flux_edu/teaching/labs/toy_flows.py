"""Toy flows: data so simple that the best velocity can be written down instead of learned. Notebooks 06, 09 and 11."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from flux_edu.teaching.labs.solvers import Velocity

# ---------------------------------------------------------------- numbers


def gaussian_velocity(mean: float, deviation: float) -> Velocity:
    """The exact velocity where every number of the data is drawn from N(mean, deviation²), independently.

    x_t has variance V = (1 - t)² s² + t², and v = E[ε - x_0 | x_t] = -m + (t - (1 - t) s²) / V · (x - (1 - t) m).
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 * deviation**2 + t**2
        return (t - (1 - t) * deviation**2) / variance * (x - (1 - t) * mean) - mean

    return velocity


def gaussian_end(x: Float[Tensor, "B ..."], mean: float, deviation: float, t: float = 0.0) -> Float[Tensor, "B ..."]:
    """Where the path of `gaussian_velocity` through the noise x (t = 1) stands at level t: (1 - t) m + √V x."""
    return (1 - t) * mean + ((1 - t) ** 2 * deviation**2 + t**2) ** 0.5 * x


def gaussian_floor(t: Float[Tensor, "N"], s: float = 1.0) -> Float[Tensor, "N"]:
    """The least loss a number for Gaussian data of variance s²: s² / ((1 - t)² s² + t²), the variance of ε - x_0."""
    return s**2 / ((1 - t) ** 2 * s**2 + t**2)


def two_blobs_velocity(deviation: float) -> Velocity:
    """The exact velocity where the data are N(-1, s²) and N(1, s²), equally often, for t > 0: no longer linear in x.

    x̂_0 mixes what each blob would answer, m + (1 - t) s² / V · (x - (1 - t) m) for m = ±1, weighted by how well each
    explains x, which is tanh((1 - t) x / V) in favour of +1; then v = (x - x̂_0) / t.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 * deviation**2 + t**2
        kept = (1 - t) * deviation**2 / variance
        x_0 = kept * x + (1 - (1 - t) * kept) * torch.tanh((1 - t) * x / variance)
        return (x - x_0) / t

    return velocity


# ---------------------------------------------------------------- the plane: two blobs

CENTRES = torch.tensor([[-1.0, -1.0], [2.0, 0.5]])  # of the two blobs that are the toy's pictures
SPREAD = 0.2  # standard deviation of a blob, in both directions


def draw_blobs(n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
    """n pictures of the toy: points of the plane from one of two round blobs, either one as often."""
    which = torch.randint(2, (n,), generator=generator)
    return CENTRES[which] + SPREAD * torch.randn(n, 2, generator=generator)


def blob_velocity(x: Float[Tensor, "B 2"], t: Float[Tensor, "B"]) -> Float[Tensor, "B 2"]:
    """The best possible answer E[ε - x_0 | x_t = x] for the toy, written down instead of learned.

    If x_0 came from blob k, then x_t is Gaussian with mean (1 - t) m_k and variance V = (1 - t)² s² + t², and what is
    left over, d = x - (1 - t) m_k, is shared out: t d / V is the noise to expect, m_k + (1 - t) s² d / V the picture.
    The two blobs' answers are weighted by how well each explains x.
    """
    t = t.reshape(-1, 1, 1)
    d = x[:, None] - (1 - t) * CENTRES
    V = (1 - t) ** 2 * SPREAD**2 + t**2
    weight = torch.softmax(-d.square().sum(-1, keepdim=True) / (2 * V), dim=1)
    return (weight * (t * d / V - CENTRES - (1 - t) * SPREAD**2 * d / V)).sum(1)


def share_on_data(points: Float[Tensor, "N 2"]) -> float:
    """The share of points within three deviations of a blob's centre; of the data itself it is 98.9 %."""
    return (torch.cdist(points, CENTRES).amin(1) < 3 * SPREAD).float().mean().item()


@cache
def toy_walk(steps: int, n: int = 500) -> Tensor:
    """n walks of the toy of chapter 9 along its best velocity, from noise in equal Euler steps: steps + 1 places."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    places = [x]
    for i in range(steps):
        x = x - blob_velocity(x, torch.full((n,), 1 - i / steps)) / steps
        places.append(x)
    return torch.stack(places)
