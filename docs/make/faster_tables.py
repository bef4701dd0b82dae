"""What notebook 18 says of more than two pictures: `python docs/make/faster_tables.py`, nine minutes on a CPU.

The trained tiny models paint held-out captions, each from its own seed. A cached picture is compared with plain steps
of exactly as many whole evaluations; both distances are from the full run, in decibels.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from evaluate import prompt_scenes
from torch import Tensor

from flux_edu.apps.tools import ToolGenerator
from flux_edu.io.images import to_tensor
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed.reference_cache import velocity_with_kept
from flux_edu.speed.step_cache import FirstBlockCache, StepCache, TeaCache, cached, relative_change
from flux_edu.teaching.labs.solvers import euler, solve
from flux_edu.text import embed_empty
from flux_edu.tools import reference_tokens
from flux_edu.train.data import captions, load_drawings

SEED = 100  # of the captions, and of the first one's noise
SIZE, TOKENS = 128, 64
EDITS = {
    "a 3d fox left of a noto apple on a white background": ("make the background blue", "remove the apple"),
    "a noto rocket above a house on a black background": ("make the background yellow", "swap top and bottom"),
    "a flat robot on a white background": ("make the background green", "turn the robot into 3d style"),
}
Make = Callable[[], StepCache]


def noise(seed: int) -> Tensor:
    return get_noise(1, SIZE, SIZE, "cpu", torch.float32, seed)


@torch.inference_mode()
def decode(flux: FluxGenerator, x: Tensor) -> Tensor:
    return flux.ae.decode(unpatchify(x, SIZE, SIZE)).clamp(-1, 1)


def psnr(one: Tensor, other: Tensor) -> float:
    """Decibels between two pictures in [-1, 1]."""
    return (10 * torch.log10(4 / (one - other).square().mean())).item()


def held_out_inputs(flux: FluxGenerator, n: int) -> list[dict[str, Tensor]]:
    """The first half of the captions is of one thing, the second of two."""
    drawings = load_drawings()
    texts = captions(drawings, prompt_scenes(drawings, n, SEED), SEED, chinese=0, complete=True)
    return [prepare(flux.t5, flux.clip, noise(SEED + i), text) for i, text in enumerate(texts)]


def paint(flux: FluxGenerator, inputs: dict[str, Tensor], steps: int, **more) -> Tensor:
    levels = get_schedule(steps, TOKENS, shift=flux.spec.shift)
    return decode(flux, denoise(flux.model, **inputs, timesteps=levels, guidance=flux.spec.guidance, **more))


def fit_prediction(flux: FluxGenerator, degree: int) -> Callable[[float], float]:
    """p of Eq. (18.3), a polynomial fitted to one painting that is not among the captions."""
    read, added = [], []
    watch = TeaCache(flux.model, 0.0, lambda change: read.append(change) or 0.0, steps=28)
    apple = prepare(flux.t5, flux.clip, noise(0), "a 3d apple on a white background")
    with cached(flux.model, watch):
        paint(flux, apple, 28, callback=lambda *_: added.append(watch.adds))
    return np.poly1d(np.polyfit(read, [relative_change(new, old) for old, new in pairwise(added)], degree))


def compare(flux: FluxGenerator, every: list[dict[str, Tensor]], steps: int, ways: dict[str, Make]) -> None:
    """A row a cache: whole steps, decibels, those of plain steps of the same number, how often nearer, median gain."""
    rows = {name: [] for name in ways}
    for inputs in every:
        full = paint(flux, inputs, steps)
        plain = cache(lambda n, inputs=inputs, full=full: psnr(paint(flux, inputs, n), full))
        for name, make in ways.items():
            with cached(flux.model, make()) as chosen:
                near = psnr(paint(flux, inputs, steps), full)
            cost = sum(chosen.computed)
            rows[name].append((cost, near, plain(cost)))
    for name, results in rows.items():  # where all steps were whole there is nothing to compare
        cost, near, baseline = np.array([row for row in results if row[0] < steps]).T
        gains = near - baseline
        means = f"{cost.mean():.1f} | {near.mean():.1f} | {baseline.mean():.1f}"
        print(f"| {name} | {means} | {(gains > 0).sum()} of {len(gains)} | {np.median(gains):+.1f} dB |")
        print(f"  whole steps {cost.min():.0f} to {cost.max():.0f}, gains {gains.min():+.1f} to {gains.max():+.1f} dB")


@torch.inference_mode()
def edit(flux: ToolGenerator, reference: tuple[Tensor, Tensor], instruction: str, **how) -> Tensor:
    inputs = prepare(flux.t5, flux.clip, noise(0), instruction)
    start, empty = inputs.pop("img"), embed_empty(flux.t5, flux.clip)
    v = velocity_with_kept(flux.model, inputs, 3.0, reference, empty, **how)
    return decode(flux, solve(v, start, get_schedule(6, TOKENS), euler))


def kept_references() -> None:
    """Six edits of three pictures: keys and values kept, the mask, and both, beside tiny-kontext as it was trained."""
    tiny, kontext = FluxGenerator("tiny", "cpu"), ToolGenerator("tiny-kontext", "cpu")
    ways = {"kept": {}, "mask": dict(keep=False, isolated=True), "both": dict(isolated=True)}
    near = {way: [] for way in ways}
    for caption, instructions in EDITS.items():
        picture = tiny.generate_image(SIZE, SIZE, 10, 3.0, 3, caption)
        reference = reference_tokens(kontext.encode(to_tensor(picture)))
        for instruction in instructions:
            exact = edit(kontext, reference, instruction, keep=False)
            for way, how in ways.items():
                near[way].append(psnr(edit(kontext, reference, instruction, **how), exact))
    for way, decibels in near.items():
        print(f"{way}: mean {np.mean(decibels):.1f} dB; " + ", ".join(f"{d:.1f}" for d in decibels))


def main() -> None:
    dev = FluxGenerator("tiny-dev", "cpu")
    curve, line = fit_prediction(dev, 2), fit_prediction(dev, 1)
    limits = (0.05, 0.1, 0.2, 0.3)
    ways = {f"first block, θ = {x}": lambda x=x: FirstBlockCache(dev.model, x) for x in limits}
    ways |= {f"TeaCache, θ = {x}": lambda x=x: TeaCache(dev.model, x, curve, 28) for x in limits}
    ways["TeaCache, θ = 0.1, p a line"] = lambda: TeaCache(dev.model, 0.1, line, 28)
    compare(dev, held_out_inputs(dev, 24), 28, ways)
    schnell = FluxGenerator("tiny-schnell", "cpu")
    way = {"tiny-schnell, first block, θ = 0.4": lambda: FirstBlockCache(schnell.model, 0.4)}
    compare(schnell, held_out_inputs(schnell, 6), 4, way)
    kept_references()


if __name__ == "__main__":
    main()
