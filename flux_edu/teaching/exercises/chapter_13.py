"""Exercises of chapter 13, the published models. The chapter asks no questions before its sections."""

from functools import partial

import torch
from torch import Tensor

from flux_edu.teaching.exercises.exercise import Exercise, normal

# ---------------------------------------------------------------- 13.1


def my_tflop(width: int, height: int, text_tokens: int, steps: int, *, linear: float = 24, square: float = 4) -> float:
    D, L = 3072, (width // 16) * (height // 16) + text_tokens
    return steps * 57 * (linear * D**2 * L + square * D * L**2) / 1e12


def by_parameters(width: int, height: int, text_tokens: int, steps: int) -> float:
    return steps * 2 * 11_901_408_320 * ((width // 16) * (height // 16) + text_tokens) / 1e12


MY_TFLOP = Exercise(
    "13.1",
    my_tflop,
    inputs=[(1024, 1024, 512, 1), (512, 768, 256, 4), (2048, 1024, 77, 28)],
    mistakes={
        "attention is missing: QKᵀ and AV are 2 L² D each, in every block": partial(my_tflop, square=0),
        "a multiply-add counts as two, so 12 D² weights cost 24 D² a token": partial(my_tflop, linear=12),
        "the text tokens go through every block too": lambda W, H, text_tokens, steps: my_tflop(W, H, 0, steps),
        "a double block splits the tokens between its two sets of weights: it costs what a single one does":
            partial(my_tflop, linear=24 * (2 * 19 + 38) / 57),
        "that is 2 · parameters · tokens: half of a double block's parameters see a token, modulation none":
            by_parameters,
    },
    advice="57 (24 D² L + 4 D L²) a step.",
    tolerance=1e-3,
)  # fmt: skip

# ---------------------------------------------------------------- 13.2


def my_swap(weight: Tensor) -> Tensor:
    shift, scale = weight.chunk(2)
    return torch.cat([scale, shift])


MY_SWAP = Exercise(
    "13.2",
    my_swap,
    inputs=[(normal(10, 3),), (normal(14, 5),)],
    mistakes={
        "nothing has changed: this loads, and paints something else": lambda weight: weight,
        "all rows are reversed; only the two halves change places": lambda weight: weight.flip(0),
        "columns are reversed; outputs are the rows of a weight": lambda weight: weight.flip(1),
        "the halves are alternated row by row; put one below the other":
            lambda weight: torch.stack(weight.chunk(2)[::-1], 1).flatten(0, 1),
    },
    advice="Second half, then first half, both untouched.",
)  # fmt: skip

# ---------------------------------------------------------------- 13.3

Shapes = dict[str, tuple]


def my_audit(model: Shapes, file: Shapes) -> tuple[list[str], list[str], list[str]]:
    missing = [name for name in model if name not in file]
    extra = [name for name in file if name not in model]
    return missing, extra, [name for name in model if name in file and model[name] != file[name]]


MY_AUDIT = Exercise(
    "13.3",
    my_audit,
    inputs=[
        (
            {"img_in.weight": (8, 4), "img_in.bias": (8,), "txt_in.weight": (8, 5), "txt_in.bias": (8,)},
            {"img_in.weight": (8, 6), "txt_in.weight": (8, 5), "txt_in.bias": (8,), "more.bias": (3,)},
        ),
        ({"a": (2, 3), "b": (5,), "c": (7,)}, {"c": (11,), "b": (5,), "a": (3, 2), "d": (1,)}),
    ],
    mistakes={
        "missing and extra are exchanged: missing is what the file lacks":
            lambda model, file: (*my_audit(model, file)[1::-1], my_audit(model, file)[2]),
        "compare shapes, not only names: a name in both with another shape is misshapen":
            lambda model, file: (*my_audit(model, file)[:2], []),
        "a name that one side does not have cannot be misshapen: only compare the shapes of names in both": (
            lambda model, file: (
                *my_audit(model, file)[:2],
                [name for name in model | file if model.get(name) != file.get(name)],
            )
        ),
        "those whose shapes are equal are well, the others are misshapen":
            lambda model, file: (*my_audit(model, file)[:2], [n for n in model if model[n] == file.get(n)]),
    },
    advice="Missing: in the model, not in the file. Extra: in the file, not in the model.",
)  # fmt: skip

EXERCISES = [MY_TFLOP, MY_SWAP, MY_AUDIT]
QUESTIONS = ()
