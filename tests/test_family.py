"""The script that trains the whole family: commands that the stages take, what is done once, what is brought home."""

import io
import sys
import tarfile
import time
from argparse import Namespace
from importlib import import_module

import family_tables
import pytest
import torch
import train_family
from eval_configs import EvalConfig
from reports import write_reports
from torch.distributed.run import get_args_parser

from flux_edu.io.checkpoint import save
from flux_edu.train.trainer import save_report


@pytest.fixture
def args(tmp_path):
    (tmp_path / "family").mkdir()
    seconds = dict.fromkeys(train_family.MODULES, 30.0)
    paths = dict(out=tmp_path, begin=train_family.SHIPPED, data=tmp_path / "emoji", parcel=tmp_path / "parcel")
    others = dict(toy=False, speed="plain", seed=3, muon=1e-3, hide=0.2, asked=0.3, prompts=64, batch=32)
    others["keep"] = train_family.SHIPPED
    return Namespace(**paths, **others, seconds=seconds, deadline=time.monotonic() + 1000)


@pytest.mark.parametrize("name", train_family.MODULES)
def test_a_stage_takes_the_command_it_is_given(args, name, monkeypatch):
    """Up to the point where it would begin."""
    _, module, *words = map(str, train_family.stage_command(args, name))
    stage, seen = import_module(module), []
    begins = "trainer.start" if name == "base" else "Distillation"
    monkeypatch.setattr(f"{module}.{begins}", lambda given, *_: seen.append(given) or sys.exit())
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as stopped:
        stage.main()
    assert stopped.value.code is None and seen
    launcher = get_args_parser()  # takes an option of the stage for a short form of its own, if it is one
    assert launcher.parse_args(["-m", module, *words]).training_script_args == words
    if name != "base":
        assert seen[0].weights == args.out / "family" and seen[0].begin == train_family.SHIPPED / f"{name}.safetensors"
        assert seen[0].out == train_family.run_folder(args, name) and seen[0].seconds == 30


def pretend(args, name, used):
    folder = train_family.run_folder(args, name)
    folder.mkdir(parents=True, exist_ok=True)
    for file in train_family.files(name):
        save({"x": torch.full((2,), used)}, folder / file)
    save({"x": torch.zeros(1)}, folder / "state.safetensors", {"used": str(used), "step": "9"})
    (folder / "log.csv").write_text("step,loss\n9,0.5\n", "utf-8")
    (folder / f"{name}.json").write_text('{"steps": 9}', "utf-8")


def test_what_is_trained_is_not_trained_again_and_the_rest_goes_on(args, monkeypatch):
    started = []
    monkeypatch.setattr(train_family, "run_all", lambda args, commands, gpus: started.append(sorted(commands)))
    pretend(args, "dev", 30.0)
    pretend(args, "fill", 12.0)
    args.seconds["redux"] = 0
    train_family.train(args, ["dev", "fill", "redux"], ["0"])
    pretend(args, "fill", 30.0)
    train_family.train(args, ["dev", "fill", "redux"], ["0"])
    assert started == [["fill"], []]
    shipped = (train_family.SHIPPED / "redux.safetensors").read_bytes()
    assert (args.out / "family" / "redux.safetensors").read_bytes() == shipped
    monkeypatch.setattr(train_family, "PART", 300_000)
    train_family.parts(args)
    brought = sorted(args.parcel.iterdir(), key=lambda path: int(path.suffix[1:]))
    assert len(brought) > 3 and max(path.stat().st_size for path in brought) <= 300_000
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in brought))) as tar:
        assert tar.extractfile("family/redux.safetensors").read() == shipped
        assert b'"steps": 9' in tar.extractfile("family.json").read()
        assert not any("state" in name for name in tar.getnames())


def test_commands_run_side_by_side_and_a_failure_is_shown(args, capsys):
    code = "import os, sys, time; time.sleep(0.5); print(os.environ['CUDA_VISIBLE_DEVICES']); sys.exit({})"
    begun = time.monotonic()
    train_family.run_all(args, {name: ["-c", code.format(int(name == "c"))] for name in "abcd"}, ["0", "1"])
    assert time.monotonic() - begun < 60
    assert {(args.out / f"{name}.txt").read_text().strip() for name in "abcd"} == {"0", "1"}
    assert "c ended with 1" in capsys.readouterr().out
    args.deadline = time.monotonic() + train_family.SPARE
    with pytest.raises(SystemExit, match="not run to the end: late"):
        train_family.run_all(args, {"late": ["-c", "0"]}, ["0"])


