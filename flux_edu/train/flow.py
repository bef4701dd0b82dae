"""Train text encoders and transformer together, from nothing: `python -m flux_edu.train.flow`. Eq. (9.1) to (9.3).

Pictures are encoded once and kept as latents on the device; a part of them is replaced now and then. A run can be
parted into legs: --leg ends one before the schedule is over, and a run with the same --state goes on where it ended.
"""

import argparse
import csv
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.checkpoint import read, save_rows8
from flux_edu.configs import ModelSpec, configs
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.model import Flux
from flux_edu.patchify import PIXELS_PER_TOKEN, get_noise, make_img_ids, make_txt_ids, patchify, prepare, unpatchify
from flux_edu.pipeline import TINY_FOLDER, to_picture
from flux_edu.sampling import denoise
from flux_edu.schedule import get_lin_function, get_schedule, interpolate
from flux_edu.single_stream import LastLayer, SingleStreamBlock
from flux_edu.text import TextEmbedder, embed_empty, tiny_embedders
from flux_edu.train.autoencoder import PARTS, load_ae
from flux_edu.train.common import Average, Clock, compile_blocks, decayed, learning_rate, record, set_rate
from flux_edu.train.data import SIXTEEN, SIZE, Drawings, captions, draw_scenes, load_drawings, paint
from flux_edu.train.muon import Muon

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)  # noise levels to tell the loss of

# ---------------------------------------------------------------- the objective


def flow_loss(
    velocity: Callable[..., Tensor],
    x_0: Float[Tensor, "B ..."],
    noise: Float[Tensor, "B ..."],
    t: Float[Tensor, "B"],
    *condition,
) -> Float[Tensor, ""]:
    """Rectified flow: at a random point of the straight path, guess its direction.

    Eq. (9.1):  L = E ‖v_θ(x_t, t, c) - (ε - x_0)‖²,  x_t = (1 - t) x_0 + t ε

    A mean over all numbers. velocity is called with x_t, t and the condition. Liu et al., 2022; Esser et al., 2024.
    """
    x_t = interpolate(x_0, noise, t)
    return F.mse_loss(velocity(x_t, t, *condition).float(), noise - x_0)


def logit_normal(mean: float, deviation: float, n: int, device: torch.device | str = "cpu") -> Float[Tensor, "n"]:
    """Noise levels to train on, most of them in the middle, where guessing is hardest.

    Eq. (9.2):  logit t ~ N(a, c²),  that is t = 1 / (1 + e^-(a + c n)) with n ~ N(0, 1)
    """
    return torch.sigmoid(mean + deviation * torch.randn(n, device=device))


def shift_logit_normal(mean: float, deviation: float, mu: float, sigma: float = 1.0) -> tuple[float, float]:
    """What the schedule's shift, Eq. (1.3), makes of logit-normal noise levels: logit-normal ones again.

    Eq. (9.3):  (a, c) ↦ (μ + σ a, σ c)

    So training on shifted levels and shifting the levels of training are one thing.
    """
    return mu + sigma * mean, sigma * deviation


# ---------------------------------------------------------------- what is trained


class TextToVelocity(nn.Module):
    """T5, CLIP and Flux as one module: tokens of a caption and a noisy latent in, the velocity out."""

    def __init__(self, spec: ModelSpec, tokenizer_file: str | Path):
        super().__init__()
        t5, clip = tiny_embedders(tokenizer_file, spec.txt_tokens)
        self.t5, self.clip, self.flux = t5.encoder.train(), clip.encoder.train(), Flux(spec.params)
        side = SIZE // PIXELS_PER_TOKEN
        self.register_buffer("img_ids", make_img_ids(1, side, side), persistent=False)
        self.register_buffer("txt_ids", make_txt_ids(1, spec.txt_tokens), persistent=False)
        zero_start(self.flux)
        local_start(self.t5)

    def forward(
        self, x: Float[Tensor, "B L C"], t: Float[Tensor, "B"], tokens: Int[Tensor, "B L_txt"]
    ) -> Float[Tensor, "B L C"]:
        # bfloat16 for the products on a GPU only; t, ids and rotations stay float32 as they are, autocast or not
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            txt = self.t5(input_ids=tokens).last_hidden_state
            vec = self.clip(input_ids=tokens).pooler_output
            img_ids, txt_ids = self.img_ids.expand(len(x), -1, -1), self.txt_ids.expand(len(x), -1, -1)
            return self.flux(x, img_ids, txt, txt_ids, t, vec)

    def record(self, batch: int) -> None:
        """For training on a GPU: compile all three networks, and replay the transformer as a CUDA graph."""
        self.t5.compile(dynamic=False)
        self.clip.compile(dynamic=False)
        compile_blocks(self.flux, DoubleStreamBlock, SingleStreamBlock, LastLayer)
        p, device = self.flux.params, self.img_ids.device
        img_ids, txt_ids = (ids.repeat(batch, 1, 1) for ids in (self.img_ids, self.txt_ids))
        img = torch.randn(*img_ids.shape[:2], p.in_channels, device=device)
        txt = torch.randn(*txt_ids.shape[:2], p.context_in_dim, device=device, requires_grad=True)
        vec = torch.randn(batch, p.vec_in_dim, device=device, requires_grad=True)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            record(self.flux, img, img_ids, txt, txt_ids, torch.rand(batch, device=device), vec)

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of the blocks of all three networks: what Muon is for."""
        inside = ("_blocks.", ".block.", ".layers.")
        return [
            p
            for name, p in self.named_parameters()
            if p.ndim == 2 and any(part in name for part in inside) and "relative_attention_bias" not in name
        ]

    def embedders(self, tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[TextEmbedder, TextEmbedder]:
        """The two encoders as the sampler wants them."""
        return TextEmbedder(self.t5, tokenizer, length), TextEmbedder(self.clip, tokenizer, length)


def zero_start(model: Flux) -> None:
    """Every modulation and the last layer start at zero: each block then passes its input on, and the guess is 0."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("_mod.lin", "modulation.", "adaLN", "final_layer.linear")):
            nn.init.zeros_(parameter)


