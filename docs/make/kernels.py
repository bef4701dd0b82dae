"""The engine's kernels in two builds, from C: `python docs/make/kernels.py`, after `pip install ziglang==0.17.1`.

The wheel is a whole C compiler and 400 MB large, so only who changes kernels.c installs it. The same source gives the
same bytes; a test builds them again where the compiler is.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ENGINE = Path(__file__).parents[2] / "flux_edu" / "teaching" / "widgets" / "engine"
BUILDS = {"kernels.wasm": "simd128", "kernels_relaxed.wasm": "simd128+relaxed_simd"}
LINKER = ("--no-entry", "--strip-all", "--initial-memory=1048576", "-z,stack-size=65536")


def build(source: Path, folder: Path) -> None:
    """Both builds of the source, into the folder."""
    for name, features in BUILDS.items():
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding", "-O3", "-nostdlib"]
        command += [f"-mcpu=generic+{features}+bulk_memory", *(f"-Wl,{option}" for option in LINKER)]
        with TemporaryDirectory() as cache:
            own = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            subprocess.run(
                [*command, "-o", folder / name, source.name], cwd=source.parent, env=os.environ | own, check=True
            )


def source_hash() -> str:
    return hashlib.sha256((ENGINE / "kernels.c").read_bytes()).hexdigest()


def main() -> None:
    build(ENGINE / "kernels.c", ENGINE)
    (ENGINE / "kernels.sha256").write_text(source_hash() + "\n", encoding="utf-8")
    for name in BUILDS:
        print(f"{name}: {(ENGINE / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
