"""The package from a command line:  python -m flux_edu sample "a 3d fox on a blue background".

What a command needs is imported when it runs, so that `doctor` starts where PyTorch does not.
"""

import argparse
import sys
import warnings
from pathlib import Path

from flux_edu.apps import doctor

MODELS = "tiny, tiny-dev or tiny-schnell; with files of your own flux-dev, flux-schnell and their kin; default tiny"


def sample(options: argparse.Namespace) -> int:
    """Paint one picture; what goes wrong on the user's side is one line and exit code 2, not a traceback."""
    try:
        from tqdm import tqdm

        from flux_edu.apps.sample import paint
        from flux_edu.io.advice import Advice
    except ImportError as error:
        print(f"flux_edu: {error}; `python -m flux_edu doctor` says what to do", file=sys.stderr)
        return 2

    with warnings.catch_warnings():
        warnings.simplefilter("always", Advice)
        warnings.showwarning = lambda message, *_, **__: tqdm.write(f"note: {message}", file=sys.stderr)
        try:
            paint(options)
        except (ValueError, OSError) as error:
            print(f"flux_edu: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("flux_edu: stopped; nothing was saved", file=sys.stderr)
            return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m flux_edu", description="FLUX.1, equation by equation")
    commands = top.add_subparsers(dest="command", required=True)

    told = "say what is installed and whether the tiny FLUX paints here"
    commands.add_parser("doctor", help=told, description=told).set_defaults(run=lambda _: doctor.main())

    painter = commands.add_parser("sample", help="paint a picture", description="Paint a picture and save it as PNG.")
    painter.set_defaults(run=sample)
    painter.add_argument("prompt", help='for example "a 3d fox on a blue background"')
    painter.add_argument("--model", default="tiny", metavar="NAME", help=MODELS)
    painter.add_argument("--device", help="cpu, cuda or mps; default the fastest there is")
    painter.add_argument("--seed", type=int, help="default: one is drawn, and printed")
    painter.add_argument("--steps", type=int, help="default: the model's own number, 28 for tiny, 4 for tiny-schnell")
    painter.add_argument("--guidance", type=float, help="w of Eq. (6.4); default: the model's own, 3 for tiny")
    painter.add_argument("--width", type=int, help="pixels; default 128 for tiny, 1024 for the others")
    painter.add_argument("--height", type=int, help="pixels; default 128 for tiny, 1024 for the others")
    painter.add_argument("--out", type=Path, metavar="FILE.png", help="default: output/PROMPT-SEED.png, never twice")
    painter.add_argument("--overwrite", action="store_true", help="replace the file of --out if it is there")
    painter.add_argument("--init", type=Path, metavar="PICTURE", help="start from this picture (image to image)")
    painter.add_argument("--strength", type=float, help="with --init: 1 ignores the picture, 0 keeps it; default 0.8")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without × or 狐 shows ? and goes on
    options = parser().parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
