"""What both distillations share: a frozen teacher, a student that is the teacher plus a delta, loop and sheets.

The teacher is the tiny FLUX as it ships, 8 bits a number: the delta is trained on the weights it will be added to.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from flux_edu.configs import ModelSpec
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.io import lora
from flux_edu.io.checkpoint import State, load_strict, read, save_int8
from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.single_stream import LastLayer, SingleStreamBlock
from flux_edu.train import trainer
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.common import Average, compile_blocks, record, seed_of
from flux_edu.train.data import SIZE, Drawings, load_drawings
from flux_edu.train.latent_pool import Pool
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import Text, inputs

Inputs = Callable[..., tuple[Tensor, ...]]


class Texts(nn.Module):
    """Both text encoders, frozen: tokens in, (txt, vec) out. `empty` is what they say of no text at all."""

    def __init__(self, weights: Path, length: int):
        super().__init__()
        t5, clip = tiny_embedders(TINY_FOLDER / "tokenizer.json", length)
        self.tokenizer, self.length, self.t5, self.clip = t5.tokenizer, length, t5.encoder, clip.encoder
        state = read(weights / "t5.safetensors")
        load_strict(self.t5, state | {"encoder.embed_tokens.weight": state["shared.weight"]}, source="t5.safetensors")
        load_strict(self.clip, read(weights / "clip.safetensors"), source="clip.safetensors")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "B L_txt"]) -> Text:
        return self.t5(input_ids=tokens).last_hidden_state.float(), self.clip(input_ids=tokens).pooler_output.float()

    def read(self, texts: list[str]) -> Text:
        ids = self.tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")["input_ids"]
        return self(torch.tensor(ids, device=self.t5.device))


def half(device: torch.device) -> torch.autocast:
    """bfloat16 for the products on a GPU, float32 elsewhere; measuring does without."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def build(spec: ModelSpec, state: State) -> Flux:
    """A transformer of this shape with these weights, ready to be used and not to be trained."""
    with torch.device("meta"):
        flux = Flux(spec.params)
    load_strict(flux, state)
    return flux.requires_grad_(False).eval()


# ---------------------------------------------------------------- looking at it


