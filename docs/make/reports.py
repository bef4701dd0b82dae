"""What `evaluate` leaves: shares with their intervals and paired differences, as evaluate.csv, .json and .md."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from flux_edu.train.data import ONE, Scenes

Z = 1.959964  # of 95 %
MEASURES = {
    "one": ("object", "style", "colour", "all", "strict object", "strict style", "fine detail")
    + ("count", "tint", "small", "place"),  # of requests
    "two": ("object", "style", "colour", "position", "all", "strict object", "strict style", "fine detail"),
}
Right = dict[str, np.ndarray]  # measure → which of the pictures are right; of "fine detail" how much each one has

# ---------------------------------------------------------------- intervals


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, sensible near 0 and 1 too.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = right/n. Wilson, 1927.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z**2 / n
    middle, reach = p + z2 / 2, Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return (middle - reach) / (1 + z2), (middle + reach) / (1 + z2)


def paired_difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Share of the first minus share of the second on the same prompts, with its 95 % interval.

    Only prompts where the two differ say anything: b with the first right alone, c with the second. Half a prompt is
    added to each of the four cells, so that no difference at all does not pass for certainty. Agresti & Min, 2005.
    """
    n, b, c = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    middle = (b - c) / (n + 2)
    reach = Z * math.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    return (b - c) / max(n, 1), max(-1.0, middle - reach), min(1.0, middle + reach)


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """A mean and its 95 % interval: Wilson's for right or wrong, ± z s/√n for numbers."""
    if values.dtype == bool:
        return float(values.mean()), *wilson(int(values.sum()), len(values))
    mean, reach = float(values.mean()), Z * float(values.std()) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


# ---------------------------------------------------------------- tables


def score_table(name: str, right: Right, scenes: Scenes, minus: Right | None = None) -> list[dict]:
    """Rows of the table, singles and pairs apart: each measure's share, or its paired difference, with the interval."""
    rows = []
    for objects, chosen in (("one", scenes.layout == ONE), ("two", scenes.layout != ONE)):
        for measure in MEASURES[objects]:
            if measure not in right or minus is not None and measure not in minus:
                continue
            one, n = right[measure][chosen], int(chosen.sum())
            if n == 0:
                continue
            if minus is None:
                share, low, high = mean_with_interval(one)
            elif one.dtype == bool:
                share, low, high = paired_difference(one, minus[measure][chosen])
            else:
                share, low, high = mean_with_interval(one - minus[measure][chosen])
            rows.append(dict(what=name, objects=objects, measure=measure, n=n, share=share, low=low, high=high))
    return rows


def cell(row: dict | None) -> str:
    """ "95.5 (94.8 to 96.1)"; empty where nothing was measured."""
    if row is None:
        return ""
    unit = 1000 if row["measure"] == "fine detail" else 100
    return f"{unit * row['share']:.1f} ({unit * row['low']:.1f} to {unit * row['high']:.1f})"


def markdown(rows: list[dict], title: str) -> str:
    """One line a setting, one column a measure, in per cent (fine detail in per mille) with the interval."""
    columns = [
        (o, m) for o in MEASURES for m in MEASURES[o] if any((r["objects"], r["measure"]) == (o, m) for r in rows)
    ]
    lines = [f"| {title} | " + " | ".join(f"{o}: {m}" for o, m in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = {(r["objects"], r["measure"]): r for r in rows if r["what"] == what}
        lines.append(f"| {what} | " + " | ".join(cell(cells.get(column)) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def write_reports(folder: Path, rows: list[dict], paired: list[dict], about: dict) -> None:
    """evaluate.csv, evaluate.json and evaluate.md."""
    with (folder / "evaluate.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["table", "what", "objects", "measure", "n", "share", "low", "high"])
        writer.writeheader()
        for table, lines in (("share", rows), ("difference", paired)):
            writer.writerows({"table": table} | line for line in lines)
    report = about | {"shares": rows, "differences": paired}
    (folder / "evaluate.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), "utf-8")
    text = markdown(rows, "share right, % (95 % interval)") + "\n"
    text += markdown(paired, "difference in points (95 % interval)")
    (folder / "evaluate.md").write_text(text, "utf-8")
