"""Fetch four openly licensed sets of emoji and draw them at 128 × 128: `python docs/make/emoji.py`.

Three of the six styles are drawn by the sets' artists: noto, flat, 3d. The others are made here: pixel and sticker from
Twemoji's drawings, sketch from Noto's. A style has to be a thing that can be seen, or nobody could say whether a
drawing that never existed is in it: sets that differ in taste only (Noto, its older version, Twemoji, EmojiOne) teach
which drawing belongs to which word by heart, and nothing else.

Writes data/emoji: one WebP sheet a style and names.json. Needs npm for fetching and resvg-py for drawing, no GPU.
Licences and attributions stand in THIRD_PARTY.md.
"""

import argparse
import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from flux_edu.train.data import SHIPPED, SIXTEEN, SIZE, STYLES

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "names": "unicode-emoji-json@0.9.0",
    "words": "cldr-annotations-full@48.2.0",
}
DRAWN = ("noto", "twemoji", "flat", "3d")  # the sets
MIN_SETS = 3  # a concept that fewer sets have drawn teaches little about style

# What is left out, and why: flags and symbols are signs, not things; of near-identical drawings one is enough.
NOT_GROUPS = {"Flags", "Component", "Symbols"}
NOT_STARTING = ("man ", "woman ", "men ", "women ", "kiss", "couple", "family", "old ", "deaf", "pregnant")
NOT_STARTING += ("person with", "breast-feeding", "closed mailbox", "open mailbox", "backhand", "clinking")
NOT_STARTING += ("speaker ", "hourglass not")
NOT_CONTAINING = ("o’clock", "-thirty", "quarter moon", "gibbous", "waxing", "waning", "facing right", "pushing hand")
NOT_CONTAINING += ("holding hands", "bunny ears", "banknote", "wards hand", "-facing fist", "levitating", "silhouette")
NOT = {"merman", "middle finger", "cigarette", "map of Japan", "Mx Claus", "person", "man", "woman"}

# Second names, for readers who type them; the sixteen prompts say "cat face with heart-eyes".
ALSO = {"😻": "cat face with heart-eyes", "🚗": "car", "✈️": "plane", "💩": "poop", "🍩": "donut", "🔥": "flame"}


