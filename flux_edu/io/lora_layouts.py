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

A, B, BIAS, ALPHA = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".alpha"

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


class Rows(NamedTuple):
    """Where in a matrix of ours a layer stands: rows from first · D to last · D, None for the end.

    swapped: shift and scale come in the other order, see `diffusers_layout`.
    """

    module: str
    first: int = 0
    last: int | None = None
    swapped: bool = False


def read_lora(path: str | Path) -> State:
    """A LoRA's file, or the folder that PEFT saves; an alpha that stands in the header or in its configuration joins.

    diffusers writes it into the header, PEFT into adapter_config.json: one alpha for all layers.
    """
    path = Path(path).expanduser()
    with LazyStateDict(path) as weights:
        delta, config = dict(weights), weights.metadata.get("lora_adapter_metadata")
    beside = path / "adapter_config.json"
    if not config and beside.is_file():
        config = beside.read_text("utf-8")
    if not config:
        return delta
    try:
        config = {key.removeprefix("transformer."): value for key, value in json.loads(config).items()}
        alpha = float(config.get("lora_alpha") or 0)
    except (ValueError, TypeError, AttributeError):
        raise CheckpointError(f"{path} has a LoRA configuration that cannot be read: take another file") from None
    if strange := [key for key in ("alpha_pattern", "use_rslora", "use_dora") if config.get(key)]:
        raise CheckpointError(f"{path} has {', '.join(strange)} in its LoRA configuration, which is not read here")
    names = {ENDING.sub("", key) for key in delta if ENDING.search(key)}
    return {name + ALPHA: torch.tensor(alpha) for name in names if alpha} | delta


def to_published(delta: State, state: State, source: str) -> State:
    """The delta in the published layout, for a model that has this state dict: alpha multiplied in, parts joined.

    What stands apart in the file and together in W, such as q, k and v, becomes one pair: the A on top of each other,
    the B along a diagonal. Text encoders' keys are left out with advice; what is no LoRA, and a key that belongs to no
    layer, is an error.
    """
    if kinds := {kind for piece, kind in OTHERS.items() if any(piece in key for key in delta)}:
        raise CheckpointError(
            f"{source} holds {' and '.join(sorted(kinds))}: only W + B A is merged here; take a plain LoRA, or merge it"
            " by the program that trained it"
        )
    if aside := [key for key in delta if key.startswith(TEXT_ENCODERS)]:
        delta = {key: x for key, x in delta.items() if key not in aside}
        if not delta:
            raise CheckpointError(f"{source} changes text encoders alone: there is nothing for the transformer")
        advise(f"{source} changes text encoders too ({len(aside)} tensors): they are left out")

    layers, table = layer_names(state), tensor_names(state)
    pairs: dict[Rows, dict[str, Tensor]] = {}
    out: State = {}
    problems = []
    for key, x in delta.items():
        name, part = split_key(key)
        if part is None and (name in table or name.startswith(BROUGHT)):
            ours = table.get(name, name)
            out[ours] = swap_halves(ours, x) if name != ours else x
        elif part is None or name not in layers:
            problems.append(f"{key} belongs to no layer of the model")
        elif part in (pair := pairs.setdefault(layers[name], {})):
            problems.append(f"{key} comes twice")
        else:
            swapped = layers[name].swapped and part in ("B", "bias")
            pair[part] = torch.cat(x.chunk(2)[::-1]) if swapped else x
    for rows, pair in pairs.items():
        if missing := {"A", "B"} - pair.keys():
            problems.append(f"{rows.module} has no {' and no '.join(sorted(missing))}")
    if problems:
        raise CheckpointError(f"{source} does not fit: {len(problems)} problems. {listed(problems)}")
    for module in dict.fromkeys(rows.module for rows in pairs):
        W = state[module + ".weight"]
        out |= joined(module, W, {rows: pair for rows, pair in pairs.items() if rows.module == module}, source)
    return out


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


def layer_names(state: State) -> dict[str, Rows]:
    """All names that a linear layer of this model has in any layout → its rows in a matrix of ours."""
    double, single = count_blocks(state, "double_blocks"), count_blocks(state, "single_blocks")
    matrices = (key.removesuffix(".weight") for key, x in state.items() if key.endswith(".weight") and x.ndim == 2)
    names = {name: Rows(name) for name in matrices}
    for ours, theirs in flux_modules(double, single).items():
        if len(theirs) > 1:
            names |= {name: Rows(ours, i, i + 1 if i < 3 else None) for i, name in enumerate(theirs)}
        elif ours in names:
            names[theirs[0]] = Rows(ours, swapped=ours.startswith("final_layer.adaLN_modulation"))
    names |= {name.replace(".", "_"): rows for name, rows in names.items()}  # as kohya writes them
    for i in range(double):
        for number, stream in enumerate(("img", "txt"), 1):
            names[f"double_blocks.{i}.processor.qkv_lora{number}"] = Rows(f"double_blocks.{i}.{stream}_attn.qkv")
            names[f"double_blocks.{i}.processor.proj_lora{number}"] = Rows(f"double_blocks.{i}.{stream}_attn.proj")
    for i in range(single):
        names[f"single_blocks.{i}.processor.qkv_lora"] = Rows(f"single_blocks.{i}.linear1", 0, 3)
        names[f"single_blocks.{i}.processor.proj_lora"] = Rows(f"single_blocks.{i}.linear2")
    return names


def tensor_names(state: State) -> dict[str, str]:
    """Names of whole tensors that may replace this model's → ours."""
    double, single = count_blocks(state, "double_blocks"), count_blocks(state, "single_blocks")
    table = flux_table(double, single)
    return {key: key for key in state} | {theirs[0]: ours for ours, theirs in table.items() if len(theirs) == 1}


def joined(module: str, W: Tensor, pairs: dict[Rows, dict[str, Tensor]], source: str) -> State:
    """One pair A, B, and maybe a bias, for a matrix W from those of its rows."""
    scaled = []
    for pair in pairs.values():
        a, b, bias = pair["A"], pair["B"], pair.get("bias")
        if "alpha" in pair:
            factor = float(pair["alpha"]) / max(len(a), 1)
            b, bias = b.float() * factor, None if bias is None else bias.float() * factor
        scaled.append((a, b, bias))
    if len(pairs) == 1 and next(iter(pairs))[:3] == Rows(module)[:3]:
        a, b, bias = scaled[0]
        return {module + A: a, module + B: b} | ({} if bias is None else {module + BIAS: bias})
    D, ranks = W.shape[1], [len(a) for a, _, _ in scaled]
    B_all, bias_all, column = torch.zeros(len(W), sum(ranks)), torch.zeros(len(W)), 0
    for rows, (a, b, bias) in zip(pairs, scaled, strict=True):
        here = slice(rows.first * D, len(W) if rows.last is None else rows.last * D)
        if b.shape != (here.stop - here.start, len(a)):
            raise CheckpointError(
                f"{source} does not fit: rows {here.start} to {here.stop} of {module} get B {tuple(b.shape)}, A"
                f" {tuple(a.shape)}"
            )
        B_all[here, column : column + len(a)] = b
        column += len(a)
        if bias is not None:
            bias_all[here] += bias
    out = {module + A: torch.cat([a.float() for a, _, _ in scaled]), module + B: B_all}
    return out | ({module + BIAS: bias_all} if any(bias is not None for _, _, bias in scaled) else {})
