"""`flux-edu doctor` is right about what is right, and names what is wrong and what to do."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import flux_edu
from flux_edu.apps import doctor


def findings(check):
    return list(check())


def bad(check):
    return [(message, advice) for well, message, advice in check() if not well]


def test_here_all_is_well(capsys):
    """The whole of it, as a reader runs it; memory is left out, since tests share the machine."""
    checks = tuple(check for check in doctor.CHECKS if check is not doctor.room)
    assert doctor.examine(checks) == 0
    out = capsys.readouterr().out
    for part in ("Python 3.1", "torch 2.", "device ", "threads on", "tiny-dev loads strictly", "tiny-schnell paints"):
        assert part in out
    assert "WRONG" not in out and out.endswith("All is well.\n") and out.isascii() is False


def test_every_library_of_the_package_is_looked_at():
    messages = " ".join(message for _, message, _ in findings(doctor.libraries))
    for name in ("torch", "numpy", "einops", "safetensors", "transformers", "matplotlib", "jupyterlab"):
        assert f"{name} {metadata.version(name)}" in messages


def test_a_missing_library_is_named_an_extra_may_be_missing(monkeypatch):
    version = metadata.version

    def without(name):
        if name in ("einops", "jupyterlab"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert bad(doctor.libraries) == [("einops is not installed", doctor.AGAIN)]


def test_a_module_that_cannot_be_imported_is_named_with_the_reason(monkeypatch):
    assert findings(doctor.modules)[0][0]
    monkeypatch.setitem(sys.modules, "flux_edu.teaching.quiz", None)
    [(message, advice)] = bad(doctor.modules)
    assert "not flux_edu.teaching.quiz: import of flux_edu.teaching.quiz halted" in message and advice == doctor.AGAIN


def test_what_pythonpath_puts_in_front_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert findings(doctor.shadows) == []
    (tmp_path / "numpy").mkdir()
    (tmp_path / "random.py").touch()
    (tmp_path / "mine.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path}")
    [(message, advice)] = bad(doctor.shadows)
    assert message.endswith(f"these come from {tmp_path}, a folder of PYTHONPATH: numpy, random")
    assert "without the variable PYTHONPATH" in advice


@pytest.mark.parametrize("version", ["0.7.2", "0.9.0", "1.0"])
def test_a_version_out_of_bounds_is_named_with_the_command_that_mends_it(monkeypatch, version):
    monkeypatch.setattr(metadata, "requires", lambda name: ["einops<0.9,>=0.8"])
    monkeypatch.setattr(metadata, "version", lambda name: version)
    [(message, advice)] = bad(doctor.libraries)
    assert message == f"einops {version} (<0.9,>=0.8)" and advice == 'pip install "einops<0.9,>=0.8"'


def test_a_package_that_was_never_installed_is_told(monkeypatch):
    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    assert "flux-edu itself is not installed" in bad(doctor.libraries)[0][0]


def test_every_shipped_file_is_the_model_cards(tmp_path):
    assert not [each for each in doctor.hashes() if not each[0]]
    folder = tmp_path / "weights"
    shutil.copytree(Path(str(doctor.WEIGHTS)), folder)
    with (folder / "tiny" / "ae.safetensors").open("ab") as file:
        file.write(b"x")
    (folder / "tiny" / "tokenizer.json").unlink()
    wrong = sorted(message for well, message, _ in doctor.hashes(folder) if not well)
    assert wrong == [
        "weights/tiny/ae.safetensors is not the file of the model card (its SHA-256 differs)",
        "weights/tiny/tokenizer.json is missing",
    ]
    (folder / "MODEL_CARD.md").write_text("nothing")
    assert "the model card lists no files" in [message for well, message, _ in doctor.hashes(folder) if not well]


def test_weights_that_do_not_fit_are_told(monkeypatch):
    from flux_edu import pipeline

    def refuse(name, device):
        if name == "tiny-dev":
            raise ValueError("2 missing: img_in.weight, img_in.bias")

    monkeypatch.setattr(pipeline, "FluxGenerator", refuse)
    [(message, advice)] = bad(doctor.weights)
    assert message == "tiny-dev does not load: 2 missing: img_in.weight, img_in.bias" and "fresh download" in advice


def test_too_little_room_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory_gb", lambda: 0.4)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1e8}))
    assert [message for message, _ in bad(doctor.room)] == ["0.4 GB of memory free", "0.1 GB of disk free here"]
    monkeypatch.setattr(doctor, "free_memory_gb", lambda: None)
    assert findings(doctor.room)[0] == (True, "free memory: this system does not say", findings(doctor.room)[0][2])


def test_one_wrong_thing_is_exit_code_1_and_a_check_that_breaks_is_one(capsys):
    def broken():
        yield True, "so far", ""
        raise RuntimeError("the driver is too old")

    assert doctor.examine((broken,)) == 1
    out = capsys.readouterr().out
    assert "WRONG  broken stopped with RuntimeError: the driver is too old" in out and "1 of these are wrong" in out


def test_it_starts_where_pytorch_does_not(tmp_path):
    """As after half an installation: `import torch` fails, the rest is still looked at."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(flux_edu.__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-m", "flux_edu", "doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for part in ("WRONG  device stopped with ImportError: libtorch.so", "-> run `python run.py`", "ok     einops"):
        assert part in done.stdout
    command = [sys.executable, "-m", "flux_edu", "sample", "a fox"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("flux-edu: libtorch.so")
    assert "`flux-edu doctor` says what to do" in done.stderr and "Traceback" not in done.stderr
