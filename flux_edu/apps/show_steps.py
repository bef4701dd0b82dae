"""`sample --show-steps`: what the model has in mind at each step, in the terminal or as a strip in a file."""

import os
import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flux_edu.io.images import picture_grid, to_picture
from flux_edu.io.preview import load_preview, preview
from flux_edu.patchify import unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import predict_x0

COLUMNS = 48  # letters of a terminal that a picture takes


class Steps:
    """A callback of `denoise` that shows x̂_0 of Eq. (6.1) at every step: by `preview`, or decoded if none is fitted.

    width and height are the picture's, in pixels, multiples of 16.
    """

    def __init__(self, generator: FluxGenerator, width: int, height: int):
        self.generator, self.width, self.height = generator, width, height
        self.numbers = load_preview() if generator.spec.repo_id is None else None
        self.live, self.strip = can_show_colours(), []

    def __call__(self, i: int, t: float, x: Tensor, v: Tensor) -> None:
        z = unpatchify(predict_x0(x, v, t), self.height, self.width)
        picture = self.look(z)
        if self.live:
            up = f"\x1b[{half_blocks(picture).count(chr(10)) + 2}A" if i else ""
            print(f"{up}{half_blocks(picture)}\nstep {i + 1}, t = {t:.2f} \n", end="", flush=True)
        self.strip.append(picture)

    def look(self, z: Tensor) -> Image.Image:
        if self.numbers is not None:
            return to_picture(preview(z.cpu(), **self.numbers)[0])
        with self.generator.on_device(self.generator.ae):
            return to_picture(self.generator.ae.decode(z.to(next(self.generator.ae.parameters()).dtype))[0])

    def sheet(self) -> Image.Image:
        """All steps in reading order, eight in a row."""
        pictures = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1 for picture in self.strip]
        return picture_grid(torch.stack(pictures), min(8, len(pictures)))


def can_show_colours() -> bool:
    """A terminal that says it has 24-bit colour."""
    return sys.stdout.isatty() and os.environ.get("COLORTERM") in ("truecolor", "24bit")


def half_blocks(picture: Image.Image, columns: int = COLUMNS) -> str:
    """A picture as lines of ▀: each letter is two pixels, its own colour the upper one, its ground the lower one."""
    rows = max(1, round(columns * picture.height / picture.width / 2))
    pixels = np.asarray(picture.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        letters = (
            "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*above, *below)
            for above, below in zip(upper, lower, strict=True)
        )
        lines.append("".join(letters) + "\x1b[0m")
    return "\n".join(lines)
