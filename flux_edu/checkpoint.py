"""Weights in and out: safetensors only, strict, audited.

Nothing here unpickles anything. A file that does not fit is answered with the names that are missing, extra or
misshapen.
"""

import difflib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A weight file that cannot be read or does not fit the model."""


# ---------------------------------------------------------------- files


def read_header(path: str | Path) -> dict[str, dict]:
    """The header of a safetensors file: names, dtypes and shapes of what it holds, without the numbers."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    with path.open("rb") as file:
        length = struct.unpack("<Q", head)[0] if len(head := file.read(8)) == 8 else 0
        text = file.read(length) if 0 < length <= path.stat().st_size - 8 else b""
    try:
        return json.loads(text)
    except ValueError:
        raise CheckpointError(
            f"{path} is not a safetensors file, or its beginning is damaged. Only safetensors are read; pickled files"
            " (.pt, .bin, .ckpt) can run code when opened: convert them where you trust them"
        ) from None


def read(path: str | Path, device: torch.device | str = "cpu") -> State:
    """All tensors of a safetensors file; rows stored in 8 bits (see `save_rows8`) come back as float32."""
    header = read_header(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, safe_open is no dict
    except SafetensorError as error:
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        raise CheckpointError(
            f"{path} cannot be read ({error}). Its header promises {end:,} bytes of tensors; was the download cut"
            " short?"
        ) from None
    scales = {name.removesuffix(ROW_SCALE): state.pop(name) for name in [n for n in state if n.endswith(ROW_SCALE)]}
    return state | {name: state[name].float() * scale.float() for name, scale in scales.items()}


ROW_SCALE = "::row_scale"


def save_rows8(state: State, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Store matrices and convolutions as 8-bit integers with one float32 scale for every row, the rest as float32.

    A quarter of the size. A row is one output channel, so a large channel does not cost the others their precision.
    """
    out: State = {}
    for name, x in state.items():
        x = x.detach().float().cpu()
        if x.ndim < 2 or x.shape[1:].numel() < 16:
            out[name] = x.contiguous()
            continue
        scale = x.abs().flatten(1).amax(1).clamp_min(1e-12).reshape(-1, *[1] * (x.ndim - 1)) / 127
        out[name] = (x / scale).round().to(torch.int8)
        out[name + ROW_SCALE] = scale
    save(out, path, metadata)


def save(state: State, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all: beside the target first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    save_file({name: x.contiguous() for name, x in state.items()}, half, metadata=metadata or {})
    half.replace(path)


# ---------------------------------------------------------------- audit


@dataclass
class Audit:
    """What a state dict lacks, has too much of, or has in another shape, compared with a model."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)

    def __str__(self) -> str:
        parts = [(title, names) for title, names in vars(self).items() if names]
        return (
            "; ".join(f"{len(n)} {title}: {', '.join(n[:6])}{' …' if len(n) > 6 else ''}" for title, n in parts)
            or "every key fits"
        )


def audit(model: nn.Module, state: State) -> Audit:
    """Compare by name and shape; for every missing key with a near relative among the extra ones, say so."""
    want = model.state_dict()
    extra = [name for name in state if name not in want]
    report = Audit(extra=extra)
    for name, x in want.items():
        if name not in state:
            near = difflib.get_close_matches(name, extra, n=1, cutoff=0.85) if len(extra) < 100 else []
            report.missing.append(name + (f" (is it {near[0]}?)" if near else ""))
        elif state[name].shape != x.shape:
            report.misshapen.append(f"{name} is {tuple(state[name].shape)}, should be {tuple(x.shape)}")
    return report


def looks_like(state: State) -> str:
    """What a stray state dict seems to be, from its keys and the width of img_in."""
    if "transformer_blocks.0.norm1.linear.weight" in state:
        return "a transformer in diffusers' layout (use diffusers_to_flux)"
    if any(".lora_A." in name for name in state):
        return "a LoRA, not a whole model"
    if "encoder.conv_in.weight" in state or "decoder.conv_in.weight" in state:
        return "an autoencoder"
    if "img_in.weight" not in state:
        return "no FLUX.1 transformer"
    D, channels = state["img_in.weight"].shape
    kind = {
        64: "a FLUX.1 dev" if "guidance_in.in_layer.weight" in state else "a FLUX.1 schnell",
        128: "a FLUX.1 Canny or Depth control model",
    }
    kind[384] = "a FLUX.1 Fill"
    return f"{kind.get(channels, 'a FLUX-shaped')} of width {D}"


def load_strict(model: nn.Module, state: State, source: str = "the state dict") -> None:
    """Load every key or none. A model on the meta device takes the tensors over instead of copying them."""
    if report := audit(model, state):
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}; it looks like {looks_like(state)}. {report}"
        )
    on_meta = any(p.is_meta for p in model.parameters())
    model.load_state_dict(state, strict=True, assign=on_meta)
