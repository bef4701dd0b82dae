"""Files get their names when they are whole."""

from pathlib import Path


def put_in_place(part: Path, path: Path) -> None:
    """Give a written file its name. Windows refuses that while a program has the old file of this name open."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    try:
        part.replace(path)
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be replaced: you may not write there, or another program, such as a notebook's kernel, has"
            " the file open. Close that and try again"
        ) from error
