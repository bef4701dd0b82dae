"""Chapter 4, second part: how the conditioning steers a block. Eq. (4.4) and (4.5)."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class ModulationOut:
    """Shift b, scale s and gate g of one branch of a block.

    A number a channel, the same for all tokens. The network's last layer has no gate.
    """

    shift: Float[Tensor, "B 1 D"]
    scale: Float[Tensor, "B 1 D"]
    gate: Float[Tensor, "B 1 D"] | None = None


class Modulation(nn.Module):
    """Adaptive layer norm: one linear layer makes a block's modulations of the vector.

    Eq. (4.4):  (b¹, s¹, g¹, b², s², g²) = chunk(W SiLU(`vec`) + c)

    The order is shift, scale, gate. `double` blocks have two branches (attention, MLP),
    single blocks one. The gates are not bounded: no sigmoid. Swapping shift and scale
    loads silently and ruins the picture. Peebles & Xie, "DiT", 2022.
    """

    def __init__(self, dim: int, double: bool):
        super().__init__()
        self.is_double = double
        self.lin = nn.Linear(dim, (6 if double else 3) * dim)

    def forward(
        self,
        vec: Float[Tensor, "B D"],
    ) -> tuple[ModulationOut, ModulationOut | None]:
        numbers = self.lin(F.silu(vec))[:, None, :]
        parts = numbers.chunk(6 if self.is_double else 3, dim=-1)
        second = ModulationOut(*parts[3:]) if self.is_double else None
        return ModulationOut(*parts[:3]), second


def modulate(x: Float[Tensor, "B L D"], mod: ModulationOut) -> Float[Tensor, "B L D"]:
    """Normalise every token, then stretch and move its channels by the conditioning.

    Eq. (4.5):  x̃ = (1 + s) ⊙ LN(x) + b

    LN has no parameters of its own and ε = 1e-6; s = b = 0 leaves the plain norm.
    """
    return (1 + mod.scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + mod.shift
