"""Read a function where it stands: its source as the package runs it."""

import inspect
from collections.abc import Callable
from pathlib import Path

from IPython.display import Code, display

PACKAGE = Path(__file__).parents[1]


def source(fn: Callable) -> str:
    """The source of a function or class as the package runs it, under a line that says where it stands."""
    fn = inspect.unwrap(fn)
    lines, start = inspect.getsourcelines(fn)
    path = Path(inspect.getsourcefile(fn))
    return f"# flux_edu/{path.relative_to(PACKAGE).as_posix()}, line {start}\n{''.join(lines).rstrip()}"


def show(*functions: Callable) -> None:
    """Display the source of functions or classes, unmodified: what you read is what runs."""
    for fn in functions:
        display(Code(source(fn), language="python"))
