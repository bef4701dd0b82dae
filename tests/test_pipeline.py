"""Chapter 6, from a prompt to a picture: the generator, its messages, its files, its devices."""

import inspect
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import flux_edu
from flux_edu import pipeline
from flux_edu.io.advice import Advice, collect, unknown_words, words
from flux_edu.io.images import picture_hash, read_metadata, save_image, to_picture, to_tensor
from flux_edu.patchify import get_noise, prepare
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.teaching.panel import PANELS, explore
from flux_edu.text import embed_empty

PROMPT = "a 3d fox on a blue background"


@pytest.fixture(scope="module")
def tiny() -> FluxGenerator:
    return FluxGenerator("tiny", "cpu")


@pytest.fixture
def start_picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 48), Image.Resampling.BICUBIC)


def paint(tiny: FluxGenerator, prompt: str = PROMPT, width: int = 80, height: int = 48, **options) -> Image.Image:
    options = {"num_steps": 2, "guidance": 3.0, "seed": 5} | options
    return tiny.generate_image(width, height, prompt=prompt, **options)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


# ---------------------------------------------------------------- what it paints


def test_the_signature_is_that_of_the_notes():
    parameters = inspect.signature(FluxGenerator.generate_image).parameters
    required = "self width height num_steps guidance seed prompt".split()
    optional = {"init_image": None, "image2image_strength": 0.0, "add_sampling_metadata": True}
    assert list(parameters)[:10] == [*required, *optional]
    assert {name: parameters[name].default for name in optional} == optional


def test_it_is_the_equations_one_after_the_other(tiny):
    noise = get_noise(1, 48, 80, "cpu", torch.float32, 5)
    inputs = prepare(tiny.t5, tiny.clip, noise, PROMPT)
    timesteps, uncond = get_schedule(2, 3 * 5), embed_empty(tiny.t5, tiny.clip)
    x = denoise(tiny.model, **inputs, timesteps=timesteps, guidance=3.0, uncond=uncond)
    with torch.inference_mode():
        picture = to_picture(tiny.ae.decode(pipeline.unpatchify(x, 48, 80))[0])
    assert same(picture, paint(tiny))


@pytest.mark.parametrize("size", [(16, 16), (16, 96), (80, 48), (128, 128)])
def test_sizes_and_aspect_ratios(tiny, size):
    assert paint(tiny, width=size[0], height=size[1], num_steps=1).size == size


def test_one_seed_is_one_picture(tiny):
    first, again, other = (paint(tiny, seed=s) for s in (5, 5, 6))
    assert same(first, again) and not same(first, other)


def test_seed_none_draws_one_and_reports_it(tiny):
    picture = paint(tiny, seed=None, num_steps=1)
    assert isinstance(picture.info["seed"], int)
    assert same(picture, paint(tiny, seed=picture.info["seed"], num_steps=1))
    assert paint(tiny, seed=None, num_steps=1).info["seed"] != picture.info["seed"]


def test_the_callback_sees_every_step(tiny):
    seen = []
    paint(tiny, num_steps=3, callback=lambda i, t, x, v: seen.append((i, t, x.shape, v.shape)))
    assert [i for i, *_ in seen] == [0, 1, 2]
    assert [t for _, t, *_ in seen] == get_schedule(3, 15)[:-1]
    assert seen[0][2:] == ((1, 15, 64), (1, 15, 64))


def test_schnell_is_not_shifted(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "spec", replace(tiny.spec, shift=False))
    assert paint(tiny, num_steps=4).info["timesteps"] == [1, 0.75, 0.5, 0.25, 0]


# ---------------------------------------------------------------- image to image


def test_strength_1_is_text_to_image(tiny, start_picture):
    assert same(paint(tiny, init_image=start_picture, image2image_strength=1.0), paint(tiny))


