"""Set up and start, with nothing but Python 3.11 to 3.13.

python run.py                 make .venv (once) and open JupyterLab on the map notebook
python run.py lab [options]   the same; options go to JupyterLab, such as --no-browser, --ip or --port
python run.py --language zh   the same with the notebooks 00 to 06 in Chinese (made in build/zh)
python run.py test [options]  make .venv (once) and run every test and every notebook; options go to pytest
python run.py lint            make .venv (once) and check style, formatting and which way imports run
python run.py book            make .venv (once), build the book, serve it here and open it; --no-open builds it and ends
python run.py doctor          make .venv (once) and say what is installed, and whether the tiny FLUX paints here
python run.py sample "..."    make .venv (once) and paint a picture; `python run.py sample --help` lists the options
python run.py real            the published models: what is here, what is missing; so do `bench` and `batch` of flux-edu
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "flux-edu.stamp"  # written last: a .venv without it is made again
OLDEST, TOO_NEW = (3, 11), (3, 14)
TORCH = "torch==2.13.0"  # the version tested; on Linux an unpinned one would bring CUDA along
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGE = ("doctor", "sample", "real", "bench", "batch")  # the package's own commands
KERNELS = Path("flux_edu", "teaching", "widgets", "engine", "kernels.c")
LANGUAGES = ("en", "zh")
COMMANDS = ("lab", "test", "lint", "book", *PACKAGE)
# another Python's library and packages; pip's settings that would put the packages somewhere else, or nowhere; and two
# that keep a kernel from starting where they name what is not there
MISLEADING = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_USER")
MISLEADING += ("MPLBACKEND", "IPYTHONDIR")
DISK_GB = 2  # .venv with the CPU build takes 1.9
WINDOWS_PATH = 60  # characters; .venv has file names of up to 195 below this folder, and Windows allows 260 in all


def check_python(version):
    """Stop with one line and exit code 2 unless this Python will do (older ones must parse this file)."""
    if not OLDEST <= tuple(version[:2]) < TOO_NEW:
        here = ".".join(str(part) for part in version[:2])
        example = "py -3.12 run.py" if os.name == "nt" else "python3.12 run.py"
        problem = f"run.py needs Python 3.11, 3.12 or 3.13; this is {here} ({sys.executable})."
        sys.stderr.write(f"{problem} Start it with one of those: {example}\n")
        sys.exit(2)


def check_machine(bits=64 if sys.maxsize > 2**32 else 32):
    """Stop with one line where PyTorch has no build, before anything is fetched."""
    if bits != 64:
        fail("this is a 32-bit Python, and PyTorch needs a 64-bit one: install that from python.org.")
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        fail(
            "PyTorch is no longer built for Intel Macs. On Apple silicon this Python runs under Rosetta: install "
            "the universal one from python.org and start this with it."
        )


def check_place(windows=os.name == "nt"):
    """Stop with one line where .venv would not fit: too little disk, or names too long for Windows."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < DISK_GB:
        fail(f"{free:.1f} GB of disk are free here and .venv needs {DISK_GB}: make room, or move this folder.")
    if windows and len(str(ROOT)) > WINDOWS_PATH and not windows_allows_long_paths():
        fail(
            f"the path of this folder has {len(str(ROOT))} characters, and Windows refuses the long file names "
            f"below it: move the folder to a path of at most {WINDOWS_PATH}, such as C:\\flux, or allow long paths "
            "(docs.python.org/3/using/windows.html says how)."
        )


def windows_allows_long_paths():
    """What Windows' registry says about names of more than 260 characters."""
    try:
        import winreg

        place = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except (ImportError, OSError):
        return False


def fingerprint():
    """What .venv was made from: the packages wanted."""
    made_from = [(ROOT / "pyproject.toml").read_text(encoding="utf-8"), TORCH]
    return hashlib.sha256("\n".join(made_from).encode("utf-8")).hexdigest()


def is_whole():
    """True when .venv was finished once and works: its Python starts, and finds this folder's package and PyTorch.

    It does not when its making was broken off, when the folder was moved or when the Python it was made with is gone.
    """
    if not STAMP.is_file():
        return False
    code = "import importlib.util as u, flux_edu; print(flux_edu.__file__ if u.find_spec('torch') else '')"
    command = [str(venv_python()), "-I", "-X", "utf8", "-c", code]
    try:
        package_file = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode("utf-8")
    except OSError:
        return False
    return bool(package_file.strip()) and ROOT in Path(package_file.strip()).resolve().parents


def is_current():
    """True when nothing that a whole .venv was made from has changed since."""
    return STAMP.read_text(encoding="utf-8") == fingerprint()


