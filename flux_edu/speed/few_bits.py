"""Weights of few bits: a scale a row, a scale a block, and a low-rank part that stays exact. Eq. (18.6) and (18.7)."""

from collections.abc import Callable
from copy import deepcopy

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def round_to_bits(W: Float[Tensor, "out in"], bits: int, block: int | None = None) -> Float[Tensor, "out in"]:
    """The matrix as b bits a number remember it, with one scale for every `block` numbers of a row, None: a row.

    Eq. (18.6):  Ŵ = s ⌊W / s⌉,  s = max |W| / (2^{b-1} - 1)  over a block

    So a number is one of 2^b - 1 multiples of s from -max to max; with 4 bits from -7 s to 7 s.
    """
    blocks = rearrange(W, "out (n k) -> out n k", k=block or W.shape[1])
    s = blocks.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return rearrange(s * (blocks / s).round(), "out n k -> out (n k)")


def round_rest(
    W: Float[Tensor, "out in"], bits: int, block: int | None = None, rank: int = 32
) -> Float[Tensor, "out in"]:
    """A low-rank part kept as it is, and only the rest in few bits.

    Eq. (18.7):  Ŵ = U_r S_r V_rᵀ + Q(W - U_r S_r V_rᵀ),  Q: Eq. (18.6)

    U S Vᵀ is the singular value decomposition of W, of which r columns are kept: the part of rank r that leaves the
    smallest rest, so that the rest's scales are smaller. It is the second half of SVDQuant (Li et al., 2024), whose
    first moves outliers of the activations into W, since it rounds those too.
    """
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    low = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return low + round_to_bits(W - low, bits, block)


def rounded(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a model in which every matrix of its blocks has been changed, but those that make modulations."""
    copy = deepcopy(model)
    for name, module in copy.named_modules():
        if isinstance(module, nn.Linear) and "_blocks." in name and not name.endswith(".lin"):
            module.weight.data = change(module.weight.data)
    return copy
