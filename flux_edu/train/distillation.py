"""What both distillations and the tools share: a frozen teacher, a student that is the teacher plus a delta, sheets.

The teacher is the tiny FLUX as it ships, 8 bits a number: the delta is trained on the weights it will be added to.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec
from flux_edu.io import lora
from flux_edu.io.checkpoint import State, load_strict, read, save_int8
from flux_edu.io.images import picture_grid
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, unpatchify
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.train import trainer
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.data import SIZE, Drawings, load_drawings
from flux_edu.train.latent_pool import OFTEN, Compose, Pools, Size, batch_of, compose_scenes, grid_of
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import Text, inputs
from flux_edu.train.text_to_velocity import BLOCKS, TextEncoders

Inputs = Callable[..., tuple[Tensor, ...]]


def build(spec: ModelSpec, state: State) -> Flux:
    """A transformer of this shape with these weights, ready to be used and not to be trained."""
    with torch.device("meta"):
        flux = Flux(spec.params)
    load_strict(flux, state)
    return flux.requires_grad_(False).eval()


# ---------------------------------------------------------------- samples to look at


@torch.inference_mode()
def sample(
    flux: nn.Module,
    noise: Float[Tensor, "N z h w"],
    text: Text,
    timesteps: list[float],
    guidance: float = 0.0,
    empty: Text | None = None,
    img_cond: Tensor | None = None,
    img_cond_seq: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "B L C"]:
    """Latents of these texts from this noise, or from one noise for all; with `empty` in two passes a step."""
    B, device = len(text[0]), noise.device
    img_ids = make_img_ids(B, noise.shape[2] // 2, noise.shape[3] // 2).to(device)
    txt_ids = make_txt_ids(B, text[0].shape[1]).to(device)
    inputs = patchify(noise.expand(B, -1, -1, -1)), img_ids, text[0], txt_ids, text[1]
    conditions = {"uncond": empty, "img_cond": img_cond, "img_cond_seq": img_cond_seq}
    return denoise(flux, *inputs, timesteps, guidance, **conditions)


def schedule(spec: ModelSpec, steps: int, width: int = SIZE, height: int = SIZE) -> list[float]:
    return get_schedule(steps, (height // 16) * (width // 16), shift=spec.shift)


def one_noise(
    device: torch.device | str, seed: int = 0, width: int = SIZE, height: int = SIZE
) -> Float[Tensor, "1 C h w"]:
    return get_noise(1, height, width, device, torch.float32, seed)


@torch.inference_mode()
def sheet(ae: AutoEncoder, x: Float[Tensor, "B L C"], width: int = SIZE, height: int = SIZE) -> Image.Image:
    """The pictures of these latents, four in a row."""
    return picture_grid(ae.decode(unpatchify(x, height, width)), columns=4)


def arguments(doc: str, out: str, seconds: float, rank: int) -> argparse.ArgumentParser:
    parser = trainer.arguments(doc, out, seconds, batch=256, rate=1e-3, report=100, evaluate=5)
    parser.add_argument("--weights", type=Path, default=Path(str(TINY_FOLDER)), help="folder of t5, clip and flux")
    parser.add_argument("--ae", type=Path, default=Path(str(TINY_FOLDER / "ae.safetensors")))
    parser.add_argument("--pool", type=int, default=16384, help="latents of the commonest size that a process keeps")
    parser.add_argument("--renew", type=int, default=100, help="steps of a size after which 2,048 of its are replaced")
    parser.add_argument("--rank", type=int, default=rank, help="of the delta; the file grows with it")
    parser.add_argument("--muon", type=float, default=4e-3, help="rate of Muon for the pairs; 0: AdamW alone")
    parser.add_argument("--measure", type=int, default=1024, help="held-out latents to measure on")
    parser.add_argument("--begin", type=Path, help="a delta of the same ranks to begin with")
    return parser


class Distillation:
    """What a distillation begins with: the teacher's weights, texts, pools of latents, and some held out.

    shares tells how often a step takes pictures of a size.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        spec: ModelSpec,
        shares: dict[Size, float],
        compose: Compose = compose_scenes,
    ):
        self.args, self.spec, self.accelerator = args, spec, trainer.start(args.seed)
        self.device, process = self.accelerator.device, self.accelerator.process_index
        self.base = read(args.weights / "flux.safetensors", self.device)
        self.texts = TextEncoders(TINY_FOLDER / "tokenizer.json", spec.txt_tokens).load(args.weights).to(self.device)
        self.empty = self.texts.read([""])
        self.ae = load_ae(args.ae).to(self.device)
        self.drawings: Drawings = load_drawings(args.data).to(self.device)
        self.accelerator.print("making latents", flush=True)
        seed = args.seed, process
        self.pools = Pools(self.drawings, self.ae, self.texts, args.pool, seed, args.renew, shares, compose)
        self.pools.fill()
        x, tokens, *others = self.pools.held_out((SIZE, SIZE), seed=20, n=args.measure)
        self.held_out = x, self.texts(tokens), *others
        torch.manual_seed(trainer.seed_of(args.seed, process))

    def captured(self, flux: Flux, times: int = 1, inputs: Inputs = inputs, cond: Tensor | None = None) -> nn.Module:
        """On a GPU the network is replayed as CUDA graphs, for so many times the batches of each size.

        inputs makes what the network takes of latents, levels, texts, and of a row like cond if there is one.
        """
        if self.device.type != "cuda" or self.args.speed == "plain":
            return flux
        if self.args.speed == "compile":
            trainer.compile_blocks(flux, *BLOCKS)
        samples = {}
        for size in (size for size in self.pools.sizes if size in OFTEN):
            n, grid = times * batch_of(self.args.batch, size), grid_of(size)
            rows = [part[:1] for part in (*self.empty, *(() if cond is None else (cond,)))]
            txt, vec, *others = (part.repeat(n, *part[0].ndim * [1]) for part in rows)
            x, t = torch.randn(n, math.prod(grid), self.held_out[0].shape[2]), torch.rand(n)
            named = {"grid": grid} if cond is None else {}  # tools know squares alone
            named |= {"w": t.to(self.device) + 1} if flux.params.guidance_embed else {}
            with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
                sample = inputs(x.to(self.device), t.to(self.device), (txt, vec), *others, **named)
            samples[x.shape] = tuple(part.clone().detach().requires_grad_(part.requires_grad) for part in sample)
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return trainer.capture_cuda_graphs(flux, *samples.values())

    def train(
        self,
        student: nn.Module,
        loss: trainer.Loss,
        evaluate: Callable[[nn.Module, int], float],
        state: "torch.distributed.checkpoint.stateful.Stateful | None" = None,
        inputs: Inputs = inputs,
        cond: Tensor | None = None,
    ) -> tuple[State, int]:
        """Train what is trainable of the student; the averaged delta and the number of steps.

        loss and evaluate are as in `Trainer.train`; evaluate is called with the averaged student, too. inputs and cond
        are those of `captured`.
        """
        args = self.args
        if args.begin:
            lora.go_on(student, read(args.begin, self.device), str(args.begin))
        ema = trainer.make_ema(student, decay=0.998)
        trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        pairs = {name: p for name, p in trained.items() if args.muon and ".lora_" in name}
        others = [p for name, p in trained.items() if name not in pairs]
        optimizers: dict[torch.optim.Optimizer, float] = {}
        if others:
            optimizers[trainer.make_adamw(others, 0.0, betas=(0.9, 0.99))] = args.rate
        if pairs:
            optimizers[Muon(list(pairs.values()), weight_decay=0.0)] = args.muon
        captured = self.captured(student, 1, inputs, cond)
        run = trainer.Trainer(args, self.accelerator, captured, ema, optimizers, state)
        steps = run.train(loss, lambda step: [evaluate(ema.module, step)], columns=("held_out",))
        return lora.trained_delta(student, ema.module), steps

    def metadata(self, steps: int) -> dict[str, int]:
        """What a delta's file and the report tell of the run."""
        args = self.args
        return {"steps": steps, "seconds": round(args.seconds), "rank": args.rank, "batch": args.batch}

    def save(self, delta: State, name: str, metadata: dict) -> Flux:
        """Store the delta in 8 bits a number; returned is the model with what was stored, as it will be loaded."""
        path = self.args.out / f"{name}.safetensors"
        save_int8(delta, path, {key: str(value) for key, value in metadata.items()})
        print(f"{path}: {path.stat().st_size / 1e6:.3f} MB", flush=True)
        stored = read(path, self.device)
        return lora.with_delta(self.spec, self.base, stored, path.name).requires_grad_(False).eval()
