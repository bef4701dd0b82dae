"""Fetch six openly licensed sets of emoji and draw them at 128 × 128: `python -m flux_edu.train.build_data`.

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
from PIL import Image

from flux_edu.train.data import SHIPPED, SIXTEEN, SIZE, STYLES, save_drawings

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "blob": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "emojione": "@iconify-json/emojione@1.2.3",
    "names": "unicode-emoji-json@0.9.0",
    "words": "cldr-annotations-full@48.2.0",
}
MIN_STYLES = 4  # a concept that fewer sets have drawn teaches little about style

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
    found = {}
    for key, package in PACKAGES.items():
        found[key] = folder / key
        if found[key].is_dir():
            continue
        command = ["npm", "pack", "--json", package]
        told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        listing = json.loads(told.stdout)
        entry = next(iter(listing.values())) if isinstance(listing, dict) else listing[0]
        with tarfile.open(folder / entry["filename"]) as tar:
            tar.extractall(found[key], filter="data")
    return found


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
    """style → number of the concept → drawing, for every drawing there is."""
    drawings: dict[str, dict[int, Image.Image]] = {style: {} for style in STYLES}
    icons = {}
    for style in set(STYLES) - {"3d"}:
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


def choose_shipped(things: list[dict], count: int) -> list[int]:
    """The concepts of the small set that travels with the package: those of the sixteen prompts, then evenly spread."""
    text = " | ".join(SIXTEEN)
    first = [i for i, thing in enumerate(things) if any(f" {name} " in text for name in thing["en"])]
    spread = np.linspace(0, len(things) - 1, 3 * count).astype(int).tolist()
    return sorted((first + [i for i in spread if i not in first])[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="where to fetch and write to")
    parser.add_argument("--ship", type=int, default=0, help="also write this many concepts to the package's own set")
    args = parser.parse_args()
    packages = fetch(args.data / "npm")
    things = concepts(packages)
    drawings = draw(packages, things)
    often = [i for i in range(len(things)) if sum(i in found for found in drawings.values()) >= MIN_STYLES]

    def save(folder: Path, numbers: list[int], quality: int) -> None:
        keep = {style: {n: found[i] for n, i in enumerate(numbers) if i in found} for style, found in drawings.items()}
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
