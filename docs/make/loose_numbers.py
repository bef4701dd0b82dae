"""Numbers of the notebooks' prose that nothing near them bears out: `python docs/make/loose_numbers.py [NAME …]`.

A number is borne out if the notebook's code (assertions and constants) or what it printed when it was last executed
(build/executed) holds it. What is left is a list to read through, not a fault: it may come from a paper or a table.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![\w.#])\d[\d,]*(?:\.\d+)?(?![\w#])")
ELSEWHERE = re.compile(
    r"`[^`]*`|\$[^$]*\$|https?://[^)\s]+|\]\([^)]*\)|\[[^\]]*\d[^\]]*\]|^#.*$|^\*\*About.*$|arXiv \S+"
    r"|Eq\. \(?[\d.]+(?:\)?(?:,| and| to) \(?[\d.]+)*|[eE]xercise [\d.]+",
    re.M,
)


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))["cells"]


def numbers(text: str) -> set[str]:
    """The numbers of a text without commas between thousands; years and numbers below 10 are left out."""
    plain = {number.replace(",", "") for number in NUMBER.findall(text)}
    return {n for n in plain if "." in n or (float(n) >= 10 and not 1990 <= float(n) <= 2030)}


def known_numbers(text: str) -> set[str]:
    """The numbers of code and output; 0.63 bears out 63 %."""
    known = numbers(text)
    return known | {f"{100 * float(number):g}" for number in known if float(number) < 2}


def printed(path: Path) -> str:
    """All text that the executed notebook shows."""
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])] if path.exists() else []
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def main(names: list[str]) -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        code = "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code")
        known = known_numbers(code.replace("_", "") + "\n" + printed(ROOT / "build" / "executed" / path.name))
        for i, cell in enumerate(cells(path)):
            if cell["cell_type"] == "markdown":
                loose = sorted(numbers(ELSEWHERE.sub(" ", "".join(cell["source"]))) - known, key=float)
                if loose:
                    print(f"{path.stem} [{i}] {' '.join(loose)}")


if __name__ == "__main__":
    main(sys.argv[1:])
