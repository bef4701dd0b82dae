"""The whole transformer against diffusers' FluxTransformer2DModel, and the map of weights between the two layouts.

What stays in float32 when the model is float64:

| spot                         | here                    | diffusers                  | differs by               |
|------------------------------|-------------------------|----------------------------|--------------------------|
| sinusoids of t and guidance  | float32                 | float32                    | nothing                  |
| RoPE's tables                | float32, from float64   | float32, from float64      | nothing                  |
| turning queries and keys     | float64                 | float32, then back         | 1e-8, the whole likewise |

`test_what_stays_float32` finds the first two by watching every module; with the third put right (`float64_rotary`) the
whole models agree to 1e-12, so that there is no fourth.
"""

from functools import partial

import pytest
import torch
from diffusers import FluxTransformer2DModel
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
    batched,
    draw,
    error,
    hold,
    img_ids,
    normal,
    txt_ids,
)
from small_models import same
from torch import nn

from flux_edu.configs import configs
from flux_edu.embeddings import timestep_embedding
from flux_edu.io import diffusers_layout
from flux_edu.io.checkpoint import CheckpointError, load_strict
from flux_edu.model import Flux, FluxParams

C_IN, C_OUT, CONTEXT, POOLED, DOUBLE, SINGLE = 13, 11, 17, 19, 2, 3
QKV_BIASES = [
    f"transformer_blocks.{i}.attn.{part}.bias"
    for i in range(DOUBLE)
    for part in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
]


def our_model(guided=True, qkv_bias=True, seed=21, heads=HEADS, axes=AXES):
    params = FluxParams(
        in_channels=C_IN,
        out_channels=C_OUT,
        vec_in_dim=POOLED,
        context_in_dim=CONTEXT,
        hidden_size=heads * sum(axes),
        mlp_ratio=4.0,
        num_heads=heads,
        depth=DOUBLE,
        depth_single_blocks=SINGLE,
        axes_dim=axes,
        theta=10_000,
        qkv_bias=qkv_bias,
        guidance_embed=guided,
    )
    return draw(Flux(params), seed)


def their_model(guided=True, heads=HEADS, axes=AXES):
    theirs = FluxTransformer2DModel(
        in_channels=C_IN,
        out_channels=C_OUT,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=guided,
        axes_dims_rope=axes,
    )
    return theirs.eval().requires_grad_(False)


def pair(guided=True, qkv_bias=True):
    """(ours, theirs) with equal parameters. diffusers always has the bias of q, k and v; without ours, theirs is 0."""
    ours, theirs = our_model(guided, qkv_bias), their_model(guided)
    state = diffusers_layout.flux_to_diffusers(ours.state_dict())
    if not qkv_bias:
        assert not state.keys() & set(QKV_BIASES)
        state |= {key: torch.zeros(D) for key in QKV_BIASES}
    theirs.load_state_dict(state, strict=True)
    return ours, theirs


def outputs(ours, theirs, dtype, guided=True):
    """t and w are whole float32 numbers in float64 too: their sinusoids are made in float32 anyway."""
    img, txt = normal(BATCH, L_IMG, C_IN, seed=1).to(dtype), normal(BATCH, L_TXT, CONTEXT, seed=2).to(dtype)
    y, t, w = normal(BATCH, POOLED, seed=3).to(dtype), torch.tensor([0.3141, 0.9271]), torch.tensor([3.53, 1.27])
    w = w if guided else None
    out = ours.to(dtype)(img, batched(img_ids()), txt, batched(txt_ids()), t, y, w)
    nn.Module.to(theirs, dtype)  # diffusers' own `to` logs a warning about modules that do not exist
    (expected,) = theirs(
        hidden_states=img,
        encoder_hidden_states=txt,
        pooled_projections=y,
        timestep=t.to(dtype),
        img_ids=img_ids(),
        txt_ids=txt_ids(),
        guidance=None if w is None else w.to(dtype),
        return_dict=False,
    )
    assert out.dtype == expected.dtype == dtype
    return out, expected


kinds = pytest.mark.parametrize(("guided", "qkv_bias"), [(True, True), (False, True), (True, False), (False, False)])


@kinds
def test_whole_float32(guided, qkv_bias):
    out, expected = outputs(*pair(guided, qkv_bias), torch.float32, guided)
    hold(f"whole float32, {guided=}, {qkv_bias=}", error(out, expected), FLOAT32_BAR)


@kinds
def test_whole_float64(guided, qkv_bias):
    out, expected = outputs(*pair(guided, qkv_bias), torch.float64, guided)
    hold(f"whole float64, {guided=}, {qkv_bias=}", error(out, expected), FLOAT64_WHOLE_BAR, above=FLOAT64_BAR)


@kinds
def test_whole_float64_rotation_too(float64_rotary, guided, qkv_bias):
    out, expected = outputs(*pair(guided, qkv_bias), torch.float64, guided)
    hold(f"whole float64, rotation float64 too, {guided=}, {qkv_bias=}", error(out, expected), FLOAT64_BAR)


def test_whole_float32_with_heads_as_published():
    """128 channels a head, shared out to the axes as 16, 56 and 56."""
    ours, theirs = our_model(heads=2, axes=(16, 56, 56)), their_model(heads=2, axes=(16, 56, 56))
    theirs.load_state_dict(diffusers_layout.flux_to_diffusers(ours.state_dict()), strict=True)
    hold("whole float32, published heads", error(*outputs(ours, theirs, torch.float32)), FLOAT32_BAR)


