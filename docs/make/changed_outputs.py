"""Cells whose outputs differ between two runs: `python docs/make/changed_outputs.py OLD NEW [NAME …]`.

OLD and NEW are folders of executed notebooks, such as copies of build/executed from before and after new weights: a
sentence that stands after such a cell has to be read again. A picture counts as changed if its bytes are others.
"""

import difflib
import json
import re
import sys
from pathlib import Path

ADDRESS = re.compile(r" at 0x[0-9a-f]+|^Panel\(.*|Widget\(.*", re.MULTILINE)


def shown(cell: dict) -> tuple[str, list[str], str]:
    """What a cell has printed, its pictures and tables, and its error."""
    printed, pictures, error = "", [], ""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if output["output_type"] == "stream":
            printed += "".join(output["text"])
        elif output["output_type"] == "error":
            error = f"{output['ename']}: {output['evalue']}"
        elif "text/html" in data:
            pictures.append("".join(data["text/html"]))
        else:
            printed += "".join(data.get("text/plain", "")) + "\n"
    return ADDRESS.sub("", printed), pictures, error


def main(old_folder: str, new_folder: str, *names: str) -> None:
    for path in sorted(Path(new_folder).glob("*.ipynb")):
        before = Path(old_folder) / path.name
        if names and path.stem not in names or not before.is_file():
            continue
        old = {cell["id"]: cell for cell in json.loads(before.read_text("utf-8"))["cells"]}
        for i, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
            if cell["cell_type"] != "code" or cell["id"] not in old:
                continue
            (printed, pictures, _), (printed_now, pictures_now, error) = shown(old[cell["id"]]), shown(cell)
            if error or printed != printed_now or pictures != pictures_now:
                kind = error or ("printed" if printed != printed_now else "picture")
                print(f"{path.stem} [{i}] {cell['id']}: {kind}")
                lines = difflib.ndiff(printed.splitlines(), printed_now.splitlines())
                print("".join(f"    {line}\n" for line in lines if line[0] in "-+"), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
