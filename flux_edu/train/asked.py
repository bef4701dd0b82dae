"""Pictures of one thing as people ask for it: a bare name, how many, in what colour, how small, in which corner.

What `data` composes is always "a flat fox on a white background". Whoever paints by hand also types "a cat", "一只猫",
"three red balloons", "a small fox in the corner". Here are such captions with the pictures that they are true of.
"""

import re
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flux_edu.train.data import CHINESE, COLOURS, ONE, SIZE, STYLES, Drawings, Rows, Scenes, a, lay, plain_canvas, seen

NUMBERS = ("", "two ", "three "), ("一", "两", "三")  # English with its article, Chinese with a measure word
# Where the one thing stands, in parts of the width and height that it leaves free.
PLACES = {
    "": ("", (0.5, 0.5)),
    "in the upper left corner": ("左上角", (0, 0)),
    "in the upper right corner": ("右上角", (1, 0)),
    "in the lower left corner": ("左下角", (0, 1)),
    "in the lower right corner": ("右下角", (1, 1)),
    "in the corner": ("角落里", None),
    "on the left": ("左侧", (0, 0.5)),
    "on the right": ("右侧", (1, 0.5)),
    "at the top": ("顶部", (0.5, 0)),
    "at the bottom": ("底部", (0.5, 1)),
}
MIDDLE, CORNER = 0, 5  # two of them by number

# ---------------------------------------------------------------- words