def is_root():
    """Whether this is the administrator of a Unix, to whom JupyterLab does not open unasked."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


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


def call(command, folder=None, **variables):
    """Run a command in the repository (or in folder); its exit code. Ctrl-C is the command's to handle."""
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    environment.update(PYTHONUTF8="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0", **variables)
    environment["PIP_COMPILE"] = "0"  # of 15,000 files a quarter is ever imported, and compiled then, once
    environment["PATH"] = str(venv_python().parent) + os.pathsep + os.environ.get("PATH", os.defpath)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([str(part) for part in command], cwd=str(folder or ROOT), env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the terminal sent it to the command too, which ends in its own way


def pip_install(*arguments):
    """pip's exit code. Ready-made wheels only: a package without one is an error that names it, never a compiler's."""
    here = "--target="  # that is .venv, whatever pip's configuration file says
    return call([venv_python(), "-m", "pip", "install", "--only-binary=:all:", here, *arguments])


def install_torch():
    """CPU wheel from PyTorch's own index where there is no NVIDIA driver, else what pip's index has."""
    if wants_cpu_wheel():
        say("no NVIDIA driver: taking PyTorch for the CPU (200 MB)")
        # Only the wheel itself comes from there; an index out of reach then costs seconds, not minutes.
        once = ["--no-deps", "--retries=1", "--timeout=15"]
        if pip_install(*once, "--index-url", CPU_INDEX, TORCH) == 0:
            return
        say(f"PyTorch's CPU index did not serve it: taking {TORCH} from pip's own index (up to 3 GB)")
    if pip_install(TORCH) != 0:
        fail(
            f"pip could not install {TORCH}. Check the network (behind a proxy set HTTPS_PROXY) and the disk "
            "(2 GB free for the CPU build, 8 GB for CUDA), then run the same command again. If pip found no matching "
            "distribution, PyTorch has no build for this system: it needs Windows, macOS on Apple silicon, or a "
            "Linux with glibc (not Alpine)."
        )


def install():
    """PyTorch, then the package with what it needs; what is there already is left as it is."""
    install_torch()
    if pip_install("-e", ".[dev]") != 0:
        fail(
            "pip could not install the packages: its last lines above say why. Check the network (behind a "
            "proxy set HTTPS_PROXY), then run the same command again. If a package has no matching distribution, "
            "there is no ready-made one for this Python: another of 3.11 to 3.13 may have it."
        )
    STAMP.write_text(fingerprint(), encoding="utf-8")
    if not is_whole():
        STAMP.unlink()
        fail("pip installed everything, but not in .venv: `pip config list` shows the setting that sends it elsewhere")


def install_book_tools():
    """What only the book is made with, fetched the first time."""
    code = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('sphinx_book_theme', 'mathjax'))))"
    if call([venv_python(), "-c", code]) != 0:
        say("fetching what the book is made with (once; 20 MB)")
        import tomllib  # from Python 3.11 on; older ones must come as far as check_python

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        names = project["optional-dependencies"]["book"]  # by name: with -e all of the package is worked out again
        if pip_install(*names) != 0:
            fail("pip could not install it: its last lines above say why. Check the network, then try again.")


def set_up():
    """Make .venv, or bring it up to date. A whole and current one is left alone, and no network is touched."""
    if is_whole():
        if not is_current():
            say("pyproject.toml has changed: bringing .venv up to date")
            try:
                install()
            except SystemExit as error:
                sys.stderr.write(str(error) + "\n")
                say("going on with .venv as it is; what is new may be missing")
        return
    check_machine()
    check_place()
    if VENV.exists():
        say(".venv is unfinished, or was moved or broken: making it again")
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
    install()


def test_everything(python):
    """Every notebook, then every test, some of which read what the notebooks have left; the worse exit code.

    Two processes with half of the cores each take less time than one with all of them.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    pytest = [python, "-m", "pytest", "--nbmake", "--numprocesses=2", "--dist=loadfile"]
    notebooks = call([*pytest, "notebooks"])
    return call([*pytest, "--executed"]) or notebooks


def main(arguments):
    check_python(sys.version_info)
    if not arguments or arguments[0].startswith("--language"):
        arguments = ["lab", *arguments]
    command, options = arguments[0], arguments[1:]
    if command not in COMMANDS or (options and command == "lint"):
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    set_up()
    python = venv_python()
    if command == "test":
        return call([python, "-m", "pytest", "--nbmake", *options]) if options else test_everything(python)
    if command == "lint":
        steps = (
            [python, "-m", "ruff", "check"],
            [python, "-m", "ruff", "format", "--check"],
            [python.with_name("lint-imports"), "--no-cache", "--no-logo"],
            [python.with_name("oxlint"), "--deny-warnings"],
            [python.with_name("oxfmt"), "--check", "**/*.js"],
            [python.with_name("clang-format"), "--dry-run", "-Werror", KERNELS],
        )
        return next((code for code in map(call, steps) if code), 0)
    if command == "book":
        install_book_tools()
        return call([python, Path("docs", "book.py"), *options])
    if command in PACKAGE:  # -P: a random.py in the reader's folder is not Python's own
        package = [python, "-P", "-m", "flux_edu", command, *options]
        return call(package, folder=os.getcwd(), FLUX_EDU_COMMAND="python run.py")  # what its messages call it
    return open_lab(python, options)


def open_lab(python, options):
    """JupyterLab on the map notebook, without its question about news and its look for updates (settings can ask)."""
    language, options = take_language(options)
    settings = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"  # defaults of this .venv alone
    settings.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    settings.write_text(json.dumps(quiet), encoding="utf-8")
    # threads of PyTorch that wait in a loop would keep the browser from the processor
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if is_root() and "--allow-root" not in options:
        say("you are root, as in a container or on a rented machine: JupyterLab is started with --allow-root")
        options = ["--allow-root", *options]
    if language == "zh":
        code = call([python, Path("docs", "chinese.py")])
        if code:
            return code
    folder = Path("build", "zh", "notebooks") if language == "zh" else Path("notebooks")
    locale = {"FLUX_EDU_LOCALE": str(ROOT / "build" / "zh" / "locale")} if language == "zh" else {}
    root = f"--ServerApp.root_dir={ROOT}"  # not the notebooks' folder: their links lead to the package, too
    return call([python, "-m", "jupyterlab", root, *options, folder / "00_map.ipynb"], **locale)


def take_language(options):
    """The language that --language asks for, and the other options; stops with one line at one that is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--language", default="en")
    known, others = parser.parse_known_args(options)
    if known.language not in LANGUAGES:
        fail("--language takes {}, not {}".format(" or ".join(LANGUAGES), known.language))
    return known.language, others


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
