"""How much memory a picture takes: weights counted, activations traced without computing, and what fits where.

Both are exact for the tensors: on an H200 an evaluation of dev at 1024 × 1024 took 0.61 GB beside the weights and
decoding 1.88, as traced. What CUDA and its libraries take besides was measured there too (torch 2.11).
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
ASIDE = 0.4e9  # what its libraries load later, 0.18 GB, and what PyTorch's allocator loses between tensors
SHOWN = 0.98  # of a card's nominal memory; "24 GiB" are 23.5 to 23.7
CARDS = (8, 12, 16, 24, 32, 40, 48, 80)  # GiB
T5_XXL, T5_XXL_BLOCK, T5_XXL_BLOCKS, CLIP_L = 4_762_310_656, 192_946_176, 24, 123_060_480  # parameters


@dataclass(frozen=True)
class Offload:
    """What waits in host memory: nothing; or each part till its turn, and in it so many of the transformer's blocks."""

    parts: bool = False
    blocks: int = 0

    def __str__(self) -> str:
        if not self.parts:
            return "all on the GPU"
        return "model offload" + (f", {self.blocks} blocks sequentially" if self.blocks else "")


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
    inputs = {name: weight.new_empty(batch, *shape) for name, shape in shapes.items()}
    whole = {"img_ids": (L_img, 3), "txt_ids": (L_txt, 3), "timesteps": (), "guidance": ()}
    return inputs | {
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
    """Parameters of every part of a published model."""
    with torch.device("meta"):
        model, ae = Flux(spec.params), AutoEncoder(spec.ae_params)
    return {"transformer": count(model), "autoencoder": count(ae), "T5-XXL": T5_XXL, "CLIP-L": CLIP_L}


@cache
def block_sizes(spec: ModelSpec) -> list[int]:
    """Parameters of each block of the transformer, in order."""
    with torch.device("meta"):
        model = Flux(spec.params)
    return [count(block) for block in (*model.double_blocks, *model.single_blocks)]


def peak(spec: ModelSpec, offload: Offload, width: int = 1024, height: int = 1024, bytes_each: int = 2) -> float:
    """The most bytes on the GPU while one picture is painted, beside CUDA's context; in bfloat16 two bytes a weight."""
    n = {name: bytes_each * number for name, number in weights(spec).items()}
    painting, decoding = activations(spec, width, height)
    if not offload.parts:
        return sum(n.values()) + max(painting, decoding) + ASIDE
    model, t5 = n["transformer"], n["T5-XXL"]
    if waiting := block_sizes(spec)[: offload.blocks]:
        model -= bytes_each * (sum(waiting) - max(waiting))
        t5 -= bytes_each * (T5_XXL_BLOCKS - 1) * T5_XXL_BLOCK
    return max(t5 + n["CLIP-L"], model + painting, n["autoencoder"] + decoding) + ASIDE


def memory_of(device: torch.device) -> int | None:
    """Free bytes of a GPU with a memory of its own, after CUDA's context; None where parts need not share it (cpu)."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def usable(card: int) -> int:
    """Of a card of so many GiB, the bytes that are there for a picture."""
    return int(SHOWN * card * GIB - CONTEXT)


def choose_offload(spec: ModelSpec, free: int | None) -> Offload:
    """What waits so that the rest fits, and as little as possible; everything, if even that does not."""
    choices = [Offload(), *(Offload(True, blocks) for blocks in range(len(block_sizes(spec)) + 1))]
    return next((offload for offload in choices if free is None or peak(spec, offload) <= free), choices[-1])


def on_this_machine(spec: ModelSpec, device: torch.device) -> str:
    """What this machine's GPU will do with a variant, in one line."""
    free = memory_of(device)
    if free is None:
        whole = 2 * sum(weights(spec).values()) / 1e9
        return f"Here: device {device.type}, no CUDA GPU. All parts share the host's memory, {whole:.0f} GB of weights."
    name = torch.cuda.get_device_name(device)
    return f"Here: {name}, {free / GIB:.1f} GiB free: {choose_offload(spec, free)}."


def table(spec: ModelSpec, width: int = 1024, height: int = 1024) -> str:
    """Cards from 8 to 80 GiB as a Markdown table: what of them is usable, what waits in host memory, and the peak."""
    painting, decoding = activations(spec, width, height)
    parts = ", ".join(f"{name} {2 * number / 1e9:.2f}" for name, number in weights(spec).items())
    lines = [
        f"Weights in bfloat16, GB: {parts}. Activations at {width} × {height}, GB: an evaluation {painting / 1e9:.2f},"
        f" decoding {decoding / 1e9:.2f}.",
        "",
        "| GPU memory | usable | mode | peak |",
        "|---|---|---|---|",
    ]
    for card in CARDS:
        offload = choose_offload(spec, usable(card))
        most = peak(spec, offload, width, height)
        fits = f"{offload} | {most / 1e9:.1f} GB" if most <= usable(card) else "none | –"
        lines.append(f"| {card} GiB | {usable(card) / 1e9:.1f} GB | {fits} |")
    return "\n".join(lines)


# ---------------------------------------------------------------- placing


@contextmanager
def on_device(device: torch.device, *parts: nn.Module) -> Iterator[None]:
    """Inside the block the parts stand on the device; their host memory is kept, so that nothing is copied back."""
    with torch.inference_mode(False):
        tensors = (x for part in parts for x in chain(part.parameters(), part.buffers()))
        home = [(x, x.data) for x in tensors if not x.is_meta]  # those of waiting blocks are
        for x, data in home:
            x.data = data.to(device, non_blocking=True)
    try:
        yield
    finally:
        with torch.inference_mode(False):
            for x, data in home:
                x.data = data


def offload_blocks(blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Each block waits in host memory, comes when it computes and leaves after it, by the hooks of Accelerate.

    For GPUs smaller than the weights. What waits is moved anew in every evaluation, which over PCIe takes longer than
    computing it.
    """
    try:
        from accelerate import cpu_offload
    except ImportError:
        raise ImportError('on a GPU as small as this, Accelerate is needed: pip install "flux-edu[real]"') from None
    for block in blocks:
        cpu_offload(block, device, offload_buffers=True, preload_module_classes=[type(block).__name__])


def place(t5: nn.Module, clip: nn.Module, model: Flux, ae: AutoEncoder, device: torch.device, offload: Offload) -> None:
    """Put the parts where they wait; what waits as a part comes by `on_device`."""
    if not offload.parts:
        for part in (t5, clip, model, ae):
            part.to(device)
    if offload.blocks:
        offload_blocks([*model.double_blocks, *model.single_blocks][: offload.blocks], device)
        offload_blocks(t5.encoder.encoder.block, device)
