"""The book's chapters as PDF, printed by a Chromium or Chrome that is installed: `python run.py book --pdf`."""

import shutil
import subprocess
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-pdf-header-footer".split()
SECONDS = 120  # for one chapter


def print_chapters(address: str, names: list[str], folder: Path) -> list[Path]:
    """Each of these notebooks of the served book as folder/NAME.pdf."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("printing needs Chromium or Chrome on the path; each page can also be printed by your own browser")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        file = folder / f"{name}.pdf"
        # the page's clock runs ahead until formulas and pictures are there
        command = [browser, *QUIET, "--virtual-time-budget=60000", f"--print-to-pdf={file}"]
        subprocess.run(
            [*command, f"{address}notebooks/{name}.html?print"], check=True, capture_output=True, timeout=SECONDS
        )
        files.append(file)
    return files
