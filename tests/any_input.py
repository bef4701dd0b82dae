"""Any input at the doors becomes a picture or a clear error; test_doors.py runs this in a process of its own.

    python tests/any_input.py
    FLUX_EDU_PROFILE=nightly python tests/any_input.py

A clear error is raised by a line of this package that says `raise`, as a ValueError, TypeError or OSError of one line,
within two seconds and before anything large is made. What is accepted is painted in one step, at 64 × 64 where the
size is free. Fifteen times as many examples, new ones every time, are tried under the profile "nightly".
"""

import contextlib
import io
import json
import linecache
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import flux_edu
from flux_edu.__main__ import main
from flux_edu.apps import sample, tools
from flux_edu.apps.batch import read_prompts
from flux_edu.io import lora, options
from flux_edu.io.checkpoint import load_strict, read, save
from flux_edu.io.images import read_metadata, save_image
from flux_edu.io.lora_layouts import read_lora
from flux_edu.model import Flux
from flux_edu.pipeline import FluxGenerator

SECONDS, BYTES = 2, 2**28  # the most that a refusal may take
COUNTS = Counter()
HERE = Path(tempfile.mkdtemp())
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss

usual = settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
settings.register_profile("usual", usual)
settings.register_profile("nightly", usual, max_examples=600, derandomize=False)
settings.load_profile(os.environ.get("FLUX_EDU_PROFILE", "usual"))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def at_the_door(call, *expected):
    """The value of a call, or None after a clear error; anything else ends the run."""
    memory, start = peak(), time.monotonic()
    try:
        value = call()
    except (ValueError, TypeError, OSError) as error:
        took, grown = time.monotonic() - start, peak() - memory
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "flux_edu" in frame.filename]
        from_system = isinstance(error, OSError) and error.errno
        clear = from_system or linecache.getline(frames[-1].filename, frames[-1].lineno).strip().startswith("raise ")
        assert clear and str(error).strip() and "\n" not in str(error), "no clear error"
        assert took < SECONDS and grown < BYTES, f"refused after {took:.1f} s and {grown / 2**20:.0f} MiB"
        COUNTS["refused"] += 1
        return None
    COUNTS["accepted"] += 1
    return value


# ---------------------------------------------------------------- generators, made cheap


def one_small_step(generator: FluxGenerator, size: bool) -> FluxGenerator:
    """What it accepts is painted in one step and, where the size is free, at 64 × 64."""
    encode, paint = generator.encode, generator.paint
    small = {"num_steps": 1} | ({"width": 64, "height": 64} if size else {})
    if size:
        generator.encode = lambda x: encode(torch.nn.functional.interpolate(x, (64, 64)))
    generator.paint = lambda options, *start, **how: paint(replace(options, **small), *start, **how)
    return generator


TINY = one_small_step(FluxGenerator("tiny-schnell", "cpu"), size=True)
TOOLS = {name: one_small_step(tools.ToolGenerator(f"tiny-{name}", "cpu"), size=False) for name in ("fill", "canny")}
sample.FluxGenerator = lambda name, device: TINY

# ---------------------------------------------------------------- what users may bring

text = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(["a 3d fox", "红苹果", ""])
number = st.integers() | st.floats() | st.integers(-20, 300) | st.sampled_from([10**6, 2**31, 2**63, 0.5, 1e30])
anything = st.recursive(
    st.none() | st.booleans() | number | text | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=4,
)
MODES = "1 L P RGB RGBA CMYK YCbCr LAB HSV I F LA PA RGBX RGBa La I;16 I;16B".split()
INFO = {
    "transparency": st.integers(-1, 300) | st.binary(max_size=3) | st.tuples(*[st.integers(0, 255)] * 3) | st.none(),
    "exif": st.binary(max_size=20).map(lambda rest: b"Exif\0\0II*\0\x08\0\0\0" + rest) | text,
    "dpi": st.tuples(st.floats(), st.floats()),
    "icc_profile": st.binary(max_size=20),
    "prompt": text,
}


sides = st.integers(0, 40) | st.sampled_from([16, 32, 48])


