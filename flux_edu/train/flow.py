"""Train text encoders and transformer together, from nothing: `python -m flux_edu.train.flow`. Eq. (9.1) to (9.3).

Pictures are encoded once and kept as latents on the device; a part of them is replaced now and then. Each step takes
pictures of one size, at the noise levels of that size. A run can be parted: --time-limit ends it before the schedule is
over, and the same command goes on where it ended.

With --keep an earlier network is the teacher at 128 × 128, so that what it paints there is not lost while others are
learned: Li and Hoiem, "Learning without forgetting", 2016.
"""

import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, configs
from flux_edu.io.checkpoint import save_int8
from flux_edu.io.tiny import TIED, TINY_FOLDER, load_part
from flux_edu.schedule import interpolate
from flux_edu.train import trainer
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.data import SIXTEEN, SIZE, load_drawings
from flux_edu.train.distillation import one_noise, sample, schedule, sheet
from flux_edu.train.latent_pool import OFTEN, SHARES, Pools, Size, batch_of, compose_scenes, grid_of
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import Velocity, flow_loss, levels_of, logit_normal
from flux_edu.train.text_to_velocity import BLOCKS, TextToVelocity


def kept_loss(
    model: Velocity, teacher: Velocity, x_0: Tensor, noise: Tensor, t: Tensor, new: Tensor, tokens: Tensor, *condition
) -> Tensor:
    """Eq. (9.1) for new pictures; for the others the teacher's velocity in place of ε - x_0, whose mean it has learned.

    The teacher reads the whole caption, also where condition hides it from CLIP.
    """
    x_t = interpolate(x_0, noise, t)
    with torch.no_grad():
        v = torch.where(new[:, None, None], noise - x_0, teacher(x_t, t, tokens).float())
    return F.mse_loss(model(x_t, t, tokens, *condition).float(), v)


@torch.no_grad()
def validation_loss(model: TextToVelocity, x: Tensor, tokens: Tensor, size: Size) -> float:
    """Eq. (9.1) on held-out combinations with noise and noise levels that are the same every time."""
    generator, (mean, deviation) = torch.Generator().manual_seed(0), levels_of(x.shape[1])
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    t = torch.sigmoid(mean + deviation * torch.randn(len(x), generator=generator)).to(x.device)
    return float(flow_loss(model, x, noise, t, tokens, grid_of(size)))


@torch.inference_mode()
def paint_sheet(model: TextToVelocity, ae: AutoEncoder, spec: ModelSpec, size: Size, steps: int = 8) -> Image.Image:
    """The sixteen prompts' pictures on one sheet, all from the same noise, in fewer steps than the generator's."""
    text, empty = model.texts.read(list(SIXTEEN)), model.texts.read([""])
    noise = one_noise(text[0].device, 0, *size)
    return sheet(ae, sample(model.flux, noise, text, schedule(spec, steps, *size), spec.guidance, empty), *size)


def save_tiny(model: TextToVelocity, folder: Path, metadata: dict[str, str]) -> None:
    """t5, clip and flux as the package ships them: 8 bits a number, the tied embedding once."""
    for name, part in model.parts().items():
        state = {key: x for key, x in part.state_dict().items() if key != TIED}
        save_int8(state, folder / f"{name}.safetensors", metadata)


def load_saved(model: TextToVelocity, folder: Path) -> None:
    """The weights that `save_tiny` wrote, into a model of the same shape."""
    for name, part in model.parts().items():
        load_part(part, folder / f"{name}.safetensors")