# Measure words by what a Chinese name ends in; animals have 只, all else 个.
MEASURES = {
    "辆": "车|巴士|卡车",
    "朵": "花|云|玫瑰|蘑菇|郁金香|向日葵",
    "棵": "树|仙人掌|幼苗",
    "条": "(?<!章)鱼|蛇|鲸|龙|鲨|裤|围巾|裙|毛虫|蠕虫|鳄",
    "把": "伞|刀|剑|锤子|斧头|椅子|吉他|钥匙|剪刀|锁|提琴|扇|勺",
    "件": "外套|t恤|和服|背心|白大褂|救生衣",
    "架": "飞机|直升机|天平",
    "艘": "船|艇|客轮",
    "座": "山|城堡|桥|教堂|神社|塔|楼|房子|清真寺",
    "匹": "(?<!河)马",
    "头": "(?<!蜗)牛|猪|大象|驴|骆驼|狮子",
    "颗": "星星|心|糖|骰子|草莓|樱桃|宝石",
    "支": "笔|蜡烛|唇膏",
    "台": "电脑|电视机|相机|打印机|收音机|显微镜",
    "张": "脸|床|票|信用卡",
    "杯": "奶茶|一杯奶|啤酒|葡萄酒|热茶|热饮",
    "本": "笔记本|书本|账本",
    "顶": "帽|皇冠|帐篷",
}
ANIMALS = re.compile("[\U0001f400-\U0001f43d\U0001f43f\U0001f980-\U0001f9ae\U0001fab0-\U0001fab3\U0001fabf\U0001face]")
FACES = re.compile("[\U0001f600-\U0001f64f\U0001f910-\U0001f97a]")
PLURALS = {"mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "child": "children", "ox": "oxen"}
PLURALS |= {"wolf": "wolves", "leaf": "leaves", "knife": "knives", "die": "dice", "potato": "potatoes"}
PLURALS |= {"tomato": "tomatoes", "mosquito": "mosquitoes", "elf": "elves", "scarf": "scarves", "snowman": "snowmen"}
PLURALS |= {name: name for name in ("deer", "bison", "moose", "shrimp", "squid")}
# Names of which one would not say "two": masses, states, plural words, several things in one drawing.
NOT_COUNTED = re.compile(
    r"\b(a|with|without|of|in|on|and|but|behind|over|at|person|people|fog|fire|ice|salt|butter|bacon|garlic|popcorn|rice"
    r"|spaghetti|sushi|bread|wood|soap|yarn|food|milk|sake|cooking|camping|zzz|dna|corn|done|away|polish|herb|kaaba|badminton"
    r"|hockey|lacrosse|pong|fuji|way|voltage|liquid|together|construction|custard|oden|luggage|salad|broccoli|sunrise|sunset)\b"
    r"|[^s]s$|(ing|no|ok|up|down|left|right|ed|ally|zy|gy|struck|viewing ceremony)$|^globe|^mate$"
)
# Things that come in every colour. A thing whose colour tells what it is, as a frog's, is not among them.
FREE = (
    "automobile, balloon, t-shirt, dress, coat, scarf, gloves, socks, necktie, backpack, handbag, purse, "
    "umbrella, clutch bag, closed umbrella, kite, kick scooter, motor scooter, delivery truck, "
    "pickup truck, canoe, sailboat, rose, tulip, butterfly, bird, fish, closed book, crayon, pencil, key, chair, "
    "door, bucket, basket, bell, mushroom, high-heeled shoe, running shoe, flat shoe, woman's hat, billed cap, "
    "ribbon, yarn, thread, lollipop, star, guitar, megaphone, magnet, boxing glove, shorts, one-piece "
    "swimsuit, telephone, teapot, wrapped gift"
).split(", ")
TINTS = ("red", "blue", "green", "yellow", "purple", "pink", "orange")


def measure_word(entry: dict) -> str:
    """Of an entry of names: 只 of a fox, 辆 of a car."""
    if FACES.match(entry["emoji"]):
        return "个"
    ends = (word for word, endings in MEASURES.items() if re.search(f"({endings})$", entry["zh"]))
    return next(ends, "只" if ANIMALS.match(entry["emoji"]) else "个")


def plural(name: str) -> str:
    """ "balloon" → "balloons"; the last word changes."""
    head, last = re.fullmatch(r"(.*?)([^ -]+)", name).groups()
    if last in PLURALS or last.endswith("fish"):
        return head + PLURALS.get(last, last)
    if re.search(r"[^aeiou]y$", last):
        return head + last[:-1] + "ies"
    return head + last + ("es" if re.search(r"(s|x|z|ch|sh)$", last) else "s")


# ---------------------------------------------------------------- things in other colours


def tint(rgba: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """A drawing (4 × H × W, colour times opacity) with its main colour exchanged, and which share of it that changes.

    What has the commonest hue of the drawing gets the hue of the new colour; saturation and brightness go along in
    proportion, so that light and shade stay.
    """
    opacity = rgba[3:].astype(np.float32) / 255
    plain = np.moveaxis(rgba[:3] / np.maximum(opacity, 1 / 255), 0, 2).astype(np.float32) / 255
    hue, saturation, value = cv2.split(cv2.cvtColor(plain.clip(0, 1), cv2.COLOR_RGB2HSV))  # hue in degrees
    there = opacity[0] > 0.5
    coloured = there & (saturation > 0.25) & (value > 0.15)
    if not coloured.any():
        return rgba, 0.0
    counts = np.bincount((hue[coloured] // 15).astype(int) % 24, minlength=24)
    main = 15 * (counts + np.roll(counts, 1) + np.roll(counts, -1)).argmax() + 7.5
    away = np.abs((hue - main + 180) % 360 - 180)
    chosen = coloured & (away < 40)
    new = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2HSV)[0, 0]
    parts = [np.full_like(hue, new[0])]
    parts += [(x * y / np.median(x[chosen])).clip(0, 1) for x, y in ((saturation, new[1]), (value, new[2]))]
    turned = np.moveaxis(cv2.cvtColor(cv2.merge(parts), cv2.COLOR_HSV2RGB), 2, 0) * opacity * 255
    picture = np.concatenate([np.where(chosen, turned.round(), rgba[:3]), rgba[3:]]).astype(np.uint8)
    return picture, float(chosen.sum() / there.sum())


def with_tints(drawings: Drawings) -> Drawings:
    """The drawings, and behind them those of `FREE` in seven colours, under names of their own: "red balloon".

    Only drawings of which at least 60 % has the main colour.
    """
    names, pixels, style, concept = list(drawings.names), [drawings.pixels], [drawings.style], [drawings.concept]
    for c, entry in enumerate(drawings.names):
        if entry["en"][0] not in FREE:
            continue
        for colour in TINTS:
            of_colour = [f"{colour} {name}" for name in entry["en"]]
            names.append(entry | {"en": of_colour, "zh": f"{CHINESE[colour]}色{entry['zh']}", "tint": colour})
            for i in np.flatnonzero(drawings.concept == c):
                picture, share = tint(drawings.pixels[i].cpu().numpy(), COLOURS[colour])
                if share >= 0.6:
                    pixels.append(torch.from_numpy(picture)[None].to(drawings.pixels.device))
                    style.append(drawings.style[i : i + 1])
                    concept.append(np.array([len(names) - 1]))
    return Drawings(torch.cat(pixels), np.concatenate(style), np.concatenate(concept), names)


class Catalogue:
    """The drawings with the tinted ones behind them, and which of all these can be counted on a picture.

    Countable is one connected region under a name that has a plural.
    """

    def __init__(self, drawings: Drawings):
        self.drawings = every = with_tints(drawings)
        solid = (every.half[:, 3] > 60).byte().cpu().numpy()
        whole = np.array([cv2.connectedComponents(one)[0] == 2 for one in solid])  # the ground counts as one
        plain = np.array([not NOT_COUNTED.search(entry["en"][0]) for entry in every.names])
        self.countable = whole & plain[every.concept]
        self.tint = np.array([entry.get("tint", "") for entry in every.names])[every.concept]


make_catalogue = cache(Catalogue)  # once for a set of drawings


# ---------------------------------------------------------------- what is asked for


@dataclass
class Asked(Rows):
    """n pictures to be, arrays of n rows: which drawing how often, where in words, small or not, on which colour."""

    drawing: Int[np.ndarray, "n"]
    count: Int[np.ndarray, "n"]  # 1 to 3
    where: Int[np.ndarray, "n"]  # a number into PLACES; counted things stand in the middle
    small: Bool[np.ndarray, "n"]
    colour: Int[np.ndarray, "n"]  # of the background, a number into COLOURS
    place: Float[np.ndarray, "n 3 3"]  # side and centre of each copy

    def scenes(self) -> Scenes:
        """As scenes of one thing, for what judges those."""
        twice = np.repeat(self.drawing[:, None], 2, axis=1)
        return Scenes(np.full(len(self), ONE), twice, self.place[:, :2], self.colour)


def place_things(
    count: int, where: int, small: bool, rng: np.random.Generator, width: int, height: int
) -> Float[np.ndarray, "3 3"]:
    """Side, centre x and centre y in pixels of up to three things that do not touch."""
    canvas, edge, place = np.array([width, height]), min(width, height), np.zeros((3, 3))
    if count == 1:
        low, high = (0.28, 0.38) if small else (0.77, 0.86) if where == MIDDLE else (0.42, 0.52)
        side, margin = edge * rng.uniform(low, high), 0.04 * edge
        free = rng.integers(0, 2, 2) if where == CORNER else list(PLACES.values())[where][1]
        centre = side / 2 + margin + np.array(free) * (canvas - side - 2 * margin)
    else:
        axis = int(rng.integers(2)) if width == height else int(height > width)
        centre = np.full((count, 2), 0.5)
        if count == 2 or canvas[axis] >= 2 * edge:  # in a row
            centre[:, axis] = (np.arange(count) + 0.5) / count
            cell = min(edge, canvas[axis] / count)
        else:  # two, and one beside them
            centre = np.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]])[:, [axis, 1 - axis]]
            centre, cell = centre if rng.random() < 0.5 else 1 - centre, edge / 2
        side, centre = cell * (rng.uniform(0.5, 0.62) if small else rng.uniform(0.78, 0.86)), centre * canvas
    place[:count, 0] = side
    place[:count, 1:] = centre + 0.03 * side * rng.uniform(-1, 1, (count, 2))
    return place


