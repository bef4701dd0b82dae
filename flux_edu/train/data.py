"""Captioned pictures, composed on the fly from single drawings.

A picture is a plain background in one of ten colours with one drawing on it, or two side by side, or two one above the
other. The caption says which: "a flat fox left of a red apple on a white background". So word order, place words and
colours all carry meaning, and there are far more combinations than any training sees.
"""

import json
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

SIZE = 128  # pixels a side, of drawings and of pictures
SHIPPED = Path(str(files("flux_edu"))) / "train" / "drawings"  # a few hundred drawings that travel with the package
STYLES = ("noto", "flat", "3d", "pixel", "sticker", "sketch")
COLOURS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "red": (214, 48, 49),
    "blue": (52, 110, 219),
    "green": (46, 160, 90),
    "yellow": (253, 216, 80),
    "purple": (130, 80, 190),
    "pink": (250, 160, 200),
    "orange": (245, 140, 50),
    "gray": (140, 140, 140),
}
CHINESE = dict(zip(COLOURS, "白黑红蓝绿黄紫粉橙灰", strict=True)) | {
    "flat": "扁平",
    "3d": "立体",
    "pixel": "像素",
    "sticker": "贴纸",
    "sketch": "素描",
}
ONE, BESIDE, ABOVE = 0, 1, 2  # layouts
PLACES = {BESIDE: ("left of", "right of", "左边", "右边"), ABOVE: ("above", "below", "上面", "下面")}

SIXTEEN = (
    "a 3d dog face on a white background",
    "a noto red apple on a blue background",
    "a sticker rocket on a yellow background",
    "a flat pizza on a green background",
    "a 3d cat face left of a dog face on a pink background",
    "a noto rocket above a house on a black background",
    "a flat fox left of a red apple on a white background",
    "a pixel pizza above a dog face on a yellow background",
    "a 3d astronaut on a purple background",
    "a sketch guitar on a gray background",
    "a pixel cat face with heart-eyes on a red background",
    "a noto birthday cake left of a wrapped gift on an orange background",
    "a sticker tiger face left of a lion on a green background",
    "a 3d sun above a house on a blue background",
    "a flat robot on a white background",
    "a noto unicorn above a rainbow on a pink background",
)  # the prompts looked at after every training


# ---------------------------------------------------------------- drawings on disk