@pytest.mark.parametrize("strength", [{}, {"image2image_strength": 0.0}])
def test_strength_0_is_the_round_trip_through_the_autoencoder(tiny, start_picture, strength):
    with torch.inference_mode():
        round_trip = to_picture(tiny.ae(to_tensor(start_picture))[0])
    steps = []
    got = paint(tiny, init_image=start_picture, callback=lambda *step: steps.append(step), **strength)
    assert not steps and same(got, round_trip)


def test_a_strength_between_runs_the_last_steps(tiny, start_picture):
    steps = []
    got = paint(
        tiny,
        num_steps=10,
        init_image=start_picture,
        image2image_strength=0.8,
        callback=lambda i, t, x, v: steps.append(t),
    )
    assert steps == get_schedule(10, 15)[2:-1] == got.info["timesteps"][:-1]


def test_pictures_are_read_in_minus_1_to_1(tiny):
    picture = Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8))
    assert to_tensor(picture).flatten().tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    assert same(to_picture(to_tensor(levels)[0]), levels)
    beyond = torch.tensor([-3.0, 0.0, 3.0]).reshape(3, 1, 1)
    assert np.array(to_picture(beyond)).flatten().tolist() == [0, 128, 255]


def test_a_start_picture_of_any_size_and_mode(tiny, start_picture):
    odd = start_picture.convert("RGBA").resize((79, 48))
    assert paint(tiny, init_image=odd, image2image_strength=0.5).size == (80, 48)
    with pytest.warns(Advice, match=r"init_image has 72 × 31 pixels and is squeezed to 80 × 48; PIL.ImageOps.fit\("):
        paint(tiny, init_image=odd.resize((72, 31)), image2image_strength=0.0)


# ---------------------------------------------------------------- metadata


def test_a_saved_picture_carries_what_paints_it_again(tiny, tmp_path):
    picture = paint(tiny, "a 3d dog face, 红苹果", seed=12)
    file = save_image(picture, tmp_path / "new folder" / "dog.png")
    metadata = read_metadata(file)
    assert metadata == {
        "prompt": "a 3d dog face, 红苹果",
        "width": 80,
        "height": 48,
        "num_steps": 2,
        "guidance": 3.0,
        "seed": 12,
        "model": "tiny",
        "version": flux_edu.__version__,
        "timesteps": get_schedule(2, 15),
        "dtype": "torch.float32",
        "sha256": picture_hash(picture),
    }
    assert same(tiny.repaint(metadata), picture)
    assert same(Image.open(file), picture)
    assert [path.name for path in file.parent.iterdir()] == ["dog.png"]  # no half-written file beside it


def test_image_to_image_records_its_start_picture(tiny, start_picture, tmp_path):
    picture = paint(tiny, init_image=start_picture, image2image_strength=0.5)
    metadata = read_metadata(save_image(picture, tmp_path / "x.png"))
    assert metadata["image2image_strength"] == 0.5 and metadata["init_image_sha256"] == picture_hash(start_picture)
    assert metadata["timesteps"] == get_schedule(2, 15)[1:]
    start_picture.save(tmp_path / "start.png")
    assert same(tiny.repaint(metadata, Image.open(tmp_path / "start.png")), picture)
    for wrong in (None, start_picture.rotate(180)):
        with pytest.raises(ValueError, match="pass the same one as init_image"):
            tiny.repaint(metadata, wrong)


def test_no_metadata_when_not_wanted(tiny, tmp_path):
    picture = paint(tiny, num_steps=1, add_sampling_metadata=False)
    assert picture.info == {}
    with pytest.raises(ValueError, match="carries no metadata of flux_edu"):
        read_metadata(save_image(picture, tmp_path / "x.png"))


def test_repaint_knows_other_versions(tiny):
    metadata = paint(tiny, num_steps=1).info
    with pytest.warns(Advice, match="painted by flux_edu 0.0.1, this is") as caught:
        tiny.repaint(metadata | {"version": "0.0.1"})
    assert caught[0].filename == __file__


