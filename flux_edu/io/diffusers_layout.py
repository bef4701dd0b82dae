"""The published layout of the weights beside that of diffusers: names, fused matrices, swapped halves.

All four maps are pure functions from state dict to state dict, and the maps of a pair are each other's inverse. They
are how the parity tests compare the two implementations number by number, and how a checkpoint moves from one to the
other. A key that the layout does not know is an error; whether all keys are there is for the loading to say.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from flux_edu.io.checkpoint import (
    DTYPES,
    CheckpointError,
    LazyStateDict,
    State,
    check_finite,
    check_fits,
    listed,
    looks_like,
    prefix_of,
)
from flux_edu.io.files import whole

Table = dict[str, list[str]]  # our key → their keys: several where a matrix of ours is theirs on top of each other
Change = Callable[[str, Tensor], Tensor]  # what happens to the numbers of our key on the way
Get = Callable[[str], Tensor]  # a tensor by its name, from a state dict or from a file
Pieces = Iterable[tuple[str, Tensor]]  # a state dict that comes one tensor at a time

_TOP = {
    "img_in": ["x_embedder"],
    "txt_in": ["context_embedder"],
    "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
    "time_in.out_layer": ["time_text_embed.timestep_embedder.linear_2"],
    "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
    "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "guidance_in.out_layer": ["time_text_embed.guidance_embedder.linear_2"],
    "final_layer.linear": ["proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
_DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.norm.query_norm": ["attn.norm_q"],
    "img_attn.norm.key_norm": ["attn.norm_k"],
    "txt_attn.norm.query_norm": ["attn.norm_added_q"],
    "txt_attn.norm.key_norm": ["attn.norm_added_k"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
_SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
    "norm.query_norm": ["attn.norm_q"],
    "norm.key_norm": ["attn.norm_k"],
}


def count_blocks(state: State, numbered: str) -> int:
    """How many blocks of this kind: one more than the highest number that stands after the name."""
    matches = (re.search(rf"(?:^|\.){numbered}\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def flux_modules(double: int, single: int) -> Table:
    """Our modules that hold weights, and theirs, for so many blocks."""
    modules = dict(_TOP)
    for i in range(double):
        modules |= {f"double_blocks.{i}.{a}": [f"transformer_blocks.{i}.{b}" for b in bs] for a, bs in _DOUBLE.items()}
    for i in range(single):
        modules |= {
            f"single_blocks.{i}.{a}": [f"single_transformer_blocks.{i}.{b}" for b in bs] for a, bs in _SINGLE.items()
        }
    return modules


def flux_table(double: int, single: int) -> Table:
    """Our tensors and theirs."""
    table = {}
    for ours, theirs in flux_modules(double, single).items():
        leaves = {"scale": "weight"} if ours.endswith("_norm") else {"weight": "weight", "bias": "bias"}
        table |= {f"{ours}.{a}": [f"{module}.{b}" for module in theirs] for a, b in leaves.items()}
    return table


def swap_halves(key: str, x: Tensor) -> Tensor:
    """The last layer's modulation, and only that one: shift, scale here; scale, shift in diffusers."""
    return torch.cat(x.chunk(2)[::-1]) if key.startswith("final_layer.adaLN_modulation") else x


def _cut(key: str, x: Tensor, parts: int, shapes: State) -> list[Tensor]:
    """The rows of one of our matrices or biases, cut to theirs: q, k, v alike, and what remains for the MLP."""
    D = shapes[key.rsplit(".", 1)[0] + ".weight"].shape[1] if parts > 1 else 0
    return list(x.split([D, D, D, len(x) - 3 * D][:parts])) if parts > 1 else [x]


def _to_theirs(shapes: State, get: Get, table: Table, change: Change) -> Pieces:
    """Name after name in diffusers' layout; `get` brings a tensor of ours, and is asked once for each."""
    if foreign := [key for key in shapes if key not in table]:
        raise _foreign(foreign, "the published layout", shapes)
    return (
        piece
        for ours, theirs in table.items()
        if ours in shapes
        for piece in zip(theirs, _cut(ours, change(ours, get(ours)), len(theirs), shapes), strict=True)
    )


