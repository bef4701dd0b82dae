"""Train the tiny autoencoder: `python -m flux_edu.train.autoencoder`. Eq. (8.1) and (8.2) run both ways.

The published architecture at a quarter of the width. Loss: absolute and squared difference, difference of the slopes
(which keeps edges sharp), the worst pixel, and a little KL that keeps the latents near a normal distribution. There is
no adversarial and no perceptual part, as the published one had: flat drawings do without.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.autoencoder import AttnBlock, AutoEncoder, Downsample, ResnetBlock, Upsample
from flux_edu.configs import TINY_AE
from flux_edu.io.checkpoint import load_strict, read, read_metadata, save_int8
from flux_edu.io.device import autocast
from flux_edu.io.images import picture_grid
from flux_edu.train import trainer
from flux_edu.train.data import COLOURS, SIZE, Drawings, draw_scenes, load_drawings, render

PARTS = (ResnetBlock, AttnBlock, Downsample, Upsample)  # what is compiled


class Reconstruct(nn.Module):
    """Encode, add the noise that the log variance asks for, decode; in bfloat16 where there is a GPU."""

    def __init__(self, ae: AutoEncoder):
        super().__init__()
        self.ae = ae

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(x.device):
            mean, log_var = self.ae.encoder(x).float().chunk(2, dim=1)
            log_var = log_var.clamp(-20, 10)
            z = mean + (log_var / 2).exp() * torch.randn_like(mean)
            return self.ae.decoder(z).float(), mean, log_var


def slopes(x: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, down and to the right."""
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def reconstruction_loss(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"], mean: Tensor, log_var: Tensor
) -> Float[Tensor, ""]:
    """L1 + L2 + slopes + 0.02 worst pixel + 3e-4 KL(N(mean, e^log_var) ‖ N(0, 1)), each a mean over its numbers.

    A plain picture shall come back plain: its worst pixel counts ten times.
    """
    difference = (x - y).abs()
    edges = sum((a - b).abs().mean() for a, b in zip(slopes(x), slopes(y), strict=True))
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean()
    plain = (x == x[:, :, :1, :1]).flatten(1).all(1)
    worst = (difference.flatten(1).amax(1) * (1 + 9 * plain)).mean()
    return difference.mean() + difference.square().mean() + edges + 0.02 * worst + 3e-4 * kl


def training_pictures(drawings: Drawings, batch: int, seed: int) -> Float[Tensor, "B 3 128 128"]:
    """Compositions, a third of them on a colour of any kind, and one in eight with nothing on it at all."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(drawings, batch, seed)
    any_colour = np.where(rng.random((batch, 1)) < 1 / 3, rng.random((batch, 3)), np.nan)
    plain = max(1, batch // 8)
    any_colour[: 3 * plain // 4] = rng.random((3 * plain // 4, 3))
    background = torch.from_numpy(any_colour).float().to(drawings.pixels.device)
    pictures = render(drawings, scenes, background)
    pictures[:plain] = pictures[:plain, :, :1, :1]
    return pictures


# ---------------------------------------------------------------- what is measured


def psnr(x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> float:
    """Peak signal to noise in decibels, pictures in [-1, 1], mean over pictures."""
    mse = (x - y.clamp(-1, 1)).square().flatten(1).mean(1).clamp_min(1e-12)
    return float((10 * torch.log10(4 / mse)).mean())


@torch.no_grad()
def encode(ae: AutoEncoder, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """Their latents, on a GPU by products in bfloat16."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    part = max(1, 1024 * SIZE**2 // pictures[0, 0].numel())  # larger pictures, fewer at once
    with autocast(pictures.device):
        return torch.cat([ae.encode(x) for x in pictures.split(part)]).float()


@torch.no_grad()
def round_trip(ae: AutoEncoder, x: Float[Tensor, "B 3 H W"], exact: bool = True) -> Float[Tensor, "B 3 H W"]:
    """Encoded, decoded and cut off where a picture ends; less exact, it is faster on a GPU."""
    x = x.contiguous(memory_format=torch.channels_last)
    with nullcontext() if exact else autocast(x.device):
        return torch.cat([ae.decode(ae.encode(part)) for part in x.split(128)]).float().clamp(-1, 1)


