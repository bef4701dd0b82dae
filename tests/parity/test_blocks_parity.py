"""One double block, one single block, the last layer and the conditioning vector against those of diffusers.

In float64 a block agrees to 1e-12 once diffusers' apply_rotary_emb, which computes in float32 whatever it is given, is
replaced by one that stays in float64; as it comes the block agrees to 1e-6.
"""

import pytest
import torch
from diffusers.models.embeddings import (
    CombinedTimestepGuidanceTextProjEmbeddings,
    CombinedTimestepTextProjEmbeddings,
)
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers import transformer_flux
from parity_tools import (
    AXES,
    BATCH,
    FLOAT32_BAR,
    FLOAT64_BAR,
    FLOAT64_WHOLE_BAR,
    HEADS,
    L_IMG,
    L_TXT,
    D,
    K,
    batched,
    draw,
    error,
    hold,
    img_ids,
    normal,
    short,
    txt_ids,
)
from torch import nn

from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.io import diffusers_layout
from flux_edu.io.checkpoint import load_strict
from flux_edu.model import Flux, FluxParams
from flux_edu.rope import EmbedND
from flux_edu.single_stream import LastLayer, SingleStreamBlock

IDS = torch.cat([txt_ids(), img_ids()])


def rotations():
    """The same positions as each side wants them."""
    return EmbedND(K, 10_000, AXES)(batched(IDS)), transformer_flux.FluxPosEmbed(10_000, list(AXES))(IDS)


def inputs(dtype):
    sizes = ((BATCH, L_IMG, D), (BATCH, L_TXT, D), (BATCH, D))
    return [normal(*size, seed=seed).to(dtype) for seed, size in enumerate(sizes)]


def inside(state, block):
    """The keys below `block.`, without it."""
    return {name.removeprefix(block + "."): x for name, x in state.items() if name.startswith(block + ".")}


def named(module, block):
    return {f"{block}.{name}": x for name, x in module.state_dict().items()}


def double_blocks(qkv_bias=True):
    """(ours, theirs) with equal parameters. diffusers always has the bias of q, k and v; without ours, theirs is 0."""
    ours = draw(DoubleStreamBlock(D, HEADS, 4.0, qkv_bias=qkv_bias), seed=11)
    theirs = transformer_flux.FluxTransformerBlock(D, HEADS, K).eval().requires_grad_(False)
    state = inside(diffusers_layout.flux_to_diffusers(named(ours, "double_blocks.0")), "transformer_blocks.0")
    if not qkv_bias:
        parts = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
        state |= {f"attn.{part}.bias": torch.zeros(D) for part in parts}
    theirs.load_state_dict(state, strict=True)
    return ours, theirs


def single_blocks():
    ours = draw(SingleStreamBlock(D, HEADS, 4.0), seed=12)
    theirs = transformer_flux.FluxSingleTransformerBlock(D, HEADS, K).eval().requires_grad_(False)
    state = diffusers_layout.flux_to_diffusers(named(ours, "single_blocks.0"))
    theirs.load_state_dict(inside(state, "single_transformer_blocks.0"), strict=True)
    return ours, theirs


def double_errors(ours, theirs, dtype):
    img, txt, vec = inputs(dtype)
    pe, their_pe = rotations()
    our_img, our_txt = ours.to(dtype)(img, txt, vec, pe)
    their_txt, their_img = theirs.to(dtype)(img, txt, vec, image_rotary_emb=their_pe)
    assert our_img.dtype == their_img.dtype == dtype
    assert (their_img - img).std() > 0.3 and (their_txt - txt).std() > 0.3, "the block hardly changes its input"
    return error(our_img, their_img), error(our_txt, their_txt)


