"""A training that is killed and started again ends as one that was left alone; two processes do what one does."""

import contextlib
import csv
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import ONE_BLOCK
from small_stages import TOY, shared, toy
from test_distillation import SmallStage

import flux_edu
from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import TINY_AE, configs
from flux_edu.io import tiny
from flux_edu.io.checkpoint import CheckpointError, read, read_metadata, save
from flux_edu.model import FluxParams
from flux_edu.train import few_steps, flow, latent_pool
from flux_edu.train.data import SIZE, STYLES, Drawings

SCRIPT = Path(__file__).with_name("small_stages.py")
unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory):
    """Both scripts are started before the first test, so that they run beside the others."""
    processes = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    package = str(Path(flux_edu.__file__).parents[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package, "CUDA_VISIBLE_DEVICES": ""}
    for name, how in {"shared": torchrun, "killed": []}.items():
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, *how, str(SCRIPT), name, str(folder)]
        pipe = subprocess.PIPE
        processes[name] = folder, subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)
    yield processes
    for _, process in processes.values():
        process.terminate()  # torchrun ends its processes then; killed, it would leave them behind
        process.communicate()


def finished(started, name):
    """The folder of a script that is through, and what it printed."""
    folder, process = started[name]
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return folder, out


def rows(folder):
    """The log without the numbers of a clock."""
    with (folder / "log.csv").open() as file:
        return [{key: x for key, x in row.items() if key not in ("seconds", "ms")} for row in csv.DictReader(file)]


