"""Chapter 4, third part: heads, QK norm and joint attention. Eq. (4.6) to (4.10)."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import attention
from flux_edu.rope import EmbedND

B, H, K, L_TXT, L_IMG = 2, 3, 14, 5, 6
AXES = (2, 4, 8)


@pytest.fixture
def streams() -> dict[str, torch.Tensor]:
    """q, k, v of a text and an image stream, float64, and the rotations of both, text first."""
    torch.manual_seed(7)
    make = lambda L: 1.5 * torch.randn(B, H, L, K, dtype=torch.float64)  # noqa: E731
    heads = {f"{stream}_{x}": make(L) for stream, L in (("txt", L_TXT), ("img", L_IMG)) for x in "qkv"}
    ids = torch.zeros(B, L_TXT + L_IMG, 3)
    ids[:, L_TXT:, 1] = torch.arange(L_IMG) // 3
    ids[:, L_TXT:, 2] = torch.arange(L_IMG) % 3
    return heads | {"ids": ids, "pe": EmbedND(K, 10_000, AXES)(ids).double()}


def joined(streams: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(attention.join_streams(streams[f"txt_{x}"], streams[f"img_{x}"]) for x in "qkv")


def turned(x: np.ndarray, place: np.ndarray) -> list[complex]:
    """One head of one token after RoPE, as complex numbers, straight from Eq. (3.1) and (3.2)."""
    angles = [p * 10_000 ** (-2 * j / d) for p, d in zip(place, AXES, strict=True) for j in range(d // 2)]
    return [complex(*x[2 * j : 2 * j + 2]) * cmath.exp(1j * a) for j, a in enumerate(angles)]


def attention_in_loops(streams: dict[str, torch.Tensor]) -> np.ndarray:
    """Eq. (4.8) to (4.10) one number at a time: "B L H*K"."""
    q, k, v = (
        [np.concatenate([streams[f"txt_{x}"][b].numpy(), streams[f"img_{x}"][b].numpy()], axis=1) for b in range(B)]
        for x in "qkv"
    )
    out = np.zeros((B, L_TXT + L_IMG, H * K))
    for b in range(B):
        ids = streams["ids"][b].numpy()
        for h in range(H):
            for i in range(L_TXT + L_IMG):
                q_i = turned(q[b][h, i], ids[i])
                scores = [
                    sum((x.conjugate() * y).real for x, y in zip(q_i, turned(k[b][h, j], ids[j]), strict=True))
                    for j in range(L_TXT + L_IMG)
                ]
                weights = np.exp(np.array(scores) / math.sqrt(K))
                out[b, i, h * K : (h + 1) * K] = (weights / weights.sum()) @ v[b][h]
    return out


# ---------------------------------------------------------------- Eq. (4.6)


@pytest.mark.equation("4.6")
def test_queries_keys_values_then_heads_then_channels():
    qkv = torch.randn(2, 5, 3 * 3 * 7)
    parts = attention.split_heads(qkv, num_heads=3)
    for i, part in enumerate(parts):
        assert part.shape == (2, 3, 5, 7)
        for h in range(3):
            start = i * 21 + h * 7
            assert torch.equal(part[:, h], qkv[:, :, start : start + 7])


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 5), width=st.integers(1, 8), length=st.integers(1, 6))
def test_heads_keep_every_number(heads, width, length):
    qkv = torch.arange(length * 3 * heads * width).reshape(1, length, -1).float()
    q, k, v = attention.split_heads(qkv, heads)
    back = torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], dim=-1)
    assert torch.equal(back, qkv)


def test_the_weight_is_three_times_as_high_as_wide():
    """Notes item 5: W_qkv is 3D × D = 9216 × 3072; D × 3HD would be 24 times as large."""
    with torch.device("meta"):
        qkv = attention.SelfAttention(3072, 24, qkv_bias=True).qkv
    assert qkv.weight.shape == (9216, 3072) and qkv.bias.shape == (9216,)
    assert 3072 * 3 * 24 * 3072 == 24 * qkv.weight.numel()


def test_heads_must_share_out_the_channels():
    with pytest.raises(AssertionError, match="64 channels, 3 heads"):
        attention.split_heads(torch.zeros(1, 2, 64), 3)


def test_heads_and_channels_swapped_load_silently():
    """Rows of W_qkv ordered (qkv k h) instead of (qkv h k): all shapes fit, all heads are mixed up."""
    qkv = torch.randn(1, 5, 3 * 3 * 7)
    swapped = qkv.reshape(1, 5, 3, 7, 3).transpose(-1, -2).flatten(2)
    for right, wrong in zip(attention.split_heads(qkv, 3), attention.split_heads(swapped, 3), strict=True):
        assert right.shape == wrong.shape and (right - wrong).norm() / right.norm() > 0.5


# ---------------------------------------------------------------- Eq. (4.7)


@pytest.mark.equation("4.7")
def test_queries_and_keys_each_have_their_own_length_scale(streams):
    norm = attention.QKNorm(K).double().requires_grad_(False)
    norm.query_norm.scale.normal_()
    norm.key_norm.scale.normal_()
    q, k = streams["img_q"], streams["img_k"]
    for out, x, scale in zip(norm(q, k), (q, k), (norm.query_norm.scale, norm.key_norm.scale), strict=True):
        for h in range(H):
            for i in range(L_IMG):
                numbers = x[1, h, i].numpy()
                expected = numbers / math.sqrt((numbers**2).mean() + 1e-6) * scale.numpy()  # one scale for all heads
                assert np.abs(out[1, h, i].numpy() - expected).max() < 1e-12


@settings(max_examples=20, deadline=None)
@given(stretch=st.floats(0.1, 100), width=st.integers(1, 40))
def test_rms_norm_forgets_length_and_keeps_direction(stretch, width):
    x = 1 + torch.rand(3, width, dtype=torch.float64)
    out = attention.RMSNorm(width).double()(stretch * x)
    assert torch.allclose(out.pow(2).mean(-1), torch.ones(3, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(out / out.norm(dim=-1, keepdim=True), x / x.norm(dim=-1, keepdim=True))


def test_rms_norm_does_not_centre_as_a_layer_norm_does():
    x = 3 + torch.rand(4, 9)
    assert attention.RMSNorm(9)(x).mean() > 0.9
    assert torch.nn.functional.layer_norm(x, (9,)).mean().abs() < 1e-5


def test_a_score_after_the_norm_is_at_most_root_of_the_head_width():
    """|q̂ · k̂| / √d_h ≤ √d_h with scales of one: the norm bounds what goes into the softmax."""
    q, k = (100 * torch.randn(1, 2, 7, 16, dtype=torch.float64) for _ in "qk")
    q, k = attention.QKNorm(16).double()(q, k)
    assert (q @ k.transpose(-1, -2) / 4).abs().max() <= 4 + 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rms_norm_of_zeros_is_zero_in_every_dtype(dtype):
    out = attention.RMSNorm(5).to(dtype)(torch.zeros(2, 5, dtype=dtype))
    assert out.dtype == dtype and not out.any()


# ---------------------------------------------------------------- Eq. (4.8) to (4.10)


@pytest.mark.equation("4.9")
@pytest.mark.equation("4.10")
def test_joint_attention_in_loops(streams):
    q, k, v = joined(streams)
    expected = attention_in_loops(streams)
    explicit = attention.attention_explicit(q, k, v, streams["pe"])
    assert np.abs(explicit.numpy() - expected).max() < 1e-6  # the table of rotations is float32
    assert (attention.attention(q, k, v, streams["pe"]) - explicit).abs().max() <= 1e-12
    parts = [[streams[f"{stream}_{x}"] for x in "qkv"] for stream in ("txt", "img")]
    txt, img = attention.joint_attention(*map(tuple, parts), streams["pe"])
    assert np.abs(txt.numpy() - expected[:, :L_TXT]).max() < 1e-6
    assert np.abs(img.numpy() - expected[:, L_TXT:]).max() < 1e-6


@pytest.mark.equation("4.8")
def test_text_stands_before_image(streams):
    q = attention.join_streams(streams["txt_q"], streams["img_q"])
    assert torch.equal(q[:, :, :L_TXT], streams["txt_q"]) and torch.equal(q[:, :, L_TXT:], streams["img_q"])
    # equal values everywhere come out as they are, whatever the weights: the rows sum to one
    _, k, v = joined(streams)
    out = attention.attention_explicit(q, k, torch.full_like(v, 3.0), streams["pe"])
    assert (out - 3).abs().max() < 1e-12


@pytest.mark.equation("4.9")
@settings(max_examples=20, deadline=None)
@given(L=st.integers(1, 9), heads=st.integers(1, 4), pairs=st.integers(1, 6), seed=st.integers(0, 99))
def test_fast_path_equals_the_formula(L, heads, pairs, seed):
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, heads, L, 2 * pairs, generator=g, dtype=torch.float64)
    angle = torch.rand(2, 1, L, pairs, generator=g, dtype=torch.float64) * 6
    pe = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))
    z = lambda x: torch.view_as_complex(x.unflatten(-1, (pairs, 2))) * torch.polar(torch.ones_like(angle), angle)  # noqa: E731
    scores = torch.einsum("bhik,bhjk->bhij", z(q).conj(), z(k)).real / math.sqrt(2 * pairs)
    expected = (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ v
    expected = torch.cat(expected.unbind(1), dim=-1)  # head beside head
    assert (attention.attention_explicit(q, k, v, pe) - expected).abs().max() <= 1e-12
    assert (attention.attention(q, k, v, pe) - expected).abs().max() <= 1e-12


@pytest.mark.equation("4.10")
def test_the_split_gives_every_stream_its_own_tokens(streams):
    q, k, v = joined(streams)
    # one token alone is its own value: text and image tokens are told apart by their values
    alone = streams["pe"][:, :, :1]
    for x, token in (("txt", 2), ("img", 4)):
        at = [streams[f"{x}_{each}"][:, :, token : token + 1] for each in "qkv"]
        out = attention.attention_explicit(*at, alone)
        assert (out - at[2].transpose(1, 2).flatten(2)).abs().max() < 1e-12
    txt, img = attention.split_streams(attention.attention(q, k, v, streams["pe"]), L_TXT)
    assert txt.shape == (B, L_TXT, H * K) and img.shape == (B, L_IMG, H * K)
    assert torch.equal(torch.cat([txt, img], dim=1), attention.attention(q, k, v, streams["pe"]))


def test_weights_are_rows_that_sum_to_one_with_all_four_quadrants(streams):
    q, k, _ = joined(streams)
    A = attention.attention_weights(q, k, streams["pe"])
    assert (A.sum(-1) - 1).abs().max() < 1e-12
    txt, img = slice(None, L_TXT), slice(L_TXT, None)
    assert all(A[:, :, rows, columns].min() > 0 for rows in (txt, img) for columns in (txt, img)), "nothing is masked"


def test_position_is_a_rotation_and_not_a_number_added_to_the_scores(streams):
    """Notes item 3: with queries of zero nothing tells the tokens apart; an added φ(P) would."""
    q, k, v = joined(streams)
    A = attention.attention_weights(0 * q, k, streams["pe"])
    assert (A - 1 / (L_TXT + L_IMG)).abs().max() < 1e-12
    added = (0 * q @ k.transpose(-1, -2) / math.sqrt(K) - streams["ids"].sum(-1)[:, None, None, :]).softmax(-1)
    assert (added - 1 / (L_TXT + L_IMG)).abs().max() > 0.05
    # and values are not rotated: other rotations, same uniform weights, same result
    assert torch.allclose(
        attention.attention_explicit(0 * q, k, v, streams["pe"]),
        attention.attention_explicit(0 * q, k, v, streams["pe"].flip(2)),
    )


def test_image_before_text_with_text_first_rotations_runs_and_is_wrong(streams):
    right = attention.split_streams(attention.attention(*joined(streams), streams["pe"]), L_TXT)[1]
    q, k, v = (torch.cat([streams[f"img_{x}"], streams[f"txt_{x}"]], dim=2) for x in "qkv")
    wrong = attention.attention(q, k, v, streams["pe"])[:, :L_IMG]
    assert right.shape == wrong.shape and (right - wrong).norm() / right.norm() > 0.05