@torch.inference_mode()
def measure(ae: AutoEncoder, drawings: Drawings, n: int = 512) -> dict[str, float]:
    """How well pictures come back: PSNR in dB, and the largest error of a plain picture in steps of 8-bit colour."""
    x = render(drawings, draw_scenes(drawings, n, seed=987, unseen=True))
    random = torch.rand(54, 3, generator=torch.Generator().manual_seed(0)) * 255
    plain = torch.cat([torch.tensor(list(COLOURS.values())).float(), random]).to(x) / 127.5 - 1
    plain = plain[:, :, None, None].expand(-1, -1, *x.shape[2:]).contiguous()
    off = (round_trip(ae, plain) - plain).abs() * 127.5
    return {
        "psnr": psnr(x, round_trip(ae, x)),
        "plain_max_named": float(off[: len(COLOURS)].max()),
        "plain_max": float(off.max()),
    }


@torch.inference_mode()
def latent_factors(ae: AutoEncoder, drawings: Drawings, n: int = 2048) -> tuple[float, float]:
    """(scale, shift) that give the latents mean 0 and standard deviation 1, Eq. (8.1)."""
    x = render(drawings, draw_scenes(drawings, n, seed=654))
    mean = torch.cat([ae.encoder(part).chunk(2, dim=1)[0] for part in x.split(64)])
    return 1 / float(mean.std()), float(mean.mean())


def load_ae(path: str | Path) -> AutoEncoder:
    """An autoencoder that `main` has saved, with the factors that stand in the file."""
    factors = read_metadata(path)
    params = replace(TINY_AE, scale_factor=float(factors["scale_factor"]), shift_factor=float(factors["shift_factor"]))
    ae = AutoEncoder(params)
    load_strict(ae, read(path), source=str(path))
    return ae.requires_grad_(False).eval()


def main() -> None:
    parser = trainer.arguments(__doc__, out="runs/autoencoder", seconds=300, batch=128, rate=1e-3)
    parser.add_argument("--begin", type=Path, help="weights to begin from instead of from nothing")
    parser.add_argument("--measure", type=int, default=512, help="pictures to measure on")
    args = parser.parse_args()

    accelerator = trainer.start(args.seed)
    device, process = accelerator.device, accelerator.process_index
    torch.backends.cudnn.benchmark = True
    drawings = load_drawings(args.data).to(device)
    ae = AutoEncoder(TINY_AE).to(device, memory_format=torch.channels_last)
    if args.begin:
        load_strict(ae, read(args.begin), source=str(args.begin))
    model = Reconstruct(ae)
    ema = trainer.make_ema(model, decay=0.999)
    if device.type == "cuda":
        trainer.compile_blocks(ae, *PARTS)
        pictures = torch.rand(args.batch, 3, SIZE, SIZE, device=device)
        trainer.capture_cuda_graph(model, pictures.to(memory_format=torch.channels_last))
    optimizer = trainer.make_adamw(ae.parameters(), 0.01, betas=(0.9, 0.99))
    run = trainer.Trainer(args, accelerator, model, ema, {optimizer: args.rate})
    held_out = render(drawings, draw_scenes(drawings, 64, seed=987, unseen=True))

    def loss(model: nn.Module, step: int) -> Tensor:
        x = training_pictures(drawings, args.batch, trainer.seed_of(args.seed, process, step))
        x = x.contiguous(memory_format=torch.channels_last)
        return reconstruction_loss(x, *model(x))

    def evaluate(step: int) -> list[float]:
        """Held-out pictures, and what comes back below them."""
        back = round_trip(ema.module.ae, held_out)
        picture_grid(torch.cat([held_out[:8], back[:8]]), columns=8).save(args.out / f"{step}.png")
        return [psnr(held_out, back)]

    steps = run.train(loss, evaluate, columns=("psnr",), ready=5)

    if accelerator.is_main_process:
        ae, n = ema.module.ae, args.measure
        scale, shift = latent_factors(ae, drawings, 4 * n)
        metadata = {"scale_factor": f"{scale:.5f}", "shift_factor": f"{shift:.5f}", "steps": str(steps)}
        save_int8(ae.state_dict(), args.out / "ae.safetensors", metadata)
        report = {f"float_{key}": value for key, value in measure(ae, drawings, n).items()}
        report |= measure(load_ae(args.out / "ae.safetensors").to(device), drawings, n) | metadata
        report = {key: round(x, 3) if isinstance(x, float) else x for key, x in report.items()}
        trainer.save_report(args.out / "ae.json", report)
    accelerator.end_training()


if __name__ == "__main__":
    main()
