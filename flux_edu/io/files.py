"""Files get their names when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path, ending: str = ".part", overwrite: bool = True) -> Iterator[Path]:
    """Where to write: a path beside the target, which takes its place when the block ends well, and else is removed.

    `~` is the user's home, folders are made. With overwrite=False a file of that name is never replaced, not even one
    that has appeared meanwhile: FileExistsError. What the system refuses is told with the target's name.
    """
    path = Path(os.path.expanduser(path))
    part = path.with_name(path.name + ending)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if file := next((folder for folder in path.parents if folder.is_file()), None):
        raise NotADirectoryError(f"{file} is a file: nothing can be saved in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if not overwrite:
            path.open("xb").close()
        put_in_place(part, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def put_in_place(part: Path, path: Path) -> None:
    """Give a written file its name. Windows refuses that while a program has the old file of this name open."""
    try:
        part.replace(path)
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be replaced: you may not write there, or another program, such as a notebook's kernel, has"
            " the file open. Close that and try again"
        ) from error
