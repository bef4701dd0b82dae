"""The tables of the card, RUNS and notebooks 01, 09 and 11: `python docs/make/family_tables.py runs/family [--card]`.

FOLDER has what `docs/make/train_family.py` measured, in evaluate, evaluate_sizes and evaluate_tools; what is missing is
left out. All tables are printed as Markdown, with 95 % intervals; --card writes them between the marks of the card.
"""

import argparse
import json
import re
from pathlib import Path

from eval_configs import EvalConfig
from evaluate_tools import TOOLS
from pack_weights import CARD

from flux_edu.configs import configs

Rows = dict[str, dict[tuple[str, str], dict]]  # setting → (one or two, measure) → the row of evaluate.json
COLUMNS = {
    ("one", "object"): "one: thing",
    ("one", "style"): "style",
    ("one", "colour"): "colour",
    ("one", "all"): "all",
    ("one", "strict object"): "strict: thing",
    ("one", "strict style"): "strict: style",
    ("two", "object"): "two: both things",
    ("two", "style"): "both styles",
    ("two", "colour"): "colour",
    ("two", "position"): "places",
    ("two", "all"): "all",
    ("two", "strict object"): "strict: both things",
    ("two", "strict style"): "strict: both styles",
}
HARDLY_DIFFERS = {"colour", "position"}  # 99 to 100 % in nearly every row
IN_CARD = {key: head for key, head in COLUMNS.items() if key[1] not in HARDLY_DIFFERS}
REQUESTS = {("one", "object"): "thing", ("one", "count"): "count", ("one", "tint"): "colour"}
REQUESTS |= {("one", "small"): "small", ("one", "place"): "place"}
DETAIL = {("one", "fine detail"): "one: fine detail, ‰", ("two", "fine detail"): "two: fine detail, ‰"}
JUDGED = {("one", "all"): "one: all", ("two", "all"): "two: all"} | DETAIL
SIZES = [(96, 96), (128, 128), (160, 160), (192, 192), (224, 224), (256, 256), (256, 128), (128, 256)]
IN_NOTEBOOK_01 = [(96, 96), (128, 128), (192, 192), (256, 256)]
# rows of the card: few steps at other strengths stand under "few steps", sizes with a given shift only at w = 3
ROWS = re.compile(
    r"real .*|tiny, (28|8|4) steps, w = 3, \w+|tiny-dev, (28|4) steps, w = 3, \w+|tiny-dev, 28 steps, w = \S+, English"
    r"|tiny-schnell, [421] steps, w = 0, \w+|tiny(-dev)?, 28 steps, w = 3, English, style new to the thing"
    r"|tiny-schnell, 4 steps, w = 0, English, style new to the thing"
)
DIFFERENCES = re.compile(
    r"tiny, 4 steps, w = 3, English − .*|(.+), Chinese − \1, English|tiny-dev, (28 steps, w = .+) − tiny, \2"
    r"|tiny-dev, 4 steps, w = 3, English − tiny, .*|tiny-schnell, [421] steps, w = 0, English − tiny, .*"
)
SIZE_ROWS = re.compile(r"tiny, 28 steps, .*|tiny, 4 steps, w = 3.*|tiny, 4 steps, w = (2|1\.5)|tiny-schnell, .*")
WAYS = [(28, 3.0), (28, 2.0), (4, 3.0), (4, 2.0), (4, 1.5), (4, 1.0)]  # steps and w; 4 steps with all shifts


# ---------------------------------------------------------------- cells


def read(path: Path, table: str) -> Rows:
    """The shares or differences of one measure, by setting; none where it was not made."""
    rows: Rows = {}
    for row in json.loads(path.read_text("utf-8"))[table] if path.is_file() else []:
        rows.setdefault(row["what"], {})[row["objects"], row["measure"]] = row
    return rows


def share(row: dict | None, interval: bool = True) -> str:
    """ "95.5 (94.8–96.1)" in per cent, of fine detail in per mille; a dash where nothing was measured."""
    if row is None:
        return "–"
    unit = 1000 if row["measure"] == "fine detail" else 100
    middle, low, high = (f"{unit * row[key]:.1f}" for key in ("share", "low", "high"))
    return f"{middle} ({low}–{high})" if interval else middle


def points(row: dict | None) -> str:
    """ "−0.4 (−0.8 to 0.0)" in points."""
    if row is None:
        return "–"
    unit = 1000 if row["measure"] == "fine detail" else 100
    numbers = (f"{unit * row[key]:.1f}" for key in ("share", "low", "high"))
    middle, low, high = (n.replace("-0.0", "0.0").replace("-", "−") for n in numbers)
    return f"{middle} ({low} to {high})"


def percent(triple: list[float]) -> str:
    """A share of evaluate_tools with its interval."""
    middle, low, high = (100 * x for x in triple)
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def short(setting: str) -> str:
    """English, 128 × 128 and no guidance go without saying."""
    setting = setting.replace(", English", "").replace(", w = 0", "").replace(", 1 steps", ", 1 step")
    return setting.replace("trained", "combinations of the training")


