"""Do the tests of an equation notice when its function is wrong? test_equations.py runs this file to find out.

    python tests/mutation.py '[["1.3", "schedule.time_shift"], …]'     prints a JSON line for each, as it is found

The function is replaced, in its own module and wherever else it was imported, by a copy whose numbers are 1 % too
large; then the tests marked with the number run, in a process of their own. At least one must fail. The number "true"
with no function runs all marked tests on the true functions: there none may fail.
"""

import ast
import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = "flux_edu"
WRONG = 1.01
TRUE = "true"  # the job in which nothing is replaced
CRASHED = 70  # an exit code that pytest does not use


def perturb(out):
    """The same result with its floats 1 % too large (zeros become 0.01), in whatever it is packed."""
    import numpy as np
    import torch

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


def replace(name: str) -> None:
    """Put a wrong copy in place of "schedule.time_shift", "model.Flux.conditioning", or the forward of a class."""
    module_name, *owners, last = find(name)
    owner = module = sys.modules[module_name]
    for part in owners:
        owner = getattr(owner, part)
    true = getattr(owner, last)
    if isinstance(true, type):
        true.forward = perturbed(true.forward)
    elif owner is not module:
        setattr(owner, last, perturbed(true))
    else:
        wrong = perturbed(true)
        for other in [m for key, m in sys.modules.items() if key.split(".")[0] == PACKAGE]:
            for key in [key for key, value in vars(other).items() if value is true]:
                setattr(other, key, wrong)


def find(name: str) -> list[str]:
    """ "train.flow.loss" → ["flux_edu.train.flow", "loss"]: as much of the name as is a module, then the rest."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join([PACKAGE, *parts[:cut]])
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
            return [module, *parts[cut:]]
    raise LookupError(f"{name}: there is no such module in {PACKAGE}")


# ---------------------------------------------------------------- which tests


def marks(file: Path) -> set[str]:
    """The numbers of all equation marks in a test file; they are written as plain strings."""
    calls = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call))
    marked = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "equation")
    return {arg.value for call in marked for arg in call.args if isinstance(arg, ast.Constant)}


@functools.cache
def marked_files() -> dict[str, list[Path]]:
    """Number → the test files that carry it."""
    found: dict[str, list[Path]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for number in marks(file):
            found.setdefault(number, []).append(file)
    return found


# ---------------------------------------------------------------- running them


def run_tests(number: str, function: str) -> int:
    """pytest's exit code for the tests of a number (of all numbers, for "true") with the named function wrong."""
    import hypothesis
    import pytest

    # one failing example is enough, the smallest one is not wanted; the same examples every time
    plain = hypothesis.settings(phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate], derandomize=True)
    hypothesis.settings.register_profile("mutation", plain, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    if function:
        replace(function)
    files = marked_files()
    wanted = sorted(set().union(*files.values())) if number == TRUE else files.get(number, [])
    if not wanted:
        return pytest.ExitCode.NO_TESTS_COLLECTED
    which = ["-m", "equation"] if number == TRUE else ["--equation", number]
    quiet = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    # imported before pytest: plugins, whose asserts nobody reads, and the package, with its shape checks in place
    quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-o", "addopts="]
    return pytest.main([*which, *quiet, f"--rootdir={TESTS.parent}", *map(str, wanted)])


def get_ready() -> None:
    """Import what the tests will need, once for all forks, the package with the run-time shape checks of the tests."""
    import torch
    from jaxtyping import install_import_hook

    torch.set_num_threads(1)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    import hypothesis  # noqa: F401

    install_import_hook([PACKAGE], "typecheck.typecheck")
    import flux_edu.pipeline
    import flux_edu.teaching.panel
    import flux_edu.teaching.plots  # noqa: F401

    marked_files()
    gc.freeze()  # nothing imported so far is garbage: the forks need not look again


def in_a_fork(number: str, function: str, log: Path) -> Callable[[], int | None]:
    """Start the tests of a number in a fork; the returned function gives its exit code, None until it has ended."""
    sys.stdout.flush()
    if child := os.fork():

        def poll():
            ended, status = os.waitpid(child, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if ended else None

        return poll
    code = CRASHED
    try:
        with log.open("w") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        code = run_tests(number, function)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def in_a_process(number: str, function: str, log: Path) -> Callable[[], int | None]:
    """The same where there is no fork (Windows): slower, since every process imports everything."""
    command = [sys.executable, __file__, json.dumps([[number, function]]), "--here"]
    with log.open("w") as printed:
        return subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT).poll


def run_jobs(jobs: list[tuple[str, str]], at_once: int) -> Iterator[dict]:
    """What came of every (number, function), in the order in which they end."""
    start = in_a_fork if hasattr(os, "fork") else in_a_process
    if start is in_a_fork:
        get_ready()
    waiting, running = list(jobs), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = number, function = waiting.pop(0)
                log = Path(folder, f"{number} {function}")
                running[tuple(job)] = time.perf_counter(), log, start(number, function, log)
            for (number, function), (began, log, poll) in list(running.items()):
                if (code := poll()) is not None:
                    del running[number, function]
                    yield {
                        "number": number,
                        "function": function,
                        "exit": code,
                        "seconds": round(time.perf_counter() - began, 2),
                        "printed": log.read_text("utf-8", errors="replace")[-3000:],
                    }
            time.sleep(0.01)


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    wanted = json.loads(sys.argv[1])
    if "--here" in sys.argv:
        get_ready()
        sys.exit(run_tests(*wanted[0]))
    for result in run_jobs(wanted, at_once=min(4, os.cpu_count() or 1)):
        print(json.dumps(result), flush=True)
