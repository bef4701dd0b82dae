"""What the questions of several chapters measure with: the tiny models, and how far one answer is from another."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from flux_edu.patchify import get_noise, prepare
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import velocity_field

CATS = "a 3d cat face left of a dog face on a pink background"
MOVES: dict[str, Callable[[float], bool]] = {
    "nothing but rounding": lambda moved: moved < 1e-3,
    "it changes": lambda moved: moved > 0.01,
}


@cache
def tiny(name: str = "tiny") -> FluxGenerator:
    return FluxGenerator(name, "cpu")


def apart(a: Tensor, b: Tensor) -> float:
    """How far a is from b, in parts of b's length."""
    return float((a - b).norm() / b.norm())


def velocity(prompt: str, name: str = "tiny", w: float = 1.0, **changes: Tensor) -> Tensor:
    """What a tiny model says to noise at t = 0.9 and a prompt, with some inputs changed."""
    flux = tiny(name)
    inputs = prepare(flux.t5, flux.clip, get_noise(1, 128, 128, "cpu", torch.float32, 0), prompt) | changes
    return velocity_field(flux.model, inputs, w)(inputs["img"], 0.9)
