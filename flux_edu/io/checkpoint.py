"""Weights in and out: safetensors only, strict, audited.

Nothing here unpickles anything. A file that does not fit is answered with the names that are missing, extra or
misshapen.
"""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flux_edu.io.files import whole

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A weight file that cannot be read or does not fit the model."""


SHOWN = 6  # names a message lists


def listed(names: list[str]) -> str:
    """The first few names, and a sign that there are more."""
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")


# ---------------------------------------------------------------- reading

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ROW_SCALE = "::row_scale"  # see save_int8
# how a file that is none begins, and what it is then
STRANGERS = {
    b"GGUF": "It is a GGUF file, quantised for another program: take the .safetensors file of the model",
    b"PK": "It is a pickled file (.pt, .bin, .ckpt), which can run code when opened: convert it where you trust it",
    b"\x80": "It is a pickled file (.pt, .bin, .ckpt), which can run code when opened: convert it where you trust it",
    b"version https://git-lfs": "It is the pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"<": "It is a web page, not the file: sign in where it comes from, and download it again",
}


def resolve_shards(path: str | Path) -> list[Path]:
    """The safetensors files behind a path: the file itself, the shards of an index, or what a folder holds of these."""
    path = Path(path).expanduser()
    if path.is_dir():
        indices = [file for file in path.glob("*.json") if ".safetensors" in file.name and ".index" in file.name]
        files = sorted(indices) or sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            hint = "; its folder transformer is meant" if (path / "model_index.json").is_file() else ""
            raise CheckpointError(
                f"{path} should hold one .safetensors file or one index of shards; it holds {names}. Give the path of"
                f" the file itself{hint}"
            )
        path = files[0]
    if path.suffix != ".json":
        return [path]
    try:
        shards = sorted(set(json.loads(path.read_text("utf-8-sig"))["weight_map"].values()))
        lost = [name for name in shards if not (path.parent / name).is_file()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is no index of shards, or it is damaged: download or copy it again") from None
    if lost:
        raise CheckpointError(f"{path} is made of {len(shards)} shards; not there: {listed(lost)}. Download them again")
    return [path.parent / name for name in shards]


def open_safetensors(path: Path, device: torch.device | str = "cpu") -> safe_open:
    """One file, its header read and its numbers not yet; whatever is wrong with it is a CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the path of a .safetensors file")
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            start = file.read(32)
        reason = str(error).removeprefix("Error while deserializing header: ")
        hint = "If it is damaged or was cut short, download or copy it again"
        hint = next((text for first, text in STRANGERS.items() if start.startswith(first)), hint)
        size = f"{path.stat().st_size:,} bytes"
        raise CheckpointError(f"{path} ({size}) cannot be read as a safetensors file: {reason}. {hint}") from None


class LazyStateDict(Mapping[str, Tensor]):
    """A state dict that stays on disk: a name reads its tensor, straight onto the device, and keeps nothing.

    path is a safetensors file, an index of shards (*.safetensors.index.json), or a folder that holds one of them. On a
    CPU a tensor is a window into the file, no copy. dtype changes floating point numbers on the way. What is stored in
    8 bits with scales comes back with the scales multiplied in: rows by `save_int8` as float32, and fp8 weights with
    their `scale_weight` or `weight_scale`, as other programs write them, as bfloat16. `shapes` holds what there is, on
    the meta device, `metadata` the texts of the header.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None):
        self.dtype = dtype
        self.metadata: dict[str, str] = {}
        self.shapes: State = {}
        self._files: dict[str, safe_open] = {}
        self.scales: dict[str, str] = {}  # the name of an 8-bit tensor → that of its scale
        with ExitStack() as stack:
            for file in resolve_shards(path):
                opened = stack.enter_context(open_safetensors(file, device))
                self.metadata |= opened.metadata() or {}
                names = opened.keys()
                if twice := [name for name in names if name in self._files]:
                    raise CheckpointError(f"{path}: {listed(twice)} stand in two shards; download them again")
                self._files |= dict.fromkeys(names, opened)
            self._find_shapes(path)
            self._stack = stack.pop_all()

    def _find_shapes(self, path: str | Path) -> None:
        slices = {name: file.get_slice(name) for name, file in self._files.items()}
        kinds = {name: entry.get_dtype() for name, entry in slices.items()}
        if unknown := [name for name, kind in kinds.items() if kind not in DTYPES]:
            raise CheckpointError(
                f"{path} holds numbers of kind {', '.join(sorted({kinds[name] for name in unknown}))}, which are not"
                f" read here: {listed(unknown)}. Take the file in bfloat16 or in fp8 (F8_E4M3)"
            )
        for name, kind in kinds.items():
            if scale := next((scale for scale in scales_of(name, kind) if scale in kinds), None):
                self.scales[name] = scale
        aside = set(self.scales.values())
        if any(not scale.endswith(ROW_SCALE) for scale in aside):  # scaled fp8: a mark, and scales of activations
            aside |= {name for name in kinds if name.endswith(("scaled_fp8", ".scale_input", ".input_scale"))}
        if orphans := [name for name in kinds if name.endswith(ROW_SCALE) and name not in aside]:
            raise CheckpointError(f"{path} holds {listed(orphans)} without its rows: it was not written whole")
        for name in (name for name in kinds if name not in aside):
            dtype = DTYPES[kinds[name]]
            if name in self.scales:
                dtype = torch.float32 if dtype is torch.int8 else torch.bfloat16
            dtype = self.dtype if self.dtype and dtype.is_floating_point else dtype
            self.shapes[name] = torch.empty(slices[name].get_shape(), dtype=dtype, device="meta")

    def __getitem__(self, name: str) -> Tensor:
        x = self._files[name].get_tensor(name)
        if scale_name := self.scales.get(name):
            scale = self._files[scale_name].get_tensor(scale_name).float()
            if scale.numel() not in (1, len(x)):
                raise CheckpointError(
                    f"{scale_name} is {tuple(scale.shape)} beside {name} {tuple(x.shape)}: only one scale for all, or"
                    " one a row, is read here. Take the file in bfloat16"
                )
            x = x.float() * scale.reshape(-1, *[1] * (x.ndim - 1))
        dtype = self.shapes[name].dtype
        return x.to(self.dtype if self.dtype and dtype.is_floating_point else dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __enter__(self) -> "LazyStateDict":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def scales_of(name: str, kind: str) -> tuple[str, ...]:
    """The names that the scale of an 8-bit tensor may have."""
    if kind == "I8":
        return (name + ROW_SCALE,)
    if kind.startswith("F8") and name.endswith("weight"):
        return name.removesuffix("weight") + "scale_weight", name + "_scale"
    return ()


def read(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> State:
    """All tensors of a file or of its shards, straight onto a device; see `LazyStateDict` for what may be given.

    On a CPU they are copies: windows into the file would change when another program writes over it.
    """
    with LazyStateDict(path, device, dtype) as weights:
        return {name: x.clone() if x.device.type == "cpu" else x for name, x in weights.items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that `save` wrote into the header; the numbers are not read."""
    with LazyStateDict(path) as weights:
        return weights.metadata