def assert_same_end(one, other):
    """Weights, averages, optimizers, the stage's own tensors and the log agree to the last bit."""
    a, b = (read(folder / "state.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    steps = [read_metadata(folder / "state.safetensors")["step"] for folder in (one, other)]
    assert steps[0] == steps[1] and rows(one) == rows(other)


# ---------------------------------------------------------------- the loop, with a toy


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The toy, left alone, with the batches that it took."""
    folder, seen = tmp_path_factory.mktemp("toy") / "alone", []
    toy(folder, *TOY, seen=seen)
    return folder, seen


def test_a_run_broken_off_takes_the_same_batches_and_ends_the_same(alone, tmp_path):
    folder, batches = alone
    at = 0
    for steps in (1, 5, 6, 30, 3, 99):
        seen = []
        with contextlib.suppress(KeyboardInterrupt):
            toy(tmp_path, *TOY, seen=seen, stop=steps)
        assert [step for step, _ in seen] == list(range(at, min(60, at + steps)))
        assert all(torch.equal(x, batches[step][1]) for step, x in seen)
        at = (at + steps) // 4 * 4  # of the last state
    assert_same_end(folder, tmp_path)


def test_a_run_with_a_time_limit_ends_the_same(alone, tmp_path, capsys):
    seen, legs = [], 0
    while len(seen) < 60:
        toy(tmp_path, *TOY, "--time-limit=0.5", seen=seen, pause=0.01)
        legs += 1
        assert legs < 60
    assert legs > 1 and [step for step, _ in seen] == list(range(60))
    assert_same_end(alone[0], tmp_path)
    assert capsys.readouterr().out.count("the same command goes on from here") == legs - 1


def test_the_state_holds_all_that_the_next_step_depends_on(alone):
    state = read(alone[0] / "state.safetensors")
    names = {f"{kind}.{i}.{leaf}" for kind in ("model", "ema") for i in (0, 2) for leaf in ("weight", "bias")}
    adam = {f"optimizer.0.{i}.{key}" for i in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")}
    muon = {f"optimizer.1.{i}.momentum_buffer" for i in (0, 1)}
    assert state.keys() == names | adam | muon | {"stage.x", "sums"}
    assert state["stage.x"].shape == (1, 5)  # one row a process
    assert not torch.equal(state["model.0.weight"], state["ema.0.weight"])
    assert not list(alone[0].glob("*.part"))


def test_the_log_has_a_header_and_looks_are_further_apart_than_lines(alone):
    log = rows(alone[0])
    assert list(log[0]) == ["step", "loss", "gradient", "weights"]
    assert [int(row["step"]) for row in log] == list(range(3, 61, 3))
    assert [bool(row["weights"]) for row in log] == [False, True] * 10
    assert all(float(row["gradient"]) > 0 for row in log)


def test_after_the_end_the_same_command_changes_nothing(alone, capsys):
    before = (alone[0] / "state.safetensors").read_bytes()
    seen = []
    toy(alone[0], *TOY, seen=seen)
    assert seen == [] and (alone[0] / "state.safetensors").read_bytes() == before
    assert "going on at step 60" in capsys.readouterr().out


def test_half_a_state_is_never_taken_for_a_whole_one(alone, tmp_path):
    content = (alone[0] / "state.safetensors").read_bytes()
    state = tmp_path / "state.safetensors"
    half = state.with_name("state.safetensors.part")
    half.write_bytes(content[:-9])  # left by a kill: nobody looks at it
    assert toy(tmp_path, *TOY).saved == 60 and not half.exists()
    assert_same_end(alone[0], tmp_path)
    for length in (0, 5, 300, len(content) // 2, len(content) - 1):
        state.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged|cut short"):
            toy(tmp_path, *TOY)
        assert state.read_bytes() == content[:length]  # and nothing has been trained over it


def test_a_line_of_the_log_that_was_cut_off_is_written_again(alone, tmp_path):
    with contextlib.suppress(KeyboardInterrupt):
        toy(tmp_path, *TOY, stop=31)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("57,1,0.1,0.2,0.3,\n60,1,0.1,0.2,0.3,\n5")
    toy(tmp_path, *TOY)
    assert_same_end(alone[0], tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--batch=4", "batch 3, now 4"), ("--seed=1", "seed 0, now 1"), ("--rate=2", "rate 0.01, now 2.0")],
)
def test_other_settings_are_refused_by_name(alone, option, message):
    with pytest.raises(CheckpointError, match=f"other settings: {message}.*choose another --out"):
        toy(alone[0], *TOY, option)


def test_other_processes_models_and_files_are_refused(alone, tmp_path):
    state = read(alone[0] / "state.safetensors")
    metadata = read_metadata(alone[0] / "state.safetensors")
    two = json.loads(metadata["settings"]) | {"processes": "2"}
    save(state, tmp_path / "state.safetensors", metadata | {"settings": json.dumps(two)})
    with pytest.raises(CheckpointError, match="processes 2, now 1"):
        toy(tmp_path, *TOY)
    save(state | {"model.0.weight": torch.zeros(7, 6)}, tmp_path / "state.safetensors", metadata)
    with pytest.raises(CheckpointError, match="another model: model.0.weight"):
        toy(tmp_path, *TOY)
    save(state, tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="batch unknown, now 3"):
        toy(tmp_path, *TOY)


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="smaller --rate"):
        toy(tmp_path, "--steps=60", "--save=4", "--rate=nan")
    assert not (tmp_path / "state.safetensors").exists()


# ---------------------------------------------------------------- the stages themselves, small


def stop_at(function, call, seen):
    """The function, noting its arguments; at a certain call the run is broken off."""

    def counted(*args):
        if len(seen) == call:
            raise KeyboardInterrupt
        seen.append(args)
        return function(*args)

    return counted


def interrupted(module, name, monkeypatch, argv, folder):
    """The arguments of every call of the loss: of a run left alone and of one that is broken off and started again."""
    function, calls = getattr(module, name), {}
    for out, stops in {"alone": [99], "broken": [3, 99]}.items():
        calls[out] = []
        for stop in stops:
            seen = []
            monkeypatch.setattr(module, name, stop_at(function, stop, seen))
            monkeypatch.setattr(sys, "argv", ["stage", *argv, f"--out={folder / out}"])
            if stop == 99:
                module.main()
            else:
                with pytest.raises(KeyboardInterrupt):
                    module.main()
            calls[out].append(seen)
    return calls["alone"][0], calls["broken"]


def few_drawings():
    torch.manual_seed(0)
    style, concept = (x.flatten() for x in np.meshgrid(np.arange(len(STYLES)), np.arange(20)))
    names = [{"emoji": "", "en": [f"thing {i}"], "zh": f"物{i}"} for i in range(20)]
    return Drawings(torch.randint(256, (len(style), 4, SIZE, SIZE), dtype=torch.uint8), style, concept, names)


def test_flow_goes_on_with_the_same_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "TINY_T5", tiny.TINY_T5 | {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1})
    monkeypatch.setattr(tiny, "TINY_CLIP", {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1})
    params = FluxParams(64, 64, 16, 16, 32, 2.0, 1, 1, 1, (8, 12, 12), 10_000, True, False)
    monkeypatch.setitem(configs, "tiny", replace(configs["tiny"], params=params))
    torch.manual_seed(1)
    ae = AutoEncoder(replace(TINY_AE, ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=2)).requires_grad_(
        False
    )
    drawings = few_drawings()
    monkeypatch.setattr(flow.trainer, "start", partial(flow.trainer.start, cpu=True))
    monkeypatch.setattr(flow, "load_ae", lambda path: ae)
    monkeypatch.setattr(flow, "load_drawings", lambda path: drawings)
    monkeypatch.setattr(flow, "paint_sheet", lambda *args, **kwargs: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(flow, "validation_loss", lambda model, *held: float(model.flux.img_in.weight.sum()))
    monkeypatch.setattr(flow, "SHARES", {(128, 128): 0.5, (64, 32): 0.3, (32, 64): 0.2})
    monkeypatch.setattr(flow, "OFTEN", ((128, 128), (64, 32)))
    monkeypatch.setattr(latent_pool, "BLOCK", 2)
    argv = ["--batch=2", "--pool=6", "--renew=2", "--steps=5", "--save=2", "--report=1", "--evaluate=3", "--muon=0.01"]
    left_alone, parts = interrupted(flow, "flow_loss", monkeypatch, argv, tmp_path)
    assert [len(part) for part in parts] == [3, 3]  # the state is that after step 2
    again = parts[0][:2] + parts[1]
    for (_, *one), (_, *other) in zip(left_alone, again, strict=True):
        assert all(
            torch.equal(*map(torch.as_tensor, pair)) for pair in zip(one, other, strict=True)
        )  # latents, noise …
    assert len({float(x_0.sum()) for _, x_0, *_ in left_alone}) == 5
    assert len({x_0.shape[1] for _, x_0, *_ in left_alone}) > 1
    assert all(x_0.shape[1] == math.prod(grid) for _, x_0, *_, grid, _ in left_alone)
    assert_same_end(tmp_path / "alone", tmp_path / "broken")
    for name in ("t5", "clip", "flux"):
        one, other = (read(tmp_path / folder / f"{name}.safetensors") for folder in ("alone", "broken"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert [row["64x32"] != "" for row in rows(tmp_path / "broken")] == [False, False, True, False, False]


def test_a_pool_is_a_window_on_an_endless_list(monkeypatch):
    pool = latent_pool.Pool.__new__(latent_pool.Pool)
    pool.block, pool.held, pool.parts, pool.seed, made = 2, [None] * 3, (), (5, 1), []

    def compose(n, seed):
        made.append(seed)
        return torch.full((n, 4, 3), float(len(made))), torch.full((n, 5), len(made), dtype=torch.int16)

    pool.compose = compose
    for n, blocks in {0: [1, 2, 3], 1: [4, 2, 3], 2: [4, 5, 3], 7: [8, 6, 7]}.items():
        pool.refresh(n)
        pool.refresh(n)  # they are there already
        latents, tokens = pool.parts
        assert tokens[::2, 0].tolist() == blocks and torch.equal(latents[:, 0, 0], tokens[:, 0].bfloat16())
    assert len(set(made)) == 8  # another seed for each


def test_few_steps_goes_on_with_its_rollouts_and_targets(tmp_path, monkeypatch):
    shape = replace(ONE_BLOCK, in_channels=64, out_channels=64)
    for key in ("tiny", "tiny-schnell"):
        monkeypatch.setitem(configs, key, replace(configs[key], params=shape, num_steps=4))
    monkeypatch.setattr(few_steps, "Distillation", SmallStage)
    monkeypatch.setattr(few_steps, "sheet", lambda ae, x: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(few_steps, "sample", lambda flux, noise, text, *args: torch.ones(len(text[0]), 64, 64))
    argv = ["--batch=3", "--rank=3", "--steps=5", "--save=2", "--report=1", "--uses=2", "--measure=9", "--muon=0.01"]
    left_alone, parts = interrupted(few_steps, "segment_loss", monkeypatch, argv, tmp_path)
    again = parts[0][:2] + parts[1]
    assert all(torch.equal(u, v) for (_, u), (_, v) in zip(left_alone, again, strict=True))
    assert_same_end(tmp_path / "alone", tmp_path / "broken")
    state = read(tmp_path / "broken" / "state.safetensors")
    rollouts, targets = "stage.128x128.rollouts.0", "stage.128x128.target2.4"
    assert {rollouts, targets} <= state.keys() and "stage.128x128.target3.0" not in state


# ---------------------------------------------------------------- killed, and in two processes


@unix
def test_a_run_killed_at_any_moment_ends_as_one_left_alone(started, alone):
    folder, out = finished(started, "killed")
    result = json.loads(out.splitlines()[-1])
    assert result["kills"] >= 1, result
    assert_same_end(folder / "alone", folder / "killed")
    assert rows(folder / "killed") == rows(alone[0])


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(started, tmp_path):
    shared(tmp_path)
    one = read(tmp_path / "1" / "gradients_0.safetensors")
    folder, _ = finished(started, "shared")
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for rank in (0, 1):
        two = read(folder / "2" / f"gradients_{rank}.safetensors")
        assert two.keys() == one.keys()
        for name, gradient in one.items():
            bar = 1e-5 * float(gradient.abs().max()) + 1e-8 * largest  # some gradients are zero but for rounding
            torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=bar)
    assert all(float(row["gradient"]) < 1 for row in rows(tmp_path / "1"))  # nothing was clipped: mean, not sum
    ours, theirs = (read(path / "state.safetensors") for path in (tmp_path / "1", folder / "2"))
    assert ours.keys() == theirs.keys()
    walks = ours.pop("stage.x"), theirs["stage.x"]
    assert walks[0].tolist() == [[0, 1, 2, 3, 4]] and walks[1].tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-6)
    moved = [float((ours[f"model.{name}"] - ours[f"ema.{name}"]).abs().max()) for name in one]
    assert max(moved) > 1e-3
