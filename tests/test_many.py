"""Two CPU processes paint what one paints, and hold half of a model each."""

import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from flux_edu.apps import batch
from flux_edu.io.images import read_metadata

PROMPTS = "a fox\n\na red apple\n蓝色背景上的立体狐狸\n"
SHARDED = """
import warnings
import torch, torch.distributed as dist
from dataclasses import replace
from flux_edu.io import memory
from flux_edu.speed.fsdp import shard
from flux_edu.configs import configs
from flux_edu.model import Flux

dist.init_process_group("gloo")
params = replace(configs["tiny"].params, hidden_size=64, num_heads=2, axes_dim=(8, 12, 12), depth=2, vec_in_dim=16)
torch.manual_seed(7)
whole = Flux(params).requires_grad_(False)
for p in whole.parameters():
    torch.nn.init.normal_(p, std=0.1)
given = memory.transformer_inputs(whole, 15, 7, 2)
given = {name: torch.rand(x.shape) for name, x in given.items()}
with torch.device("meta"):
    model = Flux(params)
model = shard(model, whole.state_dict())
held = sum(p.to_local().numel() for p in model.parameters())
with torch.no_grad():
    error = (model(**given) - whole(**given)).abs().max().item()
total = sum(p.numel() for p in whole.parameters())
print(f"RESULT {dist.get_rank()} {error} {held / total}", flush=True)
dist.destroy_process_group()
"""


def torchrun(processes, *command, cwd=None):
    """Run under torchrun, quietly; a failure shows what was said."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, capture_output=True, text=True, encoding="utf-8", env=env, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_lines_are_shared_out():
    for count in (0, 1, 7, 8):
        for processes in (1, 2, 3):
            shares = [batch.share(count, i, processes) for i in range(processes)]
            assert sorted(i for each in shares for i in each) == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_processes_paint_what_one_paints(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text(PROMPTS, "utf-8")
    options = ["prompts.txt", "--model", "tiny-schnell", "--size", "32", "--steps", "1", "--seed", "5", "--cpu"]
    out = torchrun(2, "-m", "flux_edu.apps.batch", *options, "--out", "two", cwd=tmp_path)
    assert "process 0 of 2: 2 pictures" in out and "process 1 of 2: 1 pictures" in out
    monkeypatch.chdir(tmp_path)
    assert batch.main([*options, "--out", "one"]) == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["00000-a-fox.png", "00001-a-red-apple.png", "00002-蓝色背景上的立体狐狸.png"]
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for i, name in enumerate(names):
        one, two = (Image.open(tmp_path / folder / name) for folder in ("one", "two"))
        assert np.abs(np.array(one, dtype=int) - np.array(two, dtype=int)).max() <= 1
        assert read_metadata(tmp_path / "two" / name)["seed"] == 5 + i


def test_two_processes_hold_half_a_model_each_and_compute_the_whole(tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED, "utf-8")
    # both may write at once, and the second begin where the first has not yet ended its line
    results = re.findall(r"RESULT (\d) ([\d.e-]+) ([\d.]+)", torchrun(2, str(tmp_path / "sharded.py")))
    assert sorted(rank for rank, *_ in results) == ["0", "1"]
    for _, error, held in results:
        assert float(error) < 1e-5 and 0.49 < float(held) < 0.51
