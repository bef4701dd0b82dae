"""Measure what the tiny models paint: `python docs/make/evaluate.py`, on a CPU with --quick.

Prompts are captions of combinations that no training step has seen, half of one object, half of two, each with its
style and its colour. Every configuration gets the same prompts and the same noise, so that two can be compared prompt
by prompt. Two judges look at the pictures: the trained one of `judge_model`, and the strict one of `nearest_drawing`,
where the drawings themselves are at hand. The trained one forgives blur, the strict one does not: read them together.
Before that both judge real pictures, and negatives made of them, to show how far they can be trusted.
With `--sizes` other sizes are painted too, few steps with three shifts of the schedule and four strengths of guidance.
Several GPUs share the prompts: `torchrun --nproc-per-node 2 docs/make/evaluate.py`.
"""

import argparse
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from asked_verdict import ROWS, asked_verdict
from eval_configs import SQUARE, EvalConfig, comparisons, eval_configs, size_configs
from jaxtyping import Bool, Float, UInt8
from nearest_drawing import NearestDrawing
from PIL import Image, ImageDraw, ImageFont
from reports import Right, score_table, write_reports
from torch import Tensor

from flux_edu.io import lora
from flux_edu.io.checkpoint import read
from flux_edu.io.device import autocast
from flux_edu.io.tiny import TINY_FOLDER, load_part
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.text import embed_empty
from flux_edu.train import trainer
from flux_edu.train.asked import (
    Asked,
    Catalogue,
    asked_captions,
    draw_asked,
    make_catalogue,
    render_asked,
)
from flux_edu.train.autoencoder import load_ae, round_trip
from flux_edu.train.data import (
    ABOVE,
    BESIDE,
    ONE,
    SIZE,
    Drawings,
    Scenes,
    captions,
    draw_scenes,
    load_drawings,
    render,
)
from flux_edu.train.distillation import build
from flux_edu.train.judge_model import JUDGE_FOLDER, load_classifier, verdict
from flux_edu.train.metrics import fine_detail

KINDS = ("English", "Chinese", "trained")  # of prompts; the last: combinations that training has seen

# ---------------------------------------------------------------- prompts