def fetch(folder: Path) -> dict[str, Path]:
    """Each package unpacked in a folder of its own; what is there already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    folders = {}
    for key, package in PACKAGES.items():
        folders[key] = folder / key
        if folders[key].is_dir():
            continue
        command = ["npm", "pack", "--json", package]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        listing = json.loads(packed.stdout)
        entry = next(iter(listing.values())) if isinstance(listing, dict) else listing[0]
        with tarfile.open(folder / entry["filename"]) as tar:
            tar.extractall(folders[key], filter="data")
    return folders


def concepts(packages: dict[str, Path]) -> list[dict]:
    """The things to draw: the emoji, its group, English names (the first is CLDR's) and its Chinese name."""

    def annotations(language):
        path = packages["words"] / "package" / "annotations" / language / "annotations.json"
        return json.loads(path.read_text("utf-8"))["annotations"]["annotations"]

    english, chinese = annotations("en"), annotations("zh")
    kept = []
    for emoji, entry in json.loads((packages["names"] / "package" / "data-by-emoji.json").read_text("utf-8")).items():
        bare, name = emoji.replace("\ufe0f", ""), entry["name"]
        if entry["group"] in NOT_GROUPS or name in NOT or bare not in chinese or bare not in english:
            continue
        if name.startswith(NOT_STARTING) or any(part in name for part in NOT_CONTAINING):
            continue
        names = [name.lower().replace("’", "'")] + ([ALSO[emoji]] if emoji in ALSO else [])
        kept.append({"emoji": emoji, "slug": entry["slug"], "en": names, "zh": chinese[bare]["tts"][0].lower()})
    return kept


def rasterise(body: str, box: str) -> Image.Image:
    """What stands inside an SVG, and its view box, as 128 × 128 RGBA."""
    import resvg_py

    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {spaces} viewBox="{box}" width="{SIZE}" height="{SIZE}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
    return Image.open(io.BytesIO(base64.b64decode(png) if isinstance(png, str) else bytes(png))).convert("RGBA")


def draw(packages: dict[str, Path], things: list[dict]) -> dict[str, dict[int, Image.Image]]:
    """set → number of the concept → drawing, for every drawing there is."""
    drawings: dict[str, dict[int, Image.Image]] = {style: {} for style in DRAWN}
    icons = {}
    for style in ("noto", "twemoji", "flat"):
        root = packages[style] / "package"
        icons[style] = [json.loads((root / name).read_text("utf-8")) for name in ("icons.json", "chars.json")]
    for number, thing in enumerate(things):
        points = "-".join(f"{ord(c):x}" for c in thing["emoji"])
        bare = "-".join(p for p in points.split("-") if p != "fe0f")
        # two of the sets name drawings by words only, so every set's word for these code points is tried
        slugs = [chars[bare] for _, chars in icons.values() if bare in chars] + [thing["slug"].replace("_", "-")]
        for style, (collection, _) in icons.items():
            aliases = collection.get("aliases", {})
            for slug in slugs:
                slug = aliases.get(slug, {}).get("parent", slug)
                if slug in collection["icons"]:
                    icon = collection["icons"][slug]
                    side = [icon.get(key, collection.get(key, 16)) for key in ("width", "height")]
                    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {side[0]} {side[1]}"
                    drawings[style][number] = rasterise(icon["body"], box)
                    break
        for name in (points, bare):
            path = packages["3d"] / "package" / "assets" / f"{name}.webp"
            if path.is_file():
                with Image.open(path) as picture:
                    drawings["3d"][number] = picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                break
    return drawings


# ---------------------------------------------------------------- styles made from drawings


def pixel(drawing: Image.Image, side: int = 16) -> Image.Image:
    """16 × 16 squares of one colour each, six levels a channel; a square is there or not."""
    rgba = np.asarray(drawing, float)
    opacity = rgba[..., 3:] / 255
    squares = np.concatenate([rgba[..., :3] * opacity, opacity], -1)
    squares = squares.reshape(side, SIZE // side, side, SIZE // side, 4).mean(axis=(1, 3))
    colour = (squares[..., :3] / np.maximum(squares[..., 3:], 1e-6) / 51).round() * 51
    there = (squares[..., 3:] > 0.4) * 255.0
    small = np.concatenate([np.where(there > 0, colour, 0), there], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(small, "RGBA").resize((SIZE, SIZE), Image.Resampling.NEAREST)


def sticker(drawing: Image.Image, margin: int = 7) -> Image.Image:
    """A little smaller, on white paper cut along its outline, with a thin grey edge."""
    placed = Image.new("RGBA", (SIZE, SIZE))
    placed.paste(drawing.resize((SIZE - 2 * margin,) * 2, Image.Resampling.LANCZOS), (margin, margin))
    outline = placed.getchannel("A").point(lambda opacity: 255 * (opacity > 100))

    def paper(grey: int, blur: float, above: int) -> Image.Image:
        """All that is near the outline, in one grey."""
        layer = Image.new("RGBA", (SIZE, SIZE), (grey, grey, grey, 0))
        wider = outline.filter(ImageFilter.GaussianBlur(blur)).point(lambda near: 255 * (near > above))
        layer.putalpha(wider.filter(ImageFilter.GaussianBlur(0.8)))
        return layer

    whole = paper(120, 4.2, 8)
    whole.alpha_composite(paper(255, 3.2, 12))
    whole.alpha_composite(placed)
    return whole


def sketch(drawing: Image.Image) -> Image.Image:
    """Black lines where brightness or opacity change, light grey between them."""

    def change(values: Image.Image) -> np.ndarray:
        soft = np.asarray(values.filter(ImageFilter.GaussianBlur(1.3)), float)
        return np.maximum.reduce([np.abs(np.gradient(soft, axis=axis)) for axis in (0, 1)])

    opacity, paper = drawing.getchannel("A"), Image.new("RGBA", drawing.size, "white")
    paper.alpha_composite(drawing)
    grey = paper.convert("L")
    line = ((np.maximum(1.3 * change(grey), 0.9 * change(opacity)) - 4) / 22).clip(0, 1)
    shade = (0.75 * 255 + 0.25 * np.asarray(grey, float)) * (1 - line) + 45 * line
    return Image.merge("RGBA", [Image.fromarray(shade.clip(0, 255).astype(np.uint8))] * 3 + [opacity])


MADE = {"pixel": ("twemoji", pixel), "sticker": ("twemoji", sticker), "sketch": ("noto", sketch)}


def in_styles(drawings: dict[str, dict[int, Image.Image]]) -> dict[str, dict[int, Image.Image]]:
    """style → number of the concept → drawing: what the sets have drawn, and what is made of it."""
    made = {
        style: {number: make(drawing) for number, drawing in drawings[source].items()}
        for style, (source, make) in MADE.items()
    }
    return {style: (drawings | made)[style] for style in STYLES}


def choose_shipped(things: list[dict], count: int) -> list[int]:
    """The concepts of the small set that travels with the package: those of the sixteen prompts, then evenly spread."""
    text = " | ".join(SIXTEEN)
    first = [i for i, thing in enumerate(things) if any(f" {name} " in text for name in thing["en"])]
    spread = np.linspace(0, len(things) - 1, 3 * count).astype(int).tolist()
    return sorted((first + [i for i in spread if i not in first])[:count])


def save_drawings(folder: Path, names: list[dict], drawings: dict[str, dict[int, Image.Image]], quality: int) -> None:
    """One WebP sheet a style, 32 drawings a row, and names.json with the names and which concepts each sheet holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for style, pictures in drawings.items():
        sheet = Image.new("RGBA", (32 * SIZE, -(-len(pictures) // 32) * SIZE))
        for place, picture in enumerate(pictures.values()):
            sheet.paste(picture, (place % 32 * SIZE, place // 32 * SIZE))
        sheet.save(folder / f"{style}.webp", quality=quality, method=6)
    index = {"names": names, "sheets": {style: list(pictures) for style, pictures in drawings.items()}}
    (folder / "names.json").write_text(json.dumps(index, ensure_ascii=False), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="where to fetch and write to")
    parser.add_argument("--ship", type=int, default=0, help="also write this many concepts to the package's own set")
    args = parser.parse_args()
    packages = fetch(args.data / "npm")
    things = concepts(packages)
    drawn = draw(packages, things)
    often = [i for i in range(len(things)) if sum(i in numbered for numbered in drawn.values()) >= MIN_SETS]
    drawings = in_styles({name: {i: of[i] for i in often if i in of} for name, of in drawn.items()})

    def save(folder: Path, numbers: list[int], quality: int) -> None:
        keep = {style: {n: of[i] for n, i in enumerate(numbers) if i in of} for style, of in drawings.items()}
        names = [{key: things[i][key] for key in ("emoji", "en", "zh")} for i in numbers]
        save_drawings(folder, names, keep, quality)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{folder}: {len(numbers)} concepts, {sum(map(len, keep.values()))} drawings, {size:.2f} MB")

    save(args.data / "emoji", often, 92)
    if args.ship:
        chosen = choose_shipped([things[i] for i in often], args.ship)
        save(SHIPPED, [often[i] for i in chosen], 85)


if __name__ == "__main__":
    main()
