"""Measure what the tiny models paint: `python -m flux_edu.train.evaluate`, with --quick in minutes on a CPU.

Prompts are captions of combinations that no training step has seen, half of one object, half of two, each with its
style and its colour. Every setting gets the same prompts and the same noise, so that two can be compared prompt by
prompt. Two judges look at the pictures: the trained one of `judge`, and a strict one that knows nothing but pixels,
where the drawings themselves are at hand. The trained one forgives blur, the strict one does not: read them together.
Before that both judge real pictures, to show how far they can be trusted.
Several GPUs share the prompts: `torchrun --nproc-per-node 2 -m flux_edu.train.evaluate`.
"""

import argparse
import csv
import json
import math
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.io.checkpoint import load_strict, read
from flux_edu.patchify import get_noise, patchify, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty
from flux_edu.train.autoencoder import load_ae
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
    paint,
    paste,
)
from flux_edu.train.judge import round_trip
from flux_edu.train.judge_model import (
    JUDGE_FOLDER,
    ZeroShotClassifier,
    load_classifier,
    object_crops,
    verdict,
    views,
)

Z = 1.959964  # of 95 %
STRICT = ("strict object", "strict style")
MEASURES = {
    "one": ("object", "style", "colour", "all", *STRICT),
    "two": ("object", "style", "colour", "position", "all", *STRICT),
}
KINDS = ("English", "Chinese", "trained")  # of prompts; the last: combinations that training has seen
NEAR = 20  # pixels a side that the strict judge compares

# ---------------------------------------------------------------- numbers


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, sensible near 0 and 1 too.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = right/n. Wilson, 1927.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z**2 / n
    middle, reach = p + z2 / 2, Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return (middle - reach) / (1 + z2), (middle + reach) / (1 + z2)