@st.composite
def pictures(draw) -> Image.Image:
    """A picture of any mode, pixels and info; a small share of them come from files, whole, cut short or damaged."""
    mode, size = draw(st.sampled_from(MODES)), (draw(sides), draw(sides))
    picture = Image.new(mode, size)
    length = len(picture.tobytes()) if 0 not in size else 0
    pixels = draw(st.sampled_from(["random", "0 and 1", "0 and 255", "same"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    numbers = {"random": rng.integers(0, 256, length), "same": np.full(length, draw(st.integers(0, 255)))}
    numbers |= {"0 and 1": rng.integers(0, 2, length), "0 and 255": 255 * rng.integers(0, 2, length)}
    if length:
        picture.frombytes(numbers[pixels].astype(np.uint8).tobytes())
    picture.info = draw(st.fixed_dictionaries({}, optional=INFO))
    kind = draw(st.sampled_from([None, None, None, "PNG", "TIFF", "JPEG", "GIF", "WEBP", "AVIF"]))
    if kind is None:
        return picture
    file = io.BytesIO()
    try:
        picture.save(file, kind)
        content = bytearray(file.getvalue()[: draw(st.integers(1, 2000))])
        if draw(st.booleans()):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return Image.open(io.BytesIO(content))
    except Exception:  # Pillow writes no such file, or reads nothing of it
        return picture


def or_anything(good):
    """Mostly what is expected, so that not every example ends at its first value."""
    return st.integers(0, 14).flatmap(lambda number: good if number else anything)


plain = {
    "width": or_anything(st.integers(16, 200)),
    "height": or_anything(st.integers(16, 200)),
    "num_steps": or_anything(st.integers(1, 9)),
    "guidance": or_anything(st.floats(-100, 100)),
    "seed": or_anything(st.none() | st.integers(0, 2**63 - 1)),
    "prompt": or_anything(text),
}

# ---------------------------------------------------------------- the doors


def check_picture(picture, size=(64, 64)):
    assert picture.size == size and np.isfinite(np.array(picture)).all()
    json.dumps(picture.info)
    return picture


@given(
    st.fixed_dictionaries(
        plain, optional={"init_image": or_anything(pictures()), "image2image_strength": or_anything(st.floats(0, 1))}
    )
)
def options_of_any_kind(asked):
    if (picture := at_the_door(lambda: TINY.generate_image(**asked))) is not None:
        check_picture(picture)


@given(pictures(), pictures() | anything, or_anything(text), st.booleans())
def pictures_of_any_kind(picture, mask, prompt, masked):
    from_file = getattr(mask, "format", None)  # then it may be damaged, and is for the doors alone to read
    if isinstance(mask, Image.Image) and 0 not in picture.size and masked and not from_file:
        mask = mask.resize(picture.size, Image.Resampling.NEAREST) if mask.mode in ("1", "L", "RGB", "RGBA") else mask
    for call in (
        lambda: TOOLS["fill"].fill(picture, mask, prompt),
        lambda: TOOLS["canny"].control(picture, prompt),
        lambda: tools.outline(picture),
        lambda: options.checked_picture("picture", mask),
        lambda: save_image(picture, HERE / "x.png"),
    ):
        at_the_door(call)
    assert not list(HERE.glob("*.part"))


values = {
    "steps": "4",
    "seed": "7",
    "width": "64",
    "guidance": "3",
    "strength": "0.5",
    "model": "tiny",
    "device": "cpu",
}
values |= {"init": str(HERE / "start.png"), "out": "x.png"}


@st.composite
def arguments(draw) -> list[str]:
    """A prompt and some options, now and then with another value or a word too many."""
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=4, unique=True))
    named = [f"--{name}={draw(or_anything(st.just(values[name])))}" for name in names]
    return [draw(text), *named, *draw(st.sampled_from([[], [], [], ["--overwrite"], ["more"]]))]


@given(arguments())
def words_of_any_kind(words):
    """The command line ends with a picture, or with exit code 2 and one line."""
    start, screen = time.monotonic(), io.StringIO()
    Image.new("RGB", (64, 64)).save(HERE / "start.png")
    with contextlib.chdir(HERE), contextlib.redirect_stderr(screen), contextlib.redirect_stdout(screen):
        try:
            code = main(["sample", *words])
        except SystemExit as stopped:  # by argparse
            code = stopped.code
    COUNTS["accepted" if code == 0 else "refused"] += 1
    lines = [line for line in screen.getvalue().splitlines() if line.startswith("flux-edu: ")]
    assert code == 0 or (code == 2 and len(lines) == 1 and time.monotonic() - start < SECONDS), screen.getvalue()
    assert "Traceback" not in screen.getvalue()


@given(st.dictionaries(st.sampled_from([*plain, "model", "version", "tool", "init_image_sha256"]) | text, anything))
def metadata_of_any_kind(changed):
    known = {"width": 64, "height": 64, "num_steps": 1, "guidance": 0.0, "seed": 1, "prompt": "a fox"}
    known |= {"model": "tiny-schnell", "version": flux_edu.__version__}
    at_the_door(lambda: TINY.repaint(known | changed))
    chunks = PngImagePlugin.PngInfo()
    for key, value in (known | {"timesteps": [1, 0], "dtype": "x", "sha256": "x"} | changed).items():
        if 0 < len(key) < 80 and key.isascii() and key.isprintable() and key.strip() == key:
            chunks.add_itxt(key, ascii(value))
    Image.new("RGB", (2, 2)).save(HERE / "told.png", pnginfo=chunks)
    at_the_door(lambda: read_metadata(HERE / "told.png"))


SMALL = Flux(replace(TINY.spec.params, hidden_size=12, num_heads=1, axes_dim=(4, 4, 4), depth=1, depth_single_blocks=1))
shapes = st.lists(st.integers(0, 4) | st.sampled_from([12, 36, 64]), max_size=3)
kinds = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
parts = st.sampled_from(
    "lora_A.weight lora_B.weight lora_down.weight lora_up.weight alpha weight lora_B.bias x".split()
)
modules = st.sampled_from("img_in double_blocks.0.img_attn.qkv transformer.transformer_blocks.0.attn.to_q x".split())
keys = st.tuples(modules, parts).map(".".join) | st.text(st.characters(categories=["L", "P"]), min_size=1, max_size=9)


@given(st.dictionaries(keys, st.tuples(shapes, kinds), max_size=5), st.sampled_from([1.0, 0, float("nan")]))
def weights_of_any_kind(entries, scale):
    delta = {key: torch.zeros(shape).to(kind) for key, (shape, kind) in entries.items()}
    state, before = SMALL.state_dict(), {key: x.clone() for key, x in SMALL.state_dict().items()}
    at_the_door(lambda: lora.merge(state, delta, scale))
    at_the_door(lambda: load_strict(SMALL, delta))
    at_the_door(lambda: save(delta, HERE / "weights.safetensors"))
    at_the_door(lambda: read_lora(HERE / "weights.safetensors"))
    assert all(torch.equal(x, before[key]) for key, x in SMALL.state_dict().items())


@given(st.binary(max_size=60) | anything.map(lambda value: ascii(value).encode()), st.binary(max_size=9))
def files_of_any_kind(content, beginning):
    for name in ("x.safetensors", "x.safetensors.index.json", "x.png", "x.txt"):
        starts = {"x.png": b"\x89PNG\r\n\x1a\n", "x.txt": beginning}
        (HERE / name).write_bytes(starts.get(name, b"") + content)
    (HERE / "x.safetensors.index.json").write_bytes(b'{"weight_map": ' + content.replace(b"'", b'"') + b"}")
    at_the_door(lambda: read(HERE / "x.safetensors"))
    at_the_door(lambda: read(HERE / "x.safetensors.index.json"))
    at_the_door(lambda: read_metadata(HERE / "x.png"))
    at_the_door(lambda: read_prompts(HERE / "x.txt"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    doors = options_of_any_kind, pictures_of_any_kind, words_of_any_kind, metadata_of_any_kind
    for door in (*doors, weights_of_any_kind, files_of_any_kind):
        if sys.argv[1:] and door.__name__ not in sys.argv:
            continue
        before, start = COUNTS.copy(), time.monotonic()
        door()
        counts = {key: COUNTS[key] - before[key] for key in ("refused", "accepted")}
        print(f"{door.__name__}: {counts}, {time.monotonic() - start:.0f} s")
    print(json.dumps(COUNTS))
