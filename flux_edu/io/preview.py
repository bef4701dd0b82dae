"""A latent seen without the decoder: two small convolutions, for looking on while a picture is painted. Notebook 08."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from flux_edu.io.checkpoint import read
from flux_edu.io.tiny import TINY_FOLDER

FILE = Path(str(TINY_FOLDER)) / "preview.safetensors"


def preview(
    z: Float[Tensor, "B C h w"],
    near: Float[Tensor, "R C 3 3"],
    pixels: Float[Tensor, "192 R 1 1"],
    bias: Float[Tensor, "192"],
) -> Float[Tensor, "B 3 8*h 8*w"]:
    """The rough picture of a latent: a linear map from 3 × 3 places to the 8 × 8 pixels of the middle one.

    near takes the C channels of nine places to R numbers, pixels makes 3 · 8 · 8 of them. Nothing is bent between, so
    there is no sharp edge in it. Notebook 08 measures its time beside the decoder's.
    """
    return F.pixel_shuffle(F.conv2d(F.conv2d(z, near, padding=1), pixels, bias), 8)


def fit_preview(z: Float[Tensor, "B C h w"], x: Float[Tensor, "B 3 8*h 8*w"], rank: int = 24) -> dict[str, Tensor]:
    """The numbers of `preview` for these latents and their pictures: least squares, then the best of that rank."""
    places = rearrange(F.unfold(z.double(), 3, padding=1), "b c l -> (b l) c")
    targets = rearrange(F.pixel_unshuffle(x.double(), 8), "b c h w -> (b h w) c")
    centre, mean = places.mean(0), targets.mean(0)
    W = torch.linalg.lstsq(places - centre, targets - mean).solution
    _, _, directions = torch.linalg.svd((places - centre) @ W, full_matrices=False)
    pixels = directions[:rank].T
    near = (W @ pixels).T
    bias = mean - pixels @ near @ centre
    near, pixels = near.unflatten(1, (-1, 3, 3)), pixels[:, :, None, None]
    return {"near": near.float(), "pixels": pixels.float(), "bias": bias.float()}


def load_preview() -> dict[str, Tensor]:
    """What `docs/make/preview.py` has fitted to the tiny autoencoder, 8 bits a number."""
    state = read(FILE)
    return {
        "near": state["near"].unflatten(1, (-1, 3, 3)),
        "pixels": state["pixels"][:, :, None, None],
        "bias": state["bias"],
    }
