"""What `evaluate` leaves: its shares and differences as evaluate.csv, evaluate.json and evaluate.md."""

import csv
import json
from pathlib import Path

from flux_edu.train.metrics import MEASURES


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
