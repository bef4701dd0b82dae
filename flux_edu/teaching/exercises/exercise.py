"""What an exercise is: a solution, inputs to try an answer on, and the mistakes that are known by what they give."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from numbers import Real

import torch
from torch import Tensor

from flux_edu.teaching.language import translate


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook. An answer is right if it gives on all `inputs` what `solution` gives.

    Numbers may differ by `tolerance` × (1 + |value|). `mistakes` maps a diagnosis to a function that makes the mistake;
    the first one that explains an answer is named, so a mistake that is seen on few inputs stands before one that is
    seen on many. `advice` says where to look when none of them explains it.
    """

    number: str
    solution: Callable
    inputs: Sequence[tuple]
    mistakes: Mapping[str, Callable]
    advice: str
    tolerance: float = 1e-5

    def diagnose(self, answer: Callable) -> str | None:
        """What is wrong with an answer, or None. Errors of the answer itself are raised as they come."""
        inputs = deepcopy(self.inputs)
        results = [call(answer, *values) for values in inputs]
        expected = self.results(self.solution)
        wrong = [i for i, pair in enumerate(zip(results, expected, strict=True)) if not same(*pair, self.tolerance)]
        if any(result is None for result in results):
            return translate("your function returned nothing: did you forget `return`?")
        if not wrong:
            unchanged = same(inputs, self.inputs, 0.0)
            return None if unchanged else translate("your function changes what it is given: make new tensors instead")
        for diagnosis, mistake in self.mistakes.items():
            if all(map(self.explains, self.results(mistake), results, expected)):
                return translate(diagnosis)
        where = describe(self.solution, self.inputs[wrong[0]])
        what = difference(results[wrong[0]], expected[wrong[0]], self.tolerance)
        return translate("{where}: {what}. {advice}").format(where=where, what=what, advice=translate(self.advice))

    def results(self, function: Callable) -> list:
        """What a function gives on a copy of the inputs."""
        return [call(function, *values) for values in deepcopy(self.inputs)]

    def explains(self, mistaken: object, result: object, expected: object) -> bool:
        """Whether a result, each part of it if it is a tuple, is either right or what the mistake makes of it."""
        if all(isinstance(x, tuple) for x in (mistaken, result, expected)) and len(mistaken) == len(result):
            return len(result) == len(expected) and all(map(self.explains, mistaken, result, expected))
        return same(result, expected, self.tolerance) or same(result, mistaken, self.tolerance)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from N(0, 1), the same ones every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(function: Callable, *inputs: object) -> object:
    """What a function returns, with the same random numbers every time; a division by zero counts as a result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return function(*inputs)
        except ZeroDivisionError as error:
            return error


def kind(x: Tensor) -> str:
    """What sort of numbers a tensor holds, whatever their precision."""
    if x.is_complex():
        return "complex"
    return "float" if x.is_floating_point() else "bool" if x.dtype is torch.bool else "int"


def same(a: object, b: object, tolerance: float) -> bool:
    """Whether a is what b is: shape, kind of number, values. Lists and tuples are alike; NaN equals NaN."""
    if isinstance(b, Tensor):
        if not isinstance(a, Tensor) or a.shape != b.shape or kind(a) != kind(b):
            return False
        dtype = torch.promote_types(a.dtype, b.dtype)
        return torch.allclose(a.to(dtype), b.to(dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(b, list | tuple):
        return (
            isinstance(a, list | tuple)
            and len(a) == len(b)
            and all(same(*pair, tolerance) for pair in zip(a, b, strict=True))
        )
    if isinstance(b, float):
        number = isinstance(a, Real) or (isinstance(a, Tensor) and a.numel() == 1)
        return number and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return type(a) is type(b) and (isinstance(b, Exception) or a == b)


def difference(result: object, expected: object, tolerance: float) -> str:
    """Where a result first departs from the expected one."""
    if isinstance(result, Exception):
        return translate("your function divides by zero")
    if isinstance(expected, Tensor):
        if not isinstance(result, Tensor):
            return translate("your function gives a {}, expected a tensor").format(type(result).__name__)
        if result.shape != expected.shape:
            shapes = tuple(result.shape), tuple(expected.shape)
            return translate("the result has shape {}, expected {}").format(*shapes)
        if kind(result) != kind(expected):
            return translate("the result is {}, expected {}").format(result.dtype, expected.dtype)
        dtype = torch.promote_types(result.dtype, expected.dtype)
        close = torch.isclose(result.to(dtype), expected.to(dtype), rtol=tolerance, atol=tolerance)
        place = tuple((~close).nonzero()[0].tolist())
        numbers = result[place].item(), expected[place].item()
        return translate("at {} the result is {:.5g}, expected {:.5g}").format(list(place), *numbers)
    if isinstance(expected, list | tuple):
        if not isinstance(result, list | tuple):
            types = type(result).__name__, type(expected).__name__
            return translate("your function gives a {}, expected a {}").format(*types)
        if len(result) != len(expected):
            return translate("the result has {} entries, expected {}").format(len(result), len(expected))
        i = [same(*pair, tolerance) for pair in zip(result, expected, strict=True)].index(False)
        return translate("entry {}: {}").format(i, difference(result[i], expected[i], tolerance))
    if isinstance(expected, int | float) and isinstance(result, Real) and result == expected:
        types = type(result).__name__, result, type(expected).__name__
        return translate("your function gives the {} {}, expected an {}").format(*types)
    return translate("your function gives {}, expected {}").format(result, expected)


def describe(function: Callable, inputs: tuple) -> str:
    """The inputs by name: numbers as they are, tensors by their shape, functions left out."""
    words = []
    for name, value in zip(signature(function).parameters, inputs, strict=False):
        if isinstance(value, Tensor):
            words.append(translate("{} of shape {}").format(name, tuple(value.shape)))
        elif not callable(value):
            words.append(f"{name} = {value}")
    return translate("for {}").format(", ".join(words))
