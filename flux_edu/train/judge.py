"""Train a judge of painted pictures, a CLIP in miniature: `python -m flux_edu.train.judge`.

Two towers, one that sees a crop and one that reads "a 3d fox", learn to give one vector to what belongs together. A
crop then has the name whose vector is nearest. The judge is no part of the generator and never sees a painted picture;
it learns from every drawing there is, the held-out combinations too, because a judge has to know all right answers.
What is held out from the generator are combinations, and nothing of the judge flows back into it.

Everything happens on the device: drawings are pasted, spoiled a little as a sampler or an autoencoder would spoil them,
and cut out in batches.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from flux_edu.autoencoder import AutoEncoder
from flux_edu.io.checkpoint import load_strict, read, save_int8
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.common import Average, decayed, seed_of
from flux_edu.train.data import (
    ABOVE,
    BESIDE,
    COLOURS,
    ONE,
    SIZE,
    STYLES,
    Drawings,
    Scenes,
    a,
    draw_places,
    draw_scenes,
    load_drawings,
    paint,
)
from flux_edu.train.objectives import contrastive_loss
from flux_edu.train.trainer import Run, arguments

JUDGE_FOLDER = Path(str(TINY_FOLDER)).parent / "judge"
WORDS = 16  # tokens of the longest name with its style: 15
WIDTH = 128  # numbers of the common vector
FIRST_VIEW = np.array([0, 1, 3])  # by layout: the whole picture, the left half's middle, the upper half's middle

# ---------------------------------------------------------------- the objective


# ---------------------------------------------------------------- the two towers


class Block(nn.Module):
    """Norm, convolution, bend, convolution, added to what came in."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(channels // 8, channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.outer(F.gelu(self.inner(self.norm(x))))


