"""The package from a command line: `flux-edu sample "a 3d fox on a blue background"`, or `python -m flux_edu sample …`.

What a command needs is imported when it runs, so that `doctor` starts where PyTorch does not.
"""

import os
import sys

# `python -m` looks for modules in the reader's folder first, and would take a random.py there for Python's own
if __name__ == "__main__" and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

import argparse
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import flux_edu
from flux_edu.io.advice import Advice

NAME = os.environ.get("FLUX_EDU_COMMAND", "flux-edu")  # run.py is another way in, and says so here
MODELS = "tiny, tiny-dev or tiny-schnell; with files of your own flux-dev, flux-schnell and their kin; default tiny"


def path(text: str) -> Path:
    """What argparse calls to read a path: `~` is the user's home, also where no shell has said so (--out=~/fox.png)."""
    return Path(os.path.expanduser(text))


def prompt(text: str) -> str:
    """What argparse calls to read a prompt: UTF-8, also where the locale is C and Python has kept the bytes apart."""
    try:
        lone_surrogates = any("\ud800" <= letter <= "\udfff" for letter in text)
        return os.fsencode(text).decode("utf-8") if lone_surrogates else text
    except UnicodeError:
        raise argparse.ArgumentTypeError("prompt holds bytes that are no UTF-8 text") from None


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error instead of the usage before it."""

    def error(self, message: str):
        self.exit(2, f"flux-edu: {message}; `{self.prog} --help` lists what there is\n")


def number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], float]:
    """What argparse calls to read a number between low and high."""
    words = {int: "a whole number", float: "a number"}[kind]
    words += f" from {low} to {high}" if high < float("inf") else f" from {low} on"

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not {words}")
        return value

    return read


def parser() -> argparse.ArgumentParser:
    top = Parser(prog=NAME, description="FLUX.1, equation by equation")
    top.add_argument("--version", action="version", version=f"flux-edu {flux_edu.__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    some, steps, pixels = number(int, 1), number(int, 1, 10_000), number(int, 16)  # 16 pixels are one token

    def command(name: str, module: str, description: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=description, description=f"{description[0].upper()}{description[1:]}.")
        one.set_defaults(module=module)
        return one

    sample = command("sample", "flux_edu.apps.sample", "paint a picture and save it as PNG")
    sample.add_argument("prompt", type=prompt, help='in quotes, for example "a 3d fox on a blue background"')
    sample.add_argument("--model", default="tiny", metavar="NAME", help=MODELS)
    sample.add_argument("--device", help="cpu, cuda or mps; default the fastest there is")
    sample.add_argument("--seed", type=number(int, 0, 2**63 - 1), help="default: one is drawn, and printed")
    sample.add_argument("--steps", type=steps, help="default: the model's own number, 28 for tiny, 4 for tiny-schnell")
    sample.add_argument(
        "--guidance", type=number(float, -100, 100), help="w of Eq. (6.4); default: the model's own, 3 for tiny"
    )
    sample.add_argument("--width", type=pixels, help="pixels; default 128 for tiny, 1024 for the others")
    sample.add_argument("--height", type=pixels, help="pixels; default 128 for tiny, 1024 for the others")
    sample.add_argument("--out", type=path, metavar="FILE.png", help="default: output/PROMPT-SEED.png, never twice")
    sample.add_argument("--overwrite", action="store_true", help="replace the file of --out if it is there")
    sample.add_argument("--init", type=path, metavar="PICTURE", help="start from this picture (image to image)")
    sample.add_argument(
        "--strength", type=number(float, 0, 1), help="with --init: 1 ignores the picture, 0 keeps it; default 0.8"
    )
    sample.add_argument(
        "--show-steps", action="store_true", help="show every step, in a terminal of 24-bit colour, else as a strip"
    )

    command("doctor", "flux_edu.apps.doctor", "say what is installed and whether the tiny FLUX paints here")

    real = command("real", "flux_edu.io.published", "say where the published 12B models are, fetch or convert them")
    real.add_argument("name", nargs="?", default="flux-dev", help="a variant, default flux-dev; or the word convert")
    real.add_argument("files", nargs="*", type=path, metavar="FILE", help="convert FILE FILE: from, to (other layout)")
    real.add_argument("--download", action="store_true", help="fetch what is missing from the Hugging Face hub")
    real.add_argument("--overwrite", action="store_true", help="with convert: replace the second file if it is there")

    bench = command("bench", "flux_edu.speed.bench", "measure how fast a step is here, beside what the machine allows")
    bench.add_argument("--model", metavar="NAME", help="default flux-dev on a GPU, tiny on a CPU; weights are random")
    bench.add_argument("--device", help="cpu, cuda or mps; default the fastest there is")
    bench.add_argument("--size", type=pixels, help="pixels of both sides; default 1024, tiny 128")
    bench.add_argument("--text", type=some, help="tokens of text; default the model's own")
    bench.add_argument("--steps", type=some, default=28)
    bench.add_argument("--loops", type=some, default=3, help="of which the median is taken")
    bench.add_argument("--diffusers", action="store_true", help="diffusers' class beside ours")
    bench.add_argument("--cache", action="store_true", help="a first-block cache that leaves out every second step")
    bench.add_argument("--compile", action="store_true", help="block by block, and the whole network (minutes)")
    bench.add_argument("--fp8", action="store_true", help="8-bit linear layers, compiled block by block")

    batch = command("batch", "flux_edu.apps.batch", "paint every line of a file, under torchrun on every GPU")
    batch.add_argument("prompts", type=path, help="a text file, a prompt a line; empty lines are left out")
    batch.add_argument("--model", default="tiny", metavar="NAME", help=MODELS)
    batch.add_argument("--out", type=path, default=Path("output"), metavar="FOLDER", help="default output")
    batch.add_argument("--overwrite", action="store_true", help="replace pictures of the same names there")
    batch.add_argument(
        "--seed", type=number(int, 0, 2**62), default=0, help="of the first line; each next one has 1 more"
    )
    batch.add_argument("--steps", type=steps, help="default: the model's own")
    batch.add_argument("--size", type=pixels, help="pixels of both sides; default 128 for tiny, 1024 for the others")
    batch.add_argument("--cpu", action="store_true", help="leave the GPUs alone")
    return top


def read(arguments: list[str]) -> argparse.Namespace:
    """The options; words that are left over were meant to be the prompt's."""
    top = parser()
    options, left = top.parse_known_args(arguments)
    if left and options.command == "sample" and not any(word.startswith("-") for word in left):
        top.error(f'put the prompt in quotes: {NAME} sample "{" ".join([options.prompt, *left])}"')
    elif left:
        top.error(f"{options.command} has no {' '.join(left)}")
    return options


def note(message: Warning | str, category: type[Warning], *place, **file) -> None:
    """A warning as one line; they come before anything is painted."""
    print(f"note: {message}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what goes wrong on the user's side is one line and exit code 2, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without × or 狐 shows ? and goes on
    options = read(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", Advice)
        warnings.showwarning = note
        try:
            return import_module(options.module).main(options)
        except ImportError as error:
            message = f"{error}; `{NAME} doctor` says what to do"
        except OSError as error:  # from the system, with its number and the file, or from this package, in words
            message = ": ".join(str(part) for part in (error.strerror, error.filename) if part) or str(error)
        except ValueError as error:
            message = str(error)
        except (MemoryError, RuntimeError) as error:  # PyTorch has no kind of its own for a full memory
            if not isinstance(error, MemoryError) and "allocate" not in str(error):
                raise
            message = f"out of memory: choose a smaller size, or close what else needs it ({error})"
        except KeyboardInterrupt:
            print("flux-edu: stopped", file=sys.stderr)
            return 130
    print("flux-edu:", " ".join(message.splitlines()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
