"""What the questions of several chapters measure with: the tiny models, and how far one answer is from another."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from flux_edu.configs import TINY
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, prepare
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise, velocity_field
from flux_edu.schedule import get_schedule
from flux_edu.teaching.exercises.exercise import normal

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


def evaluations(steps: int, guidance: float, two_passes: bool) -> int:
    """How many velocities a network computes while one picture is painted."""
    model, batches = Flux(replace(TINY, depth=0, depth_single_blocks=0)).requires_grad_(False), []
    model.img_in.register_forward_hook(lambda _, inputs, out: batches.append(len(inputs[0])))
    txt, vec = normal(1, 3, TINY.context_in_dim), normal(1, TINY.vec_in_dim)
    uncond = (txt, vec) if two_passes else None
    img_ids, txt_ids = make_img_ids(1, 2, 2), make_txt_ids(1, 3)
    denoise(model, normal(1, 4, 64), img_ids, txt, txt_ids, vec, get_schedule(steps, 4), guidance, uncond=uncond)
    return sum(batches)
