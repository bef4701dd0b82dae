"""Checks of the exercises of notebook 04: sinusoids, adaptive layer norm, joint attention, counting modulations."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flux_edu.attention import attention_explicit, join_streams, split_heads, split_streams
from flux_edu.embeddings import timestep_embedding
from flux_edu.modulation import ModulationOut, modulate
from flux_edu.rope import EmbedND


def same(a: Tensor, b: Tensor, within: float = 1e-6) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < within)


def must_be_tensor(out: object, shape: tuple[int, ...]) -> None:
    assert isinstance(out, Tensor), f"your function returned {type(out).__name__}, it should return a tensor"
    assert out.shape == shape, f"your result has shape {tuple(out.shape)}, it should have shape {tuple(shape)}"


# ---------------------------------------------------------------- 4.1


def embed_number(t: Tensor, dim: int) -> Tensor:
    """Eq. (4.1) again."""
    return timestep_embedding(t, dim)


def check_embed_number(answer: Callable) -> None:
    t = torch.tensor([0.0, 0.0123, 0.4, 0.987])
    for dim in (256, 22):
        half, right, out = dim // 2, timestep_embedding(t, dim), answer(t, dim)
        must_be_tensor(out, right.shape)
        if same(out, right, 1e-3):
            continue
        i = torch.arange(half) / half

        def rows(angle: Tensor) -> Tensor:
            return torch.cat([angle.cos(), angle.sin()], dim=-1)

        angle = 1000 * t[:, None] * 10_000.0**-i
        told = {
            "sines come first in yours; FLUX puts the cosines first": rows(angle).roll(half, dims=-1),
            "cosines and sines take turns in yours; FLUX has all cosines, then all sines": torch.stack(
                [angle.cos(), angle.sin()], dim=-1
            ).flatten(1),
            "the factor 1000 is missing: t in [0, 1] would hardly turn anything": rows(t[:, None] * 10_000.0**-i),
            "your exponent ends at exactly 1 (you divided by half - 1); FLUX divides i by half": rows(
                1000 * t[:, None] * 10_000.0 ** -(torch.arange(half) / (half - 1))
            ),
            "you divided i by dim; there are dim / 2 frequencies, so divide by dim / 2": rows(
                1000 * t[:, None] * 10_000.0 ** -(i / 2)
            ),
            "your frequencies grow; the minus in the exponent makes them fall from 1 to nearly 1/10000": rows(
                1000 * t[:, None] * 10_000.0**i
            ),
        }
        for message, wrong in told.items():
            if same(out, wrong, 1e-3):
                raise AssertionError(message)
        if torch.equal(out[0], torch.cat([torch.zeros(half), torch.ones(half)])):
            raise AssertionError("at t = 0 yours is zeros, then ones: cosines come first")
        raise AssertionError(
            f"not the same numbers for dim = {dim}; compare your first row, t = 0, with ones then zeros"
        )


# ---------------------------------------------------------------- 4.2


def adaptive_norm(x: Tensor, vec: Tensor, W: Tensor, c: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """Eq. (4.4), (4.5) and the gate of a single branch: from tokens and the conditioning vector to updated tokens."""
    shift, scale, gate = F.linear(F.silu(vec), W, c)[:, None].chunk(3, dim=-1)
    return x + gate * branch(modulate(x, ModulationOut(shift, scale)))


def check_adaptive_norm(answer: Callable) -> None:
    make = torch.Generator().manual_seed(42)
    x, vec, W, c, M = (
        torch.randn(s, generator=make, dtype=torch.float64) for s in ((2, 5, 7), (2, 7), (21, 7), (21,), (7, 7))
    )

    def branch(tokens: Tensor) -> Tensor:
        return torch.tanh(tokens @ M)

    right = adaptive_norm(x, vec, W, c, branch)
    out = answer(x, vec, W, c, branch)
    must_be_tensor(out, x.shape)
    if same(out, right):
        return
    b, s, g = F.linear(F.silu(vec), W, c)[:, None].chunk(3, dim=-1)
    bare = F.linear(vec, W, c)[:, None].chunk(3, dim=-1)

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(x, ModulationOut(shift, scale))

    told = {
        "you took scale for shift: the linear layer gives shift, scale, gate, in this order": x
        + g * branch(modulated(x, s, b)),
        "you took the gate for the shift: the order is shift, scale, gate": x + b * branch(modulated(x, s, g)),
        "the SiLU before the linear layer is missing: W SiLU(v) + c": x
        + bare[2] * branch(modulated(x, bare[0], bare[1])),
        "you put a sigmoid on the gate; FLUX's gates are not bounded": x + g.sigmoid() * branch(modulated(x, b, s)),
        "you multiplied by s; it is 1 + s, so that s = 0 leaves the norm as it is": x
        + g * branch(modulated(x, b, s - 1)),
        "the residual is missing: the branch is added to x": g * branch(modulated(x, b, s)),
        "the layer norm is missing: modulate normalises every token first": x + g * branch((1 + s) * x + b),
        "the gate is missing: x + g ⊙ branch": x + branch(modulated(x, b, s)),
        "the residual adds to x itself, not to its norm": modulated(x, 0 * b, 0 * s) + g * branch(modulated(x, b, s)),
    }
    for message, wrong in told.items():
        if same(out, wrong):
            raise AssertionError(message)
    raise AssertionError(
        "not the same numbers; go through it in order: SiLU, linear, three parts, norm, stretch and move, branch, gate,"
        " add"
    )


# ---------------------------------------------------------------- 4.3


def joint_attention(txt_qkv: Tensor, img_qkv: Tensor, pe: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Eq. (4.6) and (4.8) to (4.10): from the projections of both streams to (txt, img). No QK norm here."""
    both = zip(split_heads(txt_qkv, num_heads), split_heads(img_qkv, num_heads), strict=True)
    q, k, v = (join_streams(txt, img) for txt, img in both)
    return split_streams(attention_explicit(q, k, v, pe), txt_qkv.shape[1])


