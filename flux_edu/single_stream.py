"""Chapter 5: text and image as one sequence, and the last layer. Eq. (5.1) to (5.5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import QKNorm, attention, split_heads
from flux_edu.modulation import Modulation, ModulationOut, modulate


class SingleStreamBlock(nn.Module):
    """One set of weights for all tokens; attention and MLP side by side.

    Eq. (5.1):  (b, s, g) = chunk₃(W_mod SiLU(`vec`) + c_mod),  x̃ = (1 + s) ⊙ LN(x) + b
    Eq. (5.2):  [q, k, v, m] = W_1 x̃ + c_1,  of 3D and 4D channels
    Eq. (5.3):  o = W_2 [Attn(R q̂, R k̂, v) ; GELU(m)] + c_2
    Eq. (5.4):  x ← x + g ⊙ o

    q̂ and k̂ are normed as in (4.7). x holds text and image tokens, text first; text is
    updated too and dropped only after the last block. The parallel form is Dehghani et
    al. 2023.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.num_heads = num_heads
        self.widths = 3 * hidden_size, int(hidden_size * mlp_ratio)
        self.linear1 = nn.Linear(hidden_size, sum(self.widths))
        self.linear2 = nn.Linear(hidden_size + self.widths[1], hidden_size)
        self.norm = QKNorm(hidden_size // num_heads)
        self.mlp_act = nn.GELU(approximate="tanh")
        self.modulation = Modulation(hidden_size, double=False)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        vec: Float[Tensor, "B D"],
        pe: Float[Tensor, "B 1 L pairs 2 2"],
    ) -> Float[Tensor, "B L D"]:
        mod, _ = self.modulation(vec)
        qkv, m = self.linear1(modulate(x, mod)).split(self.widths, dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        q, k = self.norm(q, k)
        o = self.linear2(torch.cat([attention(q, k, v, pe), self.mlp_act(m)], dim=-1))
        return x + mod.gate * o


class LastLayer(nn.Module):
    """From the network's width to the numbers of a patch: the velocity of its token.

    Eq. (5.5):  (b, s) = chunk₂(W_a SiLU(`vec`) + c_a),  y = W((1 + s) ⊙ LN(x) + b) + c

    Shift, then scale, and no gate. diffusers keeps the same layer with the halves
    swapped: a checkpoint moved without swapping them back loads silently and is wrong.
    """

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        numbers = nn.Linear(hidden_size, 2 * hidden_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), numbers)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        vec: Float[Tensor, "B D"],
    ) -> Float[Tensor, "B L out"]:
        shift, scale = self.adaLN_modulation(vec)[:, None, :].chunk(2, dim=-1)
        return self.linear(modulate(x, ModulationOut(shift, scale)))