def _to_ours(shapes: State, get: Get, table: Table, change: Change) -> Pieces:
    known = {key for theirs in table.values() for key in theirs}
    if foreign := [key for key in shapes if key not in known]:
        raise _foreign(foreign, "diffusers' layout", shapes)
    for ours, theirs in table.items():
        if any(key in shapes for key in theirs) and (missing := [key for key in theirs if key not in shapes]):
            raise CheckpointError(f"{ours} is made of {', '.join(theirs)}; there is no {', '.join(missing)}")
    return (
        (ours, change(ours, torch.cat([get(key) for key in theirs]) if len(theirs) > 1 else get(theirs[0])))
        for ours, theirs in table.items()
        if theirs[0] in shapes
    )


def _foreign(keys: list[str], layout: str, state: State) -> CheckpointError:
    return CheckpointError(
        f"{len(keys)} keys do not belong to {layout}: {listed(keys)}. The state dict looks like {looks_like(state)}"
    )


def _theirs_of_flux(shapes: State, get: Get) -> Pieces:
    table = flux_table(count_blocks(shapes, "double_blocks"), count_blocks(shapes, "single_blocks"))
    return _to_theirs(shapes, get, table, swap_halves)


def _ours_of_flux(shapes: State, get: Get) -> Pieces:
    table = flux_table(count_blocks(shapes, "transformer_blocks"), count_blocks(shapes, "single_transformer_blocks"))
    return _to_ours(shapes, get, table, swap_halves)


def flux_to_diffusers(state: State) -> State:
    """From the published layout to diffusers' FluxTransformer2DModel: new names, fused matrices cut, halves swapped."""
    return dict(_theirs_of_flux(state, state.__getitem__))


def diffusers_to_flux(state: State) -> State:
    """The inverse of `flux_to_diffusers`."""
    return dict(_ours_of_flux(state, state.__getitem__))


# ---------------------------------------------------------------- autoencoder

