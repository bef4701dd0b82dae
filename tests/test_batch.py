"""Two CPU processes paint what one paints, and hold half of a model each."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flux_edu.__main__ import main
from flux_edu.apps import batch
from flux_edu.io.images import read_metadata

PROMPTS = "a fox\n\na red apple\n蓝色背景上的立体狐狸\n"
OPTIONS = ["batch", "prompts.txt", "--model", "tiny-schnell", "--size", "32", "--steps", "1", "--seed", "5", "--cpu"]
TWO = """
import sys
import torch, torch.distributed as dist
from dataclasses import replace
from flux_edu.__main__ import main
from flux_edu.io import memory
from flux_edu.speed.fsdp import shard
from flux_edu.configs import configs
from flux_edu.model import Flux

assert main(sys.argv[1:]) == 0

dist.init_process_group("gloo")
params = replace(configs["tiny"].params, hidden_size=64, num_heads=2, axes_dim=(8, 12, 12), depth=2, vec_in_dim=16)
torch.manual_seed(7)
whole = Flux(params).requires_grad_(False)
for p in whole.parameters():
    torch.nn.init.normal_(p, std=0.1)
inputs = memory.transformer_inputs(whole, 15, 7, 2)
inputs = {name: torch.rand(x.shape) for name, x in inputs.items()}
with torch.device("meta"):
    model = Flux(params)
model = shard(model, whole.state_dict())
held = sum(p.to_local().numel() for p in model.parameters())
with torch.no_grad():
    error = (model(**inputs) - whole(**inputs)).abs().max().item()
total = sum(p.numel() for p in whole.parameters())
print(f"RESULT {dist.get_rank()} {error} {held / total}", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Where two processes of one torchrun have painted and then shared a model, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "prompts.txt").write_text(PROMPTS, "utf-8")
    (folder / "two.py").write_text(TWO, "utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "two.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    how = dict(capture_output=True, text=True, encoding="utf-8", env=environment, cwd=folder, timeout=240)
    done = subprocess.run([*run, *OPTIONS, "--out", "two"], **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_lines_are_shared_out():
    for count in (0, 1, 7, 8):
        for processes in (1, 2, 3):
            shares = [batch.share(count, i, processes) for i in range(processes)]
            assert sorted(i for each in shares for i in each) == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_processes_paint_what_one_paints(two_processes, monkeypatch):
    folder, out = two_processes
    assert "process 0 of 2: 2 pictures" in out and "process 1 of 2: 1 pictures" in out
    monkeypatch.chdir(folder)
    assert main([*OPTIONS, "--out", "one"]) == 0
    names = sorted(path.name for path in (folder / "one").iterdir())
    assert names == ["00000-a-fox.png", "00001-a-red-apple.png", "00002-蓝色背景上的立体狐狸.png"]
    assert names == sorted(path.name for path in (folder / "two").iterdir())
    for i, name in enumerate(names):
        one, two = (Image.open(folder / run / name) for run in ("one", "two"))
        assert np.abs(np.array(one, dtype=int) - np.array(two, dtype=int)).max() <= 1
        assert read_metadata(folder / "two" / name)["seed"] == 5 + i
    assert main([*OPTIONS, "--out", "one"]) == 2, "an earlier run's pictures are not replaced unasked"
    assert main([*OPTIONS, "--out", "one", "--overwrite"]) == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_prompts_as_any_editor_writes_it(encoding, end, tmp_path):
    """PowerShell's `>` writes UTF-16 with a byte order mark, and Notepad's "UTF-8 with BOM" begins with one."""
    mark = "\ufeff" * encoding.startswith("utf-16-")
    (tmp_path / "prompts.txt").write_bytes((mark + PROMPTS.replace("\n", end)).encode(encoding))
    assert batch.read_prompts(tmp_path / "prompts.txt") == ["a fox", "a red apple", "蓝色背景上的立体狐狸"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a fox\na café\n".encode("cp1252"), "is no UTF-8 text, see line 2: save it as UTF-8"),
        ("狐狸\n".encode("gbk"), "is no UTF-8 text, see line 1"),
        ("a fox".encode("utf-16")[:-1], "is no UTF-8 text"),
        ("a fox\n".encode("utf-16-le"), "holds zero bytes, as UTF-16 without a mark does: save it as UTF-8"),
        ("a fox\n".encode("utf-32"), "holds zero bytes"),
        (b" \n\n", "holds no prompt: write one on each line"),
    ],
)
def test_a_file_that_is_no_list_of_prompts(content, message, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        batch.read_prompts(tmp_path / "prompts.txt")


def test_two_processes_hold_half_a_model_each_and_compute_the_whole(two_processes):
    # both may write at once, and the second begin where the first has not yet ended its line
    results = re.findall(r"RESULT (\d) ([\d.e-]+) ([\d.]+)", two_processes[1])
    assert sorted(rank for rank, *_ in results) == ["0", "1"]
    for _, error, held in results:
        assert float(error) < 1e-5 and 0.49 < float(held) < 0.51
