"""Pictures in and out: any that Pillow opens becomes 8-bit RGB; a painted one is saved with what paints it again."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from flux_edu.io.advice import advise
from flux_edu.io.files import whole

WIDE_MODES = "I", "F", "I;16", "I;16L", "I;16B", "I;16N"  # more than 8 bits a pixel
WHITES = 1, 255, 65535  # what is white in them
PNG_MODES = "1", "L", "LA", "P", "RGB", "RGBA", "I;16"
# what Pillow raises for a picture that is damaged, or of a mode that it does not convert
UNREADABLE = OSError, SyntaxError, TypeError, ValueError, RuntimeError, AttributeError, struct.error
UNREADABLE += (Image.DecompressionBombError,)
# what `info` says of every painted picture, and of what else it was made from; other programs' words are not read
OPTIONS = {"prompt", "width", "height", "num_steps", "guidance", "seed", "model", "version"}
PAINTED = OPTIONS | {"timesteps", "dtype"}
MADE_FROM = {"image2image_strength", "init_image_sha256", "tool", "picture_size", "picture_sha256"}
MADE_FROM |= {"mask_size", "mask_sha256", "edges_size", "edges_sha256"}


@contextmanager
def in_words(problem: str) -> Iterator[None]:
    """What Pillow raises, whatever it is, becomes a ValueError; what the system says of a file stays."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{problem}: {error}") from error


def upright(picture: Image.Image) -> Image.Image:
    """The picture as viewers show it: turned as its EXIF says. Damaged EXIF says nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except UNREADABLE:
        return picture


def check_picture(name: str, picture: object) -> None:
    """A TypeError for what is no picture."""
    if not isinstance(picture, Image.Image):
        raise TypeError(f"{name} is a {type(picture).__name__}; pass a PIL picture, e.g. PIL.Image.open(path)")


def white_of(picture: Image.Image) -> float:
    """What is white in a picture of more than 8 bits a pixel: the least of 1, 255 and 65535 that none exceeds."""
    numbers = np.asarray(picture.convert("F"))
    low, high = numbers.min(), numbers.max()
    if not 0 <= low <= high <= WHITES[-1]:  # NaN is not either
        raise ValueError(
            f"its numbers run from {low:g} to {high:g}; scale them so that black is 0 and white is 1, 255 or 65535"
        )
    return next(white for white in WHITES if high <= white)


def numbers_of(picture: Image.Image) -> np.ndarray:
    """The numbers of such a picture from 0, black, to 255, white, with their fractions."""
    return np.asarray(picture.convert("F")) * 255 / white_of(picture)


def to_rgb(picture: Image.Image, ground: str = "white") -> Image.Image:
    """Any picture as 8-bit RGB, upright; where it is transparent, the ground shows. All pictures come in by this.

    Numbers of 16 and 32 bits are divided by `white_of`. ValueError where Pillow cannot read or convert it.
    """
    if 0 in picture.size:
        raise ValueError(f"the picture has {picture.width} × {picture.height} pixels: there is nothing to see")
    with in_words(f"the picture, of mode {picture.mode}, cannot be read as RGB"):
        picture = upright(picture)
        if picture.mode in WIDE_MODES:
            return Image.fromarray(numbers_of(picture).round().astype(np.uint8)).convert("RGB")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)
        return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> Float[Tensor, "1 3 H W"]:
    """A picture as numbers in [-1, 1], as the autoencoder reads it; [0, 1] would change its colours."""
    pixels = torch.from_numpy(np.array(to_rgb(picture), dtype=np.float32))
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
    """SHA-256 of size and pixels as they are read, the same whatever file the picture came from.

    What 8 bits leave out of 16 or 32 counts too: two depth maps that differ at all are two pictures.
    """
    rgb = to_rgb(picture)
    content = f"{rgb.size}".encode() + rgb.tobytes()
    if picture.mode in WIDE_MODES:
        numbers = numbers_of(upright(picture))
        fractions = numbers - numbers.round()
        content += fractions.tobytes() * bool(fractions.any())
    return hashlib.sha256(content).hexdigest()


def png_path(path: str | Path) -> Path:
    """The path, if its name ends in .png and a file can be there; `~` is the user's home."""
    path = Path(os.path.expanduser(path))
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"{path}: pictures are saved as PNG, which keeps every pixel and the metadata; end the name in .png"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    return path


def save_image(picture: Image.Image, path: str | Path, overwrite: bool = True) -> Path:
    """Save as PNG with the metadata in text chunks, readable by any program; nothing is left half-written.

    The metadata tells of the pixels that were painted, so a picture with others, such as a composite, is saved without.
    With overwrite=False a file of that name is never replaced, not even one that has appeared a moment ago:
    FileExistsError.
    """
    check_picture("picture", picture)
    path = png_path(path)
    metadata = metadata_of(picture)
    if metadata.get("sha256") not in (None, picture_hash(picture)):
        advise(f"{path.name} is saved without metadata: its pixels are not those that were painted")
        metadata = {}
    chunks = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        chunks.add_itxt(key, json.dumps(value, ensure_ascii=False))
    picture = upright(picture) if picture.mode in PNG_MODES else to_rgb(picture)
    ending = f".{os.getpid()}.part"  # two processes may paint the same name
    with whole(path, ending, overwrite) as part, in_words("the picture cannot be saved"):
        picture.save(part, format="PNG", pnginfo=chunks)
    return path


def metadata_of(picture: Image.Image) -> dict:
    """What a picture's `info` says of how it was painted, just painted or opened from a file; {} if nothing.

    Files of the first versions hold no `sha256`.
    """
    with in_words("the picture cannot be read"):
        picture.load()  # some programs write text behind the pixels
    metadata = {key: picture.info[key] for key in picture.info if key in PAINTED | {"sha256"} | MADE_FROM}
    if not PAINTED <= metadata.keys():
        return {}
    if isinstance(metadata["width"], str):  # the text of a file
        try:
            metadata = {key: json.loads(text) for key, text in metadata.items()}
        except (TypeError, ValueError, RecursionError):
            return {}
    return metadata


def check_metadata(metadata: object) -> None:
    """An error for what no picture can be painted again from."""
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata is a {type(metadata).__name__}; pass the dict that read_metadata returns")
    if lacking := sorted(OPTIONS - metadata.keys()):
        raise ValueError(f"the metadata lacks {', '.join(lacking)}; pass what read_metadata returns, whole")


def read_metadata(path: str | Path) -> dict:
    """The metadata of a picture that `save_image` wrote: prompt, seed, size, timesteps, model …."""
    path = Path(os.path.expanduser(path))
    with in_words(f"{path} cannot be read as a picture"), Image.open(path) as picture:
        metadata = metadata_of(picture)
    if picture.format != "PNG":
        raise ValueError(f"{path} is a {picture.format}, which keeps no metadata of flux_edu: ask the PNG it came from")
    if not metadata:
        raise ValueError(
            f"{path} carries no metadata of flux_edu; it was painted with add_sampling_metadata=False or by something"
            " else"
        )
    if "sha256" not in metadata:
        advise(f"{path} holds no hash of its pixels, as first versions saved it: whether they were changed is unknown")
    elif metadata["sha256"] != picture_hash(picture):
        advise(f"the pixels of {path} have been changed since it was painted")
    return metadata