def draw_asked(
    catalogue: Catalogue,
    n: int,
    seed: int,
    unseen: bool = False,
    width: int = SIZE,
    height: int = SIZE,
    tinted: float = 0.3,
    counted: float = 0.3,
    placed: float = 0.25,
    small: float = 0.15,
) -> Asked:
    """n requests drawn at random, of combinations that training may see, or with unseen=True of such as it may not.

    The shares: in another colour than its own, two or three of it, not in the middle, small.
    """
    rng, parts = np.random.default_rng(seed), []
    of_tint = [np.flatnonzero((catalogue.tint != "") == kind) for kind in (False, True)]
    names = np.array(list(COLOURS))
    while sum(map(len, parts)) < n:
        m = max(2 * n, 64)
        chosen = [rows[rng.integers(0, len(rows), m)] if len(rows) else None for rows in of_tint]
        drawing = chosen[0] if chosen[1] is None else np.where(rng.random(m) < tinted, chosen[1], chosen[0])
        several = (rng.random(m) < counted) & catalogue.countable[drawing]
        count = np.where(several, rng.integers(2, 4, m), 1)
        where = np.where((count == 1) & (rng.random(m) < placed), rng.integers(1, len(PLACES), m), MIDDLE)
        is_small, colour = rng.random(m) < small, rng.integers(0, len(COLOURS), m)
        rows = zip(count.tolist(), where.tolist(), is_small.tolist(), strict=True)
        place = [place_things(*row, rng, width, height) for row in rows]
        asked = Asked(drawing, count, where, is_small, colour, np.stack(place))
        fine = seen(catalogue.drawings, asked.scenes()) != unseen
        parts.append(asked[fine & (names[colour] != catalogue.tint[drawing])])
    return Asked.join(parts)[:n]


