"""Train text encoders and transformer together, from nothing: `python -m flux_edu.train.flow`. Eq. (9.1) to (9.3).

Pictures are encoded once and kept as latents on the device; a part of them is replaced now and then. A run can be
parted into legs: --leg ends one before the schedule is over, and the same command goes on where it ended.
"""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, configs
from flux_edu.io.checkpoint import read, save_int8
from flux_edu.io.images import to_picture
from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.sampling import denoise
from flux_edu.schedule import get_lin_function, get_schedule
from flux_edu.text import embed_empty
from flux_edu.train.autoencoder import PARTS, load_ae
from flux_edu.train.common import Average, compile_blocks, decayed
from flux_edu.train.data import SIXTEEN, SIZE, captions, draw_scenes, load_drawings
from flux_edu.train.latent_pool import Pool
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import flow_loss, logit_normal, shift_logit_normal
from flux_edu.train.text_to_velocity import TextToVelocity
from flux_edu.train.trainer import Run, arguments

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)  # noise levels to tell the loss of

# ---------------------------------------------------------------- the objective


# ---------------------------------------------------------------- what is trained


# ---------------------------------------------------------------- looking at it


@torch.no_grad()
def validation_loss(model: TextToVelocity, x: Tensor, tokens: Tensor, mean: float, deviation: float) -> float:
    """Eq. (9.1) on held-out combinations with noise and noise levels that are the same every time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    t = torch.sigmoid(mean + deviation * torch.randn(len(x), generator=generator)).to(x.device)
    rows = zip(x.split(512), noise.split(512), t.split(512), tokens.split(512), strict=True)
    return sum(float(flow_loss(model, *part)) * len(part[0]) for part in rows) / len(x)


@torch.no_grad()
def loss_by_level(model: TextToVelocity, x: Tensor, tokens: Tensor) -> list[float]:
    """Eq. (9.1) at each of `LEVELS` apart, on the first 512 of these latents."""
    x, tokens = x[:512], tokens[:512]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    return [float(flow_loss(model, x, noise, x.new_full((len(x),), t), tokens)) for t in LEVELS]


@torch.inference_mode()
def sheet(ae: AutoEncoder, x: Float[Tensor, "B L C"]) -> Image.Image:
    """The pictures of these latents, four in a row."""
    pictures = ae.decode(unpatchify(x, SIZE, SIZE))
    blank = pictures.new_ones(-len(pictures) % 4, *pictures.shape[1:])
    return to_picture(rearrange(torch.cat([pictures, blank]), "(r c) k h w -> k (r h) (c w)", c=4))


def paint_sheet(
    model: TextToVelocity,
    ae: AutoEncoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | tuple[str, ...],
    spec: ModelSpec,
    seed: int = 0,
    steps: int = 28,
    guidance: float = 3.0,
) -> Image.Image:
    """The prompts' pictures on one sheet, four in a row, all from the same noise, as the generator paints them."""
    t5, clip = model.embedders(tokenizer, spec.txt_tokens)
    device = next(model.parameters()).device
    with torch.inference_mode():
        inputs = prepare(t5, clip, get_noise(1, SIZE, SIZE, device, torch.float32, seed), list(prompts))
        timesteps = get_schedule(steps, inputs["img"].shape[1], shift=spec.shift)
        uncond = embed_empty(t5, clip, 1)
        x = denoise(model.flux, **inputs, timesteps=timesteps, guidance=guidance, uncond=uncond)
        return sheet(ae, x)