@torch.inference_mode()
def sample(
    flux: Flux,
    noise: Float[Tensor, "N z h w"],
    text: Text,
    timesteps: list[float],
    guidance: float = 0.0,
    empty: Text | None = None,
) -> Float[Tensor, "B L C"]:
    """Latents of these texts from this noise, or from one noise for all; with `empty` in two passes a step."""
    B, device = len(text[0]), noise.device
    img_ids, txt_ids = make_img_ids(B, noise.shape[2] // 2, noise.shape[3] // 2), make_txt_ids(B, text[0].shape[1])
    x = patchify(noise.expand(B, -1, -1, -1))
    return denoise(flux, x, img_ids.to(device), text[0], txt_ids.to(device), text[1], timesteps, guidance, uncond=empty)


def schedule(spec: ModelSpec, steps: int) -> list[float]:
    return get_schedule(steps, (SIZE // 16) ** 2, shift=spec.shift)


def one_noise(device: torch.device, seed: int = 0) -> Float[Tensor, "1 C h w"]:
    return get_noise(1, SIZE, SIZE, device, torch.float32, seed)


# ---------------------------------------------------------------- training


def arguments(doc: str, out: str, seconds: float, rank: int) -> argparse.ArgumentParser:
    parser = trainer.arguments(doc, out, seconds, batch=256, rate=1e-3, report=100, look=5)
    parser.add_argument("--weights", type=Path, default=Path(str(TINY_FOLDER)), help="folder of t5, clip and flux")
    parser.add_argument("--ae", type=Path, default=Path(str(TINY_FOLDER / "ae.safetensors")))
    parser.add_argument("--pool", type=int, default=32768, help="latents a process keeps")
    parser.add_argument("--rank", type=int, default=rank, help="of the delta; the file grows with it")
    parser.add_argument("--muon", type=float, default=4e-3, help="rate of Muon for the pairs; 0: AdamW alone")
    parser.add_argument("--measure", type=int, default=1024, help="held-out latents to measure on")
    parser.add_argument("--no-record", action="store_true", help="start kernels one by one on a GPU too")
    return parser


class Stage:
    """What a distillation begins with: the teacher's weights, texts, a pool of latents, and some held out."""

    def __init__(self, args: argparse.Namespace, spec: ModelSpec, pool: type[Pool] = Pool):
        torch.set_float32_matmul_precision("high")
        self.args, self.spec, self.accelerator = args, spec, Accelerator()
        self.device, rank = self.accelerator.device, self.accelerator.process_index
        self.base = read(args.weights / "flux.safetensors", self.device)
        self.texts = Texts(args.weights, spec.txt_tokens).to(self.device)
        self.empty = self.texts.read([""])
        self.ae = load_ae(args.ae).to(self.device)
        self.drawings: Drawings = load_drawings(args.data).to(self.device)
        self.accelerator.print(f"making {args.pool} latents a process", flush=True)
        self.pool = pool(self.drawings, self.ae, self.texts.tokenizer, spec.txt_tokens, args.pool, (args.seed, rank))
        self.pool.turn(0)
        x, tokens, *others = self.pool.compose(args.measure, seed=20, unseen=True)
        self.held = x, self.texts(tokens.long()), *others
        torch.manual_seed(seed_of(args.seed, rank))

    def recorded(self, flux: Flux, batch: int, inputs: Inputs = inputs, *others: Tensor) -> nn.Module:
        """On a GPU the network is compiled and replayed as a CUDA graph, for this size only; see `common.record`.

        inputs makes what the network takes of latents, levels, texts, and of the others if there are any.
        """
        if self.device.type != "cuda" or self.args.no_record:
            return flux
        compile_blocks(flux, DoubleStreamBlock, SingleStreamBlock, LastLayer)
        x = torch.randn(batch, *self.pool.x.shape[1:], device=self.device)
        levels, text = (
            torch.rand(batch, device=self.device),
            tuple(e.repeat(batch, *e[0].ndim * [1]) for e in self.empty),
        )
        w = (levels + 1,) if flux.params.guidance_embed else ()
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            sample = inputs(x, levels, text, *w, *others)
            return record(flux, *(each.clone().detach().requires_grad_(each.requires_grad) for each in sample))

    def train(
        self,
        student: nn.Module,
        loss: Callable[[nn.Module, int], Tensor],
        look: Callable[[nn.Module, int], float],
        own: trainer.Own | None = None,
        inputs: Inputs = inputs,
        given: Tensor | None = None,
    ) -> tuple[State, int]:
        """Train what is trainable of the student; the averaged delta and the number of steps.

        loss and look are as in `loop.Run.train`; look is called with the averaged student, too. inputs is
        that of `recorded`; given is rows like those that inputs takes besides.
        """
        args, average = self.args, Average(student, decay=0.998)
        trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        pairs = [p for name, p in trained.items() if args.muon and ".lora_" in name]
        others = [p for name, p in trained.items() if not (args.muon and ".lora_" in name)]
        optimizers: dict[torch.optim.Optimizer, float] = {}
        if others:
            adamw = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
            optimizers[adamw] = args.rate
        if pairs:
            optimizers[Muon(pairs, lr=0.0, weight_decay=0.0)] = args.muon
        sample = () if given is None else (given[:1].repeat(args.batch, *given[0].ndim * [1]),)
        recorded = self.recorded(student, args.batch, inputs, *sample)
        run = trainer.Run(args, self.accelerator, recorded, average, optimizers, own)
        steps = run.train(loss, lambda step: [look(average.module, step)], columns=("held_out",))
        return lora.trained_delta(student, average.module), steps

    def keep(self, delta: State, name: str, noted: dict) -> State:
        """Store the delta in 8 bits a number; returned is what was stored."""
        path = self.args.out / name
        save_int8(delta, path, {key: str(value) for key, value in noted.items()})
        print(f"{path}: {path.stat().st_size / 1e6:.3f} MB", flush=True)
        return read(path, self.device)

    def save(self, delta: State, name: str, noted: dict) -> State:
        """Store the delta; returned are the base's weights with what was stored in them."""
        return lora.merge(self.base, self.keep(delta, name, noted), source=name)
