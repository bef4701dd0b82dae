"""Weights in and out: safetensors only, strict, audited.

Nothing here unpickles anything. A file that does not fit is answered with the names that are missing, extra or
misshapen.
"""

import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A weight file that cannot be read or does not fit the model."""


# ---------------------------------------------------------------- files


LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
ROW_SCALE = "::row_scale"  # see save_int8


def read_header(path: str | Path) -> dict[str, dict]:
    """The header of a safetensors file: names, dtypes and shapes of what it holds, without the numbers."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the path of a .safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 0 < length <= min(size - 8, LONGEST_HEADER) else b""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict:  # JSON itself would keep the last and say nothing
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    try:
        header = dict(json.loads(text, object_pairs_hook=unique))
        end = max(
            (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0
        )
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        raise CheckpointError(
            f"{path} ({size:,} bytes) is not a safetensors file, or its beginning is damaged. Only safetensors are"
            " read; pickled files (.pt, .bin, .ckpt) can run code when opened: convert them where you trust them"
        ) from None
    if twice:
        raise CheckpointError(f"{path} names {listed(twice)} twice: nobody can say which one counts; get another file")
    if (held := size - 8 - length) < end:
        raise CheckpointError(
            f"{path} holds {held:,} bytes of tensors, its header promises {end:,}: it was cut short; download or copy"
            " it again"
        )
    return header


def read(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> State:
    """All tensors of a file or of its shards, straight onto a device; see `shards.Weights` for what may be given."""
    from flux_edu.io.shards import Weights  # which reads headers by the function above

    with Weights(path, device, dtype) as weights:
        return dict(weights)


def save_int8(state: State, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Store matrices and convolutions as 8-bit integers with one float32 scale for every row, the rest as float32.

    A quarter of the size; wrong by at most 1/254 of the row's largest number. A row is one output channel, so a large
    channel does not cost the others their precision. Rows of fewer than 8 numbers stay as they are.
    """
    check_finite(state, "the state dict")
    out: State = {}
    for name, x in state.items():
        x = x.detach().float().cpu()
        if x.ndim < 2 or x.shape[1:].numel() < 8:
            out[name] = x.contiguous()
            continue
        largest = x.abs().flatten(1).amax(1).reshape(-1, *[1] * (x.ndim - 1))
        scale = (largest / 127).clamp_min(1e-30)  # a row of zeros is divided by something too
        out[name] = (x / scale).round().to(torch.int8)
        out[name + ROW_SCALE] = scale
    save(out, path, metadata)


def save(state: State, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all: beside the target first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    try:
        save_file({name: x.contiguous() for name, x in state.items()}, half, metadata=metadata or {})
        with half.open("r+b") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name, so that a power cut leaves one of the two
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


# ---------------------------------------------------------------- audit

PREFIX = "model.diffusion_model."  # what other programs put before a name
SHOWN = 6  # names a message lists
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def listed(names: list[str]) -> str:
    """The first few names, and a sign that there are more."""
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")


@dataclass
class Audit:
    """What a state dict lacks, has too much of, or has in another shape or kind of number, compared with a model."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)

    def __str__(self) -> str:
        parts = [f"{len(names)} {title}: {listed(names)}" for title, names in vars(self).items() if names]
        return "; ".join(parts) or "every key fits"


def audit(model: nn.Module, state: State) -> Audit:
    """Compare by name and shape; for every missing key with a near relative among the extra ones, say so."""
    want = model.state_dict()
    report = Audit(extra=[name for name in state if name not in want])
    for name, x in want.items():
        if name not in state:
            # few are shown, and comparing hundreds of names with hundreds takes a while
            near = report.extra if len(report.missing) < SHOWN and len(report.extra) < 100 else []
            near = difflib.get_close_matches(name, near, n=1, cutoff=0.85)
            report.missing.append(name + (f" (is it {near[0]}?)" if near else ""))
        elif state[name].shape != x.shape:
            report.misshapen.append(f"{name} is {tuple(state[name].shape)}, should be {tuple(x.shape)}")
        elif x.is_floating_point() and not state[name].is_floating_point():
            report.misshapen.append(f"{name} holds whole numbers ({state[name].dtype}), should hold floating point")
    return report


def looks_like(state: State) -> str:
    """What a stray state dict seems to be, from its keys and the width of img_in."""
    if any(name.startswith(PREFIX) for name in state):
        return f"a FLUX.1 packed with other parts: its keys begin with {PREFIX} (take the published file)"
    if any(name.startswith("transformer_blocks.") for name in state):
        return "a transformer in diffusers' layout (use diffusers_layout.diffusers_to_flux)"
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in state):
        return "an autoencoder in diffusers' layout (use diffusers_layout.diffusers_to_ae)"
    if any(".lora_A." in name for name in state):
        return "a LoRA, not a whole model"
    if "encoder.conv_in.weight" in state or "decoder.conv_in.weight" in state:
        return "an autoencoder"
    if "img_in.weight" not in state or state["img_in.weight"].ndim != 2:
        return "no FLUX.1 transformer"
    D, channels = state["img_in.weight"].shape
    kinds = {
        64: "a FLUX.1 dev" if "guidance_in.in_layer.weight" in state else "a FLUX.1 schnell",
        128: "a FLUX.1 Canny or Depth control model",
        384: "a FLUX.1 Fill",
    }
    return f"{kinds.get(channels, 'a FLUX-shaped model')} of width {D}"


def check_finite(state: State, source: str) -> None:
    """A NaN or an infinity anywhere is an error that names the tensors."""
    broken = [
        name
        for name, x in state.items()
        if x.dtype in FLOATS and x.numel() and not x.is_meta and not all(m.isfinite() for m in x.aminmax())
    ]
    if broken:
        raise CheckpointError(
            f"{source} holds NaN or infinite numbers in {len(broken)} of {len(state)} tensors: {listed(broken)}. It"
            " comes from a run that diverged, or is damaged: take another file"
        )


def check_fits(model: nn.Module, state: State, source: str) -> None:
    """An error that says what a state dict lacks or has too much of; its tensors may be on the meta device."""
    if report := audit(model, state):
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}; it looks like {looks_like(state)}. {report}"
        )


def load_strict(model: nn.Module, state: State, source: str = "the state dict") -> None:
    """Load every key or none. A model on the meta device takes the tensors over instead of copying them."""
    check_fits(model, state, source)
    check_finite(state, source)
    on_meta = any(p.is_meta for p in model.parameters())
    model.load_state_dict(state, strict=True, assign=on_meta)
