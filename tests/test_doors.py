"""The doors: what bad input is told, by FluxGenerator, the tools and the command line; the same under `python -O`.

A row is what a reader may write and how the answer begins. All rows are run in a process of their own, since in pytest
a shape checker would come first, and once more with -O, where an assert would say nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROFILE = os.environ.get("FLUX_EDU_PROFILE", "usual")  # "nightly": fifteen times as much of any input

RUNNER = """
import contextlib, io, json, os, resource, sys, warnings
import numpy as np
from PIL import Image
from flux_edu.__main__ import main
from flux_edu.apps.tools import ToolGenerator, outline
from flux_edu.io import tiny as tiny_folder
from flux_edu.io.images import save_image
from flux_edu.pipeline import FluxGenerator
from pathlib import Path

warnings.simplefilter("ignore")
nan, picture, black = float("nan"), Image.new("RGB", (128, 128), "red"), Image.new("L", (128, 128))
white = Image.new("L", (128, 128), 255)
half = white.crop((-64, 0, 64, 128))
generators = {name: ToolGenerator(f"tiny-{name}", "cpu") for name in ("fill", "canny", "kontext", "redux")}
generators["tiny"] = FluxGenerator("tiny", "cpu")

def tiny(**options):
    usual = dict(width=32, height=32, num_steps=1, guidance=1.0, seed=0, prompt="a fox")
    return generators["tiny"].generate_image(**(usual | options))

def fill(picture=picture, mask=white, prompt="a fox", **options):
    return generators["fill"].fill(picture, mask, prompt, **(dict(num_steps=1) | options))

def without_weights():
    folder, tiny_folder.TINY_FOLDER = tiny_folder.TINY_FOLDER, Path("nowhere")
    try:
        ToolGenerator("tiny-canny", "cpu")
    finally:
        tiny_folder.TINY_FOLDER = folder

def command(*arguments):
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        try:
            code = main(list(arguments))
        except SystemExit as stopped:  # by argparse
            code = stopped.code
    return f"exit {code}: {screen.getvalue().splitlines()[-1]}"

