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
from flux_edu.teaching.errata.entry import Check

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


CHECKS = [
    Check(7, "imprecise", "shape of v, for one picture and D = 24", width_notes, width_right, (1, 24)),
    Check(4, "imprecise", "shape for five tokens", table_notes, table_right, (1, 1, 5, 64, 2, 2)),
    Check(8, "wrong", "a token (−1, −1, 1, 1), shift 0.1, scale 0.5", order_notes, order_right, (-1.4, -1.4, 1.6, 1.6)),
    Check(5, "wrong", "shape in FLUX.1", matrix_notes, matrix_right, (9216, 3072)),
    Check(
        42,
        "missing",
        "query of the second head, of channels 0 … 17",
        heads_notes,
        heads_right,
        (3, 4, 5),
        speaker="a guess",
    ),
    Check(10, "imprecise", "root mean square of (q, k), scales 2 and 3", norm_notes, norm_right, (2.0, 3.0)),
    Check(
        11,
        "imprecise",
        "quadrants of the matrix that carry attention",
        cross_notes,
        cross_right,
        4,
        (quadrants,),
        "a guess",
    ),
    Check(3, "wrong", "effect of distance on −q over that on q", added_notes, added_right, -1.0, (flips,)),
    Check(6, "imprecise", "standard deviation of the scores of unit q and k", root_notes, root_right, 1.0),
    Check(
        47,
        "missing",
        "channels of the first token, A counted 0 … 7 by head, token, channel",
        merged_notes,
        merged_right,
        (0.0, 1.0, 4.0, 5.0),
        speaker="a guess",
    ),
    Check(43, "missing", "parameters of one stream's attention", bias_notes, bias_right, 37_761_280),
    Check(
        44, "missing", "activation at −1 (another usual one: ReLU)", mlp_notes, mlp_right, -0.158808, speaker="a guess"
    ),
    Check(9, "wrong", "shape of a gate, two pictures, D = 24", gate_notes, gate_right, (2, 1, 24)),
]
