"""Train text encoders and transformer together, from nothing: `python -m flux_edu.train.flow`. Eq. (9.1) to (9.3).

Pictures are encoded once and kept as latents on the device; a part of them is replaced now and then. A run can be
parted: --time-limit ends it before the schedule is over, and the same command goes on where it ended.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, configs
from flux_edu.io.checkpoint import save_int8
from flux_edu.io.tiny import TIED, TINY_FOLDER, load_part
from flux_edu.schedule import get_lin_function
from flux_edu.train import trainer
from flux_edu.train.autoencoder import PARTS, load_ae
from flux_edu.train.data import SIXTEEN, load_drawings
from flux_edu.train.distillation import one_noise, sample, schedule, sheet
from flux_edu.train.latent_pool import Pool
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import flow_loss, logit_normal, shift_logit_normal
from flux_edu.train.text_to_velocity import TextToVelocity

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)  # noise levels to tell the loss of


@torch.no_grad()
def validation_loss(model: TextToVelocity, x: Tensor, tokens: Tensor, mean: float, deviation: float) -> float:
    """Eq. (9.1) on held-out combinations with noise and noise levels that are the same every time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    t = torch.sigmoid(mean + deviation * torch.randn(len(x), generator=generator)).to(x.device)
    return float(flow_loss(model, x, noise, t, tokens))


@torch.no_grad()
def loss_by_level(model: TextToVelocity, x: Tensor, tokens: Tensor) -> list[float]:
    """Eq. (9.1) at each of `LEVELS` apart, on the first 512 of these latents."""
    x, tokens = x[:512], tokens[:512]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    return [float(flow_loss(model, x, noise, x.new_full((len(x),), t), tokens)) for t in LEVELS]


@torch.inference_mode()
def paint_sheet(model: TextToVelocity, ae: AutoEncoder, spec: ModelSpec, steps: int) -> Image.Image:
    """The sixteen prompts' pictures on one sheet, all from the same noise, as the generator paints them."""
    text, empty = model.texts.read(list(SIXTEEN)), model.texts.read([""])
    return sheet(ae, sample(model.flux, one_noise(text[0].device), text, schedule(spec, steps), spec.guidance, empty))


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
    parser.add_argument("--start", type=Path, help="folder of 8-bit weights to begin from instead of from nothing")
    parser.add_argument("--pool", type=int, default=65536, help="latents a process keeps")
    parser.add_argument("--renew", type=int, default=25, help="steps after which 2,048 of them are replaced")
    parser.add_argument("--muon", type=float, default=3e-3, help="rate of Muon, for blocks' matrices; 0: AdamW alone")
    args = parser.parse_args()

    accelerator = trainer.start(args.seed)
    device, process, spec = accelerator.device, accelerator.process_index, configs["tiny"]
    model = TextToVelocity(spec, args.tokenizer).to(device)
    if args.start:
        load_saved(model, args.start)
    ema = trainer.make_ema(model, decay=0.9995)
    ae = load_ae(args.ae).to(device, memory_format=torch.channels_last)
    drawings = load_drawings(args.data).to(device)
    pool = Pool(drawings, ae, model.texts, args.pool, (args.seed, process))
    if device.type == "cuda":
        trainer.compile_blocks(ae, *PARTS)
    accelerator.print(f"making {args.pool} latents a process", flush=True)
    held_out = tuple(pool.compose(pool.block, seed=10, unseen=True))
    x, tokens = held_out[0], held_out[1].long()
    if device.type == "cuda":
        rows = torch.zeros(args.batch, dtype=torch.long, device=device)
        model.capture(x[rows], tokens[rows])
    matrices = set(model.matrices()) if args.muon else set()
    others = [p for p in model.parameters() if p not in matrices]
    optimizers = {trainer.make_adamw(others, 0.01, betas=(0.9, 0.95)): args.rate}
    if matrices:
        optimizers[Muon(model.matrices())] = args.muon
    run = trainer.Trainer(args, accelerator, model, ema, optimizers)
    # the schedule of sampling shifts noise levels by μ(L), so training draws them shifted likewise, Eq. (9.3)
    mean, deviation = shift_logit_normal(0.0, 1.0, get_lin_function()(x.shape[1]))

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.1) at noise levels of Eq. (9.2)."""
        pool.refresh(step // args.renew)
        x_0, tokens = pool.batch(args.batch)
        t = logit_normal(mean, deviation, args.batch, device)
        return flow_loss(model, x_0, torch.randn_like(x_0), t, tokens)

    def evaluate(step: int) -> list[float]:
        paint_sheet(ema.module, ae, spec, steps=8).save(args.out / f"{step}.png")
        return [validation_loss(ema.module, x, tokens, mean, deviation), *loss_by_level(ema.module, x, tokens)]

    columns = ("held_out", *(f"t={level}" for level in LEVELS))
    steps = run.train(loss, evaluate, columns, warm_up=0.01)

    if accelerator.is_main_process:
        report = {"steps": steps, "seconds": round(run.clock.used), "processes": accelerator.num_processes}
        report["held_out_float"] = validation_loss(ema.module, x, tokens, mean, deviation)
        metadata = {key: str(value) for key, value in (report | {"seed": args.seed, "batch": args.batch}).items()}
        save_tiny(ema.module, args.out, metadata)
        load_saved(ema.module, args.out)  # what is looked at is what is shipped
        report["held_out_8bit"] = validation_loss(ema.module, x, tokens, mean, deviation)
        trainer.save_report(args.out / "flow.json", report)
        paint_sheet(ema.module, ae, spec, spec.num_steps).save(args.out / "sixteen.png")
    accelerator.end_training()


if __name__ == "__main__":
    main()