def paired_difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Share of the first minus share of the second on the same prompts, with its 95 % interval.

    Only prompts where the two differ say anything: b with the first right alone, c with the second. Half a prompt is
    added to each of the four cells, so that no difference at all does not pass for certainty. Agresti & Min, 2005.
    """
    n, b, c = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    middle = (b - c) / (n + 2)
    reach = Z * math.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    return (b - c) / max(n, 1), max(-1.0, middle - reach), min(1.0, middle + reach)


# ---------------------------------------------------------------- prompts and pictures


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


@dataclass(frozen=True)
class Setting:
    """Who paints, in how many steps, how strongly guided, from which prompts."""

    model: str
    steps: int
    guidance: float
    prompts: str = "English"

    def __str__(self) -> str:
        return f"{self.model}, {self.steps} steps, w = {self.guidance:g}, {self.prompts}"


def settings(models: list[str], quick: bool) -> list[Setting]:
    """What is painted; the first one of each model is the usual one, which the others are compared with."""
    chosen: list[Setting] = []
    for name in models:
        spec = configs[name]
        w, usual = spec.guidance, spec.num_steps
        other_steps = (8, 4, 1) if quick else (8, 4, 2, 1)
        steps = [usual] + [s for s in other_steps if s != usual]
        if spec.lora and quick:
            steps = [usual]
        chosen += [Setting(name, s, w) for s in steps]
        if w > 0 and not quick:
            chosen += [Setting(name, usual, other) for other in (1.5, 2.0, 5.0)]
        if not (spec.lora and quick):
            chosen += [Setting(name, usual, w, "Chinese")]
        if not spec.lora and not quick:  # the same of combinations that were trained on
            chosen += [Setting(name, usual, w, "trained")]
    return chosen


def comparisons(chosen: list[Setting]) -> list[tuple[Setting, Setting]]:
    """Which settings are held against each other: one thing changes at a time, dev and schnell against the base."""
    first = {one.model: one for one in reversed(chosen)}
    pairs = [(one, first[one.model]) for one in chosen if one != first[one.model] and one.prompts != "trained"]
    if base := first.get("tiny"):
        for one in chosen:
            if one.model == "tiny-dev" and one.prompts == "English":
                pairs += [(one, Setting("tiny", one.steps, one.guidance))]
            if one.model == "tiny-schnell" and one.prompts == "English":
                pairs += [(one, base)]
    return [(one, other) for one, other in pairs if other in chosen]


def load_generator(name: str, device: str | torch.device, weights: Path | None) -> FluxGenerator:
    """A model as it ships; files of the same name in the folder weights take the place of shipped ones."""
    generator = FluxGenerator(name, device)
    parts = {"t5": generator.t5.encoder, "clip": generator.clip.encoder, "flux": generator.model}
    for file, part in parts.items():
        path = weights / f"{file}.safetensors" if weights else None
        if path and path.is_file():
            state = read(path)
            if file == "t5":  # one matrix under two names; the file holds it once
                state["encoder.embed_tokens.weight"] = state["shared.weight"]
            load_strict(part, state, source=str(path))
    if weights and (weights / "ae.safetensors").is_file():
        generator.ae = load_ae(weights / "ae.safetensors").to(generator.device)
    return generator


@torch.inference_mode()
def paint_prompts(
    generator: FluxGenerator, texts: list[str], noise: Float[Tensor, "B 16 h w"], setting: Setting, batch: int
) -> UInt8[Tensor, "B 3 128 128"]:
    """One picture a prompt, each from its own noise, in 8 bits as the generator saves them.

    On a GPU products are taken in bfloat16; ids, rotations, noise levels and the sum of the steps stay in float32.
    """
    device, spec = generator.device, generator.spec
    timesteps = get_schedule(setting.steps, patchify(noise).shape[1], shift=spec.shift)
    painted = []
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        uncond = embed_empty(generator.t5, generator.clip, 1) if spec.two_passes else None
        for i in range(0, len(texts), batch):
            inputs = prepare(generator.t5, generator.clip, noise[i : i + batch].to(device), texts[i : i + batch])
            x = denoise(generator.model, **inputs, timesteps=timesteps, guidance=setting.guidance, uncond=uncond)
            pictures = generator.ae.decode(unpatchify(x, SIZE, SIZE)).float()
            painted.append(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(painted)


def as_numbers(pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    return pictures.float() / 127.5 - 1


# ---------------------------------------------------------------- the strict judge


def painted_region(
    crops: Float[Tensor, "B 3 H W"], ground: Float[Tensor, "B 3"], threshold: float = 0.2
) -> Float[Tensor, "B 3 20 20"]:
    """What stands on the background, stretched to 20 × 20: the smallest box round all pixels unlike the background.

    A row or column with a single such pixel does not count, it may be an error of the autoencoder.
    """
    unlike = (crops - ground[:, :, None, None]).abs().amax(1) > threshold
    boxes = []
    for axis in (1, 2):  # columns, then rows
        some = (unlike.sum(axis) > 1).float()
        none = some.sum(1) == 0
        size = some.shape[1]
        low, high = some.argmax(1).float(), size - some.flip(1).argmax(1).float()
        boxes.append((torch.where(none, 0, low) * 2 / size - 1, torch.where(none, size, high) * 2 / size - 1))
    (left, right), (top, bottom) = boxes
    zero = torch.zeros_like(left)
    row_x = torch.stack([(right - left) / 2, zero, (left + right) / 2], 1)
    row_y = torch.stack([zero, (bottom - top) / 2, (top + bottom) / 2], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [len(crops), 3, 3 * NEAR, 3 * NEAR], align_corners=False)
    return F.avg_pool2d(F.grid_sample(crops, grid, padding_mode="border", align_corners=False), 3)


class Strict:
    """Nearest drawing at 20 × 20 pixels, among all drawings on the background that was asked for. Nothing is learned.

    It looks where the prompt says that things are. A blurred or half-right drawing seldom passes.
    """

    def __init__(self, drawings: Drawings):
        self.drawings = drawings
        self.banks: dict[int, Tensor] = {}

    def bank(self, colour: int) -> Float[Tensor, "N 1200"]:
        """Every drawing on this background, as a painted region."""
        if colour not in self.banks:
            half = self.drawings.half
            ground = torch.tensor(list(COLOURS.values())[colour], device=half.device) / 255
            found = []
            for part in half.split(512):
                n = len(part)
                canvas = ground[None, :, None, None].expand(n, 3, SIZE // 2, SIZE // 2)
                place = torch.tensor([[58.0, 32.0, 32.0]], device=half.device).expand(n, 3)
                found.append(painted_region(paste(canvas, part, place) * 2 - 1, ground.expand(n, 3) * 2 - 1).flatten(1))
            self.banks[colour] = torch.cat(found)
        return self.banks[colour]

    @torch.no_grad()
    def nearest(self, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> Int[np.ndarray, "O"]:
        """The nearest drawing of each object of `object_crops`."""
        picture, view, _ = object_crops(scenes)
        ground = pictures[:, :, :2].flatten(2).median(dim=2).values
        found = np.zeros(len(picture), dtype=int)
        for colour in np.unique(scenes.colour):
            rows = np.flatnonzero(scenes.colour[picture] == colour)
            at, which = (torch.from_numpy(x[rows]).to(pictures.device) for x in (picture, view))
            regions = painted_region(views(pictures[at])[torch.arange(len(rows)).to(at.device), which], ground[at])
            found[rows] = torch.cdist(regions.flatten(1), self.bank(int(colour))).argmin(dim=1).cpu().numpy()
        return found

    def verdict(self, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> dict[str, Bool[np.ndarray, "B"]]:
        """Whether the object is right and whether the style is, of a pair both."""
        picture, _, wanted = object_crops(scenes)
        found = self.nearest(pictures, scenes)
        report = {}
        for key, kind in (("strict object", self.drawings.concept), ("strict style", self.drawings.style)):
            report[key] = np.bincount(picture, kind[found] != kind[wanted], minlength=len(scenes)) == 0
        return report


# ---------------------------------------------------------------- reports


def tally(name: str, found: dict[str, np.ndarray], scenes: Scenes) -> list[dict]:
    """Rows of the table: each measure with its interval, singles and pairs apart."""
    rows = []
    for subset, chosen in (("one", scenes.layout == ONE), ("two", scenes.layout != ONE)):
        for measure in MEASURES[subset]:
            if measure in found:
                right, n = int(found[measure][chosen].sum()), int(chosen.sum())
                low, high = wilson(right, n)
                share = right / max(n, 1)
                rows.append(dict(what=name, objects=subset, measure=measure, n=n, share=share, low=low, high=high))
    return rows


def differences(name: str, one: dict[str, np.ndarray], other: dict[str, np.ndarray], scenes: Scenes) -> list[dict]:
    """Rows of paired differences, first minus second."""
    rows = []
    for subset, chosen in (("one", scenes.layout == ONE), ("two", scenes.layout != ONE)):
        for measure in MEASURES[subset]:
            if measure in one and measure in other:
                share, low, high = paired_difference(one[measure][chosen], other[measure][chosen])
                n = int(chosen.sum())
                rows.append(dict(what=name, objects=subset, measure=measure, n=n, share=share, low=low, high=high))
    return rows


def markdown(rows: list[dict], title: str) -> str:
    """One line a setting, one column a measure, in per cent with the interval."""
    columns = [
        (o, m) for o in MEASURES for m in MEASURES[o] if any((r["objects"], r["measure"]) == (o, m) for r in rows)
    ]
    lines = [f"| {title} | " + " | ".join(f"{o}: {m}" for o, m in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = {(r["objects"], r["measure"]): r for r in rows if r["what"] == what}
        shown = [
            f"{100 * r['share']:.1f} ({100 * r['low']:.1f} to {100 * r['high']:.1f})" if (r := cells.get(c)) else ""
            for c in columns
        ]
        lines.append(f"| {what} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


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
    pictures: UInt8[Tensor, "B 3 128 128"], texts: list[str], found: dict[str, np.ndarray], path: Path, seed: int
) -> None:
    """32 wrong ones at random, with what is wrong, the 32 least like their prompts, and the 32 most like them."""
    wrong = np.flatnonzero(~found["all"])
    order = np.argsort(found["likeness"], kind="stable")
    at_random = np.sort(np.random.default_rng(seed).permutation(wrong)[:32])
    for kind, rows in (("wrong", at_random), ("lowest", order[:32]), ("best", order[::-1][:32])):
        if len(rows):
            missed = ["+".join(k for k in ("object", "style", "colour", "position") if not found[k][i]) for i in rows]
            said = [(f"[{m}] " if m else "") + texts[i] for i, m in zip(rows, missed, strict=True)]
            contact_sheet(pictures[torch.from_numpy(rows.copy())], said).save(f"{path}-{kind}.png")


def gather(here: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Every process has looked at every P-th prompt; put together, all n are there in order."""
    parts = gather_object([here])
    whole = {key: np.empty((n, *x.shape[1:]), x.dtype) for key, x in here.items()}
    for i, part in enumerate(parts):
        for key, x in part.items():
            whole[key][i :: len(parts)] = x
    return whole


