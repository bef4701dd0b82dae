"""How much memory a picture takes: weights counted, activations traced without computing, and what fits where.

Both are exact for the tensors: on an H200 an evaluation of dev at 1024 × 1024 took 0.61 GB beside the weights and
decoding 1.88, as traced. What CUDA and its libraries take besides was measured there too (torch 2.11).
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from functools import cache
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec
from flux_edu.model import Flux
from flux_edu.patchify import PIXELS_PER_TOKEN

GIB = 2**30  # graphics cards are sold by it
CONTEXT = 0.55e9  # bytes that CUDA takes at its start, before anything is allocated
LIBRARIES = 0.2e9  # and its libraries later, while a picture is painted
SHOWN = 0.98  # of a card's nominal memory; "24 GiB" are 23.5 to 23.7
CARDS = (8, 12, 16, 24, 32, 40, 48, 80)  # GiB
T5_XXL, T5_XXL_BLOCK, T5_XXL_BLOCKS, CLIP_L = 4_762_310_656, 192_946_176, 24, 123_060_480  # parameters


class Offload(Enum):
    """Which parts wait in host memory, from the quickest mode to the most frugal."""

    NONE = "all on the GPU"
    MODEL = "model offload"  # a part is on the GPU while it computes
    SEQUENTIAL = "sequential offload"  # of the transformer and T5 one block at a time


# ---------------------------------------------------------------- counting


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and still held, on any device, also on meta, where none is used."""

    def __init__(self):
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := (storage := x.untyped_storage())._cdata) not in self.held:
                self.held[key] = storage.nbytes()
                self.now += self.held[key]
                weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.now)
        return out

    def _drop(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)


def transformer_inputs(model: Flux, L_img: int, L_txt: int, batch: int = 1) -> dict[str, Tensor]:
    """Inputs of the right shapes and kinds, on the model's device, with nothing in them."""
    p, weight = model.params, model.img_in.weight
    shapes = {"img": (L_img, p.in_channels), "txt": (L_txt, p.context_in_dim), "y": (p.vec_in_dim,)}
    given = {name: weight.new_empty(batch, *shape) for name, shape in shapes.items()}
    whole = {"img_ids": (L_img, 3), "txt_ids": (L_txt, 3), "timesteps": (), "guidance": ()}
    return given | {
        name: torch.empty(batch, *shape, dtype=torch.float32, device=weight.device) for name, shape in whole.items()
    }


