"""Train the judge of painted pictures: `python -m flux_edu.train.judge`. Eq. (9.4).

It learns from every drawing there is, the held-out combinations too, because a judge has to know all right answers; it
never sees a painted picture. What is held out from the generator are combinations. Nothing of the judge flows back into
tiny, tiny-dev and tiny-schnell; tiny-redux sees with its features, and tiny-kontext is told its names.

Everything happens on the device: drawings are pasted, augmented as a sampler or an autoencoder would alter them, and
cut out in batches.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flux_edu.autoencoder import AutoEncoder
from flux_edu.io.checkpoint import save_int8
from flux_edu.io.tiny import TINY_FOLDER, tiny_tokenizer
from flux_edu.train import trainer
from flux_edu.train.autoencoder import load_ae, round_trip
from flux_edu.train.data import (
    ABOVE,
    BESIDE,
    COLOURS,
    ONE,
    STYLES,
    Drawings,
    Scenes,
    draw_places,
    draw_scenes,
    load_drawings,
    render,
)
from flux_edu.train.judge_model import (
    Judge,
    ZeroShotClassifier,
    load_classifier,
    name_tokens,
    object_crops,
    verdict,
    views,
)
from flux_edu.train.objectives import contrastive_loss

# ---------------------------------------------------------------- what it is shown


def any_scenes(drawings: Drawings, n: int, rng: np.random.Generator) -> Scenes:
    """Any drawings on any colour, half of them alone, placed and sized less exactly than the generator's pictures."""
    layout = rng.choice([ONE, ONE, BESIDE, ABOVE], n)
    place = draw_places(layout, rng)
    place[..., 0] *= rng.uniform(0.93, 1.05, (n, 2))
    place[..., 1:] += rng.uniform(-2, 2, (n, 2, 2))
    return Scenes(layout, rng.integers(0, len(drawings.style), (n, 2)), place, rng.integers(0, len(COLOURS), n))


