"""The errata of the reading notes: every statement that is wrong, imprecise, out of date or missing, and its check.

`ERRATA` is the list in the notes' order; `run(n)` shows both forms of entry n and what they give. The numbers are names
that do not change; 1 to 34 were found first. docs/make/errata_notebook.py writes notebook 14 from the list.
"""

from flux_edu.teaching.errata import arguments, block, denoising, inputs, scheduling, whole
from flux_edu.teaching.errata.entry import VERDICTS as VERDICTS
from flux_edu.teaching.errata.entry import Check as Check
from flux_edu.teaching.errata.entry import Erratum as Erratum
from flux_edu.teaching.errata.entry import evaluate as evaluate
from flux_edu.teaching.errata.entry import show_check

ERRATA: list[Erratum] = [
    *arguments.ENTRIES,
    *scheduling.ENTRIES,
    *inputs.ENTRIES,
    *denoising.ENTRIES,
    *whole.PARTS,
    *block.ENTRIES,
    *whole.CLOSING,
]


def find(number: int) -> Erratum:
    """The entry of this number."""
    numbered = {erratum.number: erratum for erratum in ERRATA}
    if number not in numbered:
        raise ValueError(f"there is no entry {number}; the errata have 1 to {max(numbered)}")
    return numbered[number]


def run(number: int) -> None:
    """Show both forms of an entry, the notes' above, and what each gives; raises if its verdict does not hold."""
    show_check(find(number))
