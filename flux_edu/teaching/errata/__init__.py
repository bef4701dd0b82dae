"""The errata of the reading notes: a check for every verdict of notebook 14 but one, that of No. 19.

`run(n)` shows both forms of entry n and what they give. The words of the entries stand in the notebook. The numbers are
names that do not change; 1 to 34 were found first.
"""

from flux_edu.teaching.errata import arguments, block, denoising, inputs, scheduling, whole
from flux_edu.teaching.errata.entry import show_check

CHECKS = {
    check.number: check for part in (arguments, scheduling, inputs, denoising, whole, block) for check in part.CHECKS
}


def run(number: int) -> None:
    """Show both forms of an entry, the notes' above, and what each gives; raises if its verdict does not hold."""
    if number not in CHECKS:
        raise ValueError(f"no check has the number {number}; there are 1 to {max(CHECKS)}, 19 left out")
    show_check(CHECKS[number])
