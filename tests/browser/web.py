"""A folder as a web site of this machine, served as the book is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import book


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The site's address while the `with` lasts."""
    with book.server(folder, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
