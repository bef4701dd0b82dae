"""Every control of a panel moved to its ends: how long each new picture takes, and its error if there is one.

`conftest.py` runs this file in a notebook's kernel after the last cell: it needs the standard library alone.
"""

import dataclasses
import json
import sys
import time


@dataclasses.dataclass
class Move:
    """One control set to one value: how long the new picture took, and the error if there was one."""

    control: str
    value: object
    seconds: float
    error: str | None


def ends(control) -> list:
    """The values of a control worth trying: both ends of a slider, all options of a menu, both states of a box."""
    if hasattr(control, "min"):
        return [control.min, control.max]
    if hasattr(control, "options"):  # values, or pairs of a label and a value
        return [option[1] if isinstance(option, tuple) else option for option in control.options]
    return [False, True] if isinstance(control.value, bool) else [control.value]


def sweep(panel) -> list[Move]:
    """Every control to each of its ends (or options) in turn, the others at their first value; then Reset.

    Where an end is the first value there is nothing to move; Reset draws that picture again.
    """
    changes = [(name, value) for name, control in panel.controls.items() for value in ends(control)]
    moves = []
    for name, value in [*changes, ("Reset", None)]:
        if name != "Reset" and value == panel.first[name]:
            continue
        start = time.perf_counter()
        panel.set(**(panel.first if name == "Reset" else panel.first | {name: value}))
        moves.append(Move(name, value, time.perf_counter() - start, panel.error))
    return moves


def sweep_panels() -> str:
    """All panels of this kernel as JSON."""
    module = sys.modules.get("flux_edu.teaching.panel")
    panels = [
        {
            "draw": getattr(panel.draw, "__name__", repr(panel.draw)),
            "controls": list(panel.controls),
            "moves": [dataclasses.asdict(move) for move in sweep(panel)],
        }
        for panel in (module.PANELS if module else [])
    ]
    return json.dumps(panels, default=str)
