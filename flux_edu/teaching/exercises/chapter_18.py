"""Exercises and questions of chapter 18, faster."""

import torch
from torch import Tensor

from flux_edu.flux2.architectures import FLUX1_DEV, flops
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed.few_bits import round_to_bits
from flux_edu.speed.step_cache import FirstBlockCache, cached
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import apart, tiny
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 18.1


def my_whole_steps(added: list[float], threshold: float) -> list[bool]:
    whole, last = [], None
    for now in added:
        whole.append(last is None or abs(now - last) / abs(last) > threshold)
        if whole[-1]:
            last = now
    return whole


def from_the_step_before(added: list[float], threshold: float) -> list[bool]:
    pairs = zip(added[1:], added[:-1], strict=True)
    return [True] + [abs(now - before) / abs(before) > threshold for now, before in pairs]


MY_WHOLE_STEPS = Exercise(
    "18.1",
    my_whole_steps,
    inputs=[([1.0, 1.2, 1.5, 1.6, 1.9, 2.6], 0.3), ([-2.0, -1.9, -1.7, -1.1, -1.0, -0.4], 0.2)],
    mistakes={
        "you compare with the step before; a slow drift would never be seen: compare with the last whole step":
            from_the_step_before,
        "the other way round: a step is whole if the change is larger than the threshold":
            lambda added, threshold: [True] + [not whole for whole in my_whole_steps(added, threshold)[1:]],
        "the first step has nothing to compare with, so it is computed whole":
            lambda added, threshold: [False, *my_whole_steps(added, threshold)[1:]],
    },
    advice="Keep the value of the last whole step; δ is the distance from it over its size.",
)  # fmt: skip

# ---------------------------------------------------------------- 18.2


def my_bits(rows: int, columns: int, bits: int, block: int, rank: int) -> float:
    return bits + 16 / block + 16 * rank * (rows + columns) / (rows * columns)


MY_BITS = Exercise(
    "18.2",
    my_bits,
    inputs=[(3072, 9216, 4, 64, 32), (320, 960, 4, 32, 32), (100, 70, 3, 10, 0)],
    mistakes={
        "the scales are missing: a number of 16 bits for every block":
            lambda m, n, bits, block, rank: my_bits(m, n, bits, block, rank) - 16 / block,
        "the low-rank part is missing: two matrices, rows × rank and rank × columns, of 16 bits a number":
            lambda m, n, bits, block, rank: my_bits(m, n, bits, block, 0),
        "the low-rank part has two matrices; you counted the one of the rows":
            lambda m, n, bits, block, rank: my_bits(m, n, bits, block, 0) + 16 * rank / n,
        "that is the whole matrix; divide by its numbers":
            lambda m, n, bits, block, rank: my_bits(m, n, bits, block, rank) * m * n,
    },
    advice="Add up all bits that are kept, then divide by rows · columns.",
)  # fmt: skip

EXERCISES = [MY_WHOLE_STEPS, MY_BITS]

# ---------------------------------------------------------------- questions


def cache_against_three_steps() -> float:
    """By how many decibels a cached four-step picture is nearer to the full one than three plain steps are."""
    schnell = tiny("tiny-schnell")
    noise = get_noise(1, 128, 128, "cpu", torch.float32, 1)
    inputs = prepare(schnell.t5, schnell.clip, noise, "a 3d fox on a blue background")

    def paint(steps: int) -> Tensor:
        z = unpatchify(denoise(schnell.model, **inputs, timesteps=get_schedule(steps, 64, shift=False)), 128, 128)
        return schnell.ae.decode(z).clamp(-1, 1)

    full, three = paint(4), paint(3)
    with cached(schnell.model, FirstBlockCache(schnell.model, 0.4)) as cache:
        four = paint(4)
    if sum(cache.computed) != 3:
        raise RuntimeError(f"the cache computed {sum(cache.computed)} steps whole, not three")
    return float(10 * torch.log10((three - full).square().mean() / (four - full).square().mean()))


def arithmetic_without_the_reference() -> float:
    """What is left of an evaluation's FLOP if a reference as large as the picture is keys and values only."""
    with_it, without = (flops(FLUX1_DEV, image_tokens, 512) for image_tokens in (2 * 4096, 4096))
    looked_up = 57 * 4 * FLUX1_DEV.width * (4096 + 512) * 4096  # queries of picture and text, keys of the reference
    return (sum(without.values()) + looked_up) / sum(with_it.values())


def scales_for_blocks() -> float:
    W = normal(40, 320, seed=3) ** 3  # a few numbers are much larger than the others, as in trained matrices
    return apart(round_to_bits(W, 4, 32), W) / apart(round_to_bits(W, 4), W)


QUESTIONS = [
    Question(
        section="The honest baseline",
        text="tiny-schnell paints in four steps. A first-block cache computes three of them whole. Whose picture is"
        " nearer to that of four steps: the cache's, or that of three plain steps?",
        choices={
            "the cache's, by more than a decibel": lambda gain: gain > 1,
            "about the same": lambda gain: -1 <= gain <= 1,
            "that of three plain steps, by more than a decibel": lambda gain: gain < -1,
        },
        measure=cache_against_three_steps,
        result="The cache's picture is nearer by {:.1f} dB.",
        why="In four steps everything changes from one to the next: three of the right length beat four with one old.",
    ),
    Question(
        section="Eq. 18.4 · A reference that is computed once",
        text="Kontext reads a reference as large as the picture, 1024 × 1024. From the second step on its keys and"
        " values are looked up instead of computed. How much of an evaluation's arithmetic is left?",
        choices={
            "about a quarter": lambda left: left < 0.35,
            "about a half": lambda left: 0.4 < left < 0.6,
            "nearly all: attention is what costs": lambda left: left > 0.8,
        },
        measure=arithmetic_without_the_reference,
        result="{:.0%} of the arithmetic is left.",
        why="Of 8704 tokens 4608 go through the matrices. They still look at all 8704 keys.",
    ),
    Question(
        section="Eq. 18.6 · A scale for a row, a scale for a block",
        text="A matrix is kept in 4 bits a number. Its rows have a few numbers that are much larger than the rest. One"
        " scale for a row of 320, or ten, one for each 32: which part of the error is left with ten?",
        choices={
            "almost the same": lambda left: left > 0.9,
            "clearly less": lambda left: 0.2 < left < 0.8,
            "a tenth": lambda left: left < 0.15,
        },
        measure=scales_for_blocks,
        result="{:.0%} of the error is left.",
        why="The largest number of a block sets its scale, and now it coarsens 31 others instead of 319.",
    ),
]