_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def _ae_table(levels: int, blocks: int) -> Table:
    """Down blocks keep their order; up blocks are numbered from the smallest in diffusers, from the largest here."""
    modules, resnets = {}, {}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.{same}": f"{half}.{same}" for same in ("conv_in", "conv_out")}
        modules[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        modules |= {f"{half}.mid.attn_1.{a}": f"{half}.mid_block.attentions.0.{b}" for a, b in _ATTENTION.items()}
        resnets |= {f"{half}.mid.block_{i + 1}": f"{half}.mid_block.resnets.{i}" for i in range(2)}
    for i in range(levels):
        for ours, theirs, step in (
            (f"encoder.down.{i}", f"encoder.down_blocks.{i}", "down"),
            (f"decoder.up.{i}", f"decoder.up_blocks.{levels - 1 - i}", "up"),
        ):
            modules[f"{ours}.{step}sample.conv"] = f"{theirs}.{step}samplers.0.conv"
            resnets |= {f"{ours}.block.{j}": f"{theirs}.resnets.{j}" for j in range(blocks)}
    modules |= {f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in resnets.items() for a, b in _RESNET.items()}
    return {f"{a}.{leaf}": [f"{b}.{leaf}"] for a, b in modules.items() for leaf in ("weight", "bias")}


def _theirs_of_ae(shapes: State, get: Get) -> Pieces:
    table = _ae_table(max(count_blocks(shapes, "down"), count_blocks(shapes, "up")), count_blocks(shapes, "block"))
    return _to_theirs(shapes, get, table, lambda key, x: x[:, :, 0, 0] if ".attn_1." in key and x.ndim == 4 else x)


def _ours_of_ae(shapes: State, get: Get) -> Pieces:
    table = _ae_table(
        max(count_blocks(shapes, "down_blocks"), count_blocks(shapes, "up_blocks")), count_blocks(shapes, "resnets")
    )
    return _to_ours(shapes, get, table, lambda key, x: x[:, :, None, None] if ".attn_1." in key and x.ndim == 2 else x)


def ae_to_diffusers(state: State) -> State:
    """The published autoencoder to diffusers' AutoencoderKL without quantisation convolutions.

    The attention's 1 × 1 convolutions are linear layers there.
    """
    return dict(_theirs_of_ae(state, state.__getitem__))


def diffusers_to_ae(state: State) -> State:
    """The inverse of `ae_to_diffusers`."""
    return dict(_ours_of_ae(state, state.__getitem__))


# ---------------------------------------------------------------- whole files, a tensor at a time


def _in_diffusers(shapes: State) -> tuple[bool, bool]:
    """Whether a transformer, and whether an autoencoder, stands here in diffusers' layout."""
    return (
        any(key.startswith(("transformer_blocks.", "single_transformer_blocks.")) for key in shapes),
        any(key.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for key in shapes),
    )


def bare(shapes: State, get: Get) -> tuple[State, Get]:
    """The same tensors under their names alone, without what torch.compile and other programs put before them."""
    names = {name.replace("_orig_mod.", ""): name for name in shapes}
    while prefix := prefix_of(names):
        names = {short.removeprefix(prefix): name for short, name in names.items()}
    return {short: shapes[name] for short, name in names.items()}, lambda short: get(names[short])


def published(shapes: State, get: Get) -> tuple[State, Pieces]:
    """Shapes and tensors of weights in either layout, in the published one; a tensor is read when it is asked for."""
    shapes, get = bare(shapes, get)
    flux, ae = _in_diffusers(shapes)
    if not (flux or ae):
        return shapes, ((key, get(key)) for key in shapes)
    convert = _ours_of_flux if flux else _ours_of_ae
    return dict(convert(shapes, shapes.__getitem__)), convert(shapes, get)


def check_header(model: nn.Module, path: str | Path) -> None:
    """That a file, in either layout, has this model's names and shapes; no number is read."""
    with LazyStateDict(path) as weights:
        check_fits(model, published(weights.shapes, weights.__getitem__)[0], str(path))


def load(
    model: nn.Module, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> None:
    """Fill a model that was built on the meta device: each tensor goes from the file to the device and stays.

    Names and shapes are compared before any number is read, so that a wrong file of 24 GB is refused at once; a
    transformer or an autoencoder in diffusers' layout is put into the published one on the way. Nothing is set if
    anything is wrong.
    """
    with LazyStateDict(path, device, dtype) as weights:
        shapes, pieces = published(weights.shapes, weights.__getitem__)
        check_fits(model, shapes, str(path))
        state = dict(pieces)
    check_finite(state, str(path))
    model.load_state_dict(state, strict=True, assign=True)


def convert_file(source: str | Path, target: str | Path) -> str:
    """Rewrite a transformer or an autoencoder in the other of the two layouts; returns the name of the new layout.

    Only one module stands in memory at a time, so that a file of 24 GB needs less than one gigabyte.
    """
    with LazyStateDict(source) as weights:
        shapes, get = bare(weights.shapes, weights.__getitem__)
        if any(_in_diffusers(shapes)):
            layout, (new, pieces) = "the published layout", published(shapes, get)
        else:
            layout = "diffusers' layout"
            convert = _theirs_of_ae if "autoencoder" in looks_like(shapes) else _theirs_of_flux
            new, pieces = dict(convert(shapes, shapes.__getitem__)), convert(shapes, get)
        save_streamed(new, pieces, target)
    return layout


def save_streamed(shapes: State, pieces: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Write a safetensors file of which only one tensor at a time stands in memory, whole or not at all.

    shapes says what will come, in order, as tensors on the meta device; pieces brings it in the same order.
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, x in shapes.items():
        begin, end = end, end + x.numel() * x.element_size()
        header[name] = {"dtype": names[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (expected, shape), (name, x) in zip(shapes.items(), pieces, strict=True):
            if (name, x.shape, x.dtype) != (expected, shape.shape, shape.dtype):
                raise ValueError(f"{expected} {tuple(shape.shape)} was to come, {name} {tuple(x.shape)} came")
            file.write(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
