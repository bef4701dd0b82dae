"""The judge at work: a CLIP in miniature that names what is to be seen on a picture. `train.judge` has trained it.

One tower sees a crop, the other reads "a 3d fox", and both answer with a unit vector. A crop has the name whose vector
is nearest. The judge is no part of the generator; the tiny Redux sees through the first of its towers.
"""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flux_edu.io.checkpoint import load_strict, read
from flux_edu.io.device import autocast
from flux_edu.io.tiny import TINY_FOLDER, tiny_tokenizer
from flux_edu.train.data import BESIDE, COLOURS, ONE, SIZE, STYLES, Drawings, Scenes, a

JUDGE_FOLDER = Path(str(TINY_FOLDER)).parent / "judge"
WORDS = 16  # tokens of the longest name with its style: 15
WIDTH = 128  # numbers of the common vector
CROP = 64  # pixels a side of what the first tower sees
FIRST_VIEW = np.array([0, 1, 3])  # by layout: the whole picture, the left half's middle, the upper half's middle

# ---------------------------------------------------------------- the two towers


class Block(nn.Module):
    """Norm, convolution, GELU, convolution, added to what came in."""

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
        for narrow, wide in pairwise(channels):
            stages += [nn.Conv2d(narrow, wide, 2, stride=2), Block(wide), Block(wide)]
        last = channels[-1]  # 8 × 8 places are left, averaged to 4 × 4, which still tell upper from lower
        stages += [nn.GroupNorm(last // 8, last), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * last, WIDTH)]
        self.image = nn.Sequential(*stages)
        self.word, self.place = nn.Embedding(vocabulary, words), nn.Parameter(torch.randn(WORDS, words) * 0.02)
        self.layer = nn.TransformerEncoderLayer(words, 4, 2 * words, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.Linear(words, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        nn.init.normal_(self.word.weight, std=0.1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """s of Eq. (9.4)."""
        return self.log_scale.exp().clamp(max=100)

    def embed_crops(self, crops: Float[Tensor, "B 3 64 64"]) -> Float[Tensor, "B C"]:
        with autocast(crops.device):
            u = self.image(crops.contiguous(memory_format=torch.channels_last))
        return F.normalize(u.float(), dim=-1)

    def embed_names(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B C"]:
        """Token 0 is padding: it is masked, and does not count in the mean."""
        real = tokens != 0
        x = self.layer(self.word(tokens) + self.place, src_key_padding_mask=~real)
        mean = (x * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return F.normalize(self.text(mean), dim=-1)

    def forward(self, crops: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.embed_crops(crops), self.embed_names(tokens), self.scale

    @torch.no_grad()
    def encode_image(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 16 104"]:
        """The states s of Eq. (12.4) for the tiny Redux: 4 × 4 places, each with 96 features and its row and column.

        The features are those of the tower before its last layer, which makes one vector of them all.
        """
        crops = F.interpolate(pictures, (CROP, CROP), mode="area")
        with autocast(pictures.device):
            features = self.image[:-2](crops).float()  # without nn.Flatten and nn.Linear
        one_hot = torch.eye(4, device=pictures.device)
        place = torch.cat([one_hot.repeat_interleave(4, dim=0), one_hot.repeat(4, 1)], dim=1)  # row, then column
        return torch.cat([rearrange(features, "b c h w -> b (h w) c"), place.expand(len(pictures), -1, -1)], dim=-1)


def name_tokens(drawings: Drawings) -> Int[Tensor, "N 16"]:
    """The tokens of "a 3d fox", a row for every drawing; the words are those of the shipped text encoders."""
    first = [entry["en"][0] for entry in drawings.names]
    names = [a(f"{STYLES[s]} {first[c]}") for s, c in zip(drawings.style, drawings.concept, strict=True)]
    tokenizer = tiny_tokenizer()
    if tokenizer.pad_token_id != 0:
        raise ValueError(f"the tokenizer pads with {tokenizer.pad_token_id}; the judge takes 0 for padding")
    return torch.tensor(tokenizer(names, truncation=True, max_length=WORDS, padding="max_length")["input_ids"])


# ---------------------------------------------------------------- where it looks


def views(pictures: Float[Tensor, "B 3 128 128"]) -> Float[Tensor, "B 5 3 64 64"]:
    """Five crops of each picture: the whole at half the size; the places left, right, upper, lower of a pair."""
    edge = CROP // 2
    middle = slice(edge, edge + CROP)
    left, right = pictures[:, :, middle, :CROP], pictures[:, :, middle, CROP:]
    upper, lower = pictures[:, :, :CROP, middle], pictures[:, :, CROP:, middle]
    return torch.stack([F.avg_pool2d(pictures, 2), left, right, upper, lower], dim=1)


def object_crops(scenes: Scenes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the drawings are: numbers of the picture, of the view and of the drawing, one row for each object."""
    two = np.flatnonzero(scenes.layout != ONE)
    picture = np.concatenate([np.arange(len(scenes)), two])
    which = np.concatenate([np.zeros(len(scenes), int), np.ones(len(two), int)])
    return picture, FIRST_VIEW[scenes.layout[picture]] + which, scenes.drawing[picture, which]


# ---------------------------------------------------------------- naming


class ZeroShotClassifier:
    """The judge with the names of all drawings read once; it answers crops with concepts and styles.

    Over the similarities with all names goes a softmax; a concept has the probability of its names in all styles
    together, a style that of its names of all concepts. The likeliest is the answer.
    """

    @torch.no_grad()
    def __init__(self, judge: Judge, drawings: Drawings, duplicates: list[list[int]]):
        device = judge.log_scale.device
        self.judge, self.drawings = judge, drawings
        self.names = judge.embed_names(name_tokens(drawings).to(device))
        self.concept, self.style = torch.tensor(drawings.concept).to(device), torch.tensor(drawings.style).to(device)
        # which concepts a crop of a drawing may be called: its own, and those drawn exactly alike
        self.accepted = torch.zeros(len(drawings.style), len(drawings.names), dtype=torch.bool, device=device)
        for i, j in [[k, k] for k in range(len(drawings.style))] + duplicates:
            self.accepted[i, drawings.concept[j]] = self.accepted[j, drawings.concept[i]] = True

    @torch.no_grad()
    def similarity(self, crops: Float[Tensor, "B 3 64 64"]) -> Float[Tensor, "B N"]:
        """Cosine between each crop and the name of each drawing."""
        return torch.cat([self.judge.embed_crops(part) for part in crops.split(1024)]) @ self.names.T

    def answers(self, similarity: Float[Tensor, "B N"]) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
        """The likeliest concept and the likeliest style of each crop."""
        p = (self.judge.scale * similarity).softmax(dim=1)
        concept = p.new_zeros(len(p), len(self.drawings.names)).index_add_(1, self.concept, p)
        style = p.new_zeros(len(p), len(STYLES)).index_add_(1, self.style, p)
        return concept.argmax(dim=1), style.argmax(dim=1)

    def things(self, pictures: Float[Tensor, "B 3 128 128"]) -> list[list[dict]]:
        """What is seen in each picture, as entries of names: one thing, or two beside or above each other.

        Of the three arrangements the one whose views look most like a drawing's name; left and top come first.
        """
        similarity = self.similarity(views(pictures).flatten(0, 1))
        concept = rearrange(self.answers(similarity)[0], "(b v) -> b v", v=5).tolist()
        likeness = rearrange(similarity.amax(dim=1), "(b v) -> b v", v=5)
        arrangements = ([0], [1, 2], [3, 4])
        best = torch.stack([likeness[:, at].mean(dim=1) for at in arrangements], dim=1).argmax(dim=1).tolist()
        names = self.drawings.names
        return [[names[row[view]] for view in arrangements[k]] for row, k in zip(concept, best, strict=True)]


def load_classifier(folder: str | Path = JUDGE_FOLDER, device: torch.device | str = "cpu") -> ZeroShotClassifier:
    """The trained judge with its index: names, styles, and drawings without pixels, enough to write prompts."""
    folder = Path(folder)
    index = json.loads((folder / "index.json").read_text("utf-8"))
    style = np.concatenate([np.full(len(sheet), STYLES.index(s)) for s, sheet in index["sheets"].items()])
    concept = np.concatenate([np.array(sheet) for sheet in index["sheets"].values()])
    no_pixels = torch.empty(0, 4, SIZE, SIZE, dtype=torch.uint8)
    judge = Judge(len(tiny_tokenizer()))
    load_strict(judge, read(folder / "judge.safetensors"), source="judge.safetensors")
    judge = judge.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
    return ZeroShotClassifier(judge, Drawings(no_pixels, style, concept, index["names"]), index["twins"])


# ---------------------------------------------------------------- what is right


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


@torch.no_grad()
def verdict(
    judge: ZeroShotClassifier, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes
) -> dict[str, Bool[np.ndarray, "B"]]:
    """What is right in each picture of a scene: object, style, colour, position (of a single one: always), all of it.

    Of a pair, object and style are right if they are so for both things, looked for where the best arrangement has
    them, so that things in each other's place are a wrong position and not two wrong objects. "likeness" is no
    verdict but a number to sort by: the lowest similarity of a thing asked for with its place.
    """
    device, rows = pictures.device, torch.arange(len(scenes), device=pictures.device)
    layout, drawing = torch.from_numpy(scenes.layout).to(device), torch.from_numpy(scenes.drawing).to(device)
    similarity = judge.similarity(views(pictures).flatten(0, 1))
    concept, style = (rearrange(x, "(b v) -> b v", v=5) for x in judge.answers(similarity))
    similarity = rearrange(similarity, "(b v) n -> b v n", v=5)
    first, second = similarity[rows, :, drawing[:, 0]], similarity[rows, :, drawing[:, 1]]
    best, at_first, at_second = best_arrangement(first, second)
    one = layout == ONE
    at_first = torch.where(one, 0, at_first)

    def right(at: Tensor, which: int) -> tuple[Tensor, Tensor]:
        asked = drawing[:, which]
        return judge.accepted[asked, concept[rows, at]], judge.style[asked] == style[rows, at]

    (object_1, style_1), (object_2, style_2) = right(at_first, 0), right(at_second, 1)
    is_right = {
        "object": object_1 & (one | object_2),
        "style": style_1 & (one | style_2),
        "colour": ground_colour(pictures) == torch.from_numpy(scenes.colour).to(device),
        "position": one | (best == torch.where(layout == BESIDE, 0, 2)),
    }
    is_right["all"] = torch.stack(list(is_right.values())).all(dim=0)
    likeness = torch.minimum(first[rows, at_first], torch.where(one, 1.0, second[rows, at_second]))
    return {key: x.cpu().numpy() for key, x in (is_right | {"likeness": likeness}).items()}
