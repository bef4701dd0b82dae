"""The engine for a page: its JavaScript, its kernels and the tiny models' files, copied together for any web server."""

import hashlib
import json
import shutil
from pathlib import Path

from flux_edu.io.tiny import TINY_FOLDER

ENGINE = Path(__file__).resolve().parents[1] / "flux_edu" / "teaching" / "widgets" / "engine"
PARTS = ("flux", "t5", "clip", "ae", "schnell", "dev", "fill", "canny", "kontext")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_engine(folder: Path) -> None:
    """folder/engine with the code, folder/weights with the files and manifest.json: {name: {bytes, sha256}}.

    The page keeps each file in the browser's cache under its hash.
    """
    for name in ("engine", "weights"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in (*ENGINE.glob("*.js"), *ENGINE.glob("*.wasm")):
        shutil.copy(file, folder / "engine" / file.name)
    manifest = {}
    for name in ("tokenizer.json", *(f"{part}.safetensors" for part in PARTS)):
        copy = Path(shutil.copy(TINY_FOLDER / name, folder / "weights" / name))
        manifest[name] = {"bytes": copy.stat().st_size, "sha256": sha256(copy)}
    (folder / "weights" / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
