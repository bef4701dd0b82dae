"""README's first picture, and with --card the three sheets of the model card: `python docs/make/sheet.py [--card]`."""

import argparse
import hashlib
import re
import textwrap
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.io.images import picture_grid, to_tensor
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.pipeline import FluxGenerator
from flux_edu.teaching.plots.style import new_figure
from flux_edu.train.data import SIXTEEN

PROMPTS = (
    "a 3d dog face on a white background",
    "a noto red apple on a blue background",
    "a sticker rocket on a yellow background",
    "a flat pizza on a green background",
    "a 3d astronaut on a purple background",
    "a flat robot on a white background",
    "a noto rocket above a house on a black background",
    "a flat fox left of a red apple on a white background",
)
SEED = 0
PICTURES = Path(__file__).parents[2] / "notebooks" / "img"
WEIGHTS = Path(str(TINY_FOLDER)).parent
SIZES = ((96, 96), (256, 128), (256, 256))  # of the card's third sheet
AT_ALL_SIZES = tuple(SIXTEEN[i] for i in (0, 4, 6, 12))


def sheet(pictures: list[Image.Image], prompts: tuple[str, ...] = PROMPTS) -> Figure:
    """Pictures in rows of four, each under nothing but its prompt."""
    fig, axes = new_figure(-(-len(pictures) // 4), 4, width=7.2, height=4.6)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, prompt in zip(axes.flat, pictures, prompts, strict=False):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title("\n".join(textwrap.wrap(prompt, 28)), fontsize=8)
    fig.set_label(f"Small pictures, each under its prompt: {'; '.join(prompts)}")
    return fig


def weights_hash() -> str:
    """SHA-256 of the weights that painted it, noted in the picture so that a test can see when it is out of date."""
    files = [TINY_FOLDER / f"{part}.safetensors" for part in ("ae", "clip", "flux", "t5")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def unseen_prompts() -> list[str]:
    """The held-out combinations that the card lists by number."""
    return re.findall(r"^\d+\. (an? .+)$", (WEIGHTS / "MODEL_CARD.md").read_text("utf-8"), re.MULTILINE)


def rows_of(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size, four in a row, without a gap."""
    return picture_grid(torch.cat(list(map(to_tensor, pictures))), columns=4)


def below_each_other(parts: list[Image.Image]) -> Image.Image:
    """Pictures of any width, the first at the top, all at the left."""
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    y = 0
    for part in parts:
        page.paste(part, (0, y))
        y += part.height
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", action="store_true", help="the card's sheets too, five minutes on a CPU")
    args = parser.parse_args()
    generator = FluxGenerator("tiny", device="cpu")
    paint = partial(
        generator.generate_image, num_steps=generator.spec.num_steps, guidance=generator.spec.guidance, seed=SEED
    )
    pictures = [paint(128, 128, prompt=prompt) for prompt in PROMPTS]
    sheet(pictures).savefig(PICTURES / "tiny_sheet.png", dpi=150, metadata={"weights": weights_hash()})
    if args.card:
        for name, prompts in (("sixteen", SIXTEEN), ("unseen", unseen_prompts())):
            rows_of([paint(128, 128, prompt=prompt) for prompt in prompts]).save(PICTURES / f"{name}.webp", quality=70)
        sizes = [rows_of([paint(*size, prompt=prompt) for prompt in AT_ALL_SIZES]) for size in SIZES]
        below_each_other(sizes).save(PICTURES / "sizes.webp", quality=70)


if __name__ == "__main__":
    main()
