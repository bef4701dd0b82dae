"""Exercises and questions of chapter 4: sinusoids, adaptive layer norm, joint attention, counting modulations."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flux_edu.attention import QKNorm, attention_weights
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.rope import EmbedND
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import CATS, MOVES, apart, tiny, velocity
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 4.1


def embed_number(t: Tensor, dim: int, factor: float = 1000.0, steps: float | None = None) -> Tensor:
    """Eq. (4.1): frequencies 10000^(-i / steps), where steps is dim / 2."""
    i = torch.arange(dim // 2)
    angle = factor * t[:, None] * 10_000.0 ** (-i / (steps or dim // 2))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


TIMES = torch.tensor([0.0, 0.0123, 0.4, 0.987])
EMBED_NUMBER = Exercise(
    "4.1",
    embed_number,
    inputs=[(TIMES, 256), (TIMES, 22)],
    mistakes={
        "sines come first in yours; FLUX puts the cosines first":
            lambda t, dim: embed_number(t, dim).roll(dim // 2, dims=-1),
        "the factor 1000 is missing: t in [0, 1] would hardly turn anything": partial(embed_number, factor=1.0),
        "your exponent ends at exactly 1 (you divided by half - 1); FLUX divides i by half":
            lambda t, dim: embed_number(t, dim, steps=dim // 2 - 1),
        "you divided i by dim; there are dim / 2 frequencies, so divide by dim / 2":
            lambda t, dim: embed_number(t, dim, steps=dim),
    },
    advice="Compare your first row, t = 0, with ones, then zeros.",
    tolerance=1e-3,  # the cosine of 1000 radians in float32
)  # fmt: skip

# ---------------------------------------------------------------- 4.2


def adaptive_norm(
    x: Tensor,
    vec: Tensor,
    W: Tensor,
    c: Tensor,
    branch: Callable[[Tensor], Tensor],
    *,
    order: tuple[int, int, int] = (0, 1, 2),
    activation: Callable[[Tensor], Tensor] = F.silu,
    one: float = 1.0,
    squash: Callable[[Tensor], Tensor] = lambda gate: gate,
) -> Tensor:
    """Eq. (4.4), (4.5) and the gate of a single branch: from tokens and the conditioning vector to updated tokens."""
    parts = F.linear(activation(vec), W, c)[:, None].chunk(3, dim=-1)
    shift, scale, gate = (parts[i] for i in order)
    return x + squash(gate) * branch((one + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift)


def adaptive_inputs(B: int, L: int, D: int, seed: int) -> tuple:
    M = normal(D, D, seed=seed).double()
    shapes = ((B, L, D), (B, D), (3 * D, D), (3 * D,))
    return *(normal(*shape, seed=seed + 1).double() for shape in shapes), lambda tokens: torch.tanh(tokens @ M)


ADAPTIVE_NORM = Exercise(
    "4.2",
    adaptive_norm,
    inputs=[adaptive_inputs(2, 5, 7, 42), adaptive_inputs(3, 2, 11, 43)],
    mistakes={
        "you took scale for shift: the linear layer gives shift, scale, gate, in this order":
            partial(adaptive_norm, order=(1, 0, 2)),
        "the SiLU before the linear layer is missing: W SiLU(v) + c": partial(adaptive_norm, activation=lambda v: v),
        "you put a sigmoid on the gate; FLUX's gates are not bounded": partial(adaptive_norm, squash=torch.sigmoid),
        "you multiplied by s; it is 1 + s, so that s = 0 leaves the norm as it is": partial(adaptive_norm, one=0.0),
    },
    advice="Go through it in order: SiLU, linear, three parts, norm, stretch and move, branch, gate, add.",
)  # fmt: skip

# ---------------------------------------------------------------- 4.3


def turn(x: Tensor, pe: Tensor) -> Tensor:
    """Every pair of channels times its rotation, Eq. (3.3)."""
    return (pe.to(x.dtype) @ x.unflatten(-1, (-1, 2))[..., None]).flatten(-3)


def joint_attention(
    txt_qkv: Tensor,
    img_qkv: Tensor,
    pe: Tensor,
    num_heads: int,
    *,
    cut: str = "(qkv h k)",
    factor: float = 1.0,
    turn_v: bool = False,
) -> tuple[Tensor, Tensor]:
    """Eq. (4.6) and (4.8) to (4.10): from the projections of both streams to (txt, img). No QK norm here."""
    txt, img = (rearrange(x, f"b l {cut} -> qkv b h l k", qkv=3, h=num_heads) for x in (txt_qkv, img_qkv))
    q, k, v = torch.cat([txt, img], dim=3)
    q, k, v = turn(q, pe), turn(k, pe), turn(v, pe) if turn_v else v
    weights = (factor * q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    return mixed[:, : txt_qkv.shape[1]], mixed[:, txt_qkv.shape[1] :]


def joint_inputs(B: int, H: int, L_txt: int, rows: int, columns: int) -> tuple:
    K, ids = 14, torch.cat([make_txt_ids(B, L_txt), make_img_ids(B, rows, columns)], dim=1)
    txt_qkv, img_qkv = (normal(B, L, 3 * H * K, seed=L).double() for L in (L_txt, rows * columns))
    return txt_qkv, img_qkv, EmbedND(K, 10_000, (2, 4, 8))(ids), H


JOINT_ATTENTION = Exercise(
    "4.3",
    joint_attention,
    inputs=[joint_inputs(2, 3, 4, 2, 3), joint_inputs(1, 2, 5, 1, 3)],
    mistakes={
        "you divided by √D; the scores are divided by the root of the width of one head":
            lambda txt, img, pe, H: joint_attention(txt, img, pe, H, factor=H**-0.5),
        "you turned v as well; RoPE turns queries and keys only": partial(joint_attention, turn_v=True),
        **{
            f"you cut the channels as {cut}; it is (qkv h k), see split_heads": partial(joint_attention, cut=cut)
            for cut in ("(h qkv k)", "(qkv k h)")
        },
    },
    advice="Go through it in order: split, join, turn q and k, scores, softmax, v.",
)  # fmt: skip

# ---------------------------------------------------------------- 4.4


def count_modulations(D: int, double_blocks: int, single_blocks: int) -> int:
    """How many parameters the modulations of all blocks hold: a double block has two streams with two branches each."""
    return (double_blocks * 12 + single_blocks * 3) * (D * D + D)


COUNT_MODULATIONS = Exercise(
    "4.4",
    count_modulations,
    inputs=[(30, 2, 7), (320, 3, 5), (3072, 19, 38)],
    mistakes={
        "the biases are missing: D × D weights and D biases for each number a channel":
            lambda D, double, single: (double * 12 + single * 3) * D * D,
        "a double block has two streams with two branches each: twelve parts, not six":
            lambda D, double, single: (double * 6 + single * 3) * (D * D + D),
        "a single block has one branch: three parts, not six":
            lambda D, double, single: (double * 12 + single * 6) * (D * D + D),
        "a modulation is shift, scale and gate, three parts a branch, not two":
            lambda D, double, single: (double * 8 + single * 2) * (D * D + D),
    },
    advice="Each part takes a D × D matrix and D biases.",
)  # fmt: skip

EXERCISES = [EMBED_NUMBER, ADAPTIVE_NORM, JOINT_ATTENTION, COUNT_MODULATIONS]

# ---------------------------------------------------------------- questions


def shuffled_text() -> float:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    txt = tiny().t5([CATS]).clone()
    return apart(velocity(CATS, txt=txt[:, order]), velocity(CATS))


def longer_queries() -> float:
    norm, pe = QKNorm(12), EmbedND(12, 10_000, (4, 4, 4))(make_img_ids(1, 2, 3))
    q, k = normal(1, 2, 6, 12), normal(1, 2, 6, 12, seed=1)
    a, b = (attention_weights(*norm(factor * q, k), pe) for factor in (1, 10))
    return float((a - b).abs().max())


def closed_gates() -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = DoubleStreamBlock(24, 2, 4.0)
    for modulation in (block.img_mod, block.txt_mod):
        nn.init.zeros_(modulation.lin.weight)
        nn.init.zeros_(modulation.lin.bias)
    img, txt, vec = normal(1, 4, 24), normal(1, 2, 24, seed=1), normal(1, 24, seed=2)
    pe = EmbedND(12, 10_000, (4, 4, 4))(torch.cat([make_txt_ids(1, 2), make_img_ids(1, 2, 2)], dim=1))
    return apart(block(img, txt, vec, pe)[0], img)


QUESTIONS = [
    Question(
        section="Text tokens have no order here",
        text="You shuffle the 32 vectors that T5 gives for a prompt, and ask the network again. How far does the"
        " velocity move?",
        choices=MOVES | {"it becomes noise": lambda moved: moved > 1e6},
        measure=shuffled_text,
        result="By {:.1e} of its length.",
        why="All text tokens stand at position (0, 0, 0), and a sum over tokens knows no order. The words are read in"
        " their order before, by T5 and CLIP.",
    ),
    Question(
        section="Eq. 4.7 · QK norm",
        text="The weights that make queries are multiplied by 10. What happens to the attention weights of a block with"
        " QK norm?",
        choices={
            "nothing but rounding": lambda change: change < 1e-3,
            "they become sharper, nearly 0 and 1": lambda change: change > 0.01,
        },
        measure=longer_queries,
        result="The largest change of a weight is {:.1e}.",
        why="The norm divides by the length of the query, so a factor in front of it is lost.",
    ),
    Question(
        section="Eq. 4.11 · What attention found, let in by the gate",
        text="All gates of a double block are 0. What comes out of it?",
        choices={
            "zeros": lambda moved: abs(moved - 1) < 1e-3,
            "the tokens as they went in": lambda moved: moved == 0,
            "the MLP's result alone": lambda moved: moved > 1.1 or 0 < moved < 0.9,
        },
        measure=closed_gates,
        result="The tokens have moved by {} of their length.",
        why="A block only adds to its tokens, and the gate multiplies what is added.",
    ),
]