def check_joint_attention(answer: Callable) -> None:
    make = torch.Generator().manual_seed(43)
    H, K, L_txt, L_img = 3, 14, 4, 6
    txt_qkv, img_qkv = (torch.randn(2, L, 3 * H * K, generator=make, dtype=torch.float64) for L in (L_txt, L_img))
    ids = torch.zeros(2, L_txt + L_img, 3)
    ids[:, L_txt:, 1], ids[:, L_txt:, 2] = torch.arange(L_img) // 3, torch.arange(L_img) % 3
    pe = EmbedND(K, 10_000, (2, 4, 8))(ids)
    right = joint_attention(txt_qkv, img_qkv, pe, H)
    out = answer(txt_qkv, img_qkv, pe, H)
    assert isinstance(out, tuple) and len(out) == 2, "return two tensors, text and image: (txt, img)"
    for x, L, name in zip(out, (L_txt, L_img), ("text", "image"), strict=True):
        assert isinstance(x, Tensor), f"the {name} part is a {type(x).__name__}, it should be a tensor"
        assert x.shape != (2, H, L, K), f"the heads of the {name} part are still apart: put them side by side again"
    if out[0].shape == right[1].shape and out[1].shape == right[0].shape:
        raise AssertionError("you return image, then text: text comes first, as in the sequence")
    for x, its in zip(out, right, strict=True):
        must_be_tensor(x, its.shape)
    if all(same(x, its) for x, its in zip(out, right, strict=True)):
        return
    pairs = list(zip(split_heads(txt_qkv, H), split_heads(img_qkv, H), strict=True))
    q, k, v = (torch.cat(pair, dim=2) for pair in pairs)
    still = torch.eye(2).expand_as(pe)
    apart = [attention_explicit(*(p[i] for p in pairs), part) for i, part in enumerate(pe.split([L_txt, L_img], 2))]
    image_first = attention_explicit(*(torch.cat(pair[::-1], dim=2) for pair in pairs), pe)
    qr, kr = _turn(q, pe), _turn(k, pe)
    told = {
        "image stands before text in your sequence, but pe has text first": image_first.roll(L_txt, dims=1),
        "you divided by √D; the scores are divided by the root of the width of one head": _mix(qr, kr, v, H**-0.5),
        "the division by √d_h is missing": _mix(qr, kr, v, K**0.5),
        "positions are missing: turn q and k by pe (apply_rope)": attention_explicit(q, k, v, still),
        "you turned v as well; RoPE turns queries and keys only": attention_explicit(q, k, _turn(v, pe), pe),
        "every stream attends only to itself in yours: join them before the softmax": torch.cat(apart, dim=1),
    }
    mine = torch.cat(out, dim=1)
    for message, wrong in told.items():
        if same(mine, wrong):
            raise AssertionError(message)
    for order in ("b l (h qkv k) -> b l (qkv h k)", "b l (h k qkv) -> b l (qkv h k)", "b l (qkv k h) -> b l (qkv h k)"):
        if all(same(x, its) for x, its in zip(out, _reordered(txt_qkv, img_qkv, pe, H, order), strict=True)):
            cut = order.split(" ->")[0].removeprefix("b l ")
            raise AssertionError(f"you cut the channels as {cut}; it is (qkv h k), see split_heads")
    raise AssertionError("not the same numbers; go through it in order: split, join, turn q and k, scores, softmax, v")


