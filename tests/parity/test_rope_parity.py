"""RoPE against diffusers: the tables of FluxPosEmbed, and apply_rotary_emb.

Both sides compute angles in float64 and keep the tables as float32. diffusers then turns queries and keys in float32
whatever their dtype, we in theirs: the one place where the two differ in float64, by the rounding to float32.
"""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from parity_tools import AXES, BATCH, FLOAT32_BAR, FLOAT64_BAR, HEADS, K, batched, error, img_ids, normal, txt_ids

from flux_edu import rope

IDS = torch.cat([txt_ids(), img_ids()])


def their_tables(axes=AXES):
    return FluxPosEmbed(theta=10_000, axes_dim=list(axes))(IDS)


def test_the_tables_hold_the_same_cosines_and_sines():
    R = rope.EmbedND(K, 10_000, AXES)(batched(IDS))
    cos, sin = (table[:, ::2].expand(BATCH, 1, -1, -1) for table in their_tables())  # each stands there twice
    assert R.dtype == cos.dtype == torch.float32
    for ours, theirs in ((R[..., 0, 0], cos), (R[..., 1, 1], cos), (R[..., 1, 0], sin), (R[..., 0, 1], -sin)):
        assert error(ours, theirs) <= 1e-7


def test_positions_as_far_as_four_thousand_still_agree():
    ids = torch.tensor([[0.0, 4093.0, 1021.0], [1.0, 257.0, 3001.0]])
    cos, _ = FluxPosEmbed(theta=10_000, axes_dim=[16, 56, 56])(ids)
    R = rope.EmbedND(128, 10_000, (16, 56, 56))(ids[None])
    assert error(R[0, 0, ..., 0, 0], cos[:, ::2]) <= 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_and_keys_are_turned_alike(dtype):
    q, k = (normal(BATCH, HEADS, len(IDS), K, seed=seed).to(dtype) for seed in (0, 1))
    R = rope.EmbedND(K, 10_000, AXES)(batched(IDS))
    for x in (q, k):
        ours, theirs = rope.apply_rope(x, R), apply_rotary_emb(x, their_tables(), sequence_dim=2)
        assert ours.dtype == theirs.dtype == dtype
        assert error(ours, theirs) <= FLOAT32_BAR


def test_in_float64_theirs_is_a_float32_result_and_ours_is_not():
    q = normal(BATCH, HEADS, len(IDS), K, seed=2).double()
    R = rope.EmbedND(K, 10_000, AXES)(batched(IDS))
    ours = rope.apply_rope(q, R)
    theirs = apply_rotary_emb(q, their_tables(), sequence_dim=2)
    assert torch.equal(theirs, theirs.float().double())
    assert not torch.equal(ours, ours.float().double())
    cos, sin = (table.double() for table in their_tables())
    crossed = torch.stack([-q[..., 1::2], q[..., ::2]], dim=-1).flatten(-2)
    assert error(ours, q * cos + crossed * sin) <= FLOAT64_BAR