def modules_that_return(model, dtype, call):
    """The names of the modules that return a tensor of this dtype while `call` runs."""
    names = set()

    def look(name, out):
        if any(getattr(x, "dtype", None) == dtype for x in (out if isinstance(out, tuple) else (out,))):
            names.add(name)

    hooks = [m.register_forward_hook(lambda _, __, out, n=n: look(n, out)) for n, m in model.named_modules()]
    call()
    for hook in hooks:
        hook.remove()
    return names


def test_what_stays_float32():
    ours, theirs = pair()
    assert timestep_embedding(torch.tensor([0.5]).double(), 256).dtype == torch.float32
    call = partial(outputs, ours, theirs, torch.float64)
    assert modules_that_return(ours, torch.float32, call) == {"pe_embedder"}
    assert modules_that_return(theirs, torch.float32, call) == {"pos_embed", "time_text_embed.time_proj"}


# ---------------------------------------------------------------- the map of weights


@pytest.mark.parametrize("guided", [True, False])
def test_both_directions_are_each_others_inverse(guided):
    ours, theirs = our_model(guided).state_dict(), draw(their_model(guided), 22).state_dict()
    there = diffusers_layout.flux_to_diffusers(ours)
    assert same(diffusers_layout.diffusers_to_flux(there), ours)
    back = diffusers_layout.diffusers_to_flux(theirs)
    assert same(diffusers_layout.flux_to_diffusers(back), theirs)
    their_model(guided).load_state_dict(there, strict=True)  # every key of theirs is there, and no other
    load_strict(our_model(guided), back)


def test_a_map_leaves_its_input_alone():
    state = our_model().state_dict()
    before = {key: x.clone() for key, x in state.items()}
    diffusers_layout.diffusers_to_flux(diffusers_layout.flux_to_diffusers(state))
    assert same(state, before)


def test_the_fused_matrices_are_query_key_value_mlp():
    state = our_model().state_dict()
    there = diffusers_layout.flux_to_diffusers(state)
    for leaf in ("weight", "bias"):
        linear1 = state[f"single_blocks.1.linear1.{leaf}"]
        for i, part in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
            assert torch.equal(there[f"single_transformer_blocks.1.{part}.{leaf}"], linear1[i * D : (i + 1) * D])
        assert torch.equal(there[f"single_transformer_blocks.1.proj_mlp.{leaf}"], linear1[3 * D :])
        assert len(linear1) == 7 * D


def test_forgetting_to_swap_the_halves_loads_and_is_wrong():
    ours, theirs = pair()
    _, right = outputs(ours, theirs, torch.float32)
    state = diffusers_layout.flux_to_diffusers(ours.state_dict())
    for leaf in ("weight", "bias"):
        state[f"norm_out.linear.{leaf}"] = ours.state_dict()[f"final_layer.adaLN_modulation.1.{leaf}"]
    theirs.load_state_dict(state, strict=True)  # not a word
    _, wrong = outputs(ours, theirs, torch.float32)
    hold("the last layer's halves not swapped: wrong by", error(wrong, right), 2, above=0.05)


def test_swapping_the_halves_of_a_blocks_modulation_as_well_would_be_wrong():
    ours, theirs = pair()
    _, right = outputs(ours, theirs, torch.float32)
    x = theirs.single_transformer_blocks[0].norm.linear.weight
    x.copy_(torch.cat([x[D : 2 * D], x[:D], x[2 * D :]]))
    _, wrong = outputs(ours, theirs, torch.float32)
    hold("one block's shift and scale swapped: wrong by", error(wrong, right), 2, above=0.05)


@pytest.mark.parametrize("to_theirs", [True, False])
def test_a_foreign_key_is_an_error_that_names_it(to_theirs):
    convert, state = diffusers_layout.flux_to_diffusers, our_model().state_dict()
    if not to_theirs:
        convert, state = diffusers_layout.diffusers_to_flux, diffusers_layout.flux_to_diffusers(state)
    with pytest.raises(CheckpointError, match="1 keys do not belong to .* layout: img_in.lora_A.weight"):
        convert(state | {"img_in.lora_A.weight": torch.zeros(1)})


def test_the_other_layout_is_an_error_that_says_so():
    state = our_model().state_dict()
    with pytest.raises(CheckpointError, match="use diffusers_layout.diffusers_to_flux"):
        diffusers_layout.flux_to_diffusers(diffusers_layout.flux_to_diffusers(state))
    with pytest.raises(CheckpointError, match="looks like a FLUX-shaped model of width 60"):
        diffusers_layout.diffusers_to_flux(state)


def test_the_published_names_all_have_a_place_in_diffusers():
    """780 tensors here are 1160 there, in the shapes diffusers itself would make."""
    with torch.device("meta"):
        ours, theirs = Flux(configs["flux-dev"].params), FluxTransformer2DModel(guidance_embeds=True)
    there = diffusers_layout.flux_to_diffusers(ours.state_dict())
    assert {key: x.shape for key, x in there.items()} == {key: x.shape for key, x in theirs.state_dict().items()}
    assert len(there) == 1160
    back = diffusers_layout.diffusers_to_flux(there)
    assert {key: x.shape for key, x in back.items()} == {key: x.shape for key, x in ours.state_dict().items()}
