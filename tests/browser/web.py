"""A folder as a web site of this machine, served as the book is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import book
import pytest

SITE = book.BOOK / "html"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The site's address while the `with` lasts."""
    with book.server(folder, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@contextmanager
def serve_book() -> Iterator[str]:
    """The address of the book that `run.py book` has built; a skipped test if there is none."""
    if not (SITE / "start.html").exists():
        pytest.skip("build it first: python run.py book --no-open")
    with serve(SITE) as address:
        yield address
