"""Measure what the tiny models paint: `python -m flux_edu.train.evaluate`, with --quick in minutes on a CPU.

Prompts are captions of combinations that no training step has seen, half of one object, half of two, each with its
style and its colour. Every configuration gets the same prompts and the same noise, so that two can be compared prompt
by prompt. Two judges look at the pictures: the trained one of `judge_model`, and the strict one of `nearest_drawing`,
where the drawings themselves are at hand. The trained one forgives blur, the strict one does not: read them together.
Before that both judge real pictures, to show how far they can be trusted.
Several GPUs share the prompts: `torchrun --nproc-per-node 2 -m flux_edu.train.evaluate`.
"""

import argparse
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flux_edu.configs import configs
from flux_edu.io.device import autocast
from flux_edu.io.tiny import load_part
from flux_edu.patchify import get_noise, patchify, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty
from flux_edu.train import trainer
from flux_edu.train.autoencoder import load_ae, round_trip
from flux_edu.train.data import (
    COLOURS,
    ONE,
    SIZE,
    STYLES,
    Drawings,
    Scenes,
    caption_chinese,
    caption_english,
    draw_scenes,
    join_scenes,
    load_drawings,
    render,
)
from flux_edu.train.judge_model import JUDGE_FOLDER, load_classifier, verdict
from flux_edu.train.metrics import Right, difference_table, score_table, write_reports
from flux_edu.train.nearest_drawing import NearestDrawing

KINDS = ("English", "Chinese", "trained")  # of prompts; the last: combinations that training has seen

# ---------------------------------------------------------------- prompts


