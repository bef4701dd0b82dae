"""What the tools are trained and measured on, made from compositions: edits by instruction, masks, outlines, variants.

An edit is two scenes and a sentence: how a picture is, how it shall be, and what is said for it. As both are painted
from the same drawings, what should stay the same is the same to the last pixel.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flux_edu.tools import canny
from flux_edu.train.data import (
    BESIDE,
    CHINESE,
    COLOURS,
    ONE,
    SIZE,
    STYLES,
    Drawings,
    Rows,
    Scenes,
    a,
    draw_places,
    draw_scenes,
    render,
    seen,
)

KINDS = ("background", "style", "swap", "remove")
BACKGROUND, STYLE, SWAP, REMOVE = range(4)

# ---------------------------------------------------------------- edits


@dataclass
class Edits(Rows):
    """n edits: the scene as it is and as it shall be, which of its things are then still there, and the kind."""

    before: Scenes
    after: Scenes
    shown: Bool[np.ndarray, "n 2"]
    kind: Int[np.ndarray, "n"]  # numbers into KINDS


def drawing_table(drawings: Drawings) -> Int[np.ndarray, "S C"]:
    """The number of the drawing of each concept in each style, -1 where there is none."""
    table = np.full((len(STYLES), len(drawings.names)), -1)
    table[drawings.style, drawings.concept] = np.arange(len(drawings.style))
    return table


def draw_edits(
    drawings: Drawings,
    n: int,
    seed: int,
    kinds: tuple[int, ...] = (0, 1, 2, 3),
    unseen: bool = False,
    pairs: float = 0.7,
) -> Edits:
    """n edits of these kinds; with several, `pairs` is the share of two things. Only pairs are swapped and removed.

    Training sees combinations that it may see, before and after; with unseen=True what shall come of it is held out.
    """
    rng, table, parts = np.random.default_rng(seed), drawing_table(drawings), []
    if len(kinds) == 1:
        pairs = 1.0 if kinds[0] in (SWAP, REMOVE) else 0.5
    while sum(map(len, parts)) < n:
        before = draw_before(drawings, n, rng, pairs, unseen)
        m, one = len(before), before.layout == ONE
        kind = rng.choice(kinds, m)
        kind = np.where(one & (kind >= SWAP), kind - SWAP, kind)  # one thing alone: another background or style
        drawing, place, colour = before.drawing.copy(), before.place.copy(), before.colour.copy()
        colour[kind == BACKGROUND] = ((colour + rng.integers(1, len(COLOURS), m)) % len(COLOURS))[kind == BACKGROUND]
        style = (drawings.style[drawing[:, 0]] + rng.integers(1, len(STYLES), m)) % len(STYLES)
        drawing[kind == STYLE] = table[style[:, None], drawings.concept[drawing]][kind == STYLE]
        swap = kind == SWAP
        drawing[swap], place[swap, :, 0] = drawing[swap][:, ::-1], place[swap][:, ::-1, 0]
        shown = np.ones((m, 2), bool)
        gone = np.flatnonzero(kind == REMOVE)
        shown[gone, rng.integers(0, 2, len(gone))] = False
        after = Scenes(before.layout, drawing, place, colour)
        fine = seen(drawings, after) & seen(drawings, before) if not unseen else ~seen(drawings, after)
        possible = np.isin(kind, kinds) & (one | (drawing >= 0).all(axis=1)) & (drawing[:, 0] >= 0)
        parts.append(Edits(before, after, shown, kind)[rng.permutation(np.flatnonzero(fine & possible))])
    return Edits.join(parts)[:n]


def draw_before(drawings: Drawings, n: int, rng: np.random.Generator, pairs: float, unseen: bool) -> Scenes:
    """Scenes to change, more than n of them; with unseen=True as many again that training has not seen."""
    kinds = (False, True) if unseen else (False,)
    return Scenes.join([draw_scenes(drawings, 2 * n, int(rng.integers(2**31)), pairs, held) for held in kinds])


def instructions(drawings: Drawings, edits: Edits, seed: int, chinese: float = 0.25, named: float = 1.0) -> list[str]:
    """What is said for each edit: "make the background blue", "turn the fox into 3d style", "swap left and right" …

    named is how often, for another style, the thing is called by its name and not "it", which has to be recognised.
    """
    rng = np.random.default_rng(seed)
    in_chinese, second_name, by_name = rng.random((3, len(edits))) < [[chinese], [0.3], [named]]
    colours, texts = list(COLOURS), []
    for i, kind in enumerate(edits.kind):
        colour, style = colours[edits.after.colour[i]], STYLES[drawings.style[edits.after.drawing[i, 0]]]
        beside, away = edits.after.layout[i] == BESIDE, int(not edits.shown[i, 1])
        things = [drawings.names[drawings.concept[d]] for d in edits.before.drawing[i]]
        english = {
            BACKGROUND: f"make the background {colour}",
            STYLE: f"turn it into {style} style",
            SWAP: f"swap {'left and right' if beside else 'top and bottom'}",
            REMOVE: f"remove the {things[away]['en'][-1 if second_name[i] else 0]}",
        }
        translated = {
            BACKGROUND: f"把背景变成{CHINESE[colour]}色",
            STYLE: f"变成{CHINESE.get(style, style)}风格",
            SWAP: f"{'左右' if beside else '上下'}互换",
            REMOVE: f"去掉{things[away]['zh']}",
        }
        text = (translated if in_chinese[i] else english)[kind]
        if by_name[i]:
            text = resolve_pronoun(text, things[: 1 if edits.before.layout[i] == ONE else 2])
        texts.append(text)
    return texts


def resolve_pronoun(instruction: str, things: list[dict]) -> str:
    """The instruction with names for "it", {"en": [name, …], "zh": name} each; Chinese leaves "it" out: in front there.

    "turn it into 3d style" of a fox becomes "turn the fox into 3d style", "变成立体风格" becomes "把狐狸变成立体风格".
    """
    if instruction.startswith("变成"):
        return f"把{'和'.join(thing['zh'] for thing in things)}{instruction}"
    return re.sub(r"\bit\b", " and ".join(f"the {thing['en'][0]}" for thing in things), instruction)


def edit_mask(
    painted: Float[Tensor, "3 H W"], picture: Float[Tensor, "3 h w"], share: float = 0.75
) -> Float[Tensor, "1 H W"]:
    """Where an edit has changed a picture: 1 where much, 0 where hardly, and a slope between.

    m = min(max(d / τ - 1, 0), 1);  picture + m ⊙ (painted - picture) has the old pixels again where m is 0

    d is the largest of the three colours' differences, averaged over 5 × 5 pixels, and τ a share of Otsu's threshold,
    the one that best parts the numbers d in two classes (1979, by OpenCV). So it is for edits that change much wherever
    they change anything, such as another background. Of a thing removed, the rim comes back.
    """
    if share <= 0:
        raise ValueError(f"share = {share:g}: it must be above 0; near 0, all that was painted stays painted")
    if painted.shape != picture.shape:
        shapes = tuple(painted.shape), tuple(picture.shape)
        raise ValueError(f"pictures of shapes {shapes[0]} and {shapes[1]}: compare two of one size, each (3, H, W)")
    d = ((painted.clamp(-1, 1) - picture.clamp(-1, 1)).abs().amax(dim=0) * 127.5).round().byte()
    d = cv2.blur(d.cpu().numpy(), (5, 5))
    threshold, _ = cv2.threshold(d, 0, 255, cv2.THRESH_OTSU)
    tau = max(share * threshold, 1)  # at least one of 255 steps: two equal pictures have the threshold 0
    return (torch.from_numpy(d)[None] / tau - 1).clamp(0, 1).to(picture)


def render_edits(drawings: Drawings, edits: Edits) -> tuple[Float[Tensor, "n 3 H W"], Float[Tensor, "n 3 H W"]]:
    """The pictures before and after."""
    return render(drawings, edits.before), render(drawings, edits.after, shown=edits.shown)


def opacity(
    drawings: Drawings, scenes: Scenes, shown: Bool[np.ndarray, "n 2"] | None = None
) -> Float[Tensor, "n 1 H W"]:
    """How much of each pixel is drawing and not background: what white and black shine through is the rest."""
    ground = torch.ones(len(scenes), 3, device=drawings.pixels.device)
    white, black = (render(drawings, scenes, ground * grey, shown) for grey in (1.0, 0.0))
    return 1 - (white - black).mean(dim=1, keepdim=True) / 2


# ---------------------------------------------------------------- places


def scatter(scenes: Scenes, seed: int) -> Scenes:
    """Half of the scenes with smaller things that stand anywhere; in a pair each stays in its half."""
    rng, n = np.random.default_rng(seed), len(scenes)
    one, place = scenes.layout == ONE, scenes.place.copy()
    side = rng.uniform(0.45, 0.86, (n, 2)) * np.where(one, SIZE, SIZE / 2 + 8)[:, None]
    low, high = np.zeros((n, 2, 2)), np.full((n, 2, 2), float(SIZE))  # of each thing, in x and in y
    for axis, layout in enumerate((BESIDE, BESIDE + 1)):
        high[scenes.layout == layout, 0, axis] = low[scenes.layout == layout, 1, axis] = SIZE / 2
    reach = side[..., None] / 2
    moved = np.concatenate([side[..., None], rng.uniform(low + reach, high - reach)], axis=-1)
    some = rng.random(n) < 0.5
    place[some] = moved[some]
    return Scenes(scenes.layout, scenes.drawing, place, scenes.colour)


# ---------------------------------------------------------------- masks


def draw_masks(scenes: Scenes, seed: int, measured: bool = False) -> Float[Tensor, "n 1 128 128"]:
    """1 where a picture is to be painted: of ten, six are a box round one thing, three a box anywhere, one is all.

    measured: always the box round one thing, two pixels wide of it, and in a pair only in its own half.
    """
    rng, n = np.random.default_rng(seed), len(scenes)
    which = np.where(scenes.layout == ONE, 0, rng.integers(0, 2, n))
    side, *centre = scenes.place[np.arange(n), which].T
    reach = side / 2 + (2 if measured else rng.uniform(0, 10, n))
    low, high = np.stack([*(c - reach for c in centre)]), np.stack([*(c + reach for c in centre)])
    if measured:
        for axis, layout in enumerate((BESIDE, BESIDE + 1)):  # x of two beside each other, y of two above each other
            here = scenes.layout == layout
            low[axis] = np.where(here & (which == 1), np.maximum(low[axis], SIZE / 2), low[axis])
            high[axis] = np.where(here & (which == 0), np.minimum(high[axis], SIZE / 2), high[axis])
    else:
        kind, corner = rng.random(n), rng.uniform(-16, SIZE - 16, (2, n))
        low = np.where(kind < 0.6, low, np.where(kind < 0.9, corner, 0))
        high = np.where(kind < 0.6, high, np.where(kind < 0.9, corner + rng.uniform(24, SIZE, (2, n)), SIZE))
    at = np.arange(SIZE) + 0.5
    columns, rows = ((low[axis][:, None] < at) & (at < high[axis][:, None]) for axis in (0, 1))
    return torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).float()


# ---------------------------------------------------------------- outlines


def outlines(pictures: Float[Tensor, "n 3 H W"], high: np.ndarray) -> Float[Tensor, "n 3 H W"]:
    """The Canny edges of each picture, each with its upper threshold, and a quarter of that as the lower one."""
    on_cpu = pictures.cpu()
    edges = [canny(one, float(level) / 4, float(level)) for one, level in zip(on_cpu, high, strict=True)]
    return torch.stack(edges).to(pictures.device)


def edge_agreement(painted: Float[Tensor, "n 3 H W"], true: Float[Tensor, "n 3 H W"]) -> Float[np.ndarray, "n"]:
    """F1 of two pictures of edges, with one pixel of tolerance in every direction.

    Precision is the share of painted edge pixels with a true one within their 3 × 3 square, recall the other way
    round.
    """
    scores = []
    for one, other in zip(painted, true, strict=True):
        one, other = ((x[0] > 0).cpu().numpy().astype(np.uint8) for x in (one, other))
        near = np.ones((3, 3), np.uint8)
        precision = (one & cv2.dilate(other, near)).sum() / max(1, one.sum())
        recall = (other & cv2.dilate(one, near)).sum() / max(1, other.sum())
        scores.append(2 * precision * recall / max(1e-9, precision + recall))
    return np.array(scores)


# ---------------------------------------------------------------- variants


def draw_variations(drawings: Drawings, n: int, seed: int, unseen: bool = False) -> Edits:
    """n pictures of one thing each, and the same thing as it shall be varied: its style, its background, both, none."""
    rng, table, parts = np.random.default_rng(seed), drawing_table(drawings), []
    while sum(map(len, parts)) < n:
        before = draw_before(drawings, n, rng, 0.0, unseen)
        m = len(before)
        new_style, new_colour = rng.random((2, m)) < [[0.6], [0.6]]
        style = drawings.style[before.drawing[:, 0]]
        style = np.where(new_style, (style + rng.integers(1, len(STYLES), m)) % len(STYLES), style)
        colour = (before.colour + new_colour * rng.integers(1, len(COLOURS), m)) % len(COLOURS)
        drawing = np.repeat(table[style, drawings.concept[before.drawing[:, 0]]][:, None], 2, axis=1)
        after = Scenes(before.layout, drawing, draw_places(before.layout, rng), colour)
        fine = seen(drawings, after) & seen(drawings, before) if not unseen else ~seen(drawings, after)
        kind = np.where(new_style, STYLE, BACKGROUND)
        parts.append(Edits(before, after, np.ones((m, 2), bool), kind)[np.flatnonzero(fine & (drawing[:, 0] >= 0))])
    return Edits.join(parts)[:n]


def wishes(drawings: Drawings, edits: Edits, seed: int, chinese: float = 0.25, always: bool = False) -> list[str]:
    """What is said beside the picture: "in 3d style on a blue background", or less where nothing changes.

    What does not change is said every other time; always says all of it, in English.
    """
    rng = np.random.default_rng(seed)
    in_chinese, say_style, say_colour = rng.random((3, len(edits))) < [[0.0 if always else chinese], [0.5], [0.5]]
    colours, texts = list(COLOURS), []
    for i in range(len(edits)):
        old, new = (int(drawings.style[scenes.drawing[i, 0]]) for scenes in (edits.before, edits.after))
        style = STYLES[new] if always or say_style[i] or old != new else None
        moved = edits.before.colour[i] != edits.after.colour[i]
        colour = colours[edits.after.colour[i]] if always or say_colour[i] or moved else None
        if in_chinese[i]:
            words = [f"{CHINESE.get(style, style)}风格" if style else "", f"{CHINESE[colour]}色背景" if colour else ""]
        else:
            words = [f"in {style} style" if style else "", f"on {a(colour)} background" if colour else ""]
        texts.append(("，" if in_chinese[i] else " ").join(filter(None, words)))
    return texts