def test_what_takes_too_long_is_ended(args, monkeypatch):
    monkeypatch.setattr(train_family, "SPARE", 0)
    begun = time.monotonic()
    args.deadline = begun + 1
    train_family.run_all(args, {"slow": ["-c", "import time; time.sleep(3600)"]}, ["0"])
    assert time.monotonic() - begun < 60


def test_a_measure_waits_for_its_models_and_what_is_made_is_kept(args, monkeypatch):
    """Also when a later stage fails or finds no time: a run once lost two deltas that way."""
    monkeypatch.setattr(train_family, "start", lambda args, name, *_: started.append(name) or Ended(name))
    started = []

    class Ended:
        """A process that has trained its stage, or failed."""

        def __init__(self, name):
            self.returncode = int(name == "fill")
            if name in train_family.MODULES and name != "fill":
                pretend(args, name, 30.0)

        def poll(self):
            return self.returncode

    (args.out / "fill.txt").write_text("what went wrong", "utf-8")
    measures = dict.fromkeys(("evaluate_tools", "evaluate_sizes", "evaluate"), [])
    with pytest.raises(SystemExit, match="not run to the end: evaluate_tools, fill"):
        train_family.run_all(args, measures | dict.fromkeys(("schnell", "dev", "fill", "kontext"), []), ["0"])
    assert started == ["schnell", "evaluate_sizes", "dev", "evaluate", "fill", "kontext"]
    assert {path.stem for path in (args.out / "family").iterdir()} == {"schnell", "dev", "kontext"}


def test_one_stage_alone(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(train_family, "train", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), "--only", "base", "evaluate", "--gpus", "2"])
    train_family.main()
    (args, names, gpus), (_, others, single, then) = calls
    assert (names, gpus, single, list(then)) == (["base"], ["0,1"], ["0", "1"], ["evaluate"])
    assert {name for name, seconds in args.seconds.items() if seconds} == {"base"} and "schnell" in others


def test_tables_are_made_of_what_was_measured(tmp_path, monkeypatch, capsys):
    """The shares of one setting and its difference, both with intervals; --card writes between the card's marks."""
    for name in ("evaluate_sizes", "evaluate_tools"):
        (tmp_path / name).mkdir()
    own = EvalConfig("tiny", 4, 3.0, size=(256, 256))
    measured = dict(objects="one", measure="all", n=512)
    share = measured | dict(what=str(own), share=0.912, low=0.884, high=0.933)
    difference = measured | dict(what=f"{own}, no shift − {own}", share=-0.121, low=-0.16, high=-0.0802)
    write_reports(tmp_path / "evaluate_sizes", [share], [difference], {})
    report = {key: [0.979, 0.962, 0.988] for key in ("object", "style", "all")} | {
        "stays_db": 33.5,
        "autoencoder_db": 35.4,
    }
    save_report(tmp_path / "evaluate_tools" / "fill.json", dict.fromkeys(("w = 1", "w = 2", "w = 3"), report))
    card = tmp_path / "card.md"
    card.write_text("<!-- sizes -->\nold\n<!-- /sizes -->\n", "utf-8")
    monkeypatch.setattr(family_tables, "CARD", card)
    monkeypatch.setattr(sys, "argv", ["family_tables.py", str(tmp_path), "--card"])
    family_tables.main()
    printed = capsys.readouterr().out
    assert "| tiny, 4 steps, w = 3 | – / – | – / – | – / – | 91.2 (88.4–93.3) / – |" in printed  # for notebook 01
    assert "no shift − tiny, 4 steps, w = 3, 256 × 256 | −12.1 (−16.0 to −8.0) |" in printed
    fill = "97.9 (96.2–98.8)"
    assert f"| fill, w = 1 | {fill} | {fill} | {fill} | 33.5 dB beside 35.4 |" in printed
    assert "| fill, w = 2 |" in printed and "| fill, w = 3 |" not in printed  # it paints with 1.5
    assert "91.2 (88.4–93.3)" in card.read_text("utf-8") and "old" not in card.read_text("utf-8")
