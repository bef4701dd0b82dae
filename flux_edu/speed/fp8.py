"""Linear layers whose products are of 8-bit floating point numbers, for GPUs that multiply those twice as fast."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

from flux_edu.modulation import Modulation

LARGEST = 448  # of the format e4m3: 4 bits of exponent, 3 of fraction


def quantize_rowwise(x: Float[Tensor, "rows K"]) -> tuple[Float[Tensor, "rows K"], Float[Tensor, "rows 1"]]:
    """8-bit numbers and one float32 scale a row: x ≈ numbers · scale, the largest of a row exact."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x / scale).to(torch.float8_e4m3fn), scale


@torch.library.custom_op("flux_edu::float8_product", mutates_args=())
def float8_product(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's product of scaled 8-bit rows, as one operation that torch.compile does not look into."""
    rows, fast = ScalingType.RowWise, True  # fast: summed in the tensor cores, not rounded outside in between
    return scaled_mm(x, w.t(), x_scale, rows, w_scale.t(), rows, bias=bias, use_fast_accum=fast)


@float8_product.register_fake
def _(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(w), dtype=torch.bfloat16)


class Float8Linear(nn.Module):
    """A linear layer of bfloat16 activations with its weight kept in 8 bits; half the memory, 4 significant bits.

    y_ij = a_i s_j Σ_k X_ik W_jk + c_j  with 8-bit X and W, a scale a_i for every token and s_j for every output channel
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        (self.weight, self.scale), self.bias = quantize_rowwise(linear.weight.detach()), linear.bias

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... out"]:
        tokens, scale = quantize_rowwise(x.flatten(end_dim=-2))
        return float8_product(tokens, self.weight, scale, self.scale, self.bias).unflatten(0, x.shape[:-1])


def to_float8(block: nn.Module) -> nn.Module:
    """Every linear layer of a block in 8 bits, but those that make modulations, which run once for all tokens."""
    for module in list(block.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear) and not isinstance(module, Modulation):
                setattr(module, name, Float8Linear(layer))
    return block
