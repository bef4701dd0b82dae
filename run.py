"""Set up and start, with nothing but Python 3.11 to 3.13.

python run.py                 make .venv (once) and open JupyterLab on the map notebook
python run.py test [options]  make .venv (once) and run every test and every notebook; options go to pytest
python run.py lint            make .venv (once) and check style and formatting
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "flux-edu.stamp"  # written last: a .venv without the right stamp is made again
OLDEST, TOO_NEW = (3, 11), (3, 14)
TORCH = "torch==2.13.0"  # the version tested; on Linux an unpinned one would bring CUDA along
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def check_python(version):
    """Stop with one line and exit code 2 unless this Python will do (older ones must parse this file)."""
    if not OLDEST <= tuple(version[:2]) < TOO_NEW:
        found = ".".join(str(part) for part in version[:2])
        example = "py -3.12 run.py" if os.name == "nt" else "python3.12 run.py"
        problem = f"run.py needs Python 3.11, 3.12 or 3.13; this is {found} ({sys.executable})."
        sys.stderr.write(f"{problem} Start it with one of those: {example}\n")
        sys.exit(2)


def fingerprint():
    """What .venv is made from: the wanted packages, this Python and this place (a .venv cannot move)."""
    made_from = [(ROOT / "pyproject.toml").read_text(encoding="utf-8"), TORCH, sys.version, str(ROOT)]
    return hashlib.sha256("\n".join(made_from).encode("utf-8")).hexdigest()


def is_ready():
    """True when .venv was finished and nothing it was made from has changed."""
    return STAMP.is_file() and venv_python().exists() and STAMP.read_text(encoding="utf-8") == fingerprint()


def venv_python(windows=os.name == "nt"):
    """The environment's own Python."""
    return VENV / "Scripts" / "python.exe" if windows else VENV / "bin" / "python"


def has_nvidia_driver():
    """True when nvidia-smi is there and talks to a driver."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.call([smi, "-L"], stdout=subprocess.DEVNULL) == 0


def wants_cpu_wheel():
    """Only on Linux does the plain wheel carry CUDA (3 GB); elsewhere it is small and right."""
    return sys.platform.startswith("linux") and not has_nvidia_driver()


def say(text):
    print("run.py: " + text, flush=True)


def fail(text):
    sys.exit("run.py: " + text)


def call(command):
    """Run a command in the repository and return its exit code; Ctrl-C is the command's to handle."""
    environment = dict(os.environ, PYTHONUTF8="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    process = subprocess.Popen([str(part) for part in command], cwd=str(ROOT), env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the terminal sent it to the command too, which ends in its own way


def install_torch():
    """CPU wheel from PyTorch's own index where there is no NVIDIA driver, else what pip's index has."""
    install = [venv_python(), "-m", "pip", "install"]
    if wants_cpu_wheel():
        say("no NVIDIA driver: taking PyTorch for the CPU (200 MB)")
        # Only the wheel itself comes from there; an index out of reach then costs seconds, not minutes.
        once = ["--no-deps", "--retries=1", "--timeout=15"]
        if call([*install, *once, "--index-url", CPU_INDEX, TORCH]) == 0:
            return
        say(f"PyTorch's CPU index did not serve it: taking {TORCH} from pip's own index (up to 3 GB)")
    if call([*install, TORCH]) != 0:
        fail(
            f"pip could not install {TORCH}. Check the network (behind a proxy set HTTPS_PROXY) and the disk "
            "(2 GB free for the CPU build, 8 GB for CUDA), then run the same command again."
        )


def set_up():
    """Make .venv unless a finished one is there. Uses the network only when it has something to make."""
    if is_ready():
        return
    if VENV.exists():
        say(".venv is unfinished or out of date: making it again")
    else:
        say("making .venv (once; a minute or two)")
    try:
        STAMP.unlink()
    except OSError:
        pass  # there was none
    if call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        fail(
            f"could not make {VENV}. On Debian or Ubuntu install python3-venv first; on Windows close every "
            "program that uses this folder; then run the same command again."
        )
    install_torch()
    if call([venv_python(), "-m", "pip", "install", "-e", ".[dev]"]) != 0:
        fail(
            "pip could not install the packages: its last lines above say why. Check the network (behind a "
            "proxy set HTTPS_PROXY), then run the same command again: it starts afresh."
        )
    STAMP.write_text(fingerprint(), encoding="utf-8")


def main(arguments):
    check_python(sys.version_info)
    command, options = (arguments[0], arguments[1:]) if arguments else ("lab", [])
    if command not in ("lab", "test", "lint") or (options and command != "test"):
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    set_up()
    python = venv_python()
    if command == "test":
        return call([python, "-m", "pytest", "--nbmake", *options])
    if command == "lint":
        return call([python, "-m", "ruff", "check"]) or call([python, "-m", "ruff", "format", "--check"])
    return call([python, "-m", "jupyterlab", Path("notebooks", "00_map.ipynb")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