def prompt_scenes(
    drawings: Drawings, n: int, seed: int, unseen: bool = True, width: int = SIZE, height: int = SIZE
) -> Scenes:
    """n scenes, the first half with one object, the second with two; held-out combinations unless said otherwise."""
    one = draw_scenes(drawings, n // 2, seed, 0.0, unseen, width, height)
    two = draw_scenes(drawings, n - n // 2, seed + 1, 1.0, unseen, width, height)
    return Scenes.join([one, two])


def new_styles(drawings: Drawings, scenes: Scenes) -> Bool[np.ndarray, "n"]:
    """Which scenes are one thing in a style that training has never seen it in."""
    return (scenes.layout == ONE) & ~drawings.seen[0][scenes.drawing[:, 0]]


# ---------------------------------------------------------------- models and pictures


def load_generator(name: str, device: str | torch.device, weights: Path | None) -> FluxGenerator:
    """A model as it ships; files of the same name in the folder weights take the place of shipped ones."""
    generator = FluxGenerator(name, device)
    if not weights:
        return generator

    def path(file: str) -> Path:
        return next(folder / file for folder in (weights, Path(str(TINY_FOLDER))) if (folder / file).is_file())

    load_part(generator.t5.encoder, path("t5.safetensors"))
    load_part(generator.clip.encoder, path("clip.safetensors"))
    state, spec = read(path("flux.safetensors"), generator.device), generator.spec
    model = lora.with_delta(spec, state, read(path(spec.lora), generator.device), spec.lora) if spec.lora else None
    generator.model = (model or build(spec, state)).requires_grad_(False).eval()
    if (weights / "ae.safetensors").is_file():
        generator.ae = load_ae(weights / "ae.safetensors").to(generator.device)
    return generator


@torch.inference_mode()
def paint_prompts(
    generator: FluxGenerator, texts: list[str], noise: Float[Tensor, "B 16 h w"], config: EvalConfig, batch: int
) -> UInt8[Tensor, "B 3 H W"]:
    """One picture a prompt, each from its own noise, in 8 bits as the generator saves them.

    On a GPU products are taken in bfloat16; ids, rotations, noise levels and the sum of the steps stay in float32.
    """
    device, (width, height), timesteps = generator.device, config.size, config.timesteps()
    painted = []
    with autocast(device):
        uncond = embed_empty(generator.t5, generator.clip) if generator.spec.two_passes else None
        for i in range(0, len(texts), batch):
            inputs = prepare(generator.t5, generator.clip, noise[i : i + batch].to(device), texts[i : i + batch])
            x = denoise(generator.model, **inputs, timesteps=timesteps, guidance=config.guidance, uncond=uncond)
            pictures = generator.ae.decode(unpatchify(x, height, width)).float()
            painted.append(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(painted)


# ---------------------------------------------------------------- sheets to look at


def contact_sheet(pictures: UInt8[Tensor, "B 3 H W"], texts: list[str]) -> Image.Image:
    """The pictures in rows of eight, each with its text below it."""
    columns, under, font = 8, 58, ImageFont.load_default(size=11)
    height, width = pictures.shape[2:]
    page = Image.new("RGB", (columns * (width + 8), -(-len(texts) // columns) * (height + under)), "white")
    pen = ImageDraw.Draw(page)
    for i, (one, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = i % columns * (width + 8), i // columns * (height + under)
        page.paste(Image.fromarray(one.permute(1, 2, 0).numpy()), (x, y))
        lines = textwrap.wrap(text, 22 * width // SIZE)[:4]
        pen.text((x, y + height + 1), "\n".join(lines), fill="black", font=font, spacing=2)
    return page


def save_sheets(
    pictures: UInt8[Tensor, "B 3 H W"], texts: list[str], right: dict[str, np.ndarray], path: Path, seed: int
) -> None:
    """32 wrong ones at random, with what is wrong, the 32 least like their prompts, and the 32 most like them."""
    wrong = np.flatnonzero(~right["all"])
    order = np.argsort(right["likeness"], kind="stable")
    at_random = np.sort(np.random.default_rng(seed).permutation(wrong)[:32])
    for kind, rows in (("wrong", at_random), ("lowest", order[:32]), ("best", order[::-1][:32])):
        if len(rows):
            missed = ["+".join(k for k in ("object", "style", "colour", "position") if not right[k][i]) for i in rows]
            lines = [(f"[{m}] " if m else "") + texts[i] for i, m in zip(rows, missed, strict=True)]
            contact_sheet(pictures[torch.from_numpy(rows.copy())], lines).save(f"{path}-{kind}.png")


# ---------------------------------------------------------------- what the judges see


def resize(pictures: Float[Tensor, "B 3 H W"], width: int = SIZE, height: int = SIZE) -> Float[Tensor, "B 3 h w"]:
    """Stretched bilinearly, without aliases where it shrinks."""
    if pictures.shape[2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)


def as_square(pictures: Float[Tensor, "B 3 H W"], scenes: Scenes) -> Float[Tensor, "B 3 128 128"]:
    """What the judges look at. Of a picture that is not square it is the middle square, unless two things stand along
    the long side: then all of it, with the outermost pixels continued on both sides. Stretched to a square, no real
    picture of 256 × 128 is recognised."""
    height, width = pictures.shape[2:]
    if height == width:
        return resize(pictures)
    side, more_x, more_y = min(height, width), max(0, height - width) // 2, max(0, width - height) // 2
    top, left = (height - side) // 2, (width - side) // 2
    middle = resize(pictures[:, :, top : top + side, left : left + side])
    whole = resize(F.pad(pictures, (more_x, more_x, more_y, more_y), mode="replicate"))
    along = torch.from_numpy(scenes.layout == (BESIDE if width > height else ABOVE)).to(pictures.device)
    return torch.where(along[:, None, None, None], whole, middle)


def blurred(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Shrunk to 16 × 16 and stretched again: colours and outlines are left, and no thing that an eye could name."""
    height, width = pictures.shape[2:]
    return resize(resize(pictures, 16, 16), width, height)


# ---------------------------------------------------------------- the whole


class Evaluation:
    """Everything that all configurations share: models, judges, prompts and noise, in one of several processes."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.accelerator = args, trainer.start(args.seed, cpu=args.device == "cpu")
        device = self.device = torch.device(args.device or self.accelerator.device)
        self.n, self.seconds = args.prompts or (40 if args.quick else 4096), -time.monotonic()
        self.batch = args.batch or (1024 if device.type == "cuda" else 32)
        self.generators = {name: load_generator(name, device, args.weights) for name in args.models}
        self.classifier = load_classifier(JUDGE_FOLDER, device)
        self.nearest = self.load_nearest_drawing() if (args.data / "names.json").is_file() else None
        every = self.classifier.drawings
        self.scenes = {kind: prompt_scenes(every, self.n, args.seed, unseen=kind != "trained") for kind in KINDS}
        self.mine = np.arange(self.accelerator.process_index, self.n, self.accelerator.num_processes)
        args.out.mkdir(parents=True, exist_ok=True)

    def load_nearest_drawing(self) -> NearestDrawing:
        drawings, known = load_drawings(self.args.data).to(self.device), self.classifier.drawings
        if not np.array_equal(drawings.concept, known.concept) or drawings.names != known.names:
            raise SystemExit(
                f"{self.args.data} holds other drawings than the judge knows: train it again, or give no --data"
            )
        return NearestDrawing(drawings)

    def texts(self, kind: str) -> list[str]:
        """This process's prompts of a kind."""
        chinese = float(kind == "Chinese")
        every = captions(self.classifier.drawings, self.scenes[kind], self.args.seed, chinese, complete=True)
        return [every[i] for i in self.mine]

    def noise(self, size: tuple[int, int]) -> Float[Tensor, "B 16 h w"]:
        """What this process's pictures of a size start from, the same for all settings."""
        width, height = size
        every = get_noise(self.n, height, width, "cpu", torch.float32, self.args.seed)
        return every[torch.from_numpy(self.mine)]

    def verdicts(self, pictures: Callable[[slice], Tensor], scenes: Scenes) -> Right:
        """What both judges find right in pictures that are made, or taken, by some hundreds."""
        parts = []
        for i in range(0, len(scenes), 512):
            x, part = pictures(slice(i, i + 512)), scenes[i : i + 512]
            detail, small = fine_detail(x).cpu().numpy(), as_square(x, part)
            strict = self.nearest.verdict(small, part) if self.nearest else {}
            parts.append(verdict(self.classifier, small, part) | strict | {"fine detail": detail})
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def paint_all(e: Evaluation) -> Iterator[tuple[EvalConfig, UInt8[Tensor, "B 3 H W"]]]:
    """This process's share of the pictures of each configuration, one configuration after the other."""
    models = list(e.generators)
    for config in size_configs(models, e.args.sizes) if e.args.sizes else eval_configs(models, e.args.quick):
        area, noise = config.size[0] * config.size[1], e.noise(config.size)
        batch = max(1, e.batch * SIZE**2 // area)  # larger pictures, fewer at once
        yield config, paint_prompts(e.generators[config.model], e.texts(config.prompts), noise, config, batch)


def judge_all(e: Evaluation, painted: Iterable[tuple[EvalConfig, UInt8[Tensor, "B 3 H W"]]]) -> dict[EvalConfig, Right]:
    """What is right in the pictures of all processes, and sheets of those of the first, at each model's usual steps."""
    right: dict[EvalConfig, Right] = {}
    for config, pictures in painted:
        share = e.verdicts(lambda rows, x=pictures: x[rows].float() / 127.5 - 1, e.scenes[config.prompts][e.mine])
        is_first = (config.model, config.size) not in {(other.model, other.size) for other in right}
        if is_first and e.accelerator.is_main_process:
            path = e.args.out / f"{config.model}-{config.size[0]}x{config.size[1]}"
            save_sheets(pictures.cpu(), e.texts(config.prompts), share, path, e.args.seed)
        right[config] = gather(share, e.n)
        e.accelerator.print(f"{config}: {100 * right[config]['all'].mean():.1f} % all right", flush=True)
    return right


def judge_judges(e: Evaluation) -> list[dict]:
    """What both judges say of real pictures of held-out scenes: as they are, after the autoencoder, and of negatives.

    Of a right judge the first two are 100 %; blurred and exchanged pictures show how lenient it is.
    """
    if not e.nearest:
        e.accelerator.print(f"no drawings in {e.args.data}: only the trained judge looks, and only at paintings")
        return []
    ae = next(iter(e.generators.values())).ae
    changes = {"": lambda x: x, " after the autoencoder": partial(round_trip, ae, exact=False)}
    changes |= {" blurred to 16 × 16": blurred, " exchanged": partial(torch.roll, shifts=-1, dims=0)}  # wrong prompts
    sizes = e.args.sizes or [SQUARE]
    return [row for size in sizes for name, change in changes.items() for row in judge_real(e, size, name, change)]


def judge_real(e: Evaluation, size: tuple[int, int], name: str, change: Callable[[Tensor], Tensor]) -> list[dict]:
    """Rows of the table for real pictures of one size, changed in one way."""
    width, height = size
    scenes = prompt_scenes(e.classifier.drawings, e.n, e.args.seed + 500, width=width, height=height)

    def pictures(rows: slice) -> Tensor:
        return change(render(e.nearest.drawings, scenes[rows], width=width, height=height))

    title = f"real pictures{name}" + ("" if size == SQUARE else f", {width} × {height}")
    return score_table(title, e.verdicts(pictures, scenes), scenes)


def judge_asked(e: Evaluation) -> list[dict]:
    """Rows of what people ask for beyond the captions of scenes, each model as usual at 128 × 128.

    Only what both judges find right in the true picture is asked for: a white cloud on white has no region.
    """
    if not e.nearest:
        return []
    catalogue, rows, n = make_catalogue(e.nearest.drawings), [], max(4, e.n // 4)
    for kind, (measure, drawn, written) in ROWS.items():
        asked = draw_asked(catalogue, 2 * n, e.args.seed, **drawn)
        real = request_verdict(e, catalogue, render_asked(catalogue.drawings, asked), asked, measure)
        asked = asked[np.flatnonzero(real & (catalogue.countable[asked.drawing] | (measure != "count")))[:n]]
        texts = asked_captions(catalogue.drawings, asked, e.args.seed, **written)
        mine = np.arange(e.accelerator.process_index, len(asked), e.accelerator.num_processes)
        noise = get_noise(len(asked), SIZE, SIZE, "cpu", torch.float32, e.args.seed)[torch.from_numpy(mine)]
        for name, generator in e.generators.items():
            config = EvalConfig(name, generator.spec.num_steps, generator.spec.guidance, kind)
            pictures = paint_prompts(generator, [texts[i] for i in mine], noise, config, e.batch).float() / 127.5 - 1
            right = {measure: request_verdict(e, catalogue, pictures, asked[mine], measure)}
            right["fine detail"] = fine_detail(pictures).cpu().numpy()  # the judge lets blur pass
            rows += score_table(str(config), gather(right, len(asked)), asked.scenes())
    return rows


def request_verdict(
    e: Evaluation, catalogue: Catalogue, pictures: Float[Tensor, "B 3 H W"], asked: Asked, measure: str
) -> Bool[np.ndarray, "B"]:
    """Of one measure: the trained judge's object, or the number or colour of the regions."""
    if measure == "object":
        return verdict(e.classifier, pictures, asked.scenes())["object"]
    return asked_verdict(catalogue, pictures, asked)[measure]


def compare(right: dict[EvalConfig, Right], scenes: Scenes) -> list[dict]:
    """Rows of paired differences, one for each measure of each of `comparisons`."""
    pairs = comparisons(list(right))
    return [row for a, b in pairs for row in score_table(f"{a} − {b}", right[a], scenes, minus=right[b])]


def report(
    e: Evaluation, judges: list[dict], right: dict[EvalConfig, Right], asked: list[dict], differences: list[dict]
) -> None:
    """The tables on the screen and in files."""
    if e.accelerator.is_main_process:
        rows = [row for c, part in right.items() for row in score_table(str(c), part, e.scenes[c.prompts])]
        new = new_styles(e.classifier.drawings, e.scenes["English"])
        for config, part in right.items():
            if config.prompts == "English":
                only = {key: values[new] for key, values in part.items()}
                rows += score_table(f"{config}, style new to the thing", only, e.scenes["English"][new])
        about = {"prompts": e.n, "seed": e.args.seed, "device": str(e.device)}
        write_reports(e.args.out, judges + rows + asked, differences, about)
        print((e.args.out / "evaluate.md").read_text("utf-8"))
        print(f"{e.seconds + time.monotonic():.0f} s in all, written to {e.args.out}", flush=True)
    e.accelerator.end_training()


def gather(share: Right, n: int) -> Right:
    """Every process has looked at every P-th prompt; put together, all n are there in order."""
    from accelerate.utils import gather_object

    shares = gather_object([share])
    whole = {key: np.empty(n, x.dtype) for key, x in share.items()}
    for i, part in enumerate(shares):
        for key, x in part.items():
            whole[key][i :: len(shares)] = x
    return whole


def parse_size(text: str) -> tuple[int, int]:
    """ "256x128" → (256, 128); a token is 16 pixels."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or int(width) % 16 or int(height) % 16:
        raise argparse.ArgumentTypeError(f"{text}: expected WIDTHxHEIGHT in multiples of 16, such as 256x128")
    return int(width), int(height)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer prompts and configurations, for a CPU")
    parser.add_argument("--prompts", type=int, help="4096, or 40 with --quick")
    parser.add_argument("--models", nargs="+", default=["tiny", "tiny-dev", "tiny-schnell"])
    parser.add_argument("--sizes", nargs="+", type=parse_size, help="such as 96x96 256x128; with few steps by shift")
    parser.add_argument("--weights", type=Path, help="folder whose files take the place of shipped ones")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="all drawings, for the strict judge")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, help="pictures at once: 1024 on a GPU, 32 else")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    evaluation = Evaluation(parse())
    judges = judge_judges(evaluation)
    painted = paint_all(evaluation)
    right = judge_all(evaluation, painted)
    differences = compare(right, evaluation.scenes["English"])
    asked = [] if evaluation.args.sizes else judge_asked(evaluation)
    report(evaluation, judges, right, asked, differences)


if __name__ == "__main__":
    main()