def _turn(x: Tensor, pe: Tensor) -> Tensor:
    return (pe.to(x.dtype) @ x.unflatten(-1, (-1, 2))[..., None]).flatten(-3)


def _mix(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    """Attention whose scores are `factor` times what they should be."""
    weights = (factor * q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _reordered(txt_qkv: Tensor, img_qkv: Tensor, pe: Tensor, H: int, order: str) -> tuple[Tensor, Tensor]:
    return joint_attention(*(rearrange(x, order, qkv=3, h=H) for x in (txt_qkv, img_qkv)), pe, H)


# ---------------------------------------------------------------- 4.4


def count_modulations(D: int, double_blocks: int, single_blocks: int) -> int:
    """How many parameters the modulations of all blocks hold: a double block has two streams with two branches each."""
    return (double_blocks * 2 * 6 + single_blocks * 3) * (D * D + D)


def check_count_modulations(answer: Callable) -> None:
    for D, double, single in ((30, 2, 7), (320, 3, 6), (3072, 19, 38)):
        right, out = count_modulations(D, double, single), answer(D, double, single)
        told = f"for D = {D}, {double} double and {single} single blocks you count {out:,}"
        wrong = {
            "the biases are missing: D × D weights and D biases for each number a channel": right // (D + 1) * D,
            "a double block has two streams with two branches each: twelve parts, not six": (
                (double * 6 + single * 3) * D * (D + 1)
            ),
            "a single block has one branch: three parts, not six": (double * 12 + single * 6) * D * (D + 1),
            "a modulation is shift, scale and gate, three parts a branch, not two": (
                (double * 8 + single * 2) * D * (D + 1)
            ),
            "that is how many numbers come out, not how many weights make them": (double * 12 + single * 3) * D,
        }
        for message, number in wrong.items():
            assert out != number or number == right, f"{told}: {message}"
        assert out == right, f"{told}, it is {right:,}; each part takes a D × D matrix and D biases"


CHECKS = {
    "4.1": check_embed_number,
    "4.2": check_adaptive_norm,
    "4.3": check_joint_attention,
    "4.4": check_count_modulations,
}
SOLUTIONS = {"4.1": embed_number, "4.2": adaptive_norm, "4.3": joint_attention, "4.4": count_modulations}