def render_asked(drawings: Drawings, asked: Asked, width: int = SIZE, height: int = SIZE) -> Float[Tensor, "n 3 H W"]:
    """The pictures asked for, in [-1, 1], on the device that the drawings are on."""
    canvas = plain_canvas(asked.colour, drawings.pixels.device, width, height)
    for copy in range(3):
        lay(canvas, drawings, asked.drawing, asked.place[:, copy], copy < asked.count)
    return canvas * 2 - 1


def ask_english(entry: dict, count: int, style: str, small: bool, where: str, colour: str) -> str:
    """ "two small flat red balloons on a white background"; what is empty is not said."""
    name = entry["en"][0]
    thing = " ".join(filter(None, ("small" if small else "", style, name if count == 1 else plural(name))))
    thing = a(thing) if count == 1 else NUMBERS[0][count - 1] + thing
    return " ".join(filter(None, (thing, where, f"on {a(colour)} background" if colour else "")))


def ask_chinese(entry: dict, count: int, style: str, small: bool, where: str, colour: str, measure: str) -> str:
    """ "白色背景上左上角的一只小扁平狐狸"."""
    ground = (f"{CHINESE[colour]}色背景上" if colour else "") + (PLACES[where][0] if where else "")
    thing = ("小" if small else "") + CHINESE.get(style, style) + entry["zh"]
    return ground + ("的" if ground else "") + NUMBERS[1][count - 1] + measure + thing


def asked_captions(
    drawings: Drawings, asked: Asked, seed: int, chinese: float = 0.35, styled: float = 0.4, grounded: float = 0.4
) -> list[str]:
    """One caption a request. Style and background are said in these shares, what else is asked for always.

    Now and then "a picture of" stands before it, or in English a single thing without its article.
    """
    rng, colours, texts = np.random.default_rng(seed), list(COLOURS), []
    shares = np.array([chinese, styled, grounded, 0.15, 0.15, 0.3])[:, None]
    rows = (rng.random((6, len(asked))) < shares).T
    for i, (in_chinese, say_style, say_ground, picture, bare, common) in enumerate(rows):
        drawing, count = asked.drawing[i], int(asked.count[i])
        entry, where = drawings.names[drawings.concept[drawing]], list(PLACES)[asked.where[i]]
        style = STYLES[drawings.style[drawing]] if say_style else ""
        colour = colours[asked.colour[i]] if say_ground else ""
        words = entry, count, style, bool(asked.small[i]), where, colour
        if in_chinese:
            texts.append(ask_chinese(*words, "个" if common else measure_word(entry)))
        else:
            text = ask_english(*words)
            text = re.sub("^an? ", "", text) if bare and not picture else text
            texts.append(("a picture of " if picture else "") + text)
    return texts
