"""Chapter 4, second part: how the conditioning steers a block (adaptive layer norm). Eq. (4.4) and (4.5)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class ModulationOut:
    """Shift b, scale s and gate g of one branch of a block: a number a channel, the same for all tokens."""

    shift: Float[Tensor, "B 1 D"]
    scale: Float[Tensor, "B 1 D"]
    gate: Float[Tensor, "B 1 D"]


class Modulation(nn.Module):
    """One linear layer turns the conditioning vector into the modulations of a block.

    Eq. (4.4):  (b¹, s¹, g¹, b², s², g²) = chunk(W SiLU(**v**) + c)

    The order is shift, scale, gate. `double` blocks have two branches (attention, MLP), single blocks one. The gates
    are not bounded: no sigmoid. Swapping shift and scale loads silently and ruins the picture. Peebles & Xie, "DiT",
    2022.
    """

    def __init__(self, dim: int, double: bool):
        super().__init__()
        self.is_double = double
        self.lin = nn.Linear(dim, (6 if double else 3) * dim)

    def forward(self, vec: Float[Tensor, "B D"]) -> tuple[ModulationOut, ModulationOut | None]:
        parts = self.lin(F.silu(vec))[:, None, :].chunk(6 if self.is_double else 3, dim=-1)
        return ModulationOut(*parts[:3]), ModulationOut(*parts[3:]) if self.is_double else None


def modulate(
    x: Float[Tensor, "B L D"], shift: Float[Tensor, "B 1 D"], scale: Float[Tensor, "B 1 D"]
) -> Float[Tensor, "B L D"]:
    """Normalise every token, then stretch and move its channels as the conditioning says.

    Eq. (4.5):  x̃ = (1 + s) ⊙ LN(x) + b

    LN has no parameters of its own and ε = 1e-6; s = b = 0 leaves the plain norm. addcmul(b, x, y) is b + x ⊙ y, in
    one pass over memory instead of two. With one vector for the whole batch, even the norm is part of that pass.
    """
    if scale.shape[:2] == (1, 1):
        return F.layer_norm(x, x.shape[-1:], weight=1 + scale[0, 0], bias=shift[0, 0], eps=1e-6)
    return torch.addcmul(shift, 1 + scale, F.layer_norm(x, x.shape[-1:], eps=1e-6))
