"""The notes on the double-stream block."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from flux_edu.attention import QKNorm, SelfAttention, attention_explicit, attention_weights, split_heads
from flux_edu.double_stream import mlp
from flux_edu.modulation import Modulation, ModulationOut, modulate
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.rope import EmbedND, apply_rope
from flux_edu.teaching.errata.arguments import small_flux
from flux_edu.teaching.errata.entry import Check, Erratum

PART = "the Double Stream Block"
AXES = (16, 56, 56)


def rotations(L: int, where: float = 0.0) -> torch.Tensor:
    """The rotations of L image tokens in a row, the first of them in column `where`."""
    ids = make_img_ids(1, 1, L)
    ids[..., 2] += where
    return EmbedND(128, 10_000, AXES)(ids)


def width_notes():
    d = 24 // 2  # the d under the root of the attention
    return 1, d


def width_right():
    return small_flux().conditioning(torch.ones(1), torch.randn(1, 7)).shape


def table_notes():
    L, d_p = 5, 128
    return torch.zeros(L, d_p).shape


def table_right():
    return EmbedND(128, 10_000, AXES)(make_txt_ids(1, 5)).shape


def a_modulation() -> Modulation:
    """One that answers shift 0.1, scale 0.5, gate 2 for every channel, in the order of the published weights."""
    mod = Modulation(4, double=False)
    nn.init.zeros_(mod.lin.weight)
    mod.lin.bias.data = torch.tensor([0.1, 0.5, 2.0]).repeat_interleave(4)
    return mod


def order_notes():
    s, b, g = a_modulation().lin(F.silu(torch.randn(1, 4)))[:, None].chunk(3, dim=-1)
    return modulate(torch.tensor([[[-1.0, -1.0, 1.0, 1.0]]]), ModulationOut(shift=b, scale=s))[0, 0]


def order_right():
    out, _ = a_modulation()(torch.randn(1, 4))
    return modulate(torch.tensor([[[-1.0, -1.0, 1.0, 1.0]]]), out)[0, 0]


def scaled_norm() -> QKNorm:
    """A QK norm whose learned scales are 2 for queries and 3 for keys."""
    norm = QKNorm(128)
    norm.query_norm.scale.data.fill_(2.0)
    norm.key_norm.scale.data.fill_(3.0)
    return norm


def norm_notes():
    both = scaled_norm().query_norm(torch.randn(2, 1, 2, 3, 128))  # one norm for Q and K
    return both.square().mean(dim=(1, 2, 3, 4)).sqrt()


def norm_right():
    q, k = scaled_norm()(*torch.randn(2, 1, 2, 3, 128))
    return [x.square().mean().sqrt() for x in (q, k)]


def matrix_notes():
    D, H = 3072, 24
    return D, 3 * H * D


def matrix_right():
    with torch.device("meta"):
        return SelfAttention(3072, 24, qkv_bias=True).qkv.weight.shape


def heads_notes():
    qkv = torch.arange(18.0).reshape(1, 1, 18)
    q, k, v = qkv.reshape(1, 1, 2, 3, 3).permute(3, 0, 2, 1, 4)  # "split": heads first, then q, k, v
    return q[0, 1, 0]


def heads_right():
    q, k, v = split_heads(torch.arange(18.0).reshape(1, 1, 18), num_heads=2)
    return q[0, 1, 0]


def quadrants(weights: torch.Tensor) -> int:
    """How many of the four blocks text/image × text/image carry any attention, 3 text tokens of 7."""
    return sum(bool(block.sum() > 0) for rows in weights.split([3, 4], -2) for block in rows.split([3, 4], -1))


def cross_notes():
    scores = torch.randn(1, 2, 7, 7)
    scores[..., :3, :3] = scores[..., 3:, 3:] = -math.inf  # each kind looks at the other one only
    return quadrants(scores.softmax(dim=-1))


def cross_right():
    q, k = torch.randn(2, 1, 2, 7, 128)
    return quadrants(attention_weights(q, k, rotations(7)))


def flips(score) -> torch.Tensor:
    """What moving the key three places away adds to the score of -q, over what it adds to that of q."""
    q, k = torch.randn(2, 1, 1, 1, 128)
    return (score(-q, k, 3) - score(-q, k, 0)) / (score(q, k, 3) - score(q, k, 0))


def added_notes():
    return flips(lambda q, k, distance: (q * k).sum() + -0.1 * distance)  # QKᵀ + φ(P)


def added_right():
    def score(q, k, distance):
        turned_q = apply_rope(q, rotations(1))
        turned_k = apply_rope(k, rotations(1, where=distance))
        return (turned_q * turned_k).sum()

    return flips(score)


def root_notes():
    q, k = torch.randn(2, 1, 24, 64, 128)
    scores = q @ k.mT / math.sqrt(24 * 128)  # d, the width of a token
    return round(scores.std().item(), 1)


def root_right():
    q, k = torch.randn(2, 1, 24, 64, 128)
    weights = attention_weights(q, k, rotations(64))
    return round(weights.log().std(dim=-1).mean().item(), 1)  # a row's scores, but for a constant


def merged_notes():
    A = torch.arange(8.0).reshape(1, 2, 2, 2)  # "b h l k": two heads, two tokens, two channels a head
    return A.reshape(1, 2, 4)[0, 0]  # the shape that W_proj needs


def merged_right():
    v = torch.arange(8.0).reshape(1, 2, 2, 2)
    q = 100 * torch.eye(2).expand(1, 2, 2, 2)  # so each token takes from itself alone, and A = V
    return attention_explicit(q, q, v, torch.eye(2).expand(1, 1, 2, 1, 2, 2))[0, 0]


def gate_notes():
    return torch.randn(2).shape  # a scalar for each picture


def gate_right():
    attention_part, _ = Modulation(24, double=True)(torch.randn(2, 24))
    return attention_part.gate.shape


def bias_notes():
    D, d_h = 3072, 128
    return 3 * D * D + D * D + 2 * d_h  # W_qkv, W_proj, and the two norms


def bias_right():
    with torch.device("meta"):
        return sum(each.numel() for each in SelfAttention(3072, 24, qkv_bias=True).parameters())


def ones(layers: nn.Sequential) -> nn.Sequential:
    """Weights 1, biases 0: what is left is the activation."""
    for name, each in layers.named_parameters():
        nn.init.constant_(each, float("weight" in name))
    return layers


def mlp_notes():
    return ones(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))(torch.tensor([-1.0])).item()


def mlp_right():
    return ones(mlp(1, 1))(torch.tensor([-1.0])).item()


QKV = r"\( \mathbf{W}_{\text{img}}^{qkv} \in \mathbb{R}^{D \times 3HD} \)"
ATTENTION = r"$\text{Softmax}\left( \frac{\mathbf{Q} \mathbf{K}^\top}{\sqrt{d}} + \phi(\mathbf{P}) \right) \mathbf{V}$"
NORM = r"$\text{Norm}_{\text{attn}}^{\text{img}}(\mathbf{Q}_{\text{img}}, \mathbf{K}_{\text{img}})$"
MOD = r"$(\mathbf{s}_{\text{img}}^{(1)}, \mathbf{b}_{\text{img}}^{(1)}, g_{\text{img}}^{(1)})$"
PROJ = r"$g_{\text{img}}^{(1)} \cdot \mathbf{W}_{\text{img}}^{\text{proj}} \mathbf{A}_{\text{img}}$"
ADDED = ("03_rope", "Nothing is added to the scores")

ENTRIES = [
    Erratum(
        7, PART, "the width of v", r"\( \mathbf{v} \in \mathbb{R}^{B \times d} \)", "imprecise",
        r"$\mathrm{vec} \in \mathbb{R}^{B \times D}$, as wide as a token, and $\mathrm{vec} ="
        r" \mathrm{MLP}_t(\mathrm{emb}(t)) + \mathrm{MLP}_w(\mathrm{emb}(w)) + \mathrm{MLP}_y(\mathbf{y})$. The notes"
        " use d again under the root.",
        ("4.3",), ("04_double_stream", "Eq. 4.3 · The conditioning vector"),
        Check("shape of v, for one picture and D = 24", width_notes, width_right, (1, 24)),
    ),
    Erratum(
        4, PART, "the position encoding", r"\( \mathbf{P} \in \mathbb{R}^{L \times d_p} \)", "imprecise",
        r"Two tensors, neither of this shape: ids $B \times L \times 3$, and of them rotations $B \times 1 \times L"
        r" \times 64 \times 2 \times 2$, with 8 + 28 + 28 = 64 pairs of channels. Nothing of it is learned.",
        ("2.4", "3.4"), ("03_rope", "Eq. 3.4 · Three axes"),
        Check("shape for five tokens", table_notes, table_right, (1, 1, 5, 64, 2, 2)),
    ),
    Erratum(
        8, PART, "the order of a modulation", MOD, "wrong",
        r"The chunks are **shift, scale, gate**: $(b^1, s^1, g^1, b^2, s^2, g^2) = \mathrm{chunk}(W\,\mathrm{SiLU}"
        r"(\mathrm{vec}) + c)$. The notes' tuple has scale first: wrong if it is read as the order of the chunks, which"
        r" is how one would write the code from it. And there is no SiLU in it.",
        ("4.4",), ("04_double_stream", "Six vectors, shift first"),
        Check("a token (−1, −1, 1, 1), shift 0.1, scale 0.5", order_notes, order_right, (-1.4, -1.4, 1.6, 1.6)),
    ),
    Erratum(
        5, PART, "the matrix of q, k and v", QKV, "wrong",
        r"$W^{qkv} \in \mathbb{R}^{3D \times D}$ with a bias $c \in \mathbb{R}^{3D}$: the H heads share out the D"
        r" channels, $D = H\,d_h$. The notes' matrix is H = 24 times too large.",
        ("4.6",), ("04_double_stream", "Eq. 4.6 · Queries, keys, values, heads"),
        Check("shape in FLUX.1", matrix_notes, matrix_right, (9216, 3072)),
    ),
    Erratum(
        42, PART, "split_heads", "`split_heads` 将张量分割为多头形式。", "missing",
        "Which channels are whose? First all queries, then all keys, then all values, and inside each head by head."
        " Another order has the same shapes and loads silently.",
        ("4.6",), ("04_double_stream", "Three ways to cut the rows"),
        Check("query of the second head, of channels 0 … 17", heads_notes, heads_right, (3, 4, 5), speaker="a guess"),
    ),
    Erratum(
        10, PART, "one norm or two", NORM, "imprecise",
        r"$Q \leftarrow \mathrm{RMSNorm}_q(Q)$, $K \leftarrow \mathrm{RMSNorm}_k(K)$: two, each over the head's 128"
        r" channels with a learned scale that all heads share. $\mathrm{Norm}_1$ and $\mathrm{Norm}_2$ are layer norms"
        " without parameters, ε = 1e-6.",
        ("4.5", "4.7"), ("04_double_stream", "Eq. 4.7 · QK norm"),
        Check("root mean square of (q, k), scales 2 and 3", norm_notes, norm_right, (2.0, 3.0)),
    ),
    Erratum(
        11, PART, "cross-modal attention", "跨模态注意力", "imprecise",
        "The words suggest attention between the two kinds only. It is joint self-attention over [text; image], as"
        " the notes' own formula has it: text looks at text and image, image at both. Nothing is masked, T5's padding"
        " included.",
        ("4.8", "4.9"), ("04_double_stream", "Four quadrants"),
        Check("quadrants of the matrix that carry attention", cross_notes, cross_right, 4, (quadrants,), "a guess"),
        "that T5 too reads its padding without a mask is noticed in flux#507 and x-flux#161",
    ),
    Erratum(
        3, PART, "where position enters", ATTENTION, "wrong",
        r"Nothing is added. Queries and keys are **turned**: $\mathrm{Softmax}(\tilde Q \tilde K^\top /"
        r" \sqrt{d_h})\,V$ with $\tilde Q = R(p)Q$, $\tilde K = R(p)K$, V as it is, so $\tilde q_i \cdot \tilde k_j ="
        r" q_i^\top R(p_j - p_i) k_j$. What a distance does to a score depends on q and k; a term made of positions"
        " alone is the same for all.",
        ("3.3", "3.5", "4.9"), ADDED,
        Check("effect of distance on −q over that on q", added_notes, added_right, -1.0, (flips,)),
        figure=(
            "The figure has the scores of a query q and of its opposite −q with keys further and further away. Which of"
            " the two forms treats q and −q alike?",
            "explore(plots.added_or_turned, seed=(0, 20, 1))",
        ),
    ),
    Erratum(
        6, PART, "the number under the root", r"$\sqrt{d}$", "imprecise",
        r"$\sqrt{d_h} = \sqrt{128}$, the width of one head; d was the width of `vec` a page before. With"
        r" $\sqrt{3072}$ the scores are $\sqrt{24}$ times too small.",
        ("4.9",), ("04_double_stream", "Eq. 4.9 · Joint attention"),
        Check("standard deviation of the scores of unit q and k", root_notes, root_right, 1.0),
    ),
    Erratum(
        47, PART, "the heads, put together again", PROJ, "missing",
        r"After the softmax A is $B \times H \times L \times d_h$, and $W_{proj}$ takes D channels of a token. Between"
        " them stands \"b h l k -> b l (h k)\": the H results of a token side by side. A plain reshape has the same"
        " shape and mixes tokens.",
        ("4.9", "4.11"), ("04_double_stream", "Eq. 4.9 · Joint attention"),
        Check("channels of the first token, A counted 0 … 7 by head, token, channel", merged_notes, merged_right,
              (0.0, 1.0, 4.0, 5.0), speaker="a guess"),
    ),
    Erratum(
        43, PART, "biases", PROJ, "missing",
        r"The projections have biases: $W_{proj}A + c_{proj}$, and $c_{qkv}$ before it.",
        ("4.6", "4.11"), ("04_double_stream", "Eq. 4.11 · What attention found, let in by the gate"),
        Check("parameters of one stream's attention", bias_notes, bias_right, 37_761_280),
    ),
    Erratum(
        44, PART, "the MLP", r"\( \text{MLP} \): 多层感知机（通常为线性层 + 激活函数 + 线性层）", "missing",
        r"Which activation? GELU in its tanh form, $\tfrac{x}{2}(1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3)))$,"
        " between linear layers of D → 4D → D, both with biases.",
        ("4.12",), ("04_double_stream", "Eq. 4.12 · And what the MLP makes of it"),
        Check("activation at −1 (another usual one: ReLU)", mlp_notes, mlp_right, -0.158808, speaker="a guess"),
    ),
    Erratum(
        9, PART, "the gate", r"\( g \): 门控标量（控制残差分支的权重）", "wrong",
        r"$g \in \mathbb{R}^{B \times 1 \times D}$: a number for every *channel*, the same for all tokens, multiplied"
        " with ⊙. There is no sigmoid: nothing keeps it between 0 and 1.",
        ("4.4", "4.11"), ("04_double_stream", "Six vectors, shift first"),
        Check("shape of a gate, two pictures, D = 24", gate_notes, gate_right, (2, 1, 24)),
    ),
]  # fmt: skip
