"""Chapter 3, RoPE: positions as rotations of queries and keys. Eq. (3.1) to (3.5)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def rope_frequencies(
    dim: int,
    theta: float,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "{dim}//2"]:
    """One frequency, in radians a position, for every pair of channels of an axis.

    Eq. (3.1):  ω_j = θ^{-2j/d_a},  j = 0 … d_a/2 - 1

    float64, since angles grow to thousands of radians; float32 only on devices that
    have no float64 (Apple's GPUs).
    """
    assert dim > 0 and dim % 2 == 0, f"dim = {dim}: must be even, for RoPE turns pairs"
    float_type = torch.float32 if torch.device(device).type == "mps" else torch.float64
    j = torch.arange(dim // 2, dtype=float_type, device=device)
    return theta ** (-2 * j / dim)


def rope(
    pos: Float[Tensor, "... L"],
    dim: int,
    theta: float,
) -> Float[Tensor, "... L {dim}//2 2 2"]:
    """A table of 2 × 2 rotations: one for every position and frequency.

    Eq. (3.2):  R(p)_j = [[cos pω_j, -sin pω_j], [sin pω_j, cos pω_j]]

    Positions are whole numbers kept as floats. The table is float32 whatever the
    model's dtype.
    """
    omega = rope_frequencies(dim, theta, pos.device)
    angle = pos[..., None].to(omega.dtype) * omega
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=-1)
    return rearrange(rotation, "... (i j) -> ... i j", i=2, j=2).float()


def apply_rope(
    x: Float[Tensor, "B H L K"],
    R: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B H L K"]:
    """Rotate every token's queries or keys by its position; values are not touched.

    Eq. (3.3):  q̃ = R(p) q, on the adjacent pairs of channels (2j, 2j+1)
    Eq. (3.5):  q̃_i · k̃_j = q_iᵀ R(p_j - p_i) k_j: scores see only differences

    In R's float32 at least, then back to x's dtype. Su et al., "RoFormer", 2021. Other
    code pairs channel j with j + d_h/2 instead, half-split (GPT-NeoX, Llama in
    transformers): used on FLUX's weights it runs without a word, and paints nonsense.
    """
    pairs = x.to(torch.promote_types(x.dtype, R.dtype)).unflatten(-1, (-1, 2))
    # the two columns of R(p), each times its number of the pair
    rotated = R[..., 0] * pairs[..., :1] + R[..., 1] * pairs[..., 1:]
    return rotated.flatten(-2).to(x.dtype)


class EmbedND(nn.Module):
    """The rotations of every axis of the ids, side by side.

    Eq. (3.4):  R(id) = R(id_0) ⊕ R(id_1) ⊕ R(id_2)

    d_a/2 rotations an axis: 8 + 28 + 28 = d_h/2 when published. dim is the head
    dimension d_h, axes_dim the d_a, which must be even and sum to it. There is nothing
    to train.
    """

    def __init__(self, dim: int, theta: float, axes_dim: tuple[int, ...]):
        super().__init__()
        assert sum(axes_dim) == dim, f"axes_dim = {axes_dim}: must sum to {dim}"
        self.dim, self.theta, self.axes_dim = dim, theta, tuple(axes_dim)

    def forward(
        self,
        ids: Float[Tensor, "B L axes"],
    ) -> Float[Tensor, "B 1 L {self.dim}//2 2 2"]:
        places = ids.unbind(-1)
        assert len(places) == len(self.axes_dim), f"{len(places)} axes: {self.axes_dim}"
        axes = zip(places, self.axes_dim, strict=True)
        tables = [rope(pos, dim, self.theta) for pos, dim in axes]
        return rearrange(torch.cat(tables, dim=-3), "b l k i j -> b 1 l k i j")