def augment(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Blur, colours a little off, mild noise, of other strength in every crop; a quarter stays sharp and clean."""
    n = len(x)
    strength = F.relu(torch.rand(n, 1, 1, 1, device=x.device) * 4 / 3 - 1 / 3)
    soft = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    soft = F.avg_pool2d(soft, 3, stride=1, padding=1, count_include_pad=False)
    x = torch.lerp(x, soft, strength * torch.rand(n, 1, 1, 1, device=x.device))
    contrast = 1 + 0.06 * strength * torch.randn(n, 1, 1, 1, device=x.device)
    tint = 0.04 * strength * torch.randn(n, 3, 1, 1, device=x.device)
    noise = 0.06 * strength * torch.rand(n, 1, 1, 1, device=x.device) * torch.randn_like(x)
    return x * contrast + tint + noise


@torch.no_grad()
def training_crops(
    drawings: Drawings, n: int, seed: int, ae: AutoEncoder | None = None, share: float = 0.12
) -> tuple[Float[Tensor, "B 3 64 64"], Int[Tensor, "B"]]:
    """Crops of n pictures, one and a half times as many on average, with the numbers of the drawings in them.

    A third of the pictures is on a colour of any kind; a share has gone through the autoencoder.
    """
    rng = np.random.default_rng(seed)
    device = drawings.pixels.device
    scenes = any_scenes(drawings, n, rng)
    any_colour = np.where(rng.random((n, 1)) < 1 / 3, rng.random((n, 3)), np.nan)
    pictures = render(drawings, scenes, torch.from_numpy(any_colour).float().to(device))
    if ae is not None and (k := round(n * share)):
        pictures[:k] = round_trip(ae, pictures[:k], exact=False)
    picture, view, drawing = (torch.from_numpy(rows).to(device) for rows in object_crops(scenes))
    return augment(views(pictures)[picture, view]), drawing


def find_duplicates(drawings: Drawings) -> list[list[int]]:
    """Pairs of drawings that are one picture under two names.

    The rule: premultiplied RGBA averaged to 32 × 32 differs by less than 0.5, of 255, in the mean over all numbers.
    """
    x = torch.cat([F.avg_pool2d(part.float(), 4).flatten(1) for part in drawings.pixels.split(512)])
    duplicates: list[list[int]] = []
    for style in range(len(STYLES)):
        rows = np.flatnonzero(drawings.style == style)
        one = x[torch.from_numpy(rows).to(x.device)]
        near = (torch.cdist(one, one, p=1) / x.shape[1] < 0.5).triu(1).nonzero().tolist()
        duplicates += [[int(rows[i]), int(rows[j])] for i, j in near]
    return duplicates


def save_index(drawings: Drawings, duplicates: list[list[int]], path: Path) -> None:
    sheets = {s: drawings.concept[drawings.style == i].tolist() for i, s in enumerate(STYLES)}
    index = {"names": drawings.names, "sheets": sheets, "twins": duplicates}
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")), "utf-8")


def accuracy(
    judge: ZeroShotClassifier, drawings: Drawings, scenes: Scenes, ae: AutoEncoder | None = None
) -> dict[str, float]:
    """How often the judge is right on real pictures of the scenes, as they are or after the autoencoder."""
    parts = []
    for i in range(0, len(scenes), 512):
        pictures = render(drawings, scenes[i : i + 512])
        if ae is not None:
            pictures = round_trip(ae, pictures, exact=False)
        parts.append(verdict(judge, pictures, scenes[i : i + 512]))
    right = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    chosen = {"one": scenes.layout == ONE, "two": scenes.layout != ONE}
    return {
        f"{kind}_{objects}": float(right[kind][rows].mean())
        for objects, rows in chosen.items()
        for kind in ("object", "style", "colour", "position", "all")
        if rows.any()
    }


def main() -> None:
    parser = trainer.arguments(__doc__, out="runs/judge", seconds=240, batch=1024, rate=2e-3, evaluate=1)
    parser.add_argument("--ae", type=Path, default=Path(str(TINY_FOLDER / "ae.safetensors")))
    parser.add_argument("--share", type=float, default=0.12, help="pictures that go through the autoencoder first")
    parser.add_argument("--measure", type=int, default=8192, help="held-out pictures to measure on at the end")
    args = parser.parse_args()

    accelerator = trainer.start(args.seed)  # one process: others would not see each other's texts
    device = accelerator.device
    drawings = load_drawings(args.data).to(device)
    tokens, duplicates = name_tokens(drawings).to(device), find_duplicates(drawings)
    ae = load_ae(args.ae).to(device, memory_format=torch.channels_last)
    judge = Judge(len(tiny_tokenizer())).to(device, memory_format=torch.channels_last)
    ema = trainer.make_ema(judge, decay=0.999)
    optimizer = trainer.make_adamw(judge.parameters(), 0.05, betas=(0.9, 0.98))
    run = trainer.Trainer(args, accelerator, judge, ema, {optimizer: args.rate})
    numbers = sum(p.numel() for p in judge.parameters())
    print(f"{numbers:,} numbers, {len(drawings.style)} drawings, duplicates {duplicates}", flush=True)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.4)."""
        crops, drawing = training_crops(drawings, args.batch, trainer.seed_of(args.seed, step), ae, args.share)
        image, text, scale = model(crops, tokens[drawing])
        return contrastive_loss(image, text, drawing, scale)

    @torch.no_grad()
    def evaluate(step: int) -> list[float]:
        """How many crops of a batch find their text among those of the batch, and s of Eq. (9.4)."""
        crops, drawing = training_crops(drawings, args.batch, trainer.seed_of(args.seed, step), ae, args.share)
        image, text, scale = ema.module(crops, tokens[drawing])
        right = drawing[(image @ text.T).argmax(dim=1)] == drawing
        return [float(right.float().mean()), float(scale)]

    steps = run.train(loss, evaluate, columns=("right", "scale"), ready=20)

    metadata = {"steps": str(steps), "batch": str(args.batch), "seed": str(args.seed)}
    save_int8(ema.module.state_dict(), args.out / "judge.safetensors", metadata)
    save_index(drawings, duplicates, args.out / "index.json")
    classifier = load_classifier(args.out, device)  # what is measured is what ships
    scenes = draw_scenes(drawings, args.measure, seed=2025, unseen=True)
    report = metadata | {"seconds": round(run.clock.used), "measured_on": args.measure}
    report["real"] = accuracy(classifier, drawings, scenes)
    report["after_ae"] = accuracy(classifier, drawings, scenes, ae)
    trainer.save_report(args.out / "judge.json", report)
    accelerator.end_training()


if __name__ == "__main__":
    main()
