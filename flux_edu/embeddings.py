"""Chapter 4, first part: numbers and pooled text as vectors. Eq. (4.1) and (4.2)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def timestep_embedding(t: Float[Tensor, "B"], dim: int) -> Float[Tensor, "B dim"]:
    """A number as a row of cosines and sines, from fast ones to slow ones.

    Eq. (4.1):  emb(t) = [cos(1000 t f_i), sin(1000 t f_i)],  f_i = 10000^{-i/128}

    i = 0 … 127, cosines first. The same function embeds the guidance number, also times
    1000. float32 in and out: bfloat16 does not tell neighbouring thousandths apart.
    Vaswani et al. 2017, as adapted by diffusion models.
    """
    assert dim % 2 == 0, f"dim = {dim}: must be even, half cosines and half sines"
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    f = torch.exp(-math.log(10_000) * i / half)
    angle = 1000 * t.float()[:, None] * f
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class MLPEmbedder(nn.Module):
    """Two linear layers with a SiLU between; for time, guidance and pooled text each.

    Eq. (4.2):  MLP(x) = W_2 SiLU(W_1 x + c_1) + c_2
    """

    def __init__(self, in_dim: int, hidden_dim: int):
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_dim)
        self.silu = nn.SiLU()
        self.out_layer = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Float[Tensor, "B in"]) -> Float[Tensor, "B D"]:
        return self.out_layer(self.silu(self.in_layer(x)))