@cache
def activations(spec: ModelSpec, width: int, height: int, dtype: torch.dtype = torch.bfloat16) -> tuple[int, int]:
    """The most bytes held at once beside the weights, by an evaluation of the transformer and by decoding.

    Blocks are alike and leave nothing behind but the tokens, so that one of each kind shows the most.
    """
    with torch.device("meta"):
        model = Flux(replace(spec.params, depth=1, depth_single_blocks=1)).to(dtype)
        ae = AutoEncoder(spec.ae_params).to(dtype)
    for module in ae.modules():
        if isinstance(module, nn.Conv2d):  # on a GPU it copies what it reads to channels last, and meta does not
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))
    tokens = -(-width // PIXELS_PER_TOKEN) * -(-height // PIXELS_PER_TOKEN)
    with torch.inference_mode(), PeakMemory() as evaluation:
        model(**transformer_inputs(model, tokens, spec.txt_tokens))
    z = torch.empty(1, spec.ae_params.z_channels, height // 8, width // 8, dtype=dtype, device="meta")
    with torch.inference_mode(), PeakMemory() as decoding:
        ae.decode(z)
    return evaluation.peak, decoding.peak


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@cache
def weights(spec: ModelSpec) -> dict[str, int]:
    """Parameters of every part of a published model, and of the largest block of those that have blocks."""
    with torch.device("meta"):
        model, ae = Flux(spec.params), AutoEncoder(spec.ae_params)
    blocks = [count(block) for block in (*model.double_blocks, *model.single_blocks)]
    return {
        "transformer": count(model),
        "its blocks": sum(blocks),
        "its largest block": max(blocks),
        "autoencoder": count(ae),
        "T5-XXL": T5_XXL,
        "CLIP-L": CLIP_L,
    }


def peak(spec: ModelSpec, offload: Offload, width: int = 1024, height: int = 1024, bytes_each: int = 2) -> float:
    """The most bytes on the GPU while one picture is painted, beside CUDA's context; in bfloat16 two bytes a weight."""
    n = {name: bytes_each * number for name, number in weights(spec).items()}
    painting, decoding = activations(spec, width, height)
    if offload is Offload.NONE:
        whole = sum(n[part] for part in ("transformer", "autoencoder", "T5-XXL", "CLIP-L"))
        return whole + max(painting, decoding) + LIBRARIES
    model, t5 = n["transformer"], n["T5-XXL"]
    if offload is Offload.SEQUENTIAL:
        model += n["its largest block"] - n["its blocks"]
        t5 -= bytes_each * (T5_XXL_BLOCKS - 1) * T5_XXL_BLOCK
    return max(t5 + n["CLIP-L"], model + painting, n["autoencoder"] + decoding) + LIBRARIES


def memory_of(device: torch.device) -> int | None:
    """Free bytes of a GPU with a memory of its own, after CUDA's context; None where parts need not share it (cpu)."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def usable(card: int) -> int:
    """Of a card of so many GiB, the bytes that are there for a picture."""
    return int(SHOWN * card * GIB - CONTEXT)


def choose_offload(spec: ModelSpec, free: int | None) -> Offload:
    """The quickest mode whose peak fits, the most frugal one if none does."""
    return next((mode for mode in Offload if free is None or peak(spec, mode) <= free), Offload.SEQUENTIAL)


def on_this_machine(spec: ModelSpec, device: torch.device) -> str:
    """What this machine's GPU will do with a variant, in one line."""
    free = memory_of(device)
    if free is None:
        n = weights(spec)
        whole = 2 * (n["transformer"] + n["autoencoder"] + T5_XXL + CLIP_L) / 1e9
        return f"Here: device {device.type}, no CUDA GPU. All parts share the host's memory, {whole:.0f} GB of weights."
    mode = choose_offload(spec, free)
    return f"Here: {torch.cuda.get_device_name(device)}, {free / GIB:.1f} GiB free: {mode.value}."


def table(spec: ModelSpec, width: int = 1024, height: int = 1024) -> str:
    """Cards from 8 to 80 GiB as a Markdown table: what of them is usable, the mode that fits, and its peak."""
    painting, decoding = activations(spec, width, height)
    n = weights(spec)
    lines = [
        f"Weights in bfloat16, GB: transformer {2 * n['transformer'] / 1e9:.2f}, T5-XXL {2 * T5_XXL / 1e9:.2f},"
        f" CLIP-L {2 * CLIP_L / 1e9:.2f}, autoencoder {2 * n['autoencoder'] / 1e9:.2f}. Activations at"
        f" {width} × {height}, GB: an evaluation {painting / 1e9:.2f}, decoding {decoding / 1e9:.2f}.",
        "",
        "| GPU memory | usable | offload mode | peak |",
        "|---|---|---|---|",
    ]
    for card in CARDS:
        mode = next((mode for mode in Offload if peak(spec, mode, width, height) <= usable(card)), None)
        fits = f"{mode.value} | {peak(spec, mode, width, height) / 1e9:.1f} GB" if mode else "none | –"
        lines.append(f"| {card} GiB | {usable(card) / 1e9:.1f} GB | {fits} |")
    return "\n".join(lines)


# ---------------------------------------------------------------- placing


@contextmanager
def on_device(device: torch.device, *parts: nn.Module) -> Iterator[None]:
    """Inside the block the parts stand on the device; their host memory is kept, so that nothing is copied back."""
    with torch.inference_mode(False):
        home = [(x, x.data) for part in parts for x in chain(part.parameters(), part.buffers())]
        for x, data in home:
            x.data = data.to(device, non_blocking=True)
    try:
        yield
    finally:
        with torch.inference_mode(False):
            for x, data in home:
                x.data = data


def offload_blocks(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Everything but the blocks goes to the device and stays; a block comes when its turn is and leaves after it.

    For GPUs smaller than the weights. Each evaluation then moves the whole model once, which over PCIe takes longer
    than computing it. The hooks are those of Accelerate.
    """
    try:
        from accelerate import cpu_offload
    except ImportError:
        raise ImportError('sequential offload needs Accelerate: pip install "flux-edu[real]"') from None
    for block in blocks:
        cpu_offload(block, device, offload_buffers=True, preload_module_classes=[type(block).__name__])
    for x in chain(model.parameters(), model.buffers()):
        if not x.is_meta:  # those of the blocks are, while they are away
            x.data = x.data.to(device)


def place(t5: nn.Module, clip: nn.Module, model: Flux, ae: AutoEncoder, device: torch.device, offload: Offload) -> None:
    """Put the parts where this mode wants them; what stays in host memory comes by `on_device`."""
    if offload is Offload.NONE:
        for part in (t5, clip, model, ae):
            part.to(device)
    if offload is Offload.SEQUENTIAL:
        offload_blocks(model, [*model.double_blocks, *model.single_blocks], device)
        offload_blocks(t5, t5.encoder.encoder.block, device)