# ---------------------------------------------------------------- writing


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
    """Write a safetensors file whole or not at all: beside the target first, then renamed.

    Of tensors that share memory, such as T5's two names for its table of words, each is written.
    """
    tensors, memory = {}, set()
    for name, x in state.items():
        address = x.untyped_storage().data_ptr()
        tensors[name] = x.clone(memory_format=torch.contiguous_format) if address in memory else x.contiguous()
        memory.add(address)
    with whole(path) as part:
        save_file(tensors, part, metadata=metadata or {})
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name, so that a power cut leaves one of the two


# ---------------------------------------------------------------- audit

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # kinds that can hold a NaN
# put before names by others
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "first_stage_model.", "vae.")
# what a file may be instead → pieces of the names in it; the first that fits counts
KINDS = {
    "a model quantised by another program (take the bfloat16 file)": ("quant_state", "qweight", "comfy_quant"),
    "a LoRA, not a whole model (io.lora.merge puts it onto one)": ("lora",),
    "an adapter of another kind (LoKr, LoHa, OFT), not a whole model": ("lokr_", "hada_", "oft_"),
    "an IP-Adapter, not a whole model": ("ip_adapter",),
    "the adapter of FLUX.1 Redux, which goes beside dev": ("redux_up",),
    "a ControlNet, not a whole model": ("controlnet",),
    "a FLUX.2 (flux_edu.flux2 shows what it does otherwise)": ("double_stream_modulation",),
    "a Chroma, whose modulations come from a network of its own": ("distilled_guidance_layer",),
    "a PixArt": ("adaln_single", "y_embedder"),
    "a Stable Diffusion": ("joint_blocks", "input_blocks"),
    "a T5 (FLUX_T5 is its folder)": ("SelfAttention",),
    "a CLIP (FLUX_CLIP is its folder)": ("text_model",),
    "an image encoder": ("vision_model",),
    "a transformer in diffusers' layout (use diffusers_layout.diffusers_to_flux)": ("transformer_blocks.",),
    "an autoencoder in diffusers' layout (use diffusers_layout.diffusers_to_ae)": (
        "encoder.down_blocks.",
        "decoder.up_blocks.",
    ),
}


def prefix_of(names: Iterable[str]) -> str:
    """What stands before every name, if it is one of the prefixes that other programs put there; else nothing."""
    names = list(names)
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


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
    if prefix := prefix_of(state):
        inside = looks_like({name.removeprefix(prefix): x for name, x in state.items()})
        return f"{inside}, under the prefix {prefix}"
    if any(name.startswith(PREFIXES[0]) for name in state):
        return f"a FLUX.1 packed with other parts: its keys begin with {PREFIXES[0]} (take the published file)"
    for kind, pieces in KINDS.items():
        if any(piece in name for name in state for piece in pieces):
            return kind
    if "encoder.conv_in.weight" in state or "decoder.conv_in.weight" in state:
        return "an autoencoder"
    if "img_in.weight" not in state or state["img_in.weight"].ndim != 2:
        return "no FLUX.1 transformer"
    D, channels = state["img_in.weight"].shape
    variants = {
        64: "a FLUX.1 dev" if "guidance_in.in_layer.weight" in state else "a FLUX.1 schnell",
        128: "a FLUX.1 Canny or Depth control model",
        384: "a FLUX.1 Fill",
    }
    return f"{variants.get(channels, 'a FLUX-shaped model')} of width {D}"


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