@dataclass(eq=False)
class Drawings:
    """Single drawings: colour times opacity and opacity, in 8 bits, with the style and the concept of each."""

    pixels: UInt8[Tensor, "N 4 128 128"]
    style: np.ndarray  # N numbers into STYLES
    concept: np.ndarray  # N numbers into names
    names: list[dict]  # {"emoji": …, "en": [name, second name …], "zh": name}

    def to(self, device: torch.device | str) -> "Drawings":
        return replace(self, pixels=self.pixels.to(device))

    @cached_property
    def half(self) -> UInt8[Tensor, "N 4 64 64"]:
        """Averaged to half the size, so that small copies are not jagged."""
        return torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in self.pixels.split(1024)])

    def find(self, style: str, name: str) -> int:
        """The number of one drawing, by style and English name."""
        for i in np.flatnonzero(self.style == STYLES.index(style)):
            if name in self.names[self.concept[i]]["en"]:
                return int(i)
        raise ValueError(f"there is no {style} drawing of {name!r} in this set of {len(self.style)}")

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What training may see: drawings "N", concept × colour, concept × concept. The rest is held out."""
        first = [entry["en"][0] for entry in self.names]
        drawing = [not held_out(style=STYLES[s], name=first[c]) for s, c in zip(self.style, self.concept, strict=True)]
        colour = [[not held_out(name=name, colour=colour) for colour in COLOURS] for name in first]
        pair = [[not held_out(name=a, other=b) for b in first] for a in first]
        return np.array(drawing), np.array(colour), np.array(pair)


def held_out(
    *, style: str | None = None, name: str | None = None, colour: str | None = None, other: str | None = None
) -> bool:
    """Whether training never sees this combination: 2 % of style × concept, 4 % of concept × colour, 10 % of pairs.

    Give name with exactly one of style, colour and other. A hash of the words decides, so it is the same everywhere and
    for ever, and the test set consists of combinations, not of other pictures of what was trained on.
    """
    if name is None or sum(x is not None for x in (style, colour, other)) != 1:
        raise ValueError("give name and exactly one of style, colour and other")
    if style is not None:
        parts, percent = ("drawing", style, name), 2
    elif colour is not None:
        parts, percent = ("colour", colour, name), 4
    else:
        parts, percent = ("pair", *sorted((name, other))), 10  # a left of b and b left of a are held out together
    return zlib.crc32("|".join(parts).encode()) % 100 < percent


def load_drawings(folder: str | Path = SHIPPED) -> Drawings:
    """The drawings of a folder that docs/make/emoji.py has written; without one, the small set of the package."""
    folder = Path(folder)
    if not (folder / "names.json").is_file():
        raise FileNotFoundError(f"{folder} holds no drawings; make them with: python docs/make/emoji.py")
    index = json.loads((folder / "names.json").read_text("utf-8"))
    pixels, style, concept = [], [], []
    for name, numbers in index["sheets"].items():
        with Image.open(folder / f"{name}.webp") as sheet:
            rgba = np.array(sheet.convert("RGBA"))
        # colour times opacity, rounded, in 16 bits: 255 · 255 just fits
        rgba[..., :3] = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255
        tiles = rearrange(rgba, "(r h) (c w) k -> (r c) k h w", h=SIZE, w=SIZE)[: len(numbers)]
        pixels.append(torch.from_numpy(np.ascontiguousarray(tiles)))
        style += [STYLES.index(name)] * len(numbers)
        concept += numbers
    return Drawings(torch.cat(pixels), np.array(style), np.array(concept), index["names"])


# ---------------------------------------------------------------- what to compose


class Rows:
    """A dataclass whose fields have n rows each: arrays, or such dataclasses again."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def __getitem__(self, rows) -> "Rows":
        return type(self)(*(x[rows] for x in vars(self).values()))

    @classmethod
    def join(cls, parts: list["Rows"]) -> "Rows":
        """All rows of all parts, one after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(type(x[0]).join(x) if isinstance(x[0], Rows) else np.concatenate(x) for x in columns))


@dataclass
class Scenes(Rows):
    """n pictures to be: a layout, one or two drawings with their places, a colour. Arrays of n rows."""

    layout: np.ndarray  # ONE, BESIDE or ABOVE
    drawing: np.ndarray  # n × 2: left or upper one first; with ONE the second is not painted
    place: np.ndarray  # n × 2 × 3: side, centre x, centre y in pixels
    colour: np.ndarray  # numbers into COLOURS


def draw_scenes(
    drawings: Drawings,
    n: int,
    seed: int,
    pairs: float = 0.5,
    unseen: bool = False,
    width: int = SIZE,
    height: int = SIZE,
) -> Scenes:
    """n scenes drawn at random, a share `pairs` of them with two drawings, a third of those in two styles.

    Only combinations that training may see; with unseen=True only those held out from it in at least one way.
    """
    rng = np.random.default_rng(seed)
    of_style = [np.flatnonzero(drawings.style == s) for s in range(len(STYLES))]
    parts: list[Scenes] = []
    while sum(map(len, parts)) < n:
        m = max(2 * n, 64)
        layout = np.where(rng.random(m) < pairs, rng.integers(BESIDE, ABOVE + 1, m), ONE)
        first = rng.integers(0, len(drawings.style), m)
        second = rng.integers(0, len(drawings.style), m)
        same = rng.random(m) < 2 / 3  # the second drawing has the first one's style
        for s, members in enumerate(of_style):
            rows = np.flatnonzero(same & (drawings.style[first] == s))
            second[rows] = members[rng.integers(0, len(members), len(rows))] if len(rows) else second[rows]
        colour = rng.integers(0, len(COLOURS), m)
        scenes = Scenes(layout, np.stack([first, second], 1), draw_places(layout, rng, width, height), colour)
        twice = (layout != ONE) & (drawings.concept[first] == drawings.concept[second])
        parts.append(scenes[(seen(drawings, scenes) != unseen) & ~twice])
    return Scenes.join(parts)[:n]


def seen(drawings: Drawings, scenes: Scenes) -> Bool[np.ndarray, "n"]:
    """Which scenes training may see: no drawing, no thing on its colour and no pair in it is held out."""
    seen_drawing, seen_colour, seen_pair = drawings.seen
    (first, second), two = scenes.drawing.T, scenes.layout != ONE
    a, b = drawings.concept[first], drawings.concept[second]
    fine = seen_drawing[first] & seen_colour[a, scenes.colour]
    return fine & (~two | (seen_drawing[second] & seen_colour[b, scenes.colour] & seen_pair[a, b]))


def draw_places(layout: np.ndarray, rng: np.random.Generator, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """Side and centre of both drawings, each a little off the middle of its cell, which is all of the picture or half.

    Of a cell of 128 pixels one alone takes 98 to 110, of a cell of 64 one of a pair 56 to 60; others in proportion.
    """
    n, one = len(layout), layout == ONE
    half = np.stack([(layout == BESIDE) * width / 2, (layout == ABOVE) * height / 2], axis=1)  # from first to second
    cell = np.array([width, height]) - half
    unit = cell.min(axis=1) / np.where(one, SIZE, SIZE / 2)
    side = np.where(one, rng.uniform(98, 110, n), 0)[:, None] + ~one[:, None] * rng.uniform(56, 60, (n, 2))
    centre = np.stack([cell / 2, cell / 2 + half], axis=1)
    reach = unit * np.where(one, 5, 2)
    centre += reach[:, None, None] * rng.uniform(-1, 1, (n, 2, 2))
    return np.concatenate([(unit[:, None] * side)[..., None], centre], axis=-1)


# ---------------------------------------------------------------- pictures


def paste(
    canvas: Float[Tensor, "B 3 H W"], sprites: UInt8[Tensor, "B 4 h w"], place: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 3 H W"]:
    """Lay one drawing over each picture (numbers in [0, 1]): canvas (1 - α) + α colour, resampled bilinearly.

    place is side, centre x, centre y in pixels. The drawings come with colour already times opacity: resampling plain
    colours would pull the invisible ones from beyond the edge into it.
    """
    side, x, y = place.unbind(1)
    H, W = canvas.shape[2:]
    zero = torch.zeros_like(side)
    row_x = torch.stack([W / side, zero, (W - 2 * x) / side], 1)
    row_y = torch.stack([zero, H / side, (H - 2 * y) / side], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [len(canvas), 4, H, W], align_corners=False)
    rgba = F.grid_sample(sprites.float() / 255, grid, align_corners=False)
    return canvas * (1 - rgba[:, 3:]) + rgba[:, :3]


def plain_canvas(
    colour: Int[np.ndarray, "B"], device: torch.device, width: int, height: int
) -> Float[Tensor, "B 3 H W"]:
    """Pictures of nothing but these of `COLOURS`, in [0, 1]."""
    ground = (torch.tensor(list(COLOURS.values()), device=device) / 255)[torch.from_numpy(colour).to(device)]
    return ground[:, :, None, None].repeat(1, 1, height, width)


def lay(
    canvas: Float[Tensor, "B 3 H W"],
    drawings: Drawings,
    drawing: Int[np.ndarray, "B"],
    place: Float[np.ndarray, "B 3"],
    there: Bool[np.ndarray, "B"],
) -> None:
    """Paste a drawing, by its number, into each of the pictures where it is there; small ones from the halved set."""
    for source, some in (
        (drawings.half, there & (place[:, 0] <= SIZE / 2)),
        (drawings.pixels, there & (place[:, 0] > SIZE / 2)),
    ):
        if len(rows := np.flatnonzero(some)):
            at, chosen = (torch.from_numpy(x).to(canvas.device) for x in (rows, drawing[rows]))
            canvas[at] = paste(canvas[at], source[chosen], torch.from_numpy(place[rows]).float().to(canvas.device))


def render(
    drawings: Drawings,
    scenes: Scenes,
    background: Float[Tensor, "B 3"] | None = None,
    shown: Bool[np.ndarray, "B 2"] | None = None,
    width: int = SIZE,
    height: int = SIZE,
) -> Float[Tensor, "B 3 H W"]:
    """The pictures of the scenes, in [-1, 1], on the device that the drawings are on.

    background gives other colours than the ten, in [0, 1]; NaN leaves a picture its own. shown says which of a pair is
    there; without it both are.
    """
    canvas = plain_canvas(scenes.colour, drawings.pixels.device, width, height)
    if background is not None:
        canvas = torch.where(background.isnan()[:, :, None, None], canvas, background[:, :, None, None])
    one, shown = scenes.layout == ONE, np.ones((len(scenes), 2), bool) if shown is None else shown
    for which, there in ((0, one | shown[:, 0]), (1, ~one & shown[:, 1])):
        lay(canvas, drawings, scenes.drawing[:, which], scenes.place[:, which], there)
    return canvas * 2 - 1


# ---------------------------------------------------------------- captions


def a(words: str) -> str:
    """With its article: a fox, an astronaut."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption_english(
    layout: int, colour: str | None, first: tuple[str | None, str], second: tuple[str | None, str], turned: bool = False
) -> str:
    """ "a flat fox left of a red apple on a white background"; turned, the other one is named first, right of this one.

    first and second are (style, name). A style of None is left out: the one named first then holds for both.
    """
    (one, other) = (second, first) if turned else (first, second)
    text = a(" ".join(filter(None, one)))
    if layout != ONE:
        text += f" {PLACES[layout][turned]} {a(' '.join(filter(None, other)))}"
    return text + (f" on {a(colour)} background" if colour else "")