class Judge(nn.Module):
    """A convolutional tower for crops, one transformer layer for names; both end in a unit vector."""

    def __init__(self, vocabulary: int, channels: tuple[int, ...] = (32, 64, 96), words: int = 96):
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, stride=2, padding=1), Block(channels[0])]
        for narrow, wide in zip(channels[:-1], channels[1:], strict=True):
            stages += [nn.Conv2d(narrow, wide, 2, stride=2), Block(wide), Block(wide)]
        last = channels[-1]  # 8 × 8 places are left, averaged to 4 × 4, which still tell upper from lower
        stages += [nn.GroupNorm(last // 8, last), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * last, WIDTH)]
        self.image = nn.Sequential(*stages)
        self.word, self.place = nn.Embedding(vocabulary, words), nn.Parameter(torch.randn(WORDS, words) * 0.02)
        self.layer = nn.TransformerEncoderLayer(words, 4, 2 * words, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.Linear(words, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        nn.init.normal_(self.word.weight, std=0.1)

    def see(self, crops: Float[Tensor, "B 3 64 64"]) -> Float[Tensor, "B C"]:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=crops.is_cuda):
            u = self.image(crops.contiguous(memory_format=torch.channels_last))
        return F.normalize(u.float(), dim=-1)

    def read(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B C"]:
        """Token 0 is padding: nobody looks at it, and it does not count in the mean."""
        real = tokens != 0
        x = self.layer(self.word(tokens) + self.place, src_key_padding_mask=~real)
        mean = (x * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return F.normalize(self.text(mean), dim=-1)

    def forward(self, crops: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.see(crops), self.read(tokens), self.log_scale.exp().clamp(max=100)


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the shipped text encoders: with its words the judge needs none of its own."""
    file = str(TINY_FOLDER / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=file, pad_token="<pad>", eos_token="</s>")


def all_texts(drawings: Drawings) -> list[str]:
    """ "a 3d fox", one for every drawing."""
    first = [entry["en"][0] for entry in drawings.names]
    return [a(f"{STYLES[s]} {first[c]}") for s, c in zip(drawings.style, drawings.concept, strict=True)]


def all_tokens(drawings: Drawings) -> Int[Tensor, "N 16"]:
    tokenizer = load_tokenizer()
    ids = tokenizer(all_texts(drawings), truncation=True, max_length=WORDS, padding="max_length")["input_ids"]
    if tokenizer.pad_token_id != 0:
        raise ValueError(f"the tokenizer pads with {tokenizer.pad_token_id}; the judge takes 0 for padding")
    return torch.tensor(ids)


# ---------------------------------------------------------------- what it looks at


def views(pictures: Float[Tensor, "B 3 128 128"]) -> Float[Tensor, "B 5 3 64 64"]:
    """Five crops of each picture: the whole at half the size; the places left, right, upper, lower of a pair."""
    half, edge = SIZE // 2, SIZE // 4
    middle = slice(edge, edge + half)
    left, right = pictures[:, :, middle, :half], pictures[:, :, middle, half:]
    upper, lower = pictures[:, :, :half, middle], pictures[:, :, half:, middle]
    return torch.stack([F.avg_pool2d(pictures, 2), left, right, upper, lower], dim=1)


def looked_at(scenes: Scenes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the drawings are: numbers of the picture, of the view and of the drawing, one row for each object."""
    two = np.flatnonzero(scenes.layout != ONE)
    picture = np.concatenate([np.arange(len(scenes)), two])
    which = np.concatenate([np.zeros(len(scenes), int), np.ones(len(two), int)])
    return picture, FIRST_VIEW[scenes.layout[picture]] + which, scenes.drawing[picture, which]


def any_scenes(drawings: Drawings, n: int, rng: np.random.Generator) -> Scenes:
    """Any drawings on any colour, half of them alone, placed and sized less exactly than the generator's pictures."""
    layout = rng.choice([ONE, ONE, BESIDE, ABOVE], n)
    place = draw_places(layout, rng)
    place[..., 0] *= rng.uniform(0.93, 1.05, (n, 2))
    place[..., 1:] += rng.uniform(-2, 2, (n, 2, 2))
    return Scenes(layout, rng.integers(0, len(drawings.style), (n, 2)), place, rng.integers(0, len(COLOURS), n))


def spoil(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
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
def practice_crops(
    drawings: Drawings, n: int, seed: int, ae: AutoEncoder | None = None, share: float = 0.12
) -> tuple[Float[Tensor, "B 3 64 64"], Int[Tensor, "B"]]:
    """Crops of n pictures, one and a half times as many on average, with the numbers of the drawings in them.

    A third of the pictures is on a colour of any kind; a share has gone through the autoencoder.
    """
    rng = np.random.default_rng(seed)
    device = drawings.pixels.device
    scenes = any_scenes(drawings, n, rng)
    any_colour = np.where(rng.random((n, 1)) < 1 / 3, rng.random((n, 3)), np.nan)
    pictures = paint(drawings, scenes, torch.from_numpy(any_colour).float().to(device))
    if ae is not None and (k := round(n * share)):
        pictures[:k] = round_trip(ae, pictures[:k])
    picture, view, drawing = (torch.from_numpy(rows).to(device) for rows in looked_at(scenes))
    return spoil(views(pictures)[picture, view]), drawing


@torch.no_grad()
def round_trip(ae: AutoEncoder, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Through the autoencoder and back, cut off where a picture ends; in bfloat16 on a GPU."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        parts = [ae.decode(ae.encode(part.contiguous(memory_format=torch.channels_last))) for part in x.split(128)]
    return torch.cat(parts).float().clamp(-1, 1)


# ---------------------------------------------------------------- judging


def twins(drawings: Drawings, limit: float = 0.5) -> list[list[int]]:
    """Pairs of drawings that are one picture under two names.

    The rule: premultiplied RGBA averaged to 32 × 32 differs by less than limit, of 255, in the mean over all numbers.
    """
    x = torch.cat([F.avg_pool2d(part.float(), 4).flatten(1) for part in drawings.pixels.split(512)])
    found: list[list[int]] = []
    for style in range(len(STYLES)):
        rows = np.flatnonzero(drawings.style == style)
        one = x[torch.from_numpy(rows).to(x.device)]
        near = (torch.cdist(one, one, p=1) / x.shape[1] < limit).triu(1).nonzero().tolist()
        found += [[int(rows[i]), int(rows[j])] for i, j in near]
    return found


class Bench:
    """A judge that sits: all texts read once, crops are answered with drawings, concepts and styles.

    Every drawing's text is a candidate. Over them goes a softmax; a concept has the probability of its texts in all
    styles together, a style that of its texts of all concepts. The likeliest is the answer.
    """

    @torch.no_grad()
    def __init__(self, judge: Judge, drawings: Drawings, same: list[list[int]]):
        device = judge.log_scale.device
        self.judge, self.drawings, self.scale = judge, drawings, judge.log_scale.exp().clamp(max=100)
        self.text = judge.read(all_tokens(drawings).to(device))
        self.concept, self.style = torch.tensor(drawings.concept).to(device), torch.tensor(drawings.style).to(device)
        # which concepts a crop of a drawing may be called: its own, and those drawn exactly alike
        self.names = torch.zeros(len(drawings.style), len(drawings.names), dtype=torch.bool, device=device)
        for i, j in [[k, k] for k in range(len(drawings.style))] + same:
            self.names[i, drawings.concept[j]] = self.names[j, drawings.concept[i]] = True

    @torch.no_grad()
    def similarity(self, crops: Float[Tensor, "B 3 64 64"]) -> Float[Tensor, "B N"]:
        """Cosine between each crop and the text of each drawing."""
        return torch.cat([self.judge.see(part) for part in crops.split(1024)]) @ self.text.T

    def answers(self, similarity: Float[Tensor, "B N"]) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
        """The likeliest concept and the likeliest style of each crop."""
        p = (self.scale * similarity).softmax(dim=1)
        concept = p.new_zeros(len(p), len(self.drawings.names)).index_add_(1, self.concept, p)
        style = p.new_zeros(len(p), len(STYLES)).index_add_(1, self.style, p)
        return concept.argmax(dim=1), style.argmax(dim=1)

    def things(self, pictures: Float[Tensor, "B 3 128 128"]) -> list[list[dict]]:
        """What is seen in each picture, as entries of names: one thing, or two beside or above each other.

        Of the three arrangements the one whose views look most like a drawing's text; left and top come first.
        """
        similarity = self.similarity(views(pictures).flatten(0, 1))
        concept = rearrange(self.answers(similarity)[0], "(b v) -> b v", v=5).tolist()
        likeness = rearrange(similarity.amax(dim=1), "(b v) -> b v", v=5)
        arrangements = ([0], [1, 2], [3, 4])
        best = torch.stack([likeness[:, at].mean(dim=1) for at in arrangements], dim=1).argmax(dim=1).tolist()
        names = self.drawings.names
        return [[names[found[view]] for view in arrangements[k]] for found, k in zip(concept, best, strict=True)]


def load_bench(folder: str | Path = JUDGE_FOLDER, device: torch.device | str = "cpu") -> Bench:
    """The trained judge with its index: names, styles, and drawings without pixels, enough to write prompts."""
    folder = Path(folder)
    index = json.loads((folder / "index.json").read_text("utf-8"))
    style = np.concatenate([np.full(len(found), STYLES.index(s)) for s, found in index["sheets"].items()])
    concept = np.concatenate([np.array(found) for found in index["sheets"].values()])
    empty = torch.empty(0, 4, SIZE, SIZE, dtype=torch.uint8)
    judge = Judge(len(load_tokenizer()))
    load_strict(judge, read(folder / "judge.safetensors"), source="judge.safetensors")
    judge = judge.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
    return Bench(judge, Drawings(empty, style, concept, index["names"]), index["twins"])


def save_index(drawings: Drawings, same: list[list[int]], path: Path) -> None:
    sheets = {s: drawings.concept[drawings.style == i].tolist() for i, s in enumerate(STYLES)}
    index = {"names": drawings.names, "sheets": sheets, "twins": same}
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")), "utf-8")


def ground_colour(pictures: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B"]:
    """The named colour nearest to the median of the outermost two pixels; nothing is learned here."""
    upper, lower = pictures[:, :, :2].flatten(2), pictures[:, :, -2:].flatten(2)
    left, right = pictures[:, :, :, :2].flatten(2), pictures[:, :, :, -2:].flatten(2)
    median = torch.cat([upper, lower, left, right], dim=2).median(dim=2).values
    named = torch.tensor(list(COLOURS.values()), device=pictures.device) / 127.5 - 1
    return torch.cdist(median.float(), named).argmin(dim=1)


def best_arrangement(
    first: Float[Tensor, "B 5"], second: Float[Tensor, "B 5"]
) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"], Int[Tensor, "B"]]:
    """Of four ways to place two things, the one that the judge finds likeliest, and the views it has them in.

    first and second are the similarities of both things with the five views. 0: the first is left of the second, 1:
    right of it, 2: above it, 3: below it.
    """
    at_first, at_second = torch.tensor([1, 2, 3, 4]).to(first.device), torch.tensor([2, 1, 4, 3]).to(first.device)
    best = (first[:, at_first] + second[:, at_second]).argmax(dim=1)
    return best, at_first[best], at_second[best]


def verdict(bench: Bench, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> dict[str, Bool[np.ndarray, "B"]]:
    """What is right in each picture of a scene: object, style, colour, position (of a single one: always), all of it.

    Of a pair, object and style are right if they are so for both things, looked for where the best arrangement has
    them, so that things in each other's place are a wrong position and not two wrong objects. "likeness" is no
    verdict but a number to sort by: the lowest similarity of a thing asked for with its place.
    """
    parts = [_verdict(bench, pictures[i : i + 256], scenes[i : i + 256]) for i in range(0, len(scenes), 256)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def _verdict(bench: Bench, pictures: Tensor, scenes: Scenes) -> dict[str, np.ndarray]:
    device, n = pictures.device, len(scenes)
    layout, wanted = torch.from_numpy(scenes.layout).to(device), torch.from_numpy(scenes.drawing).to(device)
    rows = torch.arange(n, device=device)
    similarity = bench.similarity(views(pictures).flatten(0, 1))
    concept, style = (rearrange(x, "(b v) -> b v", v=5) for x in bench.answers(similarity))
    similarity = rearrange(similarity, "(b v) n -> b v n", v=5)
    first, second = similarity[rows, :, wanted[:, 0]], similarity[rows, :, wanted[:, 1]]
    best, at_first, at_second = best_arrangement(first, second)
    one = layout == ONE
    at_first = torch.where(one, 0, at_first)

    def right(at: Tensor, which: int) -> tuple[Tensor, Tensor]:
        drawing = wanted[:, which]
        return bench.names[drawing, concept[rows, at]], bench.style[drawing] == style[rows, at]

    (object_1, style_1), (object_2, style_2) = right(at_first, 0), right(at_second, 1)
    found = {
        "object": object_1 & (one | object_2),
        "style": style_1 & (one | style_2),
        "colour": ground_colour(pictures) == torch.from_numpy(scenes.colour).to(device),
        "position": one | (best == torch.where(layout == BESIDE, 0, 2)),
    }
    found["all"] = found["object"] & found["style"] & found["colour"] & found["position"]
    likeness = torch.minimum(first[rows, at_first], torch.where(one, 1.0, second[rows, at_second]))
    return {key: x.cpu().numpy() for key, x in found.items()} | {"likeness": likeness.cpu().numpy()}


def accuracy(bench: Bench, drawings: Drawings, scenes: Scenes, ae: AutoEncoder | None = None) -> dict[str, float]:
    """How often the judge is right on real pictures of the scenes, as they are or after the autoencoder."""
    found = []
    for i in range(0, len(scenes), 512):
        pictures = paint(drawings, scenes[i : i + 512])
        found.append(verdict(bench, pictures if ae is None else round_trip(ae, pictures), scenes[i : i + 512]))
    one = scenes.layout == ONE
    report = {}
    for key in ("object", "style", "colour", "position"):
        right = np.concatenate([part[key] for part in found])
        report |= {f"{key}_one": float(right[one].mean())} if key != "position" else {}
        report[f"{key}_two"] = float(right[~one].mean())
    return report


# ---------------------------------------------------------------- training


def main() -> None:
    parser = arguments(__doc__, out="runs/judge", seconds=240, batch=1024, rate=2e-3, look=1)
    parser.add_argument("--ae", type=Path, default=Path(str(TINY_FOLDER / "ae.safetensors")))
    parser.add_argument("--share", type=float, default=0.12, help="pictures that go through the autoencoder first")
    parser.add_argument("--measure", type=int, default=8192, help="held-out pictures to measure on at the end")
    args = parser.parse_args()

    accelerator = Accelerator()  # one process: others would not see each other's texts
    device = accelerator.device
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = False  # the number of crops changes with every step
    torch.set_float32_matmul_precision("high")
    drawings = load_drawings(args.data).to(device)
    tokens, same = all_tokens(drawings).to(device), twins(drawings)
    ae = load_ae(args.ae).to(device, memory_format=torch.channels_last)
    judge = Judge(len(load_tokenizer())).to(device, memory_format=torch.channels_last)
    average = Average(judge, decay=0.999)
    optimizer = torch.optim.AdamW(decayed(judge, 0.05), lr=0.0, betas=(0.9, 0.98), fused=True)
    run = Run(args, accelerator, judge, average, {optimizer: args.rate})
    numbers = sum(p.numel() for p in judge.parameters())
    print(f"{numbers:,} numbers, {len(drawings.style)} drawings, twins {same}", flush=True)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.4)."""
        crops, drawing = practice_crops(drawings, args.batch, seed_of(args.seed, step), ae, args.share)
        image, text, scale = model(crops, tokens[drawing])
        return contrastive_loss(image, text, drawing, scale)

    @torch.no_grad()
    def look(step: int) -> list[float]:
        """How many crops of a batch find their text among those of the batch, and s of Eq. (9.4)."""
        crops, drawing = practice_crops(drawings, args.batch, seed_of(args.seed, step), ae, args.share)
        image, text, scale = average.module(crops, tokens[drawing])
        found = drawing[(image @ text.T).argmax(dim=1)] == drawing
        return [float(found.float().mean()), float(scale)]

    steps = run.train(loss, look, columns=("right", "scale"), ready=20)

    noted = {"steps": str(steps), "batch": str(args.batch), "seed": str(args.seed)}
    save_int8(average.module.state_dict(), args.out / "judge.safetensors", noted)
    save_index(drawings, same, args.out / "index.json")
    bench = load_bench(args.out, device)  # what is measured is what ships
    scenes = draw_scenes(drawings, args.measure, seed=2025, unseen=True)
    report = noted | {"seconds": round(run.clock.used), "measured_on": args.measure}
    report["real"] = accuracy(bench, drawings, scenes)
    report["after_ae"] = accuracy(bench, drawings, scenes, ae)
    (args.out / "judge.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report), flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
