"""README's first picture, drawn by `python docs/make/sheet.py`: the tiny FLUX on eight prompts."""

import hashlib
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.pipeline import FluxGenerator
from flux_edu.teaching.plots.style import new_figure

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
PATH = Path(__file__).parents[2] / "notebooks" / "img" / "tiny_sheet.png"


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


def main() -> None:
    generator = FluxGenerator("tiny", device="cpu")
    spec = generator.spec
    pictures = [generator.generate_image(128, 128, spec.num_steps, spec.guidance, SEED, prompt) for prompt in PROMPTS]
    sheet(pictures).savefig(PATH, dpi=150, metadata={"weights": weights_hash()})


if __name__ == "__main__":
    main()
