"""The layouts that LoRA files come in, put into the published one.

BFL's own names are those of `flux_edu.model`, with `.lora_A.weight` and `.lora_B.weight` behind them. diffusers, PEFT
and ai-toolkit write names of diffusers' modules, where q, k and v are layers of their own; kohya writes either with `_`
for `.`, and `lora_down`, `lora_up`; XLabs names its attention processors. alpha, where a file has it, is a factor:
W' = W + alpha / r · B A.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flux_edu.io.advice import advise
from flux_edu.io.checkpoint import CheckpointError, LazyStateDict, State, listed
from flux_edu.io.diffusers_layout import count_blocks, flux_modules, flux_table, swap_halves

A, B, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"

# pieces of names in files that are no sum of W and a product of two matrices
OTHERS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "ia3": "IA3",
    ".diff": "whole differences (.diff)",
}
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "lora_unet_", "lora_transformer_")
TEXT_ENCODERS = ("lora_te", "text_encoder", "text_encoders.")
BROUGHT = ("guidance_in.", "redux.")  # parts that may come whole to a model that has none
ENDING = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|down|up)(?:\.\w+)?\.(weight|bias)$")
LETTER = {"lora_A": "A", "lora_down": "A", "lora.down": "A", "down": "A"}  # else B


class Place(NamedTuple):
    """Where a layer stands in a matrix of ours: rows from first · D to last · D, None for the end.

    swapped: shift and scale come in the other order, see `diffusers_layout`.
    """

    module: str
    first: int = 0
    last: int | None = None
    swapped: bool = False


class Update(NamedTuple):
    """W[rows] += s · factor · B A, and the bias likewise, in the linear layer `module`; factor is alpha / r or 1."""

    module: str
    rows: slice
    A: Tensor
    B: Tensor
    bias: Tensor | None
    factor: float


def read_lora(path: str | Path) -> State:
    """A LoRA's file, or the folder that PEFT saves; an alpha that stands in the header or in its configuration joins.

    diffusers writes it into the header, PEFT into adapter_config.json: one alpha for all layers.
    """
    path = Path(path).expanduser()
    with LazyStateDict(path) as weights:
        delta, config = dict(weights), weights.metadata.get("lora_adapter_metadata")
    beside = path / "adapter_config.json"
    try:
        if not config and beside.is_file():
            config = beside.read_text("utf-8-sig")
        if not config:
            return delta
        config = {key.removeprefix("transformer."): value for key, value in json.loads(config).items()}
        alpha = float(config.get("lora_alpha") or 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} has a LoRA configuration that cannot be read: take another file") from None
    if strange := [key for key in ("alpha_pattern", "use_rslora", "use_dora") if config.get(key)]:
        raise CheckpointError(f"{path} has {', '.join(strange)} in its LoRA configuration, which is not read here")
    names = {ENDING.sub("", key) for key in delta if ENDING.search(key)}
    return {name + ALPHA: torch.tensor(alpha) for name in names if alpha} | delta


def read_layout(delta: State, state: State, source: str) -> tuple[list[Update], State]:
    """What a delta of any layout does to a model that has this state dict: sums, and tensors that replace its own.

    Text encoders' keys are left out with advice. What is no LoRA, belongs to no layer or does not fit it is an error.
    """
    if kinds := {kind for piece, kind in OTHERS.items() if any(piece in key for key in delta)}:
        raise CheckpointError(
            f"{source} holds {' and '.join(sorted(kinds))}: only W + B A is merged here; take a plain LoRA, or merge it"
            " by the program that trained it"
        )
    aside = [key for key in delta if key.startswith(TEXT_ENCODERS)]
    if len(aside) == len(delta):
        raise CheckpointError(f"{source} holds nothing for the transformer: there is nothing to merge")
    if aside:
        advise(f"{source} changes text encoders too ({len(aside)} tensors): they are left out")

    places, tensors = layer_names(state), tensor_names(state)
    pairs: dict[Place, dict[str, Tensor]] = {}
    whole: State = {}
    problems = []
    for key, x in delta.items():
        name, part = split_key(key)
        if key in aside:
            continue
        if part != "alpha" and not x.is_floating_point():
            problems.append(f"{key} holds {x.dtype}, should hold floating point")
        elif part is None and (name in tensors or name.startswith(BROUGHT)):
            ours = tensors.get(name, name)
            whole[ours] = swap_halves(ours, x) if name != ours else x
            if ours in state and x.shape != state[ours].shape:
                problems.append(f"{key} is {tuple(x.shape)}, should be {tuple(state[ours].shape)}")
        elif part is None or name not in places:
            problems.append(f"{key} belongs to no layer of the model")
        elif part in (pair := pairs.setdefault(places[name], {})):
            problems.append(f"{key} comes twice")
        else:
            swapped = places[name].swapped and part in ("B", "bias")
            pair[part] = torch.cat(x.chunk(2)[::-1]) if swapped else x

    if not pairs and len(whole) >= len(state):
        raise CheckpointError(f"{source} is a whole model, not a LoRA: load it in place of the other one")
    updates = []
    for place, pair in pairs.items():
        if missing := {"A", "B"} - pair.keys():
            problems.append(f"{place.module} has no {' and no '.join(sorted(missing))}")
            continue
        W, a = state[place.module + ".weight"], pair["A"]
        rows = slice(place.first * W.shape[1], len(W) if place.last is None else place.last * W.shape[1])
        alpha, rank = pair.get("alpha"), max(a.shape[:1].numel(), 1)
        if alpha is not None and alpha.numel() != 1:
            problems.append(f"{place.module}.alpha is {tuple(alpha.shape)}, should be one number")
            continue
        factor = 1.0 if alpha is None else float(alpha) / rank
        updates.append(Update(place.module, rows, a, pair["B"], pair.get("bias"), factor))
        problems += misfits(updates[-1], state)
    if problems:
        raise CheckpointError(f"{source} does not fit: {len(problems)} problems. {listed(problems)}")
    return updates, whole


def misfits(update: Update, state: State) -> list[str]:
    """What is wrong with the shapes of B A beside the rows of W, or of B's bias beside the layer's."""
    module, rows, bias = update.module, update.rows, update.bias
    W, a, b = state[module + ".weight"][rows].shape, update.A.shape, update.B.shape
    problems = []
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != W or not a[0]:
        hint = ", for a control model, whose tokens are wider" if module == "img_in" and a[1:] > W[1:] else ""
        where = f"{module}[{rows.start}:{rows.stop}]" if len(state[module + ".weight"]) > W[0] else module
        problems.append(f"{where} is {tuple(W)}, B {tuple(b)} times A {tuple(a)}{hint}")
    if bias is not None and (module + ".bias" not in state or bias.shape != W[:1]):
        problems.append(f"{module}.bias is {tuple(bias.shape)}, should be {tuple(W[:1])}")
    return problems


def split_key(key: str) -> tuple[str, str | None]:
    """A key's layer, without prefixes, and which tensor of it: A, B, bias (of B), alpha; None for one that is whole."""
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    if key.endswith(ALPHA):
        return key.removesuffix(ALPHA), "alpha"
    if match := ENDING.search(key):
        letter = LETTER.get(match[1], "B")
        part = {"A weight": "A", "B weight": "B", "B bias": "bias"}.get(f"{letter} {match[2]}")
        return (key[: match.start()], part) if part else (key, None)
    return key, None