def single_error(ours, theirs, dtype):
    img, txt, vec = inputs(dtype)
    pe, their_pe = rotations()
    out = ours.to(dtype)(torch.cat([txt, img], dim=1), vec, pe)
    expected = torch.cat(theirs.to(dtype)(img, txt, vec, image_rotary_emb=their_pe), dim=1)
    assert out.dtype == expected.dtype == dtype
    assert (expected[:, L_TXT:] - img).std() > 0.3, "the block hardly changes its input"
    return error(out, expected)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_double_block_float32(qkv_bias):
    errors = double_errors(*double_blocks(qkv_bias), torch.float32)
    hold(f"double block float32, qkv_bias={qkv_bias}", max(errors), FLOAT32_BAR)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_double_block_float64(qkv_bias):
    errors = double_errors(*double_blocks(qkv_bias), torch.float64)
    hold("double block float64", max(errors), FLOAT64_WHOLE_BAR, above=FLOAT64_BAR)  # the rotation's rounding is there


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_double_block_float64_rotation_too(float64_rotary, qkv_bias):
    errors = double_errors(*double_blocks(qkv_bias), torch.float64)
    hold("double block float64, rotation float64 too", max(errors), FLOAT64_BAR)


def test_single_block_float32():
    hold("single block float32", single_error(*single_blocks(), torch.float32), FLOAT32_BAR)


def test_single_block_float64():
    hold("single block float64", single_error(*single_blocks(), torch.float64), FLOAT64_WHOLE_BAR, above=FLOAT64_BAR)


def test_single_block_float64_rotation_too(float64_rotary):
    hold("single block float64, rotation float64 too", single_error(*single_blocks(), torch.float64), FLOAT64_BAR)


# ---------------------------------------------------------------- last layer


def last_layers():
    """(ours, their norm_out and proj_out) with equal parameters."""
    ours = draw(LastLayer(D, 1, 11), seed=13)
    norm_out = AdaLayerNormContinuous(D, D, elementwise_affine=False, eps=1e-6)
    proj_out = nn.Linear(D, 11)
    state = diffusers_layout.flux_to_diffusers(named(ours, "final_layer"))
    norm_out.load_state_dict(inside(state, "norm_out"), strict=True)
    proj_out.load_state_dict(inside(state, "proj_out"), strict=True)
    return ours, norm_out.requires_grad_(False), proj_out.requires_grad_(False)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, FLOAT32_BAR), (torch.float64, FLOAT64_BAR)])
def test_last_layer(dtype, bar):
    ours, norm_out, proj_out = (part.to(dtype) for part in last_layers())
    img, _, vec = inputs(dtype)
    hold(f"last layer {short(dtype)}", error(ours(img, vec), proj_out(norm_out(img, vec))), bar)


# ---------------------------------------------------------------- conditioning vector


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, FLOAT32_BAR), (torch.float64, FLOAT64_BAR)])
@pytest.mark.parametrize("guided", [True, False])
def test_conditioning(guided, dtype, bar):
    """Sinusoids are float32 on both sides, of the same bits as long as t and w are; all else is in the dtype asked."""
    params = FluxParams(13, 11, 19, 17, D, 4.0, HEADS, 0, 0, AXES, 10_000, qkv_bias=True, guidance_embed=guided)
    ours = draw(Flux(params), seed=14)
    theirs = CombinedTimestepGuidanceTextProjEmbeddings if guided else CombinedTimestepTextProjEmbeddings
    theirs = theirs(embedding_dim=D, pooled_projection_dim=19).eval().requires_grad_(False)
    theirs.load_state_dict(
        inside(diffusers_layout.flux_to_diffusers(ours.state_dict()), "time_text_embed"), strict=True
    )
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    t, w = torch.tensor([0.3141, 0.9271]).to(dtype), torch.tensor([3.53, 1.27]).to(dtype)
    y = normal(BATCH, 19, seed=4).to(dtype)
    out = ours.conditioning(t, y, w if guided else None)
    expected = theirs(1000 * t, 1000 * w, y) if guided else theirs(1000 * t, y)
    assert out.dtype == expected.dtype == dtype
    hold(f"conditioning {short(dtype)}{', guided' * guided}", error(out, expected), bar)


def test_the_drawn_parameters_are_loaded_strictly_and_none_is_left_out():
    """What diffusers' block holds, brought back, is what ours holds."""
    ours, theirs = double_blocks()
    back = diffusers_layout.diffusers_to_flux(named(theirs, "transformer_blocks.0"))
    again = DoubleStreamBlock(D, HEADS, 4.0, qkv_bias=True)
    load_strict(again, inside(back, "double_blocks.0"))
    assert all(torch.equal(x, ours.state_dict()[name]) for name, x in again.state_dict().items())
