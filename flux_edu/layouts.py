"""The published layout of the weights beside that of diffusers: names, fused matrices, swapped halves.

Both maps are pure functions from state dict to state dict. They are how the parity tests compare the two
implementations number by number, and how a checkpoint moves from one to the other.
"""

import torch
from torch import Tensor

from flux_edu.checkpoint import CheckpointError, State, looks_like

_EMBEDDERS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
} | {
    f"{ours}.{layer}_layer": f"time_text_embed.{theirs}.linear_{i}"
    for ours, theirs in _EMBEDDERS.items()
    for i, layer in ((1, "in"), (2, "out"))
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
# one matrix of ours, several of theirs, top to bottom
_FUSED_DOUBLE = {
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
}
_FUSED_SINGLE = {"linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]}


def _swap_halves(x: Tensor) -> Tensor:
    """The last layer's modulation: shift, scale here; scale, shift in diffusers."""
    return torch.cat(x.chunk(2)[::-1])


def _pairs(state: State, ours: bool) -> list[tuple[str, list[str]]]:
    """(our module, their modules) for everything that a state dict of either layout can hold."""
    blocks = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
    pairs = [(a, [b]) for a, b in _TOP.items()]
    for a, b in blocks.items():
        prefix = a if ours else b
        depth = 1 + max((int(name.split(".")[1]) for name in state if name.startswith(prefix + ".")), default=-1)
        plain, fused = (_DOUBLE, _FUSED_DOUBLE) if a == "double_blocks" else (_SINGLE, _FUSED_SINGLE)
        for i in range(depth):
            pairs += [(f"{a}.{i}.{x}", [f"{b}.{i}.{y}"]) for x, y in plain.items()]
            pairs += [(f"{a}.{i}.{x}", [f"{b}.{i}.{y}" for y in ys]) for x, ys in fused.items()]
    return pairs


def flux_to_diffusers(state: State) -> State:
    """From the published layout to diffusers' FluxTransformer2DModel: new names, fused matrices cut, halves swapped."""
    rest, out = dict(state), {}
    for ours, theirs in _pairs(state, ours=True):
        for leaf in ("weight", "bias", "scale"):
            if (x := rest.pop(f"{ours}.{leaf}", None)) is None:
                continue
            if ours.startswith("final_layer.adaLN"):
                x = _swap_halves(x)
            D = (
                x.shape[0] // 3
                if len(theirs) == 3
                else state[ours.rsplit(".", 1)[0] + ".linear2.bias"].shape[0]
                if len(theirs) == 4
                else 0
            )
            parts = x.split([D, D, D, x.shape[0] - 3 * D][: len(theirs)]) if D else [x]
            out |= {
                f"{name}.{'weight' if leaf == 'scale' else leaf}": part
                for name, part in zip(theirs, parts, strict=True)
            }
    if rest:
        raise CheckpointError(
            f"{len(rest)} keys are not FLUX.1's: {', '.join(list(rest)[:6])}; the state dict looks like"
            f" {looks_like(state)}"
        )
    return out


def diffusers_to_flux(state: State) -> State:
    """The inverse of `flux_to_diffusers`."""
    rest, out = dict(state), {}
    for ours, theirs in _pairs(state, ours=False):
        for leaf in ("weight", "bias"):
            parts = [rest.pop(f"{name}.{leaf}", None) for name in theirs]
            if any(part is None for part in parts):
                continue
            x = torch.cat(parts)
            if ours.startswith("final_layer.adaLN"):
                x = _swap_halves(x)
            out[f"{ours}.{'scale' if '_norm' in ours else leaf}"] = x
    if rest:
        raise CheckpointError(
            f"{len(rest)} keys are not those of diffusers' FLUX.1: {', '.join(list(rest)[:6])}; it looks like"
            f" {looks_like(state)}"
        )
    return out


# ---------------------------------------------------------------- autoencoder

_AE_WORDS = [  # (ours, theirs) inside a dotted name, tried in this order
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
    ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
    ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("norm_out", "conv_norm_out"),
    ("nin_shortcut", "conv_shortcut"),
    ("downsample", "downsamplers.0"),
    ("upsample", "upsamplers.0"),
]


def _ae_levels(levels: int) -> list[tuple[str, str]]:
    """Down blocks keep their order; up blocks are numbered from the smallest in diffusers, from the largest here."""
    down = [(f"encoder.down.{i}", f"encoder.down_blocks.{i}") for i in range(levels)]
    return down + [(f"decoder.up.{i}", f"decoder.up_blocks.{levels - 1 - i}") for i in range(levels)]


def _ae_convert(state: State, to_diffusers: bool) -> State:
    prefix = "encoder.down." if to_diffusers else "encoder.down_blocks."
    levels = 1 + max((int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)), default=-1)
    if not levels:
        raise CheckpointError(
            f"no key begins with {prefix}: this is no autoencoder in that layout; it looks like {looks_like(state)}"
        )
    words = [*_ae_levels(levels), *_AE_WORDS, *[(f"block.{i}", f"resnets.{i}") for i in range(9)]]
    out = {}
    for name, x in state.items():
        for ours, theirs in words:
            old, new = (ours, theirs) if to_diffusers else (theirs, ours)
            name = f".{name}.".replace(f".{old}.", f".{new}.").strip(".")  # whole words between dots only
        if "attn_1." in name or ".attentions." in name:
            if x.ndim == 4 and to_diffusers:  # 1 × 1 convolutions here, linear layers there
                x = x[:, :, 0, 0]
            elif x.ndim == 2 and not to_diffusers:
                x = x[:, :, None, None]
        out[name] = x
    return out


def ae_to_diffusers(state: State) -> State:
    """The published autoencoder to diffusers' AutoencoderKL (without quantisation convolutions)."""
    return _ae_convert(state, to_diffusers=True)


def diffusers_to_ae(state: State) -> State:
    """The inverse of `ae_to_diffusers`."""
    return _ae_convert(state, to_diffusers=False)
