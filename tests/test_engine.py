"""The engine's files: its kernels are those of its source, a site gets all it needs. tests/browser runs it."""

import hashlib
import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import kernels
import pytest
from engine_files import copy_engine

import flux_edu


def test_the_kernels_were_built_from_this_source():
    noted = (kernels.ENGINE / "kernels.sha256").read_text("utf-8").strip()
    assert noted == kernels.source_hash(), "kernels.c has changed: run `python docs/make/kernels.py`"


@pytest.mark.skipif(not find_spec("ziglang"), reason="needs the compiler: pip install ziglang==0.17.1 (400 MB)")
def test_the_same_source_gives_the_same_bytes(tmp_path):
    kernels.build(kernels.ENGINE / "kernels.c", tmp_path)
    for name in kernels.BUILDS:
        assert (tmp_path / name).read_bytes() == (kernels.ENGINE / name).read_bytes(), name


def test_a_site_gets_the_code_the_kernels_and_every_file_with_its_hash(tmp_path):
    copy_engine(tmp_path)
    assert {path.name for path in (tmp_path / "engine").iterdir()} >= {"engine.js", "worker.js", *kernels.BUILDS}
    manifest = json.loads((tmp_path / "weights" / "manifest.json").read_text("utf-8"))
    assert len(manifest) == 10
    for name, entry in manifest.items():
        data = (tmp_path / "weights" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, name
    code = sum(path.stat().st_size for path in (tmp_path / "engine").iterdir())
    print(f"code and kernels: {code:,} bytes")
    assert code < 100_000


CHAPTERS = [
    path for path in kernels.ENGINE.glob("*.js") if (Path(flux_edu.__file__).parent / f"{path.stem}.py").exists()
]
# what the Python files take from torch and transformers, and two helpers
OWN = {"randn", "embed_nd", "one_head", "T5", "CLIP", "join_channels", "get_spec", "files_of", "TINY_AE", "TXT_TOKENS"}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_file_has_its_chapter_s_names_and_equations(path):
    code, module = path.read_text("utf-8"), import_module(f"flux_edu.{path.stem}")
    names = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", code, re.MULTILINE)
    assert names and not [name for name in names if name not in OWN and not hasattr(module, name)]
    chapter = Path(module.__file__).read_text("utf-8")
    equations = re.findall(r"Eq\. \((\d+\.\d+)\)", code)
    assert not [number for number in equations if f"({number})" not in chapter]