def layer_names(state: State) -> dict[str, Place]:
    """All names that a linear layer of this model has in any layout → its place in a matrix of ours."""
    double, single = count_blocks(state, "double_blocks"), count_blocks(state, "single_blocks")
    matrices = (key.removesuffix(".weight") for key, x in state.items() if key.endswith(".weight") and x.ndim == 2)
    names = {name: Place(name) for name in matrices}
    for ours, theirs in flux_modules(double, single).items():
        if len(theirs) > 1:
            names |= {name: Place(ours, i, i + 1 if i < 3 else None) for i, name in enumerate(theirs)}
        elif ours in names:
            names[theirs[0]] = Place(ours, swapped=ours.startswith("final_layer.adaLN_modulation"))
    names |= {name.replace(".", "_"): rows for name, rows in names.items()}  # as kohya writes them
    for i in range(double):
        for number, stream in enumerate(("img", "txt"), 1):
            names[f"double_blocks.{i}.processor.qkv_lora{number}"] = Place(f"double_blocks.{i}.{stream}_attn.qkv")
            names[f"double_blocks.{i}.processor.proj_lora{number}"] = Place(f"double_blocks.{i}.{stream}_attn.proj")
    for i in range(single):
        names[f"single_blocks.{i}.processor.qkv_lora"] = Place(f"single_blocks.{i}.linear1", 0, 3)
        names[f"single_blocks.{i}.processor.proj_lora"] = Place(f"single_blocks.{i}.linear2")
    return names


def tensor_names(state: State) -> dict[str, str]:
    """Names of whole tensors that may replace this model's → ours."""
    double, single = count_blocks(state, "double_blocks"), count_blocks(state, "single_blocks")
    table = flux_table(double, single)
    return {key: key for key in state} | {theirs[0]: ours for ours, theirs in table.items() if len(theirs) == 1}
