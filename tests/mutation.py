"""A copy of a function whose numbers are 1 % too large, and the tests of an equation run against it.

test_equations.py asks of every number: does at least one of its marked tests fail then?
"""

import contextlib
import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
import tables
import torch

PACKAGE = "flux_edu"
WRONG = 1.01
Cached = type(functools.cache(print))


def perturb(out):
    """The same result with its floats 1 % too large (zeros become 0.01), in whatever it is packed."""
    if isinstance(out, torch.Tensor | np.ndarray):
        floating = out.is_floating_point() if isinstance(out, torch.Tensor) else np.issubdtype(out.dtype, np.floating)
        if not floating:
            return out
        return out * WRONG if bool((out != 0).any()) else out + (WRONG - 1)
    if isinstance(out, float):
        return out * WRONG if out else WRONG - 1
    if isinstance(out, dict):
        return type(out)({key: perturb(value) for key, value in out.items()})
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return type(out)(*map(perturb, out))
    if isinstance(out, list | tuple):
        return type(out)(map(perturb, out))
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        values = {field.name: getattr(out, field.name) for field in dataclasses.fields(out)}
        return dataclasses.replace(out, **perturb(values))
    if isinstance(out, Callable) and not isinstance(out, torch.nn.Module):
        return perturbed(out)
    return out


def perturbed(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrong(*args, **kwargs):
        return perturb(function(*args, **kwargs))

    return wrong


def find(name: str) -> list[str]:
    """ "train.flow.loss" → ["flux_edu.train.flow", "loss"]: as much of the name as is a module, then the rest."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join([PACKAGE, *parts[:cut]])
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
            return [module, *parts[cut:]]
    raise LookupError(f"{name}: there is no such module in {PACKAGE}")


@contextlib.contextmanager
def mutant(name: str) -> Iterator[None]:
    """The modules with "schedule.time_shift", "model.Flux.conditioning" or the forward of a class 1 % wrong."""
    module, *owners, last = find(name)
    owner = functools.reduce(getattr, owners, sys.modules[module])
    true = getattr(owner, last)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(true, type):
            patch.setattr(true, "forward", perturbed(true.forward))
            yield
        elif owners:
            patch.setattr(owner, last, perturbed(true))
            yield
        else:
            wrong = perturbed(true)
            exchange(true, wrong)
            try:
                yield
            finally:
                exchange(wrong, true)  # also where a module was imported meanwhile
    for module in modules():
        for value in vars(module).values():
            if isinstance(value, Cached):
                value.cache_clear()  # what it holds may have been computed by the wrong function


def modules() -> list[ModuleType]:
    """What is imported of the package and of its tests."""
    return [module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE or name[:5] == "test_"]


def exchange(old: Callable, new: Callable) -> None:
    """Put `new` wherever a module has `old`."""
    for module in modules():
        for key in [key for key, value in vars(module).items() if value is old]:
            setattr(module, key, new)


def exit_code(number: str, name: str) -> int:
    """pytest's exit code for the tests of a number with the named function wrong, up to the first that fails."""

    class Mutant:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtestloop(self):  # not earlier: files are imported and parameters computed with the true one
            with mutant(name):
                return (yield)

    quiet = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:nbmake", "-o", "addopts="]
    quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the plugins are imported already
    quiet += ["-p", "no:unraisableexception"]  # it collects garbage ten times at the end: four fifths of a run
    files = map(str, tables.marked_files().get(number, []))
    return pytest.main(["--equation", number, *quiet, f"--rootdir={tables.ROOT}", *files], plugins=[Mutant()])
