"""Weight files read and written one tensor at a time: 24 GB pass through without standing in memory twice."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flux_edu.io.checkpoint import ROW_SCALE, CheckpointError, State, check_finite, check_fits, listed, read_header

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
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def files_of(path: str | Path) -> list[Path]:
    """The safetensors files behind a path: the file itself, the shards of an index, or what a folder holds of these."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            told = ", ".join(each.name for each in found) or "none"
            raise CheckpointError(f"{path} should hold one .safetensors file or one index of shards; it holds {told}")
        path = found[0]
    if path.suffix != ".json":
        return [path]
    try:
        shards = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is no index of shards, or it is damaged: download or copy it again") from None
    if lost := [name for name in shards if not (path.parent / name).is_file()]:
        raise CheckpointError(f"{path} is made of {len(shards)} shards; not there: {listed(lost)}. Download them again")
    return [path.parent / name for name in shards]


class Weights(Mapping[str, Tensor]):
    """A state dict that stays on disk: a name reads its tensor, straight onto the device, and keeps nothing.

    path is a safetensors file, an index of shards (*.safetensors.index.json), or a folder that holds one of them. On a
    CPU a tensor is a window into the file, no copy. dtype changes floating point numbers on the way. Rows stored in 8
    bits (`checkpoint.save_int8`) come back as float32. `shapes` holds what there is, on the meta device.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None):
        self.dtype, self.shapes, self._home = dtype, {}, {}
        with ExitStack() as stack:
            for file in files_of(path):
                read_header(file)
                try:
                    opened = stack.enter_context(safe_open(file, framework="pt", device=str(device)))
                except SafetensorError as error:
                    raise _damaged(file, error) from None
                names = opened.keys()
                if twice := [name for name in names if name in self._home]:
                    raise CheckpointError(f"{path}: {listed(twice)} stand in two shards; download them again")
                self._home |= dict.fromkeys(names, (opened, file))
            for name in self._home:
                if not name.endswith(ROW_SCALE):
                    self.shapes[name] = self._shape(name)
                elif name.removesuffix(ROW_SCALE) not in self._home:
                    raise CheckpointError(
                        f"{path} holds {name} but no {name.removesuffix(ROW_SCALE)}: it was not written whole by"
                        " save_int8"
                    )
            self._stack = stack.pop_all()

    def _shape(self, name: str) -> Tensor:
        entry = self._home[name][0].get_slice(name)
        dtype = torch.float32 if name + ROW_SCALE in self._home else DTYPES[entry.get_dtype()]
        dtype = self.dtype if self.dtype and dtype.is_floating_point else dtype
        return torch.empty(entry.get_shape(), dtype=dtype, device="meta")

    def __getitem__(self, name: str) -> Tensor:
        opened, file = self._home[name]
        try:
            x = opened.get_tensor(name)
        except SafetensorError as error:
            raise _damaged(file, error) from None
        if name + ROW_SCALE in self._home:
            x = x.float() * self[name + ROW_SCALE].float()
        return x.to(self.dtype) if self.dtype and x.is_floating_point() else x

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} cannot be read ({error}); if it is damaged, download or copy it again")


def load(
    model: nn.Module, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> None:
    """Fill a model that was built on the meta device: each tensor goes from the file to the device and stays.

    Names and shapes are compared before any number is read, so that a wrong file of 24 GB is refused at once; a
    transformer or an autoencoder in diffusers' layout is put into the published one on the way. Nothing is set if
    anything is wrong.
    """
    from flux_edu.io import diffusers_layout  # here, since it builds on this module

    with Weights(path, device, dtype) as weights:
        shapes, pieces = diffusers_layout.published(weights.shapes, weights.__getitem__)
        check_fits(model, shapes, str(path))
        state = dict(pieces)
    check_finite(state, str(path))
    model.load_state_dict(state, strict=True, assign=True)


def save_streamed(shapes: State, pieces: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Write a safetensors file of which only one tensor at a time stands in memory, whole or not at all.

    shapes says what will come, in order, as tensors on the meta device; pieces brings it in the same order.
    """
    path, header, end = Path(path), {"__metadata__": {"format": "pt"}}, 0
    for name, x in shapes.items():
        begin, end = end, end + x.numel() * x.element_size()
        header[name] = {"dtype": NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    try:
        with half.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for (wanted, shape), (name, x) in zip(shapes.items(), pieces, strict=True):
                if (name, x.shape, x.dtype) != (wanted, shape.shape, shape.dtype):
                    raise ValueError(f"{wanted} {tuple(shape.shape)} was to come, {name} {tuple(x.shape)} came")
                file.write(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