def judge_rows(
    classifier: ZeroShotClassifier, drawings: Drawings, strict: Strict, ae: AutoEncoder, n: int, seed: int
) -> list[dict]:
    """How right both judges are on real pictures of held-out scenes, as they are and after the autoencoder."""
    scenes = prompt_scenes(classifier.drawings, n, seed)  # numbered alike
    found: dict[str, list[dict]] = {"real pictures": [], "real pictures after the autoencoder": []}
    for i in range(0, n, 512):
        part = scenes[i : i + 512]
        pictures = paint(drawings, part)
        for name, x in zip(found, (pictures, round_trip(ae, pictures)), strict=True):
            found[name].append(verdict(classifier, x, part) | strict.verdict(x, part))
    rows = []
    for name, parts in found.items():
        rows += tally(name, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, scenes)
    return rows


# ---------------------------------------------------------------- the whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer prompts and settings, for a CPU")
    parser.add_argument("--prompts", type=int, help="4096, or 40 with --quick")
    parser.add_argument("--models", nargs="+", default=["tiny", "tiny-dev", "tiny-schnell"])
    parser.add_argument("--weights", type=Path, help="folder whose files take the place of shipped ones")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="all drawings, for the strict judge")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, help="pictures at once: 1024 on a GPU, 32 else")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    accelerator = Accelerator(cpu=args.device == "cpu")
    device = torch.device(args.device or accelerator.device)
    begin, n, gpu = time.monotonic(), args.prompts or (40 if args.quick else 4096), device.type == "cuda"
    batch = args.batch or (1024 if gpu else 32)
    torch.set_float32_matmul_precision("high")
    generators: dict[str, FluxGenerator] = {}
    for name in args.models:
        try:
            generators[name] = load_generator(name, device, args.weights)
        except (FileNotFoundError, ValueError) as error:  # not trained, or no such model yet
            accelerator.print(f"{name} is left out: {error}", flush=True)
    if not generators:
        raise SystemExit("no model to look at")
    classifier = load_classifier(JUDGE_FOLDER, device)
    args.out.mkdir(parents=True, exist_ok=True)

    rows: list[dict] = []
    strict = None
    if (args.data / "names.json").is_file():
        drawings = load_drawings(args.data).to(device)
        if (
            not np.array_equal(drawings.concept, classifier.drawings.concept)
            or drawings.names != classifier.drawings.names
        ):
            raise SystemExit(
                f"{args.data} holds other drawings than the judge knows: train it again, or give no --data"
            )
        strict = Strict(drawings)
        rows += judge_rows(classifier, drawings, strict, next(iter(generators.values())).ae, n, args.seed + 500)
        accelerator.print(markdown(rows, "the judges themselves"), flush=True)
    else:
        accelerator.print(
            f"no drawings in {args.data}: only the trained judge looks, and only at paintings", flush=True
        )

    scenes = {kind: prompt_scenes(classifier.drawings, n, args.seed, unseen=kind != "trained") for kind in KINDS}
    texts = {kind: prompts(classifier.drawings, scenes[kind], args.seed, chinese=kind == "Chinese") for kind in KINDS}
    noise = get_noise(n, SIZE, SIZE, "cpu", torch.float32, args.seed)
    chosen = settings(list(generators), args.quick)
    usual = {setting.model: setting for setting in reversed(chosen)}
    mine = np.arange(accelerator.process_index, n, accelerator.num_processes)  # prompts of this process
    found: dict[Setting, dict[str, np.ndarray]] = {}
    for setting in chosen:
        start, kind = time.monotonic(), setting.prompts
        pictures = paint_prompts(
            generators[setting.model], [texts[kind][i] for i in mine], noise[torch.from_numpy(mine)], setting, batch
        )
        judged = [
            verdict(classifier, x, part) | (strict.verdict(x, part) if strict else {})
            for x, part in (
                (as_numbers(pictures[i : i + 512]), scenes[kind][mine[i : i + 512]]) for i in range(0, len(mine), 512)
            )
        ]
        here = {key: np.concatenate([part[key] for part in judged]) for key in judged[0]}
        if setting == usual[setting.model]:
            here["pictures"] = pictures.cpu().numpy()
        found[setting] = gather(here, n)
        if setting == usual[setting.model]:
            painted = torch.from_numpy(found[setting].pop("pictures"))
            if accelerator.is_main_process:
                save_sheets(painted, texts[kind], found[setting], args.out / setting.model, args.seed)
        new = tally(str(setting), found[setting], scenes[kind])
        shares = ", ".join(f"{r['objects']} {r['measure']} {100 * r['share']:.1f}" for r in new)
        accelerator.print(f"{setting}: {shares} ({time.monotonic() - start:.0f} s)", flush=True)
        rows += new

    paired: list[dict] = []
    for one, other in comparisons(chosen):
        paired += differences(f"{one} − {other}", found[one], found[other], scenes["English"])
    if accelerator.is_main_process:
        write_reports(args.out, rows, paired, {"prompts": n, "seed": args.seed, "device": str(device)})
        print((args.out / "evaluate.md").read_text("utf-8"))
        print(f"{time.monotonic() - begin:.0f} s in all, written to {args.out}", flush=True)
    accelerator.end_training()


def write_reports(folder: Path, rows: list[dict], paired: list[dict], about: dict) -> None:
    """evaluate.csv, evaluate.json and evaluate.md."""
    with (folder / "evaluate.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["table", "what", "objects", "measure", "n", "share", "low", "high"])
        writer.writeheader()
        for table, lines in (("share", rows), ("difference", paired)):
            writer.writerows({"table": table} | line for line in lines)
    report = about | {"shares": rows, "differences": paired}
    (folder / "evaluate.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), "utf-8")
    text = markdown(rows, "share right, % (95 % interval)") + "\n"
    text += markdown(paired, "difference in points (95 % interval)")
    (folder / "evaluate.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