# ---------------------------------------------------------------- tables


def settings_table(rows: Rows, columns: dict[tuple[str, str], str], cell=share) -> str:
    """One line a setting, one column a measure."""
    lines = [[short(what), *(cell(row.get(key)) for key in columns)] for what, row in rows.items()]
    return markdown(["", *columns.values()], [line for line in lines if set(line[1:]) != {"–"}])


def both(rows: Rows, config: EvalConfig) -> str:
    """All of it right, one thing / two things."""
    row = rows.get(str(config), {})
    return " / ".join(share(row.get((objects, "all"))) for objects in ("one", "two"))


def sizes_table(rows: Rows, sizes: list[tuple[int, int]], wanted: re.Pattern = re.compile(".*")) -> str:
    """One line a wanted way to paint, one column a size."""
    ways = [("tiny", steps, w, tokens) for steps, w in WAYS for tokens in ((None,) if steps == 28 else (None, 0, 4096))]
    ways.append(("tiny-schnell", 4, 0.0, None))
    lines = []
    for model, steps, w, tokens in ways:
        settings = [EvalConfig(model, steps, w, size=size, shift_tokens=tokens) for size in sizes]
        shift = {None: "", 0: ", no shift", 4096: ", shift of 4,096 tokens"}[tokens]
        lines.append(
            [short(f"{model}, {steps} steps, w = {w:g}") + shift, *(both(rows, config) for config in settings)]
        )
    lines = [line for line in lines if wanted.fullmatch(line[0])]
    return markdown(["all right, one / two, %", *(f"{w} × {h}" for w, h in sizes)], lines)


def measured_beside(usual: float, strengths: list[float]) -> set[float]:
    """The usual guidance of a tool if it was measured, else the nearest ones below and above."""
    below, above = [w for w in strengths if w <= usual], [w for w in strengths if w >= usual]
    return {*sorted(below)[-1:], *sorted(above)[:1]}


def tools_table(folder: Path) -> str:
    """One line a tool and kind of edit at the tool's usual guidance: the share right, and what should stay."""
    lines = []
    for name in TOOLS:
        path = folder / f"{name}.json"
        reports = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        reports = {float(w.removeprefix("w = ")): report for w, report in reports.items()}
        for w in sorted(measured_beside(configs[f"tiny-{name}"].guidance, list(reports))):
            report = reports[w]
            kinds = {f"{name}: {kind}": r for kind, r in report.items() if isinstance(r, dict)} or {name: report}
            for kind, r in kinds.items():
                stays = f"{r['stays_db']} dB beside {r['autoencoder_db']}" if "stays_db" in r else ""
                outlines = f"F1 {r['f1']:.3f} beside {report['f1 of the autoencoder']:.3f}" if "f1" in r else ""
                seen = [percent(r[key]) for key in ("object", "style", "all")]
                lines.append([f"{kind}, w = {w:g}", *seen, stays or outlines or "–"])
    return markdown(["", "thing", "style", "all", "what should stay, beside the autoencoder alone"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--card", action="store_true", help="write the tables into the model card")
    args = parser.parse_args()
    usual, sizes = args.folder / "evaluate" / "evaluate.json", args.folder / "evaluate_sizes" / "evaluate.json"
    shares, sized = read(usual, "shares"), read(sizes, "shares")
    requests = {what: row for what, row in shares.items() if set(row) & {*REQUESTS} and ("one", "all") not in row}
    few = {what: row for what, row in shares.items() if re.match(r"tiny\S*, \d+ steps, w = \S+, English$", what)}
    differences = read(usual, "differences")
    tables = {
        "shares": settings_table({what: row for what, row in shares.items() if ROWS.fullmatch(what)}, IN_CARD),
        "differences": settings_table(
            {what: row for what, row in differences.items() if DIFFERENCES.fullmatch(what)}, IN_CARD, points
        ),
        "requests": settings_table(requests, REQUESTS | {("one", "fine detail"): "fine detail, ‰"}),
        "few steps": settings_table(few, JUDGED),
        "sizes": sizes_table(shares | sized, SIZES, SIZE_ROWS),
        "every share": settings_table(shares | sized, COLUMNS | DETAIL),
        "sizes, notebook 01": sizes_table(shares | sized, IN_NOTEBOOK_01),
        "size differences": settings_table(read(sizes, "differences"), JUDGED, points),
        "tools": tools_table(args.folder / "evaluate_tools"),
    }
    card = CARD.read_text("utf-8")
    for name, table in tables.items():
        print(f"## {name}\n\n{table}")
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        card = mark.sub(lambda m, table=table: m[1] + table + m[2], card)
    if args.card:
        CARD.write_text(card, "utf-8")


if __name__ == "__main__":
    main()