def answer(row):
    try:
        return str(eval(row))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = [answer(row) for row in json.load(sys.stdin)]
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"assertions": __debug__, "grown": grown, "answers": answers}))
"""

STEPS, GUIDANCE = "choose a whole number from 1 to 10000; 28 is usual", "choose a number from -100 to 100; 3.0 is usual"
SEED = "choose a whole number from 0 to 9223372036854775807; None has one drawn"
STRENGTH = "choose a number from 0 to 1; 0 keeps the start picture, 1 ignores it"
PICTURE = "pass a PIL picture, e.g. PIL.Image.open(path)"

ROWS = {
    # models and devices
    "FluxGenerator('flux-shnell')": "ValueError: no variant is called 'flux-shnell'; did you mean flux-schnell",
    "FluxGenerator('tiny', 'gpu')": "ValueError: 'gpu' is no device; choose one of cuda, mps, cpu, or none",
    "FluxGenerator('tiny', 1.5)": "ValueError: 1.5 is no device; choose one of cuda, mps, cpu, or none",
    "FluxGenerator('tiny', 'meta')": "ValueError: device 'meta' is not available on this machine; there is",
    "FluxGenerator(None)": "ValueError: no variant is called None. There are: flux-dev,",
    "FluxGenerator(['tiny'])": "ValueError: no variant is called ['tiny']. There are: flux-dev,",
    "FluxGenerator('tiny', 'cuda:99')": "ValueError: device 'cuda:99' is not available on this machine; there is",
    "FluxGenerator('flux-dev', 'cpu')": "FileNotFoundError: flux-dev is not shipped with this package. Accept its",
    "without_weights()": "FileNotFoundError: nowhere/canny.safetensors is not there: this model is 'tiny' and that",
    "ToolGenerator('flux-dev-redux')": "ValueError: the published Redux sees with SigLIP",
    "FluxGenerator.generate_image(generators['canny'], 32, 32, 1, 1.0, 0, '')": "ValueError: tiny-canny needs a control"
    " picture or a mask beside the prompt; pass what tools.control_cond",
    # steps
    "tiny(num_steps=0)": f"ValueError: num_steps = 0: {STEPS}",
    "tiny(num_steps=-4)": f"ValueError: num_steps = -4: {STEPS}",
    "tiny(num_steps=10**9)": f"ValueError: num_steps = 1000000000: {STEPS}",
    "tiny(num_steps=2.5)": f"TypeError: num_steps = 2.5 is a float: {STEPS}",
    "tiny(num_steps=4.0)": f"TypeError: num_steps = 4.0 is a float: {STEPS}",
    "tiny(num_steps=True)": f"TypeError: num_steps = True is a bool: {STEPS}",
    "tiny(num_steps='4')": f"TypeError: num_steps = '4' is a str: {STEPS}",
    "tiny(num_steps=None)": f"TypeError: num_steps = None is a NoneType: {STEPS}",
    "tiny(num_steps=[4])": f"TypeError: num_steps = [4] is a list: {STEPS}",
    # sizes
    "tiny(width=8)": "ValueError: 8 × 32 pixels: both sides must be at least 16, the size of one token",
    "tiny(height=0)": "ValueError: 32 × 0 pixels: both sides must be at least 16, the size of one token",
    "tiny(height=-64)": "ValueError: 32 × -64 pixels: both sides must be at least 16, the size of one token",
    "tiny(width=64.0)": "TypeError: width = 64.0 is a float: choose a whole number of pixels",
    "tiny(width='64')": "TypeError: width = '64' is a str: choose a whole number of pixels",
    "tiny(height=True)": "TypeError: height = True is a bool: choose a whole number of pixels",
    "tiny(height=None)": "TypeError: height = None is a NoneType: choose a whole number of pixels",
    "tiny(width=10**6, height=10**6)": "ValueError: 1000000 × 1000000 pixels: decoding them takes 238,419 GiB at the"
    " least, and cpu has",
    "tiny(width=2**40)": "ValueError: 1099511627776 × 32 pixels: decoding them takes 8,388,608 GiB at the least",
    # seeds
    "tiny(seed=-1)": f"ValueError: seed = -1: {SEED}",
    "tiny(seed=2**63)": f"ValueError: seed = 9223372036854775808: {SEED}",
    "tiny(seed='3')": f"TypeError: seed = '3' is a str: {SEED}",
    "tiny(seed=1.5)": f"TypeError: seed = 1.5 is a float: {SEED}",
    "tiny(seed=True)": f"TypeError: seed = True is a bool: {SEED}",
    # guidance
    "tiny(guidance=nan)": f"ValueError: guidance = nan: {GUIDANCE}",
    "tiny(guidance=float('inf'))": f"ValueError: guidance = inf: {GUIDANCE}",
    "tiny(guidance=1e30)": f"ValueError: guidance = 1e+30: {GUIDANCE}",
    "tiny(guidance=np.float32(-1e4))": f"ValueError: guidance = -10000.0: {GUIDANCE}",
    "tiny(guidance='3')": f"TypeError: guidance = '3' is a str: {GUIDANCE}",
    "tiny(guidance=None)": f"TypeError: guidance = None is a NoneType: {GUIDANCE}",
    "tiny(guidance=True)": f"TypeError: guidance = True is a bool: {GUIDANCE}",
    "tiny(guidance=3j)": f"TypeError: guidance = 3j is a complex: {GUIDANCE}",
    # prompts
    "tiny(prompt=['a', 'b'])": "TypeError: prompt is a list; pass one text, each call paints one picture",
    "tiny(prompt=None)": "TypeError: prompt is a NoneType; pass one text",
    "tiny(prompt=b'a fox')": "TypeError: prompt is a bytes; pass one text",
    "tiny(prompt='fox \\udcff')": "ValueError: prompt holds bytes that are no text; save it as UTF-8 and read it so",
    # image to image
    "tiny(init_image=picture, image2image_strength=1.5)": f"ValueError: image2image_strength = 1.5: {STRENGTH}",
    "tiny(init_image=picture, image2image_strength=-0.1)": f"ValueError: image2image_strength = -0.1: {STRENGTH}",
    "tiny(init_image=picture, image2image_strength=nan)": f"ValueError: image2image_strength = nan: {STRENGTH}",
    "tiny(init_image=picture, image2image_strength='1')": f"TypeError: image2image_strength = '1' is a str: {STRENGTH}",
    "tiny(image2image_strength=True)": f"TypeError: image2image_strength = True is a bool: {STRENGTH}",
    "tiny(init_image='fox.png')": f"TypeError: init_image is a str; {PICTURE}",
    "tiny(init_image=np.zeros((8, 8, 3)))": f"TypeError: init_image is a ndarray; {PICTURE}",
    # numbers of NumPy are numbers, and can be saved
    "json.dumps(tiny(width=np.int64(32), num_steps=np.int32(1), guidance=np.float32(1), seed=np.uint8(7)).info)": "{"
    '"prompt": "a fox", "width": 32, "height": 32, "num_steps": 1, "guidance": 1.0, "seed": 7, ',
    "json.dumps(tiny(init_image=picture, image2image_strength=np.float32(1)).info)[-5:]": " 1.0}",
    # what painted a picture
    "generators['tiny'].repaint(tiny().info | {'model': 'flux-dev'})": "ValueError: the picture was painted by"
    " 'flux-dev', this generator is 'tiny': make FluxGenerator('flux-dev')",
    "generators['tiny'].repaint(None)": "TypeError: metadata is a NoneType; pass the dict that read_metadata returns",
    "generators['tiny'].repaint({'prompt': ''})": "ValueError: the metadata lacks guidance, height, model, num_steps,"
    " seed, version, width; pass what",
    "generators['fill'].repaint(tiny().info | {'model': 'tiny-fill', 'tool': ['x']})": "ValueError: the picture was"
    " painted by ['x'], which is none of fill, control, edit, redux",
    "generators['tiny'].repaint(fill().info)": "ValueError: the picture was painted by ToolGenerator.fill from more",
    "generators['tiny'].repaint(tiny(init_image=picture).info)": "ValueError: the picture began from a start picture:"
    " pass the same one as init_image",
    "generators['fill'].repaint(fill().info, picture=picture, mask=half)": "ValueError: the picture was painted by"
    " fill from picture and mask: pass the same ones again; mask is another one",
    # fill
    "fill(picture='fox.png')": f"TypeError: picture is a str; {PICTURE}",
    "fill(mask=None)": f"TypeError: mask is a NoneType; {PICTURE}",
    "fill(mask=np.zeros((128, 128)))": f"TypeError: mask is a ndarray; {PICTURE}",
    "fill(mask=white.resize((64, 128)))": "ValueError: the mask has 64 × 128 pixels, the picture 128 × 128: resize one",
    "fill(mask=black)": "ValueError: the mask is empty: all of it is black or transparent, so nothing would be",
    "fill(mask=white.point(lambda v: 128))": "ValueError: the mask holds 128: 255, white, is painted",
    "fill(picture=picture.resize((120, 100)))": "ValueError: picture has 120 × 100 pixels; sides must be multiples of"
    " 16: resize it, e.g. to 128 × 96",
    "fill(num_steps=2.5)": f"TypeError: num_steps = 2.5 is a float: {STEPS}",
    "fill(guidance=1e30)": "ValueError: guidance = 1e+30: choose a number from -100 to 100; 1.5 is usual",
    "fill(seed='3')": f"TypeError: seed = '3' is a str: {SEED}",
    "fill(prompt=7)": "TypeError: prompt is a int; pass one text",
    # the other tools
    "generators['canny'].fill(picture, white, '')": "ValueError: tiny-canny cannot do fill: its tokens have 128"
    " channels, not 384. Make ToolGenerator('tiny-fill')",
    "generators['fill'].control(picture, '')": "ValueError: tiny-fill cannot do control: its tokens have 384 channels,"
    " not 128. Make ToolGenerator('tiny-canny') or",
    "generators['redux'].edit(picture, '')": "ValueError: tiny-redux cannot do edit: it has not learned to. Make"
    " ToolGenerator('tiny-kontext') or",
    "generators['kontext'].redux(picture)": "ValueError: tiny-kontext cannot do redux: it has not learned to. Make",
    "generators['canny'].control(picture.resize((128, 5)), '')": "ValueError: edges has 128 × 5 pixels; sides must be",
    "generators['canny'].control('edges.png', '')": f"TypeError: edges is a str; {PICTURE}",
    "generators['kontext'].edit('fox.png', 'remove it')": f"TypeError: picture is a str; {PICTURE}",
    "generators['kontext'].edit(picture, ['remove it'])": "TypeError: prompt is a list; pass one text",
    "generators['kontext'].edit(picture, 'remove it', num_steps=0)": f"ValueError: num_steps = 0: {STEPS}",
    "generators['redux'].redux(None)": f"TypeError: picture is a NoneType; {PICTURE}",
    "generators['redux'].redux(picture, seed=-1)": f"ValueError: seed = -1: {SEED}",
    "outline('fox.png')": f"TypeError: picture is a str; {PICTURE}",
    "outline(picture, 300, 200)": "ValueError: thresholds 300 and 200: the lower one comes first",
    "outline(picture, -1, 200)": "ValueError: low = -1: choose a number from 0 to 10000; 50 and 200 are usual",
    "outline(picture, 50, nan)": "ValueError: high = nan: choose a number from 0 to 10000",
    "outline(picture, '50', 200)": "TypeError: low = '50' is a str: choose a number from 0 to 10000",
    "save_image(np.zeros((8, 8, 3)), 'fox.png')": f"TypeError: picture is a ndarray; {PICTURE}",
    # the command line
    "command('sample', 'a fox', '--model', 'tinny')": "exit 2: flux-edu: no variant is called 'tinny'; did you",
    "command('sample', 'a fox', '--model', 'tiny-fill')": "exit 2: flux-edu: tiny-fill needs a picture or a mask",
    "command('sample', 'a fox', '--width', '999999', '--height', '99999')": "exit 2: flux-edu: 999984 × 99984 pixels",
    "command('sample', 'a fox', '--strength', '0.5')": "exit 2: flux-edu: --strength says how much of a start",
    "command('sample', 'a fox', '--init', 'no.png')": "exit 2: flux-edu: no.png is not a file: --init takes a picture",
    "command('sample', 'a fox', '--out', 'x.jpg')": "exit 2: flux-edu: x.jpg: pictures are saved as PNG",
    "command('sample', 'a fox', '--device', 'gpu')": "exit 2: flux-edu: 'gpu' is no device",
}


def own_process(tmp_path, *command, **options) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLUX_")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, *command],
        **options,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment | {"FLUX_EDU_PROFILE": PROFILE},
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.mark.parametrize("flags", [[], ["-O"]], ids=["plain", "-O"])
def test_bad_input_is_told_what_is_expected(flags, tmp_path):
    run = own_process(tmp_path, *flags, "-c", RUNNER, input=json.dumps(list(ROWS)))
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["assertions"] is not bool(flags)
    pairs = zip(ROWS.items(), report["answers"], strict=True)
    wrong = [
        f"{row}\n  expected {said}\n  was told {answer}" for (row, said), answer in pairs if not answer.startswith(said)
    ]
    assert not wrong, "\n".join(wrong)
    print(f"{len(ROWS)} bad inputs answered; memory grew by {report['grown'] / 2**20:.0f} MiB")
    assert report["grown"] < 2**28  # painting three small pictures to repaint; the largest asked for is 238,419 GiB
    assert list(tmp_path.glob("**/*.png*")) == []


def test_any_input_is_a_picture_or_a_clear_error(tmp_path, capsys):
    run = own_process(tmp_path, str(ROOT / "tests" / "any_input.py"))
    counts = json.loads(run.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\nany input at the doors: {counts['refused']} refused, {counts['accepted']} accepted", end=" ")
    assert min(counts.values()) >= {"usual": 200, "nightly": 2000}[PROFILE], run.stdout
