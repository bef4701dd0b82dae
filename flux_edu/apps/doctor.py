"""What is installed, and whether the tiny FLUX paints here: `flux-edu doctor`.

Nothing but the standard library is imported before it has been looked at: a broken installation is what this is for.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module, metadata, resources
from pathlib import Path
from pkgutil import walk_packages

import flux_edu

WEIGHTS = resources.files("flux_edu") / "weights"
ROW = re.compile(r"^\| `([\w.]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)
AGAIN = "run `python run.py` again after deleting the folder .venv, or `pip install -e .` in your own environment"
MEMORY_GB, DISK_GB = 1.7, 0.5  # the largest notebook, 12, holds 1.6 GB; pictures and executed notebooks are small

Finding = tuple[bool, str, str]  # whether it is well, what was found, what to do if it is not
Check = Callable[[], Iterator[Finding]]


def python() -> Iterator[Finding]:
    """This Python, against the package's own bounds."""
    version = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}"
    yield (3, 11) <= sys.version_info[:2] < (3, 14), version, "take Python 3.11, 3.12 or 3.13"


def libraries() -> Iterator[Finding]:
    """Every library that pyproject.toml names: the version here against its bounds. Extras may be missing."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield False, "packaging is not installed", AGAIN
        return
    try:
        requirements = [Requirement(line) for line in metadata.requires("flux-edu") or []]
    except metadata.PackageNotFoundError:
        yield False, "flux-edu itself is not installed, so no bounds are known", AGAIN
        return
    # several extras may name one library
    unlike = {str(need).partition(";")[0]: need for need in reversed(requirements)}
    for need in reversed(unlike.values()):
        extra = need.marker is not None and not need.marker.evaluate({"extra": ""})
        if need.name == "flux-edu":
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            if not extra:
                yield False, f"{need.name} is not installed", AGAIN
            continue
        message = f"{need.name} {version} ({need.specifier})" + " for an extra" * extra
        yield need.specifier.contains(version, prereleases=True), message, f'pip install "{need.name}{need.specifier}"'


def shadows() -> Iterator[Finding]:
    """What is imported from a folder of PYTHONPATH in place of Python's own modules and of libraries installed here."""
    known = sys.stdlib_module_names | set(metadata.packages_distributions()) - {"flux_edu"}
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        names = {path.stem for path in Path(folder).glob("*") if path.is_dir() or path.suffix == ".py"} & known
        if names:
            message = f"these come from {folder}, a folder of PYTHONPATH: {', '.join(sorted(names))}"
            yield False, message, "try without the variable PYTHONPATH: that folder may belong to another Python"


def modules() -> Iterator[Finding]:
    """Every module of the package, imported as notebooks do."""
    names = [each.name for each in walk_packages(flux_edu.__path__, "flux_edu.") if "__main__" not in each.name]
    failed = {}
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            failed[name] = error
    message = f"{len(names) - len(failed)} of {len(names)} modules of flux_edu can be imported"
    first = next((f"; not {name}: {error}" for name, error in failed.items()), "")
    yield not failed, message + first, AGAIN


def device() -> Iterator[Finding]:
    """Where it would compute, and with how many threads."""
    torch = import_module("torch")
    device_here = import_module("flux_edu.io.device").pick_device()
    name = f" ({torch.cuda.get_device_name(device_here)})" if device_here.type == "cuda" else ""
    yield True, f"device {device_here}{name}, {torch.get_num_threads()} threads on {os.cpu_count()} cores", ""


def hashes(folder: Path = WEIGHTS) -> Iterator[Finding]:
    """The shipped files, byte for byte those that the model card lists."""
    same = 0
    listed = ROW.findall((folder / "MODEL_CARD.md").read_text("utf-8"))
    again = "get it again: `git checkout -- flux_edu/weights`, or copy the folder from a fresh download"
    for name, _, sha256 in listed:
        path = folder / "tiny" / name
        if not path.is_file():
            yield False, f"weights/tiny/{name} is missing", again
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            yield False, f"weights/tiny/{name} is not the file of the model card (its SHA-256 differs)", again
        else:
            same += 1
    if not listed:
        yield False, "the model card lists no files", again
    yield True, f"{same} of {len(listed)} shipped files have the SHA-256 of the model card", ""


def weights() -> Iterator[Finding]:
    """The three tiny models, loaded with strict=True as every picture loads them."""
    pipeline = import_module("flux_edu.pipeline")
    for name in ("tiny", "tiny-dev", "tiny-schnell"):
        try:
            start = time.perf_counter()
            pipeline.FluxGenerator(name, "cpu")
            yield True, f"{name} loads strictly in {time.perf_counter() - start:.1f} s", ""
        except (ValueError, OSError, RuntimeError) as error:
            yield False, f"{name} does not load: {error}", "get flux_edu/weights again from a fresh download"


def picture() -> Iterator[Finding]:
    """One picture by the fastest of them, where it would be painted, timed the second time."""
    pipeline = import_module("flux_edu.pipeline")
    generator = pipeline.FluxGenerator("tiny-schnell")
    for _ in range(2):  # the first one also warms up
        start = time.perf_counter()
        painted = generator.generate_image(128, 128, 4, 0.0, 0, "a 3d fox on a blue background")
    seconds = time.perf_counter() - start
    low, high = min(low for low, _ in painted.getextrema()), max(high for _, high in painted.getextrema())
    message = f"tiny-schnell paints 128 × 128 pixels in {seconds:.2f} s (4 steps)"
    yield high - low > 50, message, "it is almost of one colour: take the tested version of PyTorch, 2.13"


def room() -> Iterator[Finding]:
    """Free memory and disk."""
    free = free_memory_gb()
    message = "free memory: this system does not say" if free is None else f"{free:.1f} GB of memory free"
    yield free is None or free >= MEMORY_GB, message, f"close other programs: a notebook takes up to {MEMORY_GB} GB"
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    yield disk >= DISK_GB, f"{disk:.1f} GB of disk free here", "make room: pictures and executed notebooks need some"


def free_memory_gb() -> float | None:
    """What programs may still take; None where neither psutil (it comes with Jupyter) nor Linux says."""
    try:
        return import_module("psutil").virtual_memory().available / 1e9
    except ImportError:
        meminfo = Path("/proc/meminfo")
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
        return int(match[1]) * 1024 / 1e9 if match else None


CHECKS: tuple[Check, ...] = (python, libraries, shadows, modules, device, hashes, weights, picture, room)


def examine(checks: tuple[Check, ...] = CHECKS) -> int:
    """Print a line for every finding, and under a bad one what to do; 1 if there is a bad one, else 0."""
    bad = 0
    for check in checks:
        try:
            for well, message, advice in check():
                bad += not well
                print(f"{'ok   ' if well else 'WRONG'}  {message}", flush=True)
                if not well:
                    print(f"       -> {advice}", flush=True)
        except Exception as error:  # whatever it is, it is the finding
            bad += 1
            print(
                f"WRONG  {check.__name__} stopped with {type(error).__name__}: {error}\n       -> {AGAIN}", flush=True
            )
    print(
        "All is well." if not bad else f"{bad} of these are wrong: do what the lines with -> say, then run this again."
    )
    return int(bad > 0)


def main(options: argparse.Namespace) -> int:
    return examine()
