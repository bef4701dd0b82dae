"""One picture from the command line: what was asked for, a progress bar, and a file that replaces no other."""

import argparse
import os
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from flux_edu.apps.show_steps import Steps
from flux_edu.configs import ModelSpec, get_spec
from flux_edu.io.advice import advise
from flux_edu.io.images import in_words, png_path, save_image
from flux_edu.pipeline import FluxGenerator

DEFAULT_STRENGTH = 0.8  # of image to image: the picture's layout stays, its details are painted anew


def main(options: argparse.Namespace) -> int:
    """Paint one picture and save it; what it takes to paint it again stands in the file."""
    spec = spec_for_prompts(options.model)
    side = 1024 if spec.repo_id else 128
    if options.strength is not None and options.init is None:
        raise ValueError("--strength says how much of a start picture is painted anew: name one with --init")
    if options.guidance is not None and not (spec.two_passes or spec.params.guidance_embed):
        advise(f"{options.model} takes no guidance: it was distilled at a fixed one, and --guidance changes nothing")
    init_image = open_picture(options.init) if options.init else None
    path = free_path(options.out, options.overwrite) if options.out else None
    check_writable(path.parent if path else Path("output"))
    steps = value_or(options.steps, spec.num_steps)
    width, height = value_or(options.width, side), value_or(options.height, side)
    generator = FluxGenerator(options.model, options.device)
    watch = Steps(generator, width // 16 * 16, height // 16 * 16) if options.show_steps else None
    live = watch is not None and watch.live  # the picture stands where the bar would
    # The bar is there from the first step on: not before a refusal, not for a painting of no step.
    with tqdm(total=steps, desc="painting", unit="step", delay=1e-6, mininterval=0, disable=live) as bar:

        def step(*state: object) -> None:
            bar.update()
            if watch:
                watch(*state)

        picture = generator.generate_image(
            width=width,
            height=height,
            num_steps=steps,
            guidance=value_or(options.guidance, spec.guidance),
            seed=options.seed,
            prompt=options.prompt,
            init_image=init_image,
            image2image_strength=value_or(options.strength, DEFAULT_STRENGTH) if init_image else 0.0,
            callback=step,
        )
        bar.total = bar.n  # image to image takes fewer steps than asked for
    seed = picture.info["seed"]
    save = save_image if path and options.overwrite else save_beside
    path = save(picture, path or Path("output", f"{file_name(options.prompt)}-{seed}.png"))
    print(f"{picture.width} × {picture.height} pixels, {options.model}, seed {seed}: {path.resolve()}")
    if watch and watch.strip and not live:
        print(f"its steps: {save_beside(watch.sheet(), path.with_stem(f'{path.stem}-steps')).resolve()}")
    return 0


def spec_for_prompts(name: str) -> ModelSpec:
    """The variant of this name, if it paints from a prompt alone."""
    spec = get_spec(name)
    if spec.params.in_channels != spec.params.out_channels or name == "flux-dev-redux":
        raise ValueError(f"{name} needs a picture or a mask beside the prompt: notebook 12 paints with it")
    return spec


def open_picture(path: Path) -> Image.Image:
    """A start picture of any format that Pillow reads."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: --init takes a picture")
    with in_words(f"{path} cannot be read; save it as PNG where it can be opened"), Image.open(path) as picture:
        return picture.copy()


def value_or(value: float | None, default: float) -> float:
    """The value of an option, else the default; 0 is a value."""
    return default if value is None else value


def free_path(path: Path, overwrite: bool) -> Path:
    """The path asked for, unless a file is there that was not meant to be replaced."""
    path = png_path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or add --overwrite to replace it")
    return path


def check_writable(folder: Path) -> None:
    """Stop before anything is painted if no file can be written to a folder, which need not be there yet."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(f"no picture can be saved in {folder}: {there} is no folder that you may write to")


def save_beside(picture: Image.Image, path: Path) -> Path:
    """Save under this name or, where a file has it, under the first of name-2, name-3 … that is free."""
    free = path
    for number in count(2):
        if not free.exists():
            with suppress(FileExistsError):  # another run was quicker
                return save_image(picture, free, overwrite=False)
        free = path.with_stem(f"{path.stem}-{number}")


def file_name(prompt: str) -> str:
    """The prompt as a file name that every system takes, of letters that this one has."""
    letters = prompt.encode(sys.getfilesystemencoding(), "replace").decode(sys.getfilesystemencoding())
    return "-".join("".join(c if c.isalnum() else " " for c in letters).split())[:48] or "empty-prompt"
