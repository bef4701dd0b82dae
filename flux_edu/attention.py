"""Chapter 4, third part: heads, QK norm and joint attention. Eq. (4.6) to (4.10)."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.rope import apply_rope


class RMSNorm(nn.Module):
    """x / sqrt(mean x² + 1e-6) ⊙ scale over the last axis. Zhang & Sennrich, 2019.

    In bfloat16 the mean is taken in float32. The result has x's dtype, under autocast
    too, where scale is float32.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
        return F.rms_norm(x, x.shape[-1:], self.scale.to(x.dtype), eps=1e-6)


class QKNorm(nn.Module):
    """Queries and keys get one length scale each, which bounds the attention scores.

    Eq. (4.7):  Q ← RMSNorm_q(Q),  K ← RMSNorm_k(K)

    Over the head dimension, before RoPE, with one learned scale of d_h numbers for
    queries and one for keys, shared by all heads. Dehghani et al., "Scaling Vision
    Transformers to 22 Billion Parameters", 2023.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(
        self, q: Float[Tensor, "B H L K"], k: Float[Tensor, "B H L K"]
    ) -> tuple[Float[Tensor, "B H L K"], Float[Tensor, "B H L K"]]:
        return self.query_norm(q), self.key_norm(k)


def split_heads(
    qkv: Float[Tensor, "B L qkv"],
    num_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut projected tokens into queries, keys, values of every head, each "B H L K".

    Eq. (4.6):  Q, K, V = split_heads(W_qkv x̃ + c_qkv),  W_qkv ∈ R^{3D × D}

    First come all queries, then all keys, then all values; inside each, head by head.
    """
    width = qkv.shape[-1]
    assert width % (3 * num_heads) == 0, f"{width} channels, {num_heads} heads"
    q, k, v = rearrange(qkv, "b l (qkv h k) -> qkv b h l k", qkv=3, h=num_heads)
    return q, k, v


class SelfAttention(nn.Module):
    """One stream's weights of the attention, under their published names."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def heads(self, x: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, normed keys, values, each "B H L K". Eq. (4.6), (4.7)."""
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        return *self.norm(q, k), v


def attention(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H L K"],
    v: Float[Tensor, "B H L K"],
    pe: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B L H*K"]:
    """Joint attention, Eq. (4.9): `attention_explicit` by PyTorch's kernel."""
    A = F.scaled_dot_product_attention(apply_rope(q, pe), apply_rope(k, pe), v)
    return rearrange(A, "b h l k -> b l (h k)")


def attention_weights(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H L K"],
    pe: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B H L L"]:
    """How much token i (row) takes from token j (column): Softmax(Q̃ K̃ᵀ / √d_h).

    Every row sums to 1.
    """
    q, k = apply_rope(q, pe), apply_rope(k, pe)
    scores = einsum(q, k, "b h i k, b h j k -> b h i j") / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


def attention_explicit(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H L K"],
    v: Float[Tensor, "B H L K"],
    pe: Float[Tensor, "B 1 L K/2 2 2"],
) -> Float[Tensor, "B L H*K"]:
    """Joint attention as the formula says it, with the whole L × L matrix in memory.

    Eq. (4.8):   Q = [Q_txt, Q_img],  K = [K_txt, K_img],  V = [V_txt, V_img]
    Eq. (4.9):   A = Softmax(Q̃ K̃ᵀ / √d_h) V with Q̃ = R(p) Q and K̃ = R(p) K
    Eq. (4.10):  A_txt, A_img = split(A, [L_txt, L_img])

    Text first. No mask, nothing added to the scores. Concatenation and split are
    `join_streams` and `split_streams`, in `joint_attention` around this.
    """
    return rearrange(attention_weights(q, k, pe) @ v, "b h l k -> b l (h k)")


def join_streams(
    txt: Float[Tensor, "... L_txt K"],
    img: Float[Tensor, "... L_img K"],
) -> Float[Tensor, "... L K"]:
    """Text tokens, then image tokens, Eq. (4.8). The order must be that of the ids."""
    return torch.cat([txt, img], dim=-2)


def split_streams(
    x: Float[Tensor, "B L D"], L_txt: int
) -> tuple[Float[Tensor, "B L_txt D"], Float[Tensor, "B L_img D"]]:
    """The first L_txt tokens are text, the rest image. Eq. (4.10)."""
    return x[:, :L_txt], x[:, L_txt:]


def joint_attention(
    txt_qkv: tuple[Tensor, Tensor, Tensor],
    img_qkv: tuple[Tensor, Tensor, Tensor],
    pe: Float[Tensor, "B 1 L pairs 2 2"],
) -> tuple[Float[Tensor, "B L_txt D"], Float[Tensor, "B L_img D"]]:
    """One attention over the heads of both streams, text first. Eq. (4.8) to (4.10)."""
    q, k, v = map(join_streams, txt_qkv, img_qkv)
    L_txt = txt_qkv[0].shape[2]
    return split_streams(attention(q, k, v, pe), L_txt)
