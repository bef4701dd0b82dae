"""Guidance by two passes in a part of the steps only. Eq. (18.5)."""

from jaxtyping import Float
from torch import Tensor

from flux_edu.sampling import Velocity


def guided_between(guided: Velocity, plain: Velocity, low: float, high: float) -> Velocity:
    """The guided velocity at noise levels between low and high, elsewhere the one of a single pass.

    Eq. (18.5):  v(x, t) = v_w(x, t)  if low < t ≤ high,  else v_c(x, t)

    v_w is Eq. (6.4), two evaluations; v_c reads the prompt alone. low = 0 and high = 1 is guidance in every step.
    Kynkäänniemi et al., 2024.
    """

    def velocity(x: Float[Tensor, "B L C"], t: float) -> Float[Tensor, "B L C"]:
        return guided(x, t) if low < t <= high else plain(x, t)

    return velocity
