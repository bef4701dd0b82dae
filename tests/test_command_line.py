"""The one command: what it paints and prints, and one line with exit code 2 for whatever the user got wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flux_edu
from flux_edu.__main__ import main
from flux_edu.apps.sample import file_name
from flux_edu.io.images import read_metadata, save_image
from flux_edu.pipeline import FluxGenerator

PROMPT = "a 3d fox on a blue background"
QUICK = ["--model", "tiny-schnell", "--steps", "1", "--width", "32", "--height", "32"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(*arguments, capsys):
    """The one line of a command that ends with exit code 2 and leaves nothing behind."""
    before = sorted(Path.cwd().rglob("*"))
    try:
        code = main(list(arguments))
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("flux-edu: "), (code, out, err)
    assert sorted(Path.cwd().rglob("*")) == before
    assert not re.search(r"FluxGenerator|num_steps|init_image|\bNone\b", err), "words of the API"
    return err


# ---------------------------------------------------------------- sample


def test_sample_paints_saves_and_says_where(capsys):
    assert main(["sample", PROMPT, "--seed", "5", "--steps", "2", "--width", "80", "--height", "48"]) == 0
    file = Path("output", "a-3d-fox-on-a-blue-background-5.png")
    out, err = capsys.readouterr()
    assert out == f"80 × 48 pixels, tiny, seed 5: {file.resolve()}\n"
    assert "painting: 100%" in err and "2/2" in err
    painted = FluxGenerator("tiny").generate_image(80, 48, 2, 3.0, 5, PROMPT)  # guidance is the model's own, 3
    assert np.array_equal(np.array(Image.open(file)), np.array(painted))
    options = ["--init", str(file), "--strength", "0.5", "--out", "again.png", "--guidance", "1", "--device", "cpu"]
    assert main(["sample", PROMPT, "--seed", "5", "--steps", "2", "--width", "80", "--height", "50", *options]) == 0
    out, err = capsys.readouterr()
    assert "note: sizes are multiples of 16" in err and "1/1" in err
    metadata = read_metadata("again.png")
    assert (metadata["guidance"], metadata["image2image_strength"], metadata["height"]) == (1.0, 0.5, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "argument --steps: 0 is not a whole number from 1 to 10000"),
        (["--steps", "2.5"], "argument --steps: 2.5 is not a whole number from 1 to 10000"),
        (["--out", "folder.png", "--overwrite"], "folder.png is a folder: name a file in it"),
        (["--out", "precious/fox.png"], "precious is no folder that you may write to"),
        (["--out", "precious/deeper/fox.png"], "precious is no folder that you may write to"),
        (["--width", "8"], "argument --width: 8 is not a whole number from 16 on"),
        (["--model", "flux-dev-"], "did you mean flux-dev"),
        (["--model", "flux-dev"], "FLUX_HOME = nowhere"),
        (["--init", "precious"], "precious cannot be read; save it as PNG where it can be opened: cannot identify"),
        (["--init", "huge.png"], "huge.png cannot be read; save it as PNG where it can be opened: Image size"),
        (["--init", "short.bmp"], "short.bmp cannot be read; save it as PNG where it can be opened: "),
        (["--model", "flux-dev-redux"], "needs a picture or a mask beside the prompt"),
        (["--strength", "1.5"], "argument --strength: 1.5 is not a number from 0 to 1"),
        (["--seed", "-1"], "argument --seed: -1 is not a whole number from 0 to 9223372036854775807"),
        (["--seed", "three"], "argument --seed: three is not"),
        (["--guidance", "nan"], "argument --guidance: nan is not a number from -100 to 100"),
        (["--colour", "red"], "sample has no --colour red"),
        (["on", "the", "moon"], 'put the prompt in quotes: flux-edu sample "a fox on the moon"'),
    ],
)
def test_mistakes_at_sample(options, message, capsys, monkeypatch):
    monkeypatch.setenv("FLUX_HOME", "nowhere")
    Path("folder.png").mkdir()
    Path("precious").touch()
    Image.new("1", (20_000, 10_000)).save("huge.png")
    Image.new("RGB", (64, 64)).save("short.bmp")
    os.truncate("short.bmp", 5_000)
    assert message in refused("sample", "a fox", *options, capsys=capsys)


def test_no_picture_is_replaced_unasked(capsys):
    for _ in range(3):
        assert main(["sample", "a fox", "--seed", "5", *QUICK]) == 0
    assert sorted(path.name for path in Path("output").iterdir()) == ["a-fox-5-2.png", "a-fox-5-3.png", "a-fox-5.png"]
    Path("mine.png").write_bytes(b"mine")
    assert main(["sample", "a fox", "--out", "mine.png", *QUICK]) == 2
    assert "mine.png exists: choose another name, or add --overwrite" in capsys.readouterr().err
    assert Path("mine.png").read_bytes() == b"mine"
    assert main(["sample", "a fox", "--out", "mine.png", "--overwrite", *QUICK]) == 0
    assert read_metadata("mine.png")["model"] == "tiny-schnell"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_that_appears_while_this_paints_is_not_replaced_unasked(overwrite, monkeypatch, capsys):
    generate_image = FluxGenerator.generate_image

    def slowly(self, *arguments, **options):
        Path("fox.png").write_bytes(b"another run's")
        return generate_image(self, *arguments, **options)

    monkeypatch.setattr(FluxGenerator, "generate_image", slowly)
    assert main(["sample", "a fox", "--out", "fox.png", *["--overwrite"] * overwrite, *QUICK]) == 0
    name = "fox.png" if overwrite else "fox-2.png"
    assert read_metadata(name)["prompt"] == "a fox" and name in capsys.readouterr().out
    assert overwrite or Path("fox.png").read_bytes() == b"another run's"


def test_a_disk_that_fills_up_leaves_nothing_half_written(monkeypatch, capsys):
    def save(self, path, **options):
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    assert main(["sample", "a fox", "--out", "fox.png", *QUICK]) == 2
    assert "flux-edu: No space left on device: fox.png\n" in capsys.readouterr().err and not list(Path().iterdir())


def test_a_tilde_is_the_home_of_the_user(monkeypatch, tmp_path):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    assert main(["sample", "a fox", "--out=~/fox.png", *QUICK]) == 0
    assert [path.name for path in tmp_path.rglob("*.png")] == ["fox.png"] and not Path("~").exists()
    assert save_image(Image.new("RGB", (8, 8)), "~/red.png") == tmp_path / "home" / "red.png"
    assert read_metadata("~/fox.png")["prompt"] == "a fox"


def test_neither_files_with_names_of_modules_nor_a_console_of_few_letters_is_an_error(tmp_path):
    """Where its output goes to a file, Windows gives such a console: neither × nor Chinese has a place there."""
    for name in ("random", "platform", "token", "typing", "calendar", "numpy", "torch", "tqdm"):
        Path(f"{name}.py").write_text("raise SystemExit('my own exercise')")
    command = [sys.executable, "-m", "flux_edu", "sample", "狐狸", *QUICK]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"32 ? 32 pixels" in done.stdout and len(list(tmp_path.rglob("*.png"))) == 1


def test_a_prompt_that_is_no_text_is_told(capsys):
    assert "prompt holds bytes that are no UTF-8 text" in refused("sample", "caf\udce9", *QUICK, capsys=capsys)


def test_a_prompt_in_the_c_locale_is_read_as_utf_8():
    """Python hands bytes that it cannot decode on as lone surrogates."""
    assert main(["sample", "狐狸".encode().decode("ascii", "surrogateescape"), "--seed", "5", *QUICK]) == 0
    assert read_metadata(Path("output", "狐狸-5.png"))["prompt"] == "狐狸"


def test_guidance_that_does_nothing_is_told(capsys):
    assert main(["sample", "a fox", "--guidance", "5", *QUICK]) == 0
    assert "note: tiny-schnell takes no guidance" in capsys.readouterr().err
    assert main(["sample", "a fox", "--guidance", "5", "--model", "tiny-dev", *QUICK[2:]]) == 0
    assert "takes no guidance" not in capsys.readouterr().err


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("flux_edu.apps.sample.FluxGenerator", stop)
    assert main(["sample", "a fox"]) == 130
    assert capsys.readouterr().err == "flux-edu: stopped\n"


def test_file_names_are_plain():
    assert file_name('a "3d" fox: left/right?') == "a-3d-fox-left-right"
    assert file_name("???") == "empty-prompt"
    assert file_name("红苹果") == "红苹果"


def test_file_names_have_letters_that_the_system_knows(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "latin-1")
    assert file_name("a café 红苹果 fox") == "a-café-fox"


def test_an_endless_word_is_not_repeated_to_its_end(capsys):
    assert main(["sample", "x" * 20_000, *QUICK]) == 0
    assert max(map(len, capsys.readouterr().err.splitlines())) < 200


# ---------------------------------------------------------------- every command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command"),
        (["smaple", "a fox"], "invalid choice: 'smaple'"),
        (["sample"], "the following arguments are required: prompt"),
        (["doctor", "please"], "doctor has no please"),
        (["real", "flux-deV"], "did you mean flux-dev"),
        (["real", "tiny", "--download"], "tiny ships with this package"),
        (["real", "flux-dev", "a", "b"], "real takes one name, or `convert` and two files"),
        (["real", "convert", "a.safetensors"], "convert takes two files"),
        (["real", "convert", "a.safetensors", "b.safetensors"], "a.safetensors"),
        (
            ["real", "convert", "a.safetensors", "mine.safetensors"],
            "mine.safetensors exists: choose another name, or add --overwrite",
        ),
        (["real", "convert", "a.safetensors", "b"], "b: what is written is a safetensors file; end its name in"),
        (["bench", "--model", "tinny"], "did you mean tiny"),
        (["bench", "--steps", "0"], "argument --steps: 0 is not a whole number from 1 on"),
        (["bench", "--loops", "none"], "argument --loops: none is not"),
        (["bench", "--size", "8"], "argument --size: 8 is not a whole number from 16 on"),
        (["bench", "--size", "1000000"], "1000000 × 1000000 pixels: decoding them takes"),
        (["bench", "--device", "tpu"], "'tpu' is no device"),
        (["batch", "nofile.txt"], "nofile.txt is not a file: name a text file with a prompt on each line"),
        (["batch", "mine", "--model", "tiny-fill"], "tiny-fill needs a picture or a mask beside the prompt"),
        (["batch", "mine", "--steps", "0"], "argument --steps: 0 is not"),
        (["batch", "mine", "--model", "tinny"], "did you mean tiny"),
        (["batch", "mine", "--size", "8"], "argument --size: 8 is not"),
    ],
)
def test_mistakes_at_every_command(arguments, message, capsys):
    for name in ("mine", "mine.safetensors"):
        Path(name).write_text("precious")
    assert message in refused(*arguments, capsys=capsys)
    assert Path("mine").read_text() == Path("mine.safetensors").read_text() == "precious"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5000 bytes"),
    ],
)
def test_a_full_memory_is_one_line(error, monkeypatch, capsys):
    def fill(*_, **__):
        raise error

    monkeypatch.setattr("flux_edu.apps.sample.FluxGenerator", fill)
    assert "out of memory: choose a smaller size, or close what else needs it (" in refused(
        "sample", "a", capsys=capsys
    )


def test_a_mistake_of_our_own_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("flux_edu.apps.sample.FluxGenerator", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        main(["sample", "a fox"])


def test_the_version_and_the_help_come_without_pytorch(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "torch.py").write_text("raise ImportError('no PyTorch')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'elsewhere'}{os.pathsep}{Path(flux_edu.__file__).parents[1]}"}
    for arguments, text in (["--version"], f"flux-edu {flux_edu.__version__}\n"), (["bench", "--help"], "--loops"):
        command = [sys.executable, "-m", "flux_edu", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert text in done.stdout


def test_help_names_the_command_that_was_given(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["batch", "--help"])
    assert capsys.readouterr().out.startswith("usage: flux-edu batch ")