def main() -> None:
    parser = trainer.arguments(__doc__, out="runs/flow", seconds=900, batch=512, rate=1e-3)
    parser.add_argument("--ae", type=Path, default=Path("runs/autoencoder/ae.safetensors"))
    parser.add_argument("--tokenizer", type=Path, default=Path(str(TINY_FOLDER / "tokenizer.json")))
    parser.add_argument("--begin", type=Path, help="folder of 8-bit weights to begin from instead of from nothing")
    parser.add_argument("--pool", type=int, default=32768, help="latents of 128 × 128 that a process keeps")
    parser.add_argument("--renew", type=int, default=50, help="steps of a size after which 2,048 of its are replaced")
    parser.add_argument(
        "--asked", type=float, default=0.0, help="share of pictures of train.asked: bare names, counts …"
    )
    parser.add_argument("--hide", type=float, default=0.0, help="share of captions that T5 alone gets to read")
    parser.add_argument(
        "--keep", type=Path, help="folder of 8-bit weights to learn from at 128 × 128, but for pictures of train.asked"
    )
    parser.add_argument("--muon", type=float, default=3e-3, help="rate of Muon, for blocks' matrices; 0: AdamW alone")
    args = parser.parse_args()

    accelerator = trainer.start(args.seed)
    device, process, spec = accelerator.device, accelerator.process_index, configs["tiny"]
    model = TextToVelocity(spec, args.tokenizer).to(device)
    if args.begin:
        load_saved(model, args.begin)
    teacher = TextToVelocity(spec, args.tokenizer).to(device).requires_grad_(False).eval() if args.keep else None
    if teacher:
        load_saved(teacher, args.keep)
    ema = trainer.make_ema(model, decay=0.999)
    ae = load_ae(args.ae).to(device, memory_format=torch.channels_last)
    drawings = load_drawings(args.data).to(device)
    compose = partial(compose_scenes, asked=args.asked)
    pools = Pools(drawings, ae, model.texts, args.pool, (args.seed, process), args.renew, SHARES, compose)
    held_out = {size: pools.held_out(size, seed=10)[:2] for size in OFTEN}
    if device.type == "cuda" and args.speed != "plain":
        if args.speed == "compile":
            for network in filter(None, (model, teacher)):
                trainer.compile_blocks(network.flux, *BLOCKS)
        model.capture({math.prod(grid_of(size)): batch_of(args.batch, size) for size in OFTEN})
    matrices = set(model.matrices()) if args.muon else set()
    others = [p for p in model.parameters() if p not in matrices]
    optimizers = {trainer.make_adamw(others, 0.01, betas=(0.9, 0.95)): args.rate}
    if matrices:
        optimizers[Muon(model.matrices())] = args.muon
    run = trainer.Trainer(args, accelerator, model, ema, optimizers)
    accelerator.print("making latents", flush=True)
    pools.fill(run.clock.step)
    accelerator.print(f"{time.monotonic() - args.started:.0f} s since the start", flush=True)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.1) at noise levels of Eq. (9.2); what a teacher knows is learned from it."""
        size, pool = pools.at(step)
        x_0, tokens, asked = pool.batch(batch_of(args.batch, size))
        t, noise = logit_normal(*levels_of(x_0.shape[1]), len(x_0), device), torch.randn_like(x_0)
        hidden = torch.rand(len(x_0), 1, device=device) < args.hide
        condition = tokens, grid_of(size), torch.where(hidden, pool.empty, tokens)
        if not teacher or size != (SIZE, SIZE):
            return flow_loss(model, x_0, noise, t, *condition)
        return kept_loss(model, teacher, x_0, noise, t, asked > 0, *condition)

    def measure() -> dict[str, float]:
        return {f"{w}x{h}": validation_loss(ema.module, *held_out[w, h], (w, h)) for w, h in OFTEN}

    def evaluate(step: int) -> list[float]:
        for side in (128, 256):
            paint_sheet(ema.module, ae, spec, (side, side)).save(args.out / f"{step}-{side}.png")
        return list(measure().values())

    steps = run.train(loss, evaluate, tuple(f"{w}x{h}" for w, h in OFTEN), warm_up=0.01)

    if accelerator.is_main_process:
        report = {"steps": steps, "seconds": round(run.clock.used), "processes": accelerator.num_processes}
        metadata = {key: str(value) for key, value in (report | {"seed": args.seed, "batch": args.batch}).items()}
        save_tiny(ema.module, args.out, metadata)
        load_saved(ema.module, args.out)  # what is looked at is what is shipped
        trainer.save_report(args.out / "flow.json", report | {"held_out": measure()})
        for side in (128, 256):
            paint_sheet(ema.module, ae, spec, (side, side)).save(args.out / f"sixteen-{side}.png")
    accelerator.end_training()


if __name__ == "__main__":
    main()