def test_only_png_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"x\.jpg: pictures are saved as PNG"):
        save_image(Image.new("RGB", (16, 16)), tmp_path / "x.jpg")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- messages


def test_strength_without_a_picture_is_told(tiny):
    with pytest.warns(Advice, match="image2image_strength = 0.5 does nothing without init_image"):
        paint(tiny, num_steps=1, image2image_strength=0.5)


def lines_told(call) -> dict[int, str]:
    """The warnings of a call that point to this file: line number → message. Any other place is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {w.filename for w in caught} == {__file__}, [(w.filename, w.lineno, str(w.message)) for w in caught]
    return {w.lineno: str(w.message) for w in caught}


def test_sizes_are_rounded_and_said_at_the_callers_line(tiny):
    here = inspect.currentframe().f_lineno
    messages = lines_told(lambda: tiny.generate_image(95, 31, 1, 1.0, 0, PROMPT))
    assert messages == {here + 1: "sizes are multiples of 16: painting 80 × 16 instead of 95 × 31"}


def test_a_long_prompt_is_cut_and_said_at_the_callers_line(tiny):
    long = "a 3d fox " + "left of a fox " * 9
    count = len(tiny.t5.tokenizer(long)["input_ids"])
    here = inspect.currentframe().f_lineno
    messages = lines_told(lambda: tiny.generate_image(80, 48, 1, 1.0, 0, long))
    assert list(messages) == [here + 1]
    [message] = messages.values()
    assert f"reads 32 tokens; the last {count - 32} of 'a 3d fox left of" in message


def test_unknown_words_are_said_with_the_nearest_known(tiny):
    with pytest.warns(
        Advice, match=r"the tiny model has never seen 'foxx' \(nearest: fox.*'собака'\. It paints"
    ) as caught:
        paint(tiny, "a 3d Foxx, собака!", num_steps=1)
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(
    "prompt",
    ["", PROMPT, "A 3D FOX; on a Blue background.", "蓝色背景上的三只立体狐狸", "heart-eyes", "two foxes in a corner"],
)
def test_known_words_are_not_complained_about(tiny, prompt):
    assert unknown_words(prompt, tiny.vocabulary) == {}


def test_a_panel_shows_advice_under_its_picture(tiny):
    def draw(prompt="a fox", width=32):
        picture = tiny.generate_image(width, 16, 1, 1.0, 0, prompt)
        picture.info["alt"] = "a fox"
        return picture

    panel = explore(draw, prompt="a fox", width=(16, 64, 16))
    PANELS.remove(panel)
    panel.set(prompt="a foxx")
    assert panel.error is None and "<img alt=" in panel.picture.value
    assert "has never seen &#x27;foxx&#x27; (nearest: fox" in panel.picture.value.split('<p class="flux-advice">')[1]
    panel.set(prompt="a fox")
    assert "flux-advice" not in panel.picture.value


def test_other_warnings_than_advice_go_their_usual_way():
    with pytest.warns(DeprecationWarning, match="old"), collect() as collected:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("new", Advice, stacklevel=1)
    assert collected == ["new"]


def test_signs_without_words_are_said(tiny):
    with pytest.warns(Advice, match="the tiny model reads words, and '🦊 🍎' holds none"):
        paint(tiny, "🦊 🍎", num_steps=1)


def test_of_a_thousand_unknown_words_ten_are_looked_up(tiny):
    assert list(unknown_words(" ".join(f"foxx{i}" for i in range(1000)), tiny.vocabulary)) == [
        f"foxx{i}" for i in range(10)
    ]


def test_words_of_every_script():
    assert words("It's a T-Rex, ça: 红苹果3d_x") == ["it", "s", "a", "t", "rex", "ça", "红苹果", "3d", "x"]
    vocabulary = ["dog", "red apple", "苹", "果", "heart-eyes"]
    assert unknown_words("dogs, apple, eyes 红苹果 の", vocabulary) == {"dogs": ["dog"], "红": [], "の": []}
