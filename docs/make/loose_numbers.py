"""Numbers of the notebooks' prose that nothing near them bears out: `python docs/make/loose_numbers.py [NAME …]`.

A number is borne out if the notebook's code (assertions and constants) or what it printed when it was last executed
(build/executed) holds it; behind a "|" stand those that only the model card, the log of the trainings and measurements
or configs.py has. What is left is a list to read through, not a fault: it may come from a paper.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDS = ["flux_edu/weights/MODEL_CARD.md", "flux_edu/weights/RUNS.md", "flux_edu/configs.py"]
NUMBER = re.compile(r"(?<![\w.#])\d[\d,]*(?:\.\d+)?(?![\w#])")
ELSEWHERE = re.compile(
    r"`[^`]*`|\$[^$]*\$|https?://[^)\s]+|\[[^\]]*\d[^\]]*\](?:\([^)]*\))?|\]\([^)]*\)|^#.*$|^\*\*About.*$|arXiv \S+"
    r"|Eq\. \(?[\d.]+(?:\)?(?:,| and| to) \(?[\d.]+)*|[eE]xercise [\d.]+|^\| \d+\.\d+ .*$|^\| \d+ \| \[.*$|\d+ min\b",
    re.M,
)


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))["cells"]


def numbers(text: str) -> set[str]:
    """The numbers of a text without commas between thousands; years and numbers below 10 are left out."""
    plain = {number.replace(",", "") for number in NUMBER.findall(text)}
    return {n for n in plain if "." in n or (float(n) >= 10 and not 1990 <= float(n) <= 2030)}


def known_numbers(text: str) -> set[float]:
    """The numbers of code and output; 0.63 bears out 63 %."""
    known = {float(number) for number in numbers(text)}
    return known | {100 * number for number in known if number < 2}


def borne_out(number: str, known: set[float]) -> bool:
    """Whether it is known; 132.83 bears out 132.8 (and 132.83, but no rounding to fewer than three digits)."""
    decimals = len(number.partition(".")[2])
    rounded = decimals and len(number) > 3 and any(f"{other:.{decimals}f}" == number for other in known)
    return rounded or any(abs(float(number) - other) < 1e-9 for other in known)


def printed(path: Path) -> str:
    """All text that the executed notebook shows."""
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])] if path.exists() else []
    texts = [[output, output.get("data", {})] for output in outputs]
    kinds = ("text", "text/plain", "text/markdown")
    return "\n".join("".join(shown.get(kind, "")) for pair in texts for shown in pair for kind in kinds)


def main(names: list[str]) -> None:
    recorded = known_numbers("\n".join((ROOT / record).read_text("utf-8") for record in RECORDS))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        code = "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code")
        known = known_numbers(code.replace("_", "") + "\n" + printed(ROOT / "build" / "executed" / path.name))
        for i, cell in enumerate(cells(path)):
            if cell["cell_type"] == "markdown":
                stated = sorted(numbers(ELSEWHERE.sub(" ", "".join(cell["source"]))), key=float)
                loose = [number for number in stated if not borne_out(number, known)]
                in_record = [number for number in loose if borne_out(number, recorded)]
                if loose:
                    elsewhere = " ".join(number for number in loose if number not in in_record)
                    print(f"{path.stem} [{i}] {elsewhere} | {' '.join(in_record)}")


if __name__ == "__main__":
    main(sys.argv[1:])