def save_tiny(model: TextToVelocity, folder: Path, noted: dict[str, str]) -> None:
    """t5, clip and flux as the package ships them: 8 bits a number, the tied embedding once."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("t5", model.t5), ("clip", model.clip), ("flux", model.flux)):
        state = {key: x for key, x in part.state_dict().items() if key != "encoder.embed_tokens.weight"}
        save_int8(state, folder / f"{name}.safetensors", noted)


def load_saved(model: TextToVelocity, folder: Path) -> None:
    """The weights that `save_tiny` wrote, into a model of the same shape."""
    for name, part in (("t5", model.t5), ("clip", model.clip), ("flux", model.flux)):
        state = read(folder / f"{name}.safetensors")
        if name == "t5":
            state["encoder.embed_tokens.weight"] = state["shared.weight"]
        part.load_state_dict(state)


# ---------------------------------------------------------------- training


def main() -> None:
    parser = arguments(__doc__, out="runs/flow", seconds=900, batch=512, rate=1e-3)
    parser.add_argument("--ae", type=Path, default=Path("runs/autoencoder/ae.safetensors"))
    parser.add_argument("--tokenizer", type=Path, default=Path(str(TINY_FOLDER / "tokenizer.json")))
    parser.add_argument("--start", type=Path, help="folder of 8-bit weights to begin from instead of from nothing")
    parser.add_argument("--pool", type=int, default=65536, help="latents a process keeps")
    parser.add_argument("--renew", type=int, default=25, help="steps after which 2,048 of them are replaced")
    parser.add_argument("--muon", type=float, default=3e-3, help="rate of Muon, for blocks' matrices; 0: AdamW alone")
    args = parser.parse_args()

    accelerator = Accelerator()
    device, rank, spec = accelerator.device, accelerator.process_index, configs["tiny"]
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = TextToVelocity(spec, args.tokenizer).to(device)
    if args.start:
        load_saved(model, args.start)
    average = Average(model, decay=0.9995)
    painter = average.module
    tokenizer = tiny_embedders(args.tokenizer, spec.txt_tokens)[0].tokenizer
    ae = load_ae(args.ae).to(device, memory_format=torch.channels_last)
    drawings = load_drawings(args.data).to(device)
    if device.type == "cuda":
        model.record(args.batch)
        compile_blocks(ae, *PARTS)
    hidden = {id(p) for p in model.matrices()} if args.muon else set()
    others = [group | {"params": [p for p in group["params"] if id(p) not in hidden]} for group in decayed(model, 0.01)]
    optimizers = {torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), fused=True): args.rate}
    if args.muon:
        optimizers[Muon(model.matrices(), lr=0.0)] = args.muon
    run = Run(args, accelerator, model, average, optimizers)

    accelerator.print(f"making {args.pool} latents a process", flush=True)
    pool = Pool(drawings, ae, tokenizer, spec.txt_tokens, args.pool, (args.seed, rank))
    pool.turn(run.clock.step // args.renew)
    x, tokens = pool.compose(pool.block, seed=10, unseen=True)
    held = x, tokens.long()
    # the schedule of sampling shifts noise levels by μ(L), so training draws them shifted likewise, Eq. (9.3)
    mean, deviation = shift_logit_normal(0.0, 1.0, get_lin_function()(x.shape[1]))

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.1) at noise levels of Eq. (9.2)."""
        pool.turn(step // args.renew)
        x_0, tokens = pool.batch(args.batch)
        t = logit_normal(mean, deviation, args.batch, device)
        return flow_loss(model, x_0, torch.randn_like(x_0), t, tokens)

    def look(step: int) -> list[float]:
        paint_sheet(painter, ae, tokenizer, SIXTEEN, spec, steps=8).save(args.out / f"{step}.png")
        return [validation_loss(painter, *held, mean, deviation), *loss_by_level(painter, *held)]

    columns = ("held_out", *(f"t={level}" for level in LEVELS))
    steps = run.train(loss, look, columns, warm_up=0.01)

    if accelerator.is_main_process:
        report = {"steps": steps, "seconds": round(run.clock.used), "processes": accelerator.num_processes}
        report["held_out_float"] = validation_loss(painter, *held, mean, deviation)
        noted = {key: str(value) for key, value in (report | {"seed": args.seed, "batch": args.batch}).items()}
        save_tiny(painter, args.out, noted)
        load_saved(painter, args.out)  # what is looked at is what is shipped
        report["held_out_8bit"] = validation_loss(painter, *held, mean, deviation)
        (args.out / "flow.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
        paint_sheet(painter, ae, tokenizer, SIXTEEN, spec).save(args.out / "sixteen.png")
        unseen = draw_scenes(drawings, 16, seed=77, unseen=True)
        texts = captions(drawings, unseen, seed=77, chinese=0)
        paint_sheet(painter, ae, tokenizer, texts, spec).save(args.out / "unseen.png")
        (args.out / "unseen.txt").write_text("\n".join(texts), "utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    main()
