"""Put trained files into the package and their hashes into the model card: `python docs/make/pack_weights.py`."""

import argparse
import hashlib
import re
import shutil
from pathlib import Path

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.train.data import SHIPPED

WEIGHTS = Path(str(TINY_FOLDER)).parent
CARD = WEIGHTS / "MODEL_CARD.md"
NAMES = ("tokenizer.json", "vocabulary.json", *(f"{name}.safetensors" for name in ("t5", "clip", "flux", "ae")))
# deltas that distillation and the tools add, if they are there
OPTIONAL = tuple(f"{name}.safetensors" for name in ("dev", "schnell", "fill", "canny", "kontext", "redux", "preview"))
LIMIT = 44_000_000  # bytes of weights and drawings together, so that the package stays a small download
TABLE = re.compile(r"(<!-- files -->\n).*?(<!-- /files -->)", re.DOTALL)


def shipped_bytes() -> int:
    """What weights and drawings take together."""
    return sum(path.stat().st_size for folder in (WEIGHTS, SHIPPED) for path in folder.rglob("*") if path.is_file())


def shipped_names(folder: Path = Path(str(TINY_FOLDER))) -> tuple[str, ...]:
    """The files that every tiny model needs, and those of the distilled ones and the tools that exist."""
    return NAMES + tuple(name for name in OPTIONAL if (folder / name).is_file())


def file_table(folder: Path) -> str:
    """One line of markdown a file: name, bytes, SHA-256."""
    lines = ["| file | bytes | SHA-256 |", "|---|---|---|"]
    for name in shipped_names(folder):
        content = (folder / name).read_bytes()
        lines.append(f"| `{name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders that the stages have written; none: hashes only")
    args = parser.parse_args()
    for run in args.runs:
        for path in run.iterdir():
            if path.name in NAMES + OPTIONAL:
                shutil.copyfile(path, TINY_FOLDER / path.name)
    CARD.write_text(TABLE.sub(lambda m: m[1] + file_table(TINY_FOLDER) + m[2], CARD.read_text("utf-8")), "utf-8")
    total = shipped_bytes()
    print(f"{total / 1e6:.2f} MB shipped, {LIMIT / 1e6:.1f} MB allowed")
    if total >= LIMIT:
        raise SystemExit("too large: leave out drawings, or make the vocabulary or the transformer smaller")


if __name__ == "__main__":
    main()
