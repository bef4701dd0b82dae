"""Painted pictures on disk: PNG with what it takes to paint them again."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, PngImagePlugin
from torch import Tensor

from flux_edu.io.files import put_in_place


def to_tensor(picture: Image.Image) -> Float[Tensor, "1 3 H W"]:
    """A picture as numbers in [-1, 1], as the autoencoder reads it; [0, 1] would change its colours."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32))
    return rearrange(pixels, "h w c -> 1 c h w") / 127.5 - 1


def to_picture(x: Float[Tensor, "3 H W"]) -> Image.Image:
    """Numbers in [-1, 1], cut off beyond, as an 8-bit picture."""
    pixels = (x.float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(rearrange(pixels.round().byte().cpu(), "c h w -> h w c").numpy())


def picture_grid(pictures: Float[Tensor, "B 3 H W"], columns: int) -> Image.Image:
    """Pictures in [-1, 1] side by side, so many in a row, for people to look at."""
    blank = pictures.new_ones(-len(pictures) % columns, *pictures.shape[1:])
    return to_picture(rearrange(torch.cat([pictures, blank]), "(r c) k h w -> k (r h) (c w)", c=columns))


def picture_hash(picture: Image.Image) -> str:
    """SHA-256 of size and pixels, the same whatever file the picture came from."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def png_path(path: str | Path) -> Path:
    """The path, if its name ends in .png and a file can be there; `~` is the user's home."""
    path = Path(os.path.expanduser(path))
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"{path.name}: pictures are saved as PNG, which keeps every pixel and the metadata; end the name in .png"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    return path


def save_image(picture: Image.Image, path: str | Path, overwrite: bool = True) -> Path:
    """Save as PNG with the metadata in text chunks, readable by any program; nothing is left half-written.

    With overwrite=False a file of that name is never replaced, not even one that has appeared a moment ago:
    FileExistsError.
    """
    path = png_path(path)
    chunks = PngImagePlugin.PngInfo()
    for key, value in picture.info.items():
        chunks.add_itxt(key, json.dumps(value, ensure_ascii=False))
    if path.parent.is_file():
        raise NotADirectoryError(f"{path.parent} is a file: no picture can be saved in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may paint the same name
    try:
        picture.save(half, format="PNG", pnginfo=chunks)
        if not overwrite:
            path.open("xb").close()
        put_in_place(half, path)
    finally:
        half.unlink(missing_ok=True)
    return path


def read_metadata(path: str | Path) -> dict:
    """The metadata of a picture that `save_image` wrote: prompt, seed, size, timesteps, model …."""
    with Image.open(path) as picture:
        chunks = getattr(picture, "text", {})
    if "prompt" not in chunks:
        raise ValueError(
            f"{path} carries no metadata of flux_edu; it was painted with add_sampling_metadata=False or by something"
            " else"
        )
    return {key: json.loads(value) for key, value in chunks.items()}
