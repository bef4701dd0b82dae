"""Chapter 3, RoPE. Eq. (3.1) to (3.5)."""

import cmath
import math

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flux_edu import rope
from flux_edu.attention import attention_explicit, attention_weights
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.teaching.exercises.chapter_03 import halves_to_neighbours
from flux_edu.teaching.plots import chapter_03 as plots

B, H = 2, 3
AXES = (2, 4, 8)  # no two alike
K = sum(AXES)
THETA = 700.0
PUBLISHED = (16, 56, 56)


def frequency(j: int, dim: int, theta: float) -> float:
    """Eq. (3.1) in plain Python."""
    return math.exp(-2 * j / dim * math.log(theta))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ids_of(L_txt: int, h: int, w: int, batch: int = B) -> Tensor:
    return torch.cat([make_txt_ids(batch, L_txt), make_img_ids(batch, h, w)], dim=1)


def table64(ids: Tensor, axes: tuple[int, ...] = AXES, theta: float = THETA) -> Tensor:
    """Eq. (3.4) in float64 throughout, "B 1 L K/2 2 2", without the package."""
    out = np.zeros((*ids.shape[:2], sum(axes) // 2, 2, 2))
    for b, i in np.ndindex(*ids.shape[:2]):
        angles = [
            p * frequency(j, d, theta) for p, d in zip(ids[b, i].tolist(), axes, strict=True) for j in range(d // 2)
        ]
        out[b, i] = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
    return torch.from_numpy(out)[:, None]


def turned(x: Tensor, place: list[float], axes: tuple[int, ...] = AXES, theta: float = THETA) -> np.ndarray:
    """One head of one token turned by complex numbers: pair j becomes (x_2j + i x_2j+1) e^{ip ω_j}."""
    angles = [p * frequency(j, d, theta) for p, d in zip(place, axes, strict=True) for j in range(d // 2)]
    pairs = [complex(*x[2 * j : 2 * j + 2]) * cmath.exp(1j * a) for j, a in enumerate(angles)]
    return np.array([part for z in pairs for part in (z.real, z.imag)])


def rotated_scores(q: Tensor, k: Tensor, R: Tensor) -> Tensor:
    return rope.apply_rope(q, R) @ rope.apply_rope(k, R).mT


def half_split(x: Tensor, R: Tensor) -> Tensor:
    """The pairing (j, j + K/2) of GPT-NeoX and of transformers' Llama, with the same table."""
    a, b = x.to(R.dtype).chunk(2, dim=-1)
    return torch.cat([R[..., 0, 0] * a + R[..., 0, 1] * b, R[..., 1, 0] * a + R[..., 1, 1] * b], dim=-1)


# ---------------------------------------------------------------- 3.1


@pytest.mark.equation("3.1")
@pytest.mark.parametrize("dim, theta", [(16, 10_000.0), (56, 10_000.0), (14, 700.0), (2, 5.0)])
def test_frequencies_fall_from_one_towards_one_over_theta(dim, theta):
    omega = rope.rope_frequencies(dim, theta)
    assert omega.dtype == torch.float64
    assert omega.tolist() == pytest.approx([frequency(j, dim, theta) for j in range(dim // 2)], rel=1e-14)
    assert omega[0] == 1


@pytest.mark.parametrize("dim", [0, 1, 7, -2])
def test_an_axis_needs_pairs(dim):
    with pytest.raises(AssertionError, match=f"dim = {dim}: must be even"):
        rope.rope_frequencies(dim, 10_000)


# ---------------------------------------------------------------- 3.2


@pytest.mark.equation("3.2")
def test_the_table_holds_cosines_and_sines():
    pos = torch.tensor([[0.0, 1, 2, 1021], [5, 7, 11, 4093]])
    table = rope.rope(pos, 14, THETA)
    assert table.shape == (2, 4, 7, 2, 2) and table.dtype == torch.float32
    for b, i, j in np.ndindex(2, 4, 7):
        angle = pos[b, i].item() * frequency(j, 14, THETA)
        right = [math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)]
        assert table[b, i, j].flatten().tolist() == pytest.approx(right, abs=6e-8)


@settings(max_examples=25, deadline=None)
@given(pos=st.integers(-4000, 4000), pairs=st.integers(1, 9), theta=st.floats(2, 1e6))
def test_every_entry_is_a_rotation(pos, pairs, theta):
    table = rope.rope(torch.tensor([float(pos)]), 2 * pairs, theta).double()
    assert torch.allclose(table @ table.mT, torch.eye(2, dtype=torch.float64), atol=2e-7)
    assert torch.allclose(torch.linalg.det(table), torch.ones(1, pairs, dtype=torch.float64), atol=2e-7)
    back = rope.rope(torch.tensor([-float(pos)]), 2 * pairs, theta).double()
    assert torch.equal(back, table.mT)


def test_position_zero_is_the_identity_to_the_bit():
    assert torch.equal(rope.rope(torch.zeros(3), 14, THETA), torch.eye(2).expand(3, 7, 2, 2))


def test_angles_in_float32_are_off_by_seven_millionths_and_ours_are_not():
    """The reference kept angles in float64 until January 2025, then in float32; 6.8e-6 is what this changed."""
    pos = torch.arange(128.0)
    exact = pos.double()[:, None] * rope.rope_frequencies(56, 10_000)
    single = pos[:, None] * (1 / 10_000 ** (torch.arange(0, 56, 2) / 56))
    worst = max((f(single).double() - f(exact)).abs().max() for f in (torch.cos, torch.sin))
    assert 5e-6 < worst < 9e-6
    ours = rope.rope(pos, 56, 10_000).double()
    assert (ours[..., 0, 0] - exact.cos()).abs().max() < 3e-8 and (ours[..., 1, 0] - exact.sin()).abs().max() < 3e-8


# ---------------------------------------------------------------- 3.3


@pytest.mark.equation("3.3")
@pytest.mark.parametrize("dtype, bar", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_pairs_turn_like_complex_numbers(dtype, bar):
    ids = ids_of(2, 3, 5)
    q, k = (random(B, H, ids.shape[1], K, seed=s).to(dtype) for s in (1, 2))
    for x in (q, k):
        y = rope.apply_rope(x, table64(ids).to(dtype))
        assert y.dtype == dtype
        for b, h, i in np.ndindex(*x.shape[:3]):
            assert np.abs(y[b, h, i].numpy() - turned(x[b, h, i], ids[b, i].tolist())).max() < bar * 5


@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.integers(0, 2000), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_rotation_keeps_every_length_and_inverts(places, seed):
    q = random(1, 2, 1, K, seed=seed)
    there, back = (table64(sign * torch.tensor([[places]]).double()) for sign in (1, -1))
    turned = rope.apply_rope(q, there)
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-12)
    assert torch.allclose(rope.apply_rope(turned, back), q, atol=1e-12)


def test_low_precision_is_turned_in_float32_and_rounded_once():
    x = random(1, 2, 3, K).bfloat16()
    R = table64(torch.arange(9.0).reshape(1, 3, 3)).float()
    got = rope.apply_rope(x, R)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, rope.apply_rope(x.float(), R).bfloat16())


# ---------------------------------------------------------------- 3.4


@pytest.mark.equation("3.4")
def test_three_axes_side_by_side():
    ids = torch.tensor([[[0.0, 3, 11], [1, 5, 2]], [[7, 0, 1], [0, 13, 17]]])
    got = rope.EmbedND(K, THETA, AXES)(ids)
    assert got.shape == (2, 1, 2, K // 2, 2, 2) and got.dtype == torch.float32
    assert (got.double() - table64(ids)).abs().max() < 1e-7


def test_published_axes_make_8_and_28_and_28_rotations():
    embed = rope.EmbedND(128, 10_000, PUBLISHED)
    origin = embed(torch.zeros(1, 1, 3))
    assert origin.shape == (1, 1, 1, 64, 2, 2) and list(embed.parameters()) == []
    for axis, pairs in enumerate((range(0, 8), range(8, 36), range(36, 64))):
        place = torch.zeros(1, 1, 3)
        place[..., axis] = 1
        moved = (embed(place) != origin).flatten(4).any(-1)[0, 0, 0].nonzero().flatten()
        assert moved.tolist() == list(pairs)


@pytest.mark.parametrize("axes", [(16, 56, 58), (16, 56), ()])
def test_axes_that_do_not_share_out_the_head(axes):
    with pytest.raises(AssertionError, match="must sum to 128"):
        rope.EmbedND(128, 10_000, axes)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_ids_with_a_forgotten_or_an_extra_coordinate(coordinates):
    with pytest.raises(AssertionError, match=rf"{coordinates} axes: \(2, 4, 8\)"):
        rope.EmbedND(K, THETA, AXES)(torch.zeros(1, 5, coordinates))


# ---------------------------------------------------------------- 3.5


@pytest.mark.equation("3.5")
def test_only_differences_of_positions_reach_the_scores():
    """q̃_i · k̃_j against q_iᵀ R(p_j - p_i) k_j, every pair of tokens, in float64."""
    ids = ids_of(2, 3, 5, batch=1)
    L = ids.shape[1]
    q, k = (random(1, H, L, K, seed=s) for s in (3, 4))
    scores = rotated_scores(q, k, table64(ids))
    for h, i, j in np.ndindex(H, L, L):
        moved = turned(k[0, h, j], (ids[0, j] - ids[0, i]).tolist())
        assert abs(scores[0, h, i, j].item() - q[0, h, i].numpy() @ moved) < 1e-12


def test_moving_the_image_alone_changes_what_text_and_image_say_to_each_other():
    ids = ids_of(3, 2, 5, batch=1)
    moved = ids.clone()
    moved[:, 3:, 1:] += 4
    q, k = (random(1, H, 13, K, seed=s) for s in (5, 6))
    change = (rotated_scores(q, k, table64(ids)) - rotated_scores(q, k, table64(moved))).abs()
    assert change[..., :3, :3].max() == 0  # text to text: nothing moved
    assert change[..., 3:, 3:].max() < 1e-12  # image to image: all moved together
    assert change[..., :3, 3:].max() > 0.5 and change[..., 3:, :3].max() > 0.5


# ---------------------------------------------------------------- text tokens


def test_text_stands_at_the_origin_and_is_not_turned_at_all():
    ids = ids_of(4, 2, 3)
    q = random(B, H, 10, K).float()
    got = rope.apply_rope(q, rope.EmbedND(K, THETA, AXES)(ids))
    assert torch.equal(got[:, :, :4], q[:, :, :4])
    assert torch.equal(got[:, :, 4], q[:, :, 4])  # and so is patch (0, 0), the place text shares
    assert not torch.isclose(got[:, :, 5:], q[:, :, 5:]).all(-1).any()


# ---------------------------------------------------------------- mistakes that load silently


@pytest.fixture
def scene() -> dict[str, Tensor]:
    ids = ids_of(4, 3, 5)
    q, k, v = (random(B, H, 19, K, seed=s) for s in (10, 11, 12))
    return {"ids": ids, "q": q, "k": k, "v": v, "R": table64(ids), "right": attention_explicit(q, k, v, table64(ids))}


def wrong_half_split(s):
    weights = (half_split(s["q"], s["R"]) @ half_split(s["k"], s["R"]).mT / K**0.5).softmax(-1)
    return rearrange(weights @ s["v"], "b h l k -> b l (h k)")


def wrong_image_first(s):
    ids = torch.cat([s["ids"][:, 4:], s["ids"][:, :4]], dim=1)
    return attention_explicit(s["q"], s["k"], s["v"], table64(ids))


def wrong_rows_and_columns_swapped(s):
    return attention_explicit(s["q"], s["k"], s["v"], table64(s["ids"][..., [0, 2, 1]]))


def wrong_axis_forgotten(s):
    """(row, column) with no axis 0, and axes that share out the head between two: it runs."""
    return attention_explicit(s["q"], s["k"], s["v"], table64(s["ids"][..., 1:], axes=(6, 8)))


def wrong_values_turned(s):
    v = rope.apply_rope(s["v"], s["R"])
    return attention_explicit(s["q"], s["k"], v, s["R"])


def wrong_sine_and_cosine_swapped(s):
    c, n = s["R"][..., 0, 0], s["R"][..., 1, 0]
    swapped = torch.stack([n, -c, c, n], dim=-1).reshape(s["R"].shape)
    q = rope.apply_rope(s["q"], swapped)  # on the query alone; on both it cancels
    return rearrange((q @ s["k"].mT / K**0.5).softmax(-1) @ s["v"], "b h l k -> b l (h k)")


def wrong_sine_sign(s):
    return attention_explicit(s["q"], s["k"], s["v"], s["R"].mT)


def wrong_serial_numbers(s):
    """The notes call img_ids "编号", serial numbers; as such on one axis they run too."""
    ids = s["ids"].clone()
    ids[:, 4:, 1], ids[:, 4:, 2] = torch.arange(15.0), 0
    return attention_explicit(s["q"], s["k"], s["v"], table64(ids))


def wrong_added_to_the_scores(s):
    """The notes: Softmax(QKᵀ/√d + φ(P)) V, here with the best φ there could be, a function of places alone."""
    ones = torch.ones_like(s["q"])
    phi = rotated_scores(ones, ones, s["R"]) / K**0.5
    return rearrange((s["q"] @ s["k"].mT / K**0.5 + phi).softmax(-1) @ s["v"], "b h l k -> b l (h k)")


MISTAKES = [value for name, value in list(globals().items()) if name.startswith("wrong_")]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__.removeprefix("wrong_"))
def test_mistakes_run_and_change_the_output(scene, mistake):
    got = mistake(scene)
    assert got.shape == scene["right"].shape and got.isfinite().all()
    assert (got - scene["right"]).norm() / scene["right"].norm() > 0.05


def test_swapping_sine_and_cosine_in_both_cancels():
    """It is a turn by 90° and a mirror: the scores see the mirror only, as they would see the wrong sign."""
    q, k = (random(1, H, 5, K, seed=s) for s in (13, 14))
    R = table64(torch.arange(15.0).reshape(1, 5, 3))
    swapped = torch.stack([R[..., 1, 0], -R[..., 0, 0], R[..., 0, 0], R[..., 1, 0]], dim=-1).reshape(R.shape)
    assert torch.allclose(rotated_scores(q, k, swapped), rotated_scores(q, k, R.mT), atol=1e-12)
    assert not torch.allclose(rotated_scores(q, k, swapped), rotated_scores(q, k, R), atol=0.1)


def test_no_term_of_places_alone_can_stand_for_rope():
    """Item 3 of the errata: what RoPE adds to a score depends on q and k, so it is no φ(P)."""
    q, k = (random(1, H, 6, K, seed=s) for s in (15, 16))
    R = table64(torch.arange(18.0).reshape(1, 6, 3))
    added = rotated_scores(q, k, R) - q @ k.mT
    doubled = rotated_scores(2 * q, k, R) - 2 * q @ k.mT
    assert torch.allclose(doubled, 2 * added, atol=1e-12) and added.abs().max() > 1
    assert (added[:, 0] - added[:, 1]).abs().max() > 1  # and two heads get different terms at the same places


def test_width_under_the_root_is_the_head_s():
    """Item 6 of the errata: with √D in place of √d_h, attention is flatter."""
    q, k = (random(1, H, 6, K, seed=s) for s in (17, 18))
    R = table64(torch.arange(18.0).reshape(1, 6, 3))
    scores = rotated_scores(q, k, R)
    assert torch.allclose(attention_weights(q, k, R), (scores / K**0.5).softmax(-1), atol=1e-14)
    assert (attention_weights(q, k, R) - (scores / (H * K) ** 0.5).softmax(-1)).abs().max() > 0.1


def test_half_split_weights_work_in_flux_once_their_rows_are_moved():
    """What exercise 3.4 claims: the scores are the same."""
    D, L = 7, 5
    Wq, Wk, x = random(K, D, seed=19), random(K, D, seed=20), random(L, D, seed=21)
    R = table64(torch.arange(15.0).reshape(1, 5, 3))
    q, k = ((x @ W.mT)[None, None] for W in (Wq, Wk))
    halves = half_split(q, R) @ half_split(k, R).mT
    q, k = ((x @ halves_to_neighbours(W).mT)[None, None] for W in (Wq, Wk))
    assert torch.allclose(rotated_scores(q, k, R), halves, atol=1e-12)


# ---------------------------------------------------------------- figures


def test_the_score_map_is_brightest_where_the_query_looks():
    assert "brightest, 11.3, at row 12, column 20" in plots.score_map().get_label()  # √128 = 11.3
    assert "brightest, 11.3, at row 15, column 14" in plots.score_map(look_down=3, look_right=-6).get_label()
