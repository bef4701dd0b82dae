"""Chapter 4, third part: heads, QK norm and joint attention. Eq. (4.6) to (4.10)."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.rope import apply_rope


class RMSNorm(nn.Module):
    """x / sqrt(mean x² + 1e-6) ⊙ scale over the last axis. Zhang & Sennrich, 2019.

    In bfloat16, PyTorch's fused kernel sums the squares in float32 and rounds once, at the end. It wants x and scale of
    one dtype: under autocast scale is float32, and has to follow.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
        return F.rms_norm(x, x.shape[-1:], self.scale.to(x.dtype), eps=1e-6)


class QKNorm(nn.Module):
    """Queries and keys get one length scale each, so that attention scores cannot blow up.

    Eq. (4.7):  Q ← RMSNorm_q(Q),  K ← RMSNorm_k(K)

    Over the head dimension, before RoPE, with one learned scale of d_h numbers for queries and one for keys, shared by
    all heads. Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(
        self, q: Float[Tensor, "B H L K"], k: Float[Tensor, "B H L K"]
    ) -> tuple[Float[Tensor, "B H L K"], Float[Tensor, "B H L K"]]:
        # token by token, as they lie in memory: head by head, every step from here to the kernel would copy them first
        q, k = self.query_norm(q.transpose(1, 2)), self.key_norm(k.transpose(1, 2))
        return q.transpose(1, 2), k.transpose(1, 2)


def split_heads(qkv: Float[Tensor, "B L qkv"], num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the projected tokens into queries, keys and values of every head, each "B H L K".

    Eq. (4.6):  Q, K, V = split_heads(W_qkv x̃ + c_qkv),  W_qkv ∈ R^{3D × D}

    First come all queries, then all keys, then all values; inside each, head by head.
    """
    if qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"{qkv.shape[-1]} channels cannot be shared out to q, k and v of {num_heads} heads: not a multiple of"
            f" {3 * num_heads}"
        )
    q, k, v = rearrange(qkv, "b l (qkv h k) -> qkv b h l k", qkv=3, h=num_heads)
    return q, k, v


class SelfAttention(nn.Module):
    """The weights of one stream's attention, under the names of the published checkpoints; the block does the steps."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)


def attention(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H L K"],
    v: Float[Tensor, "B H L K"],
    pe: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B L H*K"]:
    """Joint attention, Eq. (4.9), by PyTorch's fused kernel; the same value as `attention_explicit`."""
    q, k = apply_rope(q, k, pe)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h l k -> b l (h k)")


def attention_weights(
    q: Float[Tensor, "B H L K"], k: Float[Tensor, "B H L K"], pe: Float[Tensor, "B 1 L K/2 2 2"]
) -> Float[Tensor, "B H L L"]:
    """How much token i (row) takes from token j (column), a row summing to 1: Softmax(Q̃ K̃ᵀ / √d_h)."""
    q, k = apply_rope(q, k, pe)
    scores = einsum(q, k, "b h i k, b h j k -> b h i j") / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


def attention_explicit(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H L K"],
    v: Float[Tensor, "B H L K"],
    pe: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B L H*K"]:
    """Joint attention as the formula says it, with the whole L × L matrix in memory.

    Eq. (4.8):   Q = [Q_txt, Q_img],  K = [K_txt, K_img],  V = [V_txt, V_img]: text first
    Eq. (4.9):   A = Softmax(Q̃ K̃ᵀ / √d_h) V with Q̃ = R(p) Q and K̃ = R(p) K, no mask, nothing added to the scores
    Eq. (4.10):  A_txt, A_img = split(A, [L_txt, L_img])

    Concatenation and split are `join_streams` and `split_streams`, done by the block around this.
    """
    return rearrange(attention_weights(q, k, pe) @ v, "b h l k -> b l (h k)")


def join_streams(txt: Tensor, img: Tensor, dim: int = 1) -> Tensor:
    """Text tokens, then image tokens, along the token axis dim. Eq. (4.8). The order must be that of the ids.

    In memory the result lies token by token whichever axis that is: heads stay strided views, as `split_heads` makes.
    """
    return torch.cat([txt.transpose(1, dim), img.transpose(1, dim)], dim=1).transpose(1, dim)


def split_streams(
    x: Float[Tensor, "B L D"], L_txt: int
) -> tuple[Float[Tensor, "B L_txt D"], Float[Tensor, "B L_img D"]]:
    """The first L_txt tokens are text, the rest image. Eq. (4.10)."""
    return x[:, :L_txt], x[:, L_txt:]