@torch.no_grad()
def local_start(t5: T5EncoderModel) -> None:
    """T5's heads start by looking at their neighbours, every other head to the left, every other to the right.

    Left as transformers draws it, the position bias is so small that every token sees the whole text alike, padding
    included, and training never leaves that: the encoder stays a bag of words (`flux_edu.train.order` measures it).
    A pretrained T5 has learned its positions; one that begins from nothing needs this push.
    """
    table = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # buckets × heads
    half, heads = len(table) // 2, table.shape[1]
    away = torch.arange(len(table)) % half  # the distance in tokens; T5 counts far ones on a log scale
    after = torch.arange(len(table)) >= half  # whether the other token stands to the right
    for head in range(heads):
        slope = 1.0 if head < heads / 2 else 0.35
        other_side = (after != (head % 2 == 0)) & (away > 0)
        table[:, head] = -slope * away - 4.0 * other_side


class Pool:
    """Latents of many compositions with the tokens of their captions, on the device, to draw batches from."""

    def __init__(self, drawings: Drawings, ae: AutoEncoder, tokenizer: PreTrainedTokenizerBase, length: int, size: int):
        device = drawings.pixels.device
        self.drawings, self.ae, self.tokenizer, self.length, self.size = drawings, ae, tokenizer, length, size
        latents = 4 * ae.params.z_channels
        self.x = torch.empty(size, (SIZE // 16) ** 2, latents, dtype=torch.bfloat16, device=device)
        self.tokens = torch.empty(size, length, dtype=torch.int16, device=device)
        self.empty = self.encode_text([""])

    def encode_text(self, texts: list[str]) -> Int[Tensor, "B L_txt"]:
        ids = self.tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")["input_ids"]
        return torch.tensor(ids, dtype=torch.int16).to(self.x.device)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, Tensor]:
        """n new latents with their tokens."""
        scenes = draw_scenes(self.drawings, n, seed, unseen=unseen)
        pictures = paint(self.drawings, scenes).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
            z = self.ae.encode(pictures)
        return patchify(z.float()), self.encode_text(captions(self.drawings, scenes, seed))

    def refill(self, start: int, count: int, seed: int, part: int = 1024) -> None:
        """Replace count entries from start on, going round at the end."""
        for i in range(0, count, part):
            at = (start + i) % self.size
            x, tokens = self.compose(min(part, self.size - at), seed + i)
            self.x[at : at + len(x)], self.tokens[at : at + len(x)] = x.bfloat16(), tokens

    def batch(self, n: int, empty: float = 0.1) -> tuple[Float[Tensor, "n L C"], Int[Tensor, "n L_txt"]]:
        """n entries at random; a share `empty` loses its caption, for two-pass guidance, Eq. (6.4)."""
        at = torch.randint(self.size, (n,), device=self.x.device)
        drop = torch.rand(n, 1, device=self.x.device) < empty
        return self.x[at].float(), torch.where(drop, self.empty, self.tokens[at]).long()


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
        save_rows8(state, folder / f"{name}.safetensors", noted)


def load_saved(model: TextToVelocity, folder: Path) -> None:
    """The weights that `save_tiny` wrote, into a model of the same shape."""
    for name, part in (("t5", model.t5), ("clip", model.clip), ("flux", model.flux)):
        state = read(folder / f"{name}.safetensors")
        if name == "t5":
            state["encoder.embed_tokens.weight"] = state["shared.weight"]
        part.load_state_dict(state)


# ---------------------------------------------------------------- training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji"))
    parser.add_argument("--ae", type=Path, default=Path("runs/autoencoder/ae.safetensors"))
    parser.add_argument("--tokenizer", type=Path, default=Path(str(TINY_FOLDER / "tokenizer.json")))
    parser.add_argument("--out", type=Path, default=Path("runs/flow"))
    parser.add_argument("--state", type=Path, help="folder to go on from and to leave the whole state in")
    parser.add_argument("--start", type=Path, help="folder of 8-bit weights to begin from instead of from nothing")
    parser.add_argument("--seconds", type=float, default=1200, help="time of the schedule, without compiling")
    parser.add_argument("--leg", type=float, default=math.inf, help="end this leg so many seconds after its start")
    parser.add_argument("--last", action="store_true", help="fit the rest of the schedule into this leg")
    parser.add_argument("--batch", type=int, default=512, help="latents a process and step")
    parser.add_argument("--pool", type=int, default=131072, help="latents a process keeps")
    parser.add_argument("--renew", type=int, default=100, help="steps after which 2,048 of them are replaced")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--muon", type=float, default=0.0, help="rate of Muon for the blocks' matrices; 0: AdamW alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps at the latest")
    parser.add_argument("--report", type=int, default=250, help="steps between two lines of the log")
    args = parser.parse_args()

    accelerator = Accelerator()
    clock = Clock(accelerator, args.seconds)
    device, rank, spec = accelerator.device, accelerator.process_index, configs["tiny"]
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = TextToVelocity(spec, args.tokenizer).to(device)
    if args.start:
        load_saved(model, args.start)
    average = Average(model, decay=0.9995)
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
    model, *prepared = accelerator.prepare(model, *optimizers)
    rates = dict(zip(prepared, optimizers.values(), strict=True))
    accelerator.register_for_checkpointing(average, clock)
    if args.state and args.state.is_dir():
        accelerator.load_state(str(args.state))
        accelerator.print(f"going on at step {clock.step}, {clock.before:.0f} s", flush=True)
    torch.manual_seed(args.seed + 1000 * rank + clock.step)  # every process and leg draws its own noise

    begin = time.monotonic()
    pool = Pool(drawings, ae, tokenizer, spec.txt_tokens, args.pool)
    pool.refill(0, args.pool, seed=(args.seed + 1) * 10**9 + rank * 10**8 + clock.step * 1000)
    held = [pool.compose(min(1024, args.pool), seed=10 + i, unseen=True) for i in range(2)]
    held = torch.cat([x for x, _ in held]), torch.cat([tokens for _, tokens in held]).long()
    accelerator.print(f"a pool of {args.pool} latents a process in {time.monotonic() - begin:.0f} s", flush=True)

    # the schedule of sampling shifts noise levels by μ(L), so training draws them shifted likewise, Eq. (9.3)
    mean, deviation = shift_logit_normal(0.0, 1.0, get_lin_function()(pool.x.shape[1]))
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "log.csv").open("a", newline="") if accelerator.is_main_process else None
    total, warm, last = torch.zeros((), device=device), clock.step + 10, None
    while (progress := clock.progress()) < 1 and clock.wall < args.leg and clock.step <= args.steps:
        for optimizer, rate in rates.items():
            set_rate(optimizer, learning_rate(progress, rate, warm_up=0.01))
        x_0, tokens = pool.batch(args.batch)
        t = logit_normal(mean, deviation, args.batch, device)
        loss = flow_loss(model, x_0, torch.randn_like(x_0), t, tokens)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in rates:
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        total += loss.detach()
        if clock.step == warm:  # compiled by now: the clock starts here
            clock.restart()
            last = (clock.step, time.monotonic())
            if args.last:
                clock.seconds = clock.used + args.leg - clock.wall
        if clock.step % args.renew == 0:
            pool.refill(clock.step // args.renew * 2048, 2048, seed=10**10 + rank * 10**9 + clock.step * 100)
        if clock.step % args.report == 0 and last and log:
            now = time.monotonic()
            ms = 1000 * (now - last[1]) / max(1, clock.step - last[0])
            last, value = (clock.step, now), total.item() / args.report
            look = clock.step % (4 * args.report) == 0
            held_loss = validation_loss(average.module, *held, mean, deviation) if look else None
            row = [clock.step, round(clock.used), round(value, 5), held_loss and round(held_loss, 5), round(ms, 2)]
            csv.writer(log).writerow(row)
            if look:
                levels = [round(value, 5) for value in loss_by_level(average.module, *held)]
                with (args.out / "levels.csv").open("a", newline="") as file:
                    csv.writer(file).writerow([clock.step, *levels])
                paint_sheet(average.module, ae, tokenizer, SIXTEEN, spec, steps=8).save(args.out / f"{clock.step}.png")
            log.flush()
            print("step {} {} s loss {} held-out {} {} ms/step".format(*row), flush=True)
            if not math.isfinite(value):
                raise FloatingPointError("the loss is not a number any more; try a smaller --rate")
        if clock.step % args.report == 0:
            total.zero_()

    if args.state:
        half = args.state.with_name(args.state.name + ".part")
        accelerator.save_state(str(half))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(args.state, ignore_errors=True)
            half.rename(args.state)
    if accelerator.is_main_process:
        painter = average.module
        report = {"steps": clock.step, "seconds": round(clock.used), "processes": accelerator.num_processes}
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
        (args.out / "unseen.txt").write_text("\n".join(texts))
    accelerator.end_training()


if __name__ == "__main__":
    main()