def prompt_scenes(drawings: Drawings, n: int, seed: int, unseen: bool = True) -> Scenes:
    """n scenes, the first half with one object, the second with two; held-out combinations unless said otherwise."""
    one = draw_scenes(drawings, n // 2, seed, pairs=0.0, unseen=unseen)
    two = draw_scenes(drawings, n - n // 2, seed + 1, pairs=1.0, unseen=unseen)
    return join_scenes([one, two])


def prompts(drawings: Drawings, scenes: Scenes, seed: int, chinese: bool = False) -> list[str]:
    """The captions of `data.captions`, but always with style and background, first names only, in one language.

    The seed decides which of two things is named first, alike in both languages.
    """
    turned = np.random.default_rng(seed).random(len(scenes)) < 0.3
    colours, texts = list(COLOURS), []
    for i in range(len(scenes)):
        entries = [drawings.names[drawings.concept[k]] for k in scenes.drawing[i]]
        styles: list[str | None] = [STYLES[drawings.style[k]] for k in scenes.drawing[i]]
        layout = int(scenes.layout[i])
        swap = bool(turned[i]) and layout != ONE
        if layout != ONE and styles[0] == styles[1]:
            styles[0 if swap else 1] = None  # one style for both is said once
        names = [entry["zh"] if chinese else entry["en"][0] for entry in entries]
        write = caption_chinese if chinese else caption_english
        texts.append(write(layout, colours[scenes.colour[i]], *zip(styles, names, strict=True), turned=swap))
    return texts


# ---------------------------------------------------------------- what is painted


@dataclass(frozen=True)
class EvalConfig:
    """Who paints, in how many steps, how strongly guided, from which prompts."""

    model: str
    steps: int
    guidance: float
    prompts: str = "English"

    def __str__(self) -> str:
        return f"{self.model}, {self.steps} steps, w = {self.guidance:g}, {self.prompts}"


def eval_configs(models: list[str], quick: bool) -> list[EvalConfig]:
    """What is painted; the first one of each model is the usual one, which the others are compared with."""
    chosen: list[EvalConfig] = []
    for name in models:
        spec = configs[name]
        w, usual = spec.guidance, spec.num_steps
        other_steps = (8, 4, 1) if quick else (8, 4, 2, 1)
        steps = [usual] + [s for s in other_steps if s != usual]
        if spec.lora and quick:
            steps = [usual]
        chosen += [EvalConfig(name, s, w) for s in steps]
        if w > 0 and not quick:
            chosen += [EvalConfig(name, usual, other) for other in (1.5, 2.0, 5.0)]
        if not (spec.lora and quick):
            chosen += [EvalConfig(name, usual, w, "Chinese")]
        if not spec.lora and not quick:  # the same of combinations that were trained on
            chosen += [EvalConfig(name, usual, w, "trained")]
    return chosen


def comparisons(chosen: list[EvalConfig]) -> list[tuple[EvalConfig, EvalConfig]]:
    """Which settings are held against each other: one thing changes at a time, dev and schnell against the base."""
    first = {one.model: one for one in reversed(chosen)}
    pairs = [(one, first[one.model]) for one in chosen if one != first[one.model] and one.prompts != "trained"]
    if base := first.get("tiny"):
        for one in chosen:
            if one.model == "tiny-dev" and one.prompts == "English":
                pairs += [(one, EvalConfig("tiny", one.steps, one.guidance))]
            if one.model == "tiny-schnell" and one.prompts == "English":
                pairs += [(one, base)]
    return [(one, other) for one, other in pairs if other in chosen]


# ---------------------------------------------------------------- models and pictures


def load_generator(name: str, device: str | torch.device, weights: Path | None) -> FluxGenerator:
    """A model as it ships; files of the same name in the folder weights take the place of shipped ones."""
    generator = FluxGenerator(name, device)
    parts = {"t5": generator.t5.encoder, "clip": generator.clip.encoder, "flux": generator.model}
    for file, part in parts.items():
        if weights and (weights / f"{file}.safetensors").is_file():
            load_part(part, weights / f"{file}.safetensors")
    if weights and (weights / "ae.safetensors").is_file():
        generator.ae = load_ae(weights / "ae.safetensors").to(generator.device)
    return generator


@torch.inference_mode()
def paint_prompts(
    generator: FluxGenerator, texts: list[str], noise: Float[Tensor, "B 16 h w"], config: EvalConfig, batch: int
) -> UInt8[Tensor, "B 3 H W"]:
    """One picture a prompt, each from its own noise, in 8 bits as the generator saves them.

    On a GPU products are taken in bfloat16; ids, rotations, noise levels and the sum of the steps stay in float32.
    """
    device, spec, (h, w) = generator.device, generator.spec, noise.shape[2:]
    timesteps = get_schedule(config.steps, patchify(noise).shape[1], shift=spec.shift)
    painted = []
    with autocast(device):
        uncond = embed_empty(generator.t5, generator.clip, 1) if spec.two_passes else None
        for i in range(0, len(texts), batch):
            inputs = prepare(generator.t5, generator.clip, noise[i : i + batch].to(device), texts[i : i + batch])
            x = denoise(generator.model, **inputs, timesteps=timesteps, guidance=config.guidance, uncond=uncond)
            pictures = generator.ae.decode(unpatchify(x, 8 * h, 8 * w)).float()
            painted.append(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(painted)


def as_numbers(pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    return pictures.float() / 127.5 - 1


# ---------------------------------------------------------------- sheets to look at


def contact_sheet(pictures: UInt8[Tensor, "B 3 128 128"], texts: list[str], columns: int = 8) -> Image.Image:
    """The pictures in rows, each with its text below it."""
    under, font = 58, ImageFont.load_default(size=11)
    height = SIZE + under
    page = Image.new("RGB", (columns * (SIZE + 8), -(-len(texts) // columns) * height), "white")
    pen = ImageDraw.Draw(page)
    for i, (one, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = i % columns * (SIZE + 8), i // columns * height
        page.paste(Image.fromarray(one.permute(1, 2, 0).numpy()), (x, y))
        pen.text((x, y + SIZE + 1), "\n".join(textwrap.wrap(text, 22)[:4]), fill="black", font=font, spacing=2)
    return page


def save_sheets(
    pictures: UInt8[Tensor, "B 3 128 128"], texts: list[str], right: dict[str, np.ndarray], path: Path, seed: int
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


# ---------------------------------------------------------------- the whole


class Evaluation:
    """Everything that all configurations share: prompts, noise, generators and judges, in one of several processes."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.accelerator = args, trainer.start(args.seed, cpu=args.device == "cpu")
        self.device = torch.device(args.device or self.accelerator.device)
        self.n, gpu = args.prompts or (40 if args.quick else 4096), self.device.type == "cuda"
        self.batch, self.seconds = args.batch or (1024 if gpu else 32), -time.monotonic()
        self.generators = self.load_generators()
        self.classifier = load_classifier(JUDGE_FOLDER, self.device)
        self.nearest = self.load_nearest_drawing()
        every = self.classifier.drawings
        self.scenes = {kind: prompt_scenes(every, self.n, args.seed, unseen=kind != "trained") for kind in KINDS}
        self.texts = {kind: prompts(every, self.scenes[kind], args.seed, kind == "Chinese") for kind in KINDS}
        self.noise = get_noise(self.n, SIZE, SIZE, "cpu", torch.float32, args.seed)
        self.mine = np.arange(self.accelerator.process_index, self.n, self.accelerator.num_processes)
        args.out.mkdir(parents=True, exist_ok=True)

    def load_generators(self) -> dict[str, FluxGenerator]:
        generators = {}
        for name in self.args.models:
            try:
                generators[name] = load_generator(name, self.device, self.args.weights)
            except (FileNotFoundError, ValueError) as error:  # not trained, or no such model yet
                self.accelerator.print(f"{name} is left out: {error}", flush=True)
        if not generators:
            raise SystemExit("no model to look at")
        return generators

    def load_nearest_drawing(self) -> NearestDrawing | None:
        """The strict judge, where all drawings are at hand."""
        folder = self.args.data
        if not (folder / "names.json").is_file():
            message = f"no drawings in {folder}: only the trained judge looks, and only at paintings"
            self.accelerator.print(message, flush=True)
            return None
        drawings, known = load_drawings(folder).to(self.device), self.classifier.drawings
        if not np.array_equal(drawings.concept, known.concept) or drawings.names != known.names:
            raise SystemExit(f"{folder} holds other drawings than the judge knows: train it again, or give no --data")
        return NearestDrawing(drawings)

    def verdict(self, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> Right:
        """What both judges find right."""
        strict = self.nearest.verdict(pictures, scenes) if self.nearest else {}
        return verdict(self.classifier, pictures, scenes) | strict


def paint_all(evaluation: Evaluation) -> Iterator[tuple[EvalConfig, UInt8[Tensor, "B 3 H W"]]]:
    """This process's share of the pictures of each configuration, one configuration after the other."""
    e = evaluation
    for config in eval_configs(list(e.generators), e.args.quick):
        texts, noise = [e.texts[config.prompts][i] for i in e.mine], e.noise[torch.from_numpy(e.mine)]
        yield config, paint_prompts(e.generators[config.model], texts, noise, config, e.batch)


def judge_all(
    evaluation: Evaluation, painted: Iterator[tuple[EvalConfig, UInt8[Tensor, "B 3 H W"]]]
) -> dict[EvalConfig, Right]:
    """What is right in the pictures of all processes, and sheets of those of the first, at each model's usual steps."""
    e, right = evaluation, {}
    for config, pictures in painted:
        scenes, texts = e.scenes[config.prompts][e.mine], [e.texts[config.prompts][i] for i in e.mine]
        parts = [slice(i, i + 512) for i in range(0, len(scenes), 512)]
        share = joined([e.verdict(as_numbers(pictures[rows]), scenes[rows]) for rows in parts])
        if config.model not in {other.model for other in right} and e.accelerator.is_main_process:
            save_sheets(pictures.cpu(), texts, share, e.args.out / config.model, e.args.seed)
        right[config] = gather(share, e.n)
        rows = score_table(str(config), right[config], e.scenes[config.prompts])
        shares = ", ".join(f"{r['objects']} {r['measure']} {100 * r['share']:.1f}" for r in rows)
        e.accelerator.print(f"{config}: {shares}", flush=True)
    return right


def judge_judges(evaluation: Evaluation) -> list[dict]:
    """How right both judges are on real pictures of held-out scenes, as they are and after the autoencoder."""
    e = evaluation
    if not e.nearest:
        return []
    scenes, ae = prompt_scenes(e.classifier.drawings, e.n, e.args.seed + 500), next(iter(e.generators.values())).ae
    real, decoded = [], []
    for i in range(0, e.n, 512):
        part = scenes[i : i + 512]
        pictures = render(e.nearest.drawings, part)
        real.append(e.verdict(pictures, part))
        with autocast(e.device):
            decoded.append(e.verdict(round_trip(ae, pictures), part))
    rows = score_table("real pictures", joined(real), scenes)
    return rows + score_table("real pictures after the autoencoder", joined(decoded), scenes)


def compare(right: dict[EvalConfig, Right], scenes: Scenes) -> list[dict]:
    """Rows of paired differences, one for each measure of each of `comparisons`."""
    pairs = comparisons(list(right))
    return [row for a, b in pairs for row in difference_table(f"{a} − {b}", right[a], right[b], scenes)]


def report(evaluation: Evaluation, judges: list[dict], right: dict[EvalConfig, Right], differences: list[dict]) -> None:
    """The tables on the screen and in files."""
    e = evaluation
    if e.accelerator.is_main_process:
        rows = [row for c, part in right.items() for row in score_table(str(c), part, e.scenes[c.prompts])]
        about = {"prompts": e.n, "seed": e.args.seed, "device": str(e.device)}
        write_reports(e.args.out, judges + rows, differences, about)
        print((e.args.out / "evaluate.md").read_text("utf-8"))
        print(f"{e.seconds + time.monotonic():.0f} s in all, written to {e.args.out}", flush=True)
    e.accelerator.end_training()


def joined(parts: list[Right]) -> Right:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def gather(share: Right, n: int) -> Right:
    """Every process has looked at every P-th prompt; put together, all n are there in order."""
    from accelerate.utils import gather_object

    shares = gather_object([share])
    whole = {key: np.empty(n, x.dtype) for key, x in share.items()}
    for i, part in enumerate(shares):
        for key, x in part.items():
            whole[key][i :: len(shares)] = x
    return whole


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer prompts and configurations, for a CPU")
    parser.add_argument("--prompts", type=int, help="4096, or 40 with --quick")
    parser.add_argument("--models", nargs="+", default=["tiny", "tiny-dev", "tiny-schnell"])
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
    report(evaluation, judges, right, compare(right, evaluation.scenes["English"]))


if __name__ == "__main__":
    main()
