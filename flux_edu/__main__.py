"""The package from a command line:  python -m flux_edu sample "a 3d fox on a blue background"."""

import argparse
import sys
import warnings
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from flux_edu.advice import Advice
from flux_edu.configs import configs, get_spec
from flux_edu.pictures import png_path, save_image
from flux_edu.pipeline import FluxGenerator


def sample(options: argparse.Namespace) -> Path:
    """Paint one picture and save it; what it takes to paint it again stands in the file."""
    spec = get_spec(options.model)
    side = 1024 if spec.repo_id else 128
    init_image = open_picture(options.init) if options.init else None
    path = png_path(options.out) if options.out else None
    steps = given(options.steps, spec.num_steps)
    generator = FluxGenerator(options.model, options.device)
    with tqdm(total=steps, desc="painting", unit="step") as bar:
        picture = generator.generate_image(
            width=given(options.width, side),
            height=given(options.height, side),
            num_steps=steps,
            guidance=given(options.guidance, spec.guidance),
            seed=options.seed,
            prompt=options.prompt,
            init_image=init_image,
            image2image_strength=options.strength if init_image else 0.0,
            callback=lambda *_: bar.update(),
        )
        bar.total = bar.n  # image to image takes fewer steps than asked for
    seed = picture.info["seed"]
    path = save_image(picture, path or Path("output") / f"{file_name(options.prompt)}-{seed}.png")
    print(f"{picture.width} × {picture.height} pixels, seed {seed}: {path.resolve()}")
    return path


def open_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def given(value: float | None, default: float) -> float:
    return default if value is None else value


def file_name(prompt: str) -> str:
    """The prompt as a file name that every system takes."""
    return "-".join("".join(c if c.isalnum() else " " for c in prompt).split())[:60] or "empty-prompt"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m flux_edu", description="FLUX.1, equation by equation")
    commands = top.add_subparsers(dest="command", required=True)

    painter = commands.add_parser("sample", help="paint a picture", description="Paint a picture and save it as PNG.")
    painter.set_defaults(run=sample)
    painter.add_argument("prompt", help='for example "a 3d fox on a blue background"')
    painter.add_argument("--model", default="tiny", metavar="NAME", help=f"one of {', '.join(configs)}; default tiny")
    painter.add_argument("--device", help="cpu, cuda or mps; default the fastest there is")
    painter.add_argument("--seed", type=int, help="default: one is drawn, and printed")
    painter.add_argument("--steps", type=int, help="default: the model's own number, 28 for tiny")
    painter.add_argument("--guidance", type=float, help="w of Eq. (6.4); default: the model's own, 3 for tiny")
    painter.add_argument("--width", type=int, help="pixels; default 128 for tiny, 1024 for the others")
    painter.add_argument("--height", type=int, help="pixels; default 128 for tiny, 1024 for the others")
    painter.add_argument("--out", type=Path, metavar="FILE.png", help="default: output/PROMPT-SEED.png")
    painter.add_argument("--init", type=Path, metavar="PICTURE", help="start from this picture (image to image)")
    painter.add_argument(
        "--strength", type=float, default=0.8, help="with --init: 1 ignores the picture, 0 keeps it; default 0.8"
    )
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what goes wrong on the user's side is one line and exit code 2, not a traceback."""
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", Advice)
        warnings.showwarning = lambda message, *_, **__: tqdm.write(f"note: {message}", file=sys.stderr)
        try:
            options.run(options)
        except (ValueError, OSError) as error:
            print(f"flux_edu: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