def caption_chinese(
    layout: int, colour: str | None, first: tuple[str | None, str], second: tuple[str | None, str], turned: bool = False
) -> str:
    """The same in Chinese: "白色背景上，扁平狐狸在红苹果左边"."""
    words = ["".join(filter(None, (CHINESE.get(style, style), name))) for style, name in (first, second)]
    one, other = words[::-1] if turned else words
    text = one if layout == ONE else f"{one}在{other}{PLACES[layout][2 + turned]}"
    ground = f"{CHINESE[colour]}色背景上" if colour else ""
    return text if not colour else ground + ("的" if layout == ONE else "，") + text


def captions(drawings: Drawings, scenes: Scenes, seed: int, chinese: float = 0.35, complete: bool = False) -> list[str]:
    """One caption a scene, worded at random: language, order, and now and then no style or no background.

    Two drawings of one style name it once, before the first; two styles are always both named, one before each.
    complete: always with style and background, by first names only.
    """
    rng = np.random.default_rng(seed)
    colours, n = list(COLOURS), len(scenes)
    shares = [chinese, 0.3, *((0, 0, 0) if complete else (0.06, 0.04, 0.5))]
    in_chinese, turned, plain, bare, second_name = rng.random((5, n)) < np.array(shares)[:, None]
    texts = []
    for i in range(n):
        names, styles = [], []
        for drawing in scenes.drawing[i]:
            entry = drawings.names[drawings.concept[drawing]]
            names.append(entry["zh"] if in_chinese[i] else entry["en"][-1 if second_name[i] else 0])
            styles.append(None if plain[i] else STYLES[drawings.style[drawing]])
        layout = int(scenes.layout[i])
        swap = bool(turned[i]) and layout != ONE
        if styles[0] == styles[1]:
            styles[0 if swap else 1] = None
        write = caption_chinese if in_chinese[i] else caption_english
        colour = None if bare[i] else colours[scenes.colour[i]]
        texts.append(write(layout, colour, *zip(styles, names, strict=True), turned=swap))
    return texts
