"""Train text encoders and transformer together, from nothing: `python -m flux_edu.train.flow`. Eq. (9.1) to (9.3).

Pictures are encoded once and kept as latents on the device; a part of them is replaced now and then. A run can be
parted into legs: --leg ends one before the schedule is over, and the same command goes on where it ended.
"""

import json
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
from flux_edu.train.common import Average, compile_blocks, decayed, record, seed_of
from flux_edu.train.data import SIXTEEN, SIZE, Drawings, captions, draw_scenes, load_drawings, paint
from flux_edu.train.loop import Run, arguments
from flux_edu.train.muon import Muon

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)  # noise levels to tell the loss of
BLOCK = 2048  # latents that are made at once

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
    A pretrained T5 has learned its positions; one that begins from nothing needs this push. It is no promise: beside a
    CLIP that tells the order, a long run may leave T5 without it all the same (notebook 07).
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
    """Latents of compositions with the tokens of their captions, on the device, to draw batches from.

    They are a window on an endless list of blocks. Block r depends on the seed and on r alone, so that a run that is
    started again has the same ones.
    """

    def __init__(
        self,
        drawings: Drawings,
        ae: AutoEncoder,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        size: int,
        seed: tuple[int, ...],
    ):
        device = drawings.pixels.device
        self.drawings, self.ae, self.tokenizer, self.length, self.seed = drawings, ae, tokenizer, length, seed
        self.block = min(BLOCK, size)
        self.held: list[int | None] = [None] * (size // self.block)  # which block is where
        self.size = self.block * len(self.held)
        latents = 4 * ae.params.z_channels
        self.x = torch.empty(self.size, (SIZE // 16) ** 2, latents, dtype=torch.bfloat16, device=device)
        self.tokens = torch.empty(self.size, length, dtype=torch.int16, device=device)
        self.empty = self.encode_text([""])

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What `compose` makes, row by row."""
        return self.x, self.tokens

    def encode_text(self, texts: list[str]) -> Int[Tensor, "B L_txt"]:
        ids = self.tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")["input_ids"]
        return torch.tensor(ids, dtype=torch.int16).to(self.x.device)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        """n new latents with their tokens."""
        scenes = draw_scenes(self.drawings, n, seed, unseen=unseen)
        z = self.encode(paint(self.drawings, scenes))
        return patchify(z), self.encode_text(captions(self.drawings, scenes, seed))

    def encode(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """The autoencoder's latents, on a GPU by products in bfloat16."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
            return torch.cat([self.ae.encode(part) for part in pictures.split(1024)]).float()

    def turn(self, n: int) -> None:
        """Hold the blocks from n on; those that are there already stay where they are."""
        for r in range(n, n + len(self.held)):
            i = r % len(self.held)
            if self.held[i] != r:
                rows = slice(i * self.block, (i + 1) * self.block)
                for kept, new in zip(self.parts, self.compose(self.block, seed_of(*self.seed, r)), strict=True):
                    kept[rows] = new.to(kept.dtype)
                self.held[i] = r

    def batch(self, n: int, empty: float = 0.1) -> tuple[Tensor, ...]:
        """n entries at random; a share `empty` loses its caption, for two-pass guidance, Eq. (6.4)."""
        at = torch.randint(self.size, (n,), device=self.x.device)
        drop = torch.rand(n, 1, device=self.x.device) < empty
        x, tokens, *others = (part[at] for part in self.parts)
        return x.float(), torch.where(drop, self.empty, tokens).long(), *(each.float() for each in others)


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
