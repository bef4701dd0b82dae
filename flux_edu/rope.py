"""Chapter 3, RoPE: positions as rotations of queries and keys. Eq. (3.1) to (3.5)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def rope_frequencies(dim: int, theta: float, device: torch.device | str = "cpu") -> Float[Tensor, "{dim}//2"]:
    """One frequency, in radians a position, for every pair of channels of an axis.

    Eq. (3.1):  ω_j = θ^{-2j/d_a},  j = 0 … d_a/2 - 1

    float64, since angles grow to thousands of radians; float32 only on devices that have no float64 (Apple's GPUs).
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim = {dim}: an axis needs an even number of channels, at least two, since RoPE turns pairs")
    float_type = torch.float32 if torch.device(device).type == "mps" else torch.float64
    j = torch.arange(dim // 2, dtype=float_type, device=device)
    return theta ** (-2 * j / dim)


def rope(pos: Float[Tensor, "... L"], dim: int, theta: float) -> Float[Tensor, "... L {dim}//2 2 2"]:
    """A table of 2 × 2 rotations: one for every position and frequency.

    Eq. (3.2):  R(p)_j = [[cos pω_j, -sin pω_j], [sin pω_j, cos pω_j]]

    Positions are whole numbers kept as floats. The table is float32 whatever the model's dtype.
    """
    omega = rope_frequencies(dim, theta, pos.device)
    angle = pos[..., None].to(omega.dtype) * omega
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
    return rearrange(rotation, "... (i j) -> ... i j", i=2, j=2).float()


def _rotate(x: Float[Tensor, "B H L K"], R: Float[Tensor, "B 1 L K/2 2 2"]) -> Float[Tensor, "B H L K"]:
    """Rotate the adjacent pairs (2j, 2j+1) of the last axis, in float32 or better.

    A pair (a, b) turned by an angle is (a + ib)(cos + i sin): one product instead of four and two sums. Where a
    compiler joins small operations into one anyway, and knows no complex numbers, the sums are written out.
    """
    pairs = x.to(torch.promote_types(x.dtype, R.dtype)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        turned = R[..., 0] * pairs[..., :1] + R[..., 1] * pairs[..., 1:]
    else:
        rotation = torch.complex(R[..., 0, 0], R[..., 1, 0])
        # a complex number is two neighbours in memory, the first at an even place
        fit = pairs.stride(-1) == 1 and not any(n % 2 for n in (pairs.storage_offset(), *pairs.stride()[:-1]))
        turned = torch.view_as_real(torch.view_as_complex(pairs if fit else pairs.contiguous()) * rotation)
    return turned.flatten(-2).to(x.dtype)


def apply_rope(
    xq: Float[Tensor, "B H L K"], xk: Float[Tensor, "B H L K"], freqs_cis: Float[Tensor, "B 1 L K/2 2 2"]
) -> tuple[Float[Tensor, "B H L K"], Float[Tensor, "B H L K"]]:
    """Rotate queries and keys, each at its own position; values are not touched.

    Eq. (3.3):  q̃ = R(p) q, on the adjacent pairs of channels (2j, 2j+1)
    Eq. (3.5):  q̃_i · k̃_j = q_iᵀ R(p_j - p_i) k_j: only differences of positions reach the attention scores

    Su et al., "RoFormer", 2021. Other code pairs channel j with j + d_h/2 instead, half-split (GPT-NeoX, Llama in
    transformers): used on FLUX's weights it runs without a word, and paints nonsense.
    """
    return _rotate(xq, freqs_cis), _rotate(xk, freqs_cis)


class EmbedND(nn.Module):
    """The rotations of every axis of the ids, side by side.

    Eq. (3.4):  R(id) = R(id_0) ⊕ R(id_1) ⊕ R(id_2),  d_a/2 rotations an axis: 8 + 28 + 28 = d_h/2 when published

    dim is the head dimension d_h, axes_dim the d_a, which must be even and sum to it. There is nothing to train.
    """

    def __init__(self, dim: int, theta: float, axes_dim: tuple[int, ...] | list[int]):
        super().__init__()
        if sum(axes_dim) != dim or any(d < 2 or d % 2 for d in axes_dim):
            raise ValueError(
                f"axes_dim = {list(axes_dim)} sums to {sum(axes_dim)}, but a head has {dim} channels; "
                "the axes must be even and share out the head exactly, as [16, 56, 56] does 128"
            )
        self.dim, self.theta, self.axes_dim = dim, theta, tuple(axes_dim)

    def forward(self, ids: Float[Tensor, "B L axes"]) -> Float[Tensor, "B 1 L {self.dim}//2 2 2"]:
        if ids.shape[-1] != len(self.axes_dim):
            raise ValueError(
                f"ids have {ids.shape[-1]} coordinates a token, but axes_dim = {self.axes_dim} names"
                f" {len(self.axes_dim)} axes"
            )
        tables = [rope(ids[..., axis], dim, self.theta) for axis, dim in enumerate(self.axes_dim)]
        return rearrange(torch.cat(tables, dim=-3), "b l k i j -> b 1 l k i j")
