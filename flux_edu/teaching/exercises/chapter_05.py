"""Exercises and questions of chapter 5: fused matrices, counting parameters, the block, the last layer."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.rope import EmbedND
from flux_edu.single_stream import SingleStreamBlock
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, apart, tiny, velocity
from flux_edu.teaching.exercises.question import Question


def doubles(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [normal(*shape, seed=seed + i).double() for i, shape in enumerate(shapes)]


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def gelu_tanh(m: Tensor) -> Tensor:
    return F.gelu(m, approximate="tanh")


# ---------------------------------------------------------------- 5.1


def two_linears(attn: Tensor, act: Tensor, W: Tensor, c: Tensor) -> Tensor:
    """linear2 without the concatenation: a matrix for what attention found, one for what the MLP made."""
    D = attn.shape[-1]
    return attn @ W[:, :D].T + act @ W[:, D:].T + c


TWO_LINEARS = Exercise(
    "5.1",
    two_linears,
    inputs=[
        tuple(doubles(51, (2, 5, 6), (2, 5, 11), (6, 17), (6,))),
        tuple(doubles(55, (3, 2, 4), (3, 2, 7), (4, 11), (4,))),
    ],
    mistakes={
        "the bias c is missing: concatenation and matrix are the sum of two products, plus c once":
            lambda attn, act, W, c: two_linears(attn, act, W, 0 * c),
        "the bias c is added twice: linear2 has one bias, not one a part":
            lambda attn, act, W, c: two_linears(attn, act, W, 2 * c),
        "you gave the last columns to attention: attention comes first, so its columns are 0 to D":
            lambda attn, act, W, c: two_linears(act, attn, W, c),
    },
    advice="Which columns of W meet attn, and which meet act?",
)  # fmt: skip

# ---------------------------------------------------------------- 5.2


def single_block(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    linear1: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor], Tensor],
    linear2: Callable[[Tensor], Tensor],
    *,
    one: float = 1.0,
    activation: Callable[[Tensor], Tensor] = gelu_tanh,
    mlp_first: bool = False,
) -> Tensor:
    """Eq. (5.1) to (5.4) around a given attention: `attend` takes q, k, v in one tensor (3D) and returns D."""
    D = x.shape[-1]
    qkvm = linear1((one + scale) * layer_norm(x) + shift)
    parts = [attend(qkvm[..., : 3 * D]), activation(qkvm[..., 3 * D :])]
    return x + gate * linear2(torch.cat(parts[::-1] if mlp_first else parts, dim=-1))


def block_inputs(B: int, L: int, D: int, M: int, seed: int) -> tuple:
    W1, c1, W2, c2 = doubles(seed, (3 * D + M, D), (3 * D + M,), (D, D + M), (D,))

    def attend(qkv: Tensor) -> Tensor:
        if qkv.shape[-1] != 3 * D:
            raise ValueError(f"attend got {qkv.shape[-1]} channels, it takes q, k and v: the first 3D = {3 * D}")
        return F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))

    x, shift, scale, gate = doubles(seed + 4, (B, L, D), (B, 1, D), (B, 1, D), (B, 1, D))
    return x, shift, scale, gate, lambda x: F.linear(x, W1, c1), attend, lambda x: F.linear(x, W2, c2)


SINGLE_BLOCK = Exercise(
    "5.2",
    single_block,
    inputs=[block_inputs(2, 5, 6, 14, 53), block_inputs(3, 2, 4, 10, 61)],
    mistakes={
        "the residual is missing: the block adds to x, it does not replace it (5.4)":
            lambda x, *rest: single_block(x, *rest) - x,
        "that is the exact GELU; FLUX was trained with approximate='tanh'": partial(single_block, activation=F.gelu),
        "you concatenated the MLP first: linear2's first D columns read attention":
            partial(single_block, mlp_first=True),
        "the 1 + before the scale is missing: x̃ = (1 + s) ⊙ LN(x) + b": partial(single_block, one=0.0),
    },
    advice="Go through (5.1) to (5.4) line by line and compare shapes.",
)  # fmt: skip

# ---------------------------------------------------------------- 5.3


def count_single_block(D: int, K: int, ratio: float) -> int:
    """How many numbers a single-stream block holds: width D, heads of width K, MLP `ratio` times as wide."""
    M = int(ratio * D)
    return (3 * D + M) * (D + 1) + D * (D + M + 1) + 3 * D * (D + 1) + 2 * K


COUNT_SINGLE_BLOCK = Exercise(
    "5.3",
    count_single_block,
    inputs=[(3072, 128, 4.0), (320, 64, 4.0), (60, 6, 2.5)],
    mistakes={
        "the biases are missing, every linear layer of the block has one":
            lambda D, K, ratio: count_single_block(D, K, ratio) - (7 * D + int(ratio * D)),
        "QK norm is missing: it holds one scale of K numbers for queries and one for keys, shared by all heads":
            lambda D, K, ratio: count_single_block(D, K, ratio) - 2 * K,
        "QK norm's scales are shared by all heads: K numbers for queries and K for keys":
            lambda D, K, ratio: count_single_block(D, K, ratio) - 2 * K + 2 * D,
        "you gave the block six modulations; a single block has one branch: three":
            lambda D, K, ratio: count_single_block(D, K, ratio) + 3 * D * (D + 1),
    },
    advice="Sum linear1 (D → 3D + ratio·D), linear2 (D + ratio·D → D), modulation (D → 3D) and two scales of K, biases"
    " included.",
)  # fmt: skip

# ---------------------------------------------------------------- 5.4


def last_layer(
    x: Tensor,
    vec: Tensor,
    W_a: Tensor,
    c_a: Tensor,
    W: Tensor,
    c: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] = F.silu,
    one: float = 1.0,
) -> Tensor:
    """Eq. (5.5) with bare matrices."""
    shift, scale = F.linear(activation(vec), W_a, c_a)[:, None].chunk(2, dim=-1)
    return F.linear((one + scale) * layer_norm(x) + shift, W, c)


def swap_halves(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2)[::-1])


LAST_LAYER = Exercise(
    "5.4",
    last_layer,
    inputs=[
        tuple(doubles(54, (2, 5, 6), (2, 6), (12, 6), (12,), (7, 6), (7,))),
        tuple(doubles(60, (3, 2, 4), (3, 4), (8, 4), (8,), (5, 4), (5,))),
    ],
    mistakes={
        "shift and scale are swapped: the first half of the modulation is the shift (diffusers' is not)":
            lambda x, vec, W_a, c_a, *rest: last_layer(x, vec, swap_halves(W_a), swap_halves(c_a), *rest),
        "the SiLU is missing: the modulation reads SiLU(vec)": partial(last_layer, activation=lambda vec: vec),
        "the 1 + before the scale is missing: (1 + s) ⊙ LN(x) + b": partial(last_layer, one=0.0),
    },
    advice="Chunk W_a SiLU(vec) + c_a in two, modulate, then W and c.",
)  # fmt: skip

EXERCISES = [TWO_LINEARS, SINGLE_BLOCK, COUNT_SINGLE_BLOCK, LAST_LAYER]

# ---------------------------------------------------------------- questions


def multiplications() -> float:
    D, H, L = 192, 3, 64
    img, txt, vec = normal(1, L // 2, D), normal(1, L // 2, D), normal(1, D)
    pe = EmbedND(D // H, 10_000, (16, 24, 24))(torch.zeros(1, L, 3))
    counted = []
    for block, inputs in (
        (DoubleStreamBlock(D, H, 4.0), (img, txt, vec, pe)),
        (SingleStreamBlock(D, H), (torch.cat([txt, img], 1), vec, pe)),
    ):
        with FlopCounterMode(display=False) as counter:
            block(*inputs)
        counted.append(counter.get_total_flops())
    return counted[0] / counted[1]


def swapped_halves() -> float:
    right = velocity(CATS)
    layer = tiny().model.final_layer
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    swapped = {name: swap_halves(tensor) if "adaLN" in name else tensor for name, tensor in state.items()}
    try:
        layer.load_state_dict(swapped, strict=True)
        return apart(velocity(CATS), right)
    except RuntimeError:
        return -1
    finally:
        layer.load_state_dict(state, strict=True)


QUESTIONS = [
    Question(
        section="What a block costs",
        text="A double block of FLUX.1 has 340 million parameters, a single one 142 million. Which takes more"
        " multiplications for the same tokens?",
        choices={
            "the double block, more than twice as many": lambda ratio: ratio > 2,
            "about the same": lambda ratio: 0.8 < ratio < 1.25,
            "the single block": lambda ratio: ratio < 0.8,
        },
        measure=multiplications,
        result="Double over single: {:.2f}.",
        why="The double block has two sets of weights, but a token meets one of them only: 12 D² multiplications in"
        " either.",
    ),
    Question(
        section="The halves that diffusers swaps",
        text="You load the last layer of the tiny model with its two halves swapped: scale first, then shift. What"
        " happens?",
        choices={
            "an error: the names or shapes do not fit": lambda moved: moved < 0,
            "no error, and nothing changes": lambda moved: 0 <= moved < 1e-3,
            "no error, and the velocity is wrong": lambda moved: moved > 0.02,
        },
        measure=swapped_halves,
        result="It loads strictly, and the velocity moves by {:.0%} of its length.",
        why="Both halves have the same shape, so nothing but the numbers can tell.",
    ),
]
