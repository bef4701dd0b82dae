"""Panels that paint in the page: what they ask of the engine is what their notebooks ask of the package.

python run.py book --no-open, then FLUX_EDU_BROWSER=1 python run.py test tests/browser/test_panels_that_paint.py
"""

import base64
import io
import json
import time
from itertools import pairwise

import numpy as np
import paintings
import pytest
import torch
from engine_page import encode_exactly, encoded, open_page, paint, write_site
from lab import open_browser
from PIL import Image
from playwright.sync_api import expect
from web import SITE, serve, serve_book

from flux_edu.apps.tools import ToolGenerator, outline
from flux_edu.io import lora
from flux_edu.io.checkpoint import read
from flux_edu.io.images import to_picture
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import euler_step, velocity_field
from flux_edu.schedule import get_schedule, time_shift
from flux_edu.speed.guidance_interval import guided_between
from flux_edu.teaching.labs.activations import ablate
from flux_edu.text import embed_empty

PROMPT, SEED = "a 3d dog face left of a red apple on a blue background", 4
PANELS = {  # notebook → drawing functions
    "00_map": ["any_shape"],
    "01_schedule": ["paint", "paint_at"],
    "03_rope": ["moved_picture"],
    "06_sampling": ["easel", "from_start"],
    "07_text_encoders": ["two_prompts"],
    "10_guidance_distillation": ["two_passes"],
    "12_tools": ["along", "into", "drawn", "edited", "strength_of_a_lora"],
    "15_attention_atlas": ["without"],
    "18_faster": ["guided_fox"],
}
FIGURES = ("without", "guided_fox")  # the notebook draws one figure, the page a row of pictures
ROWS = ("from_start", "along", "into", "edited", "strength_of_a_lora", *FIGURES)  # pictures of 128 × 128, side by side


@pytest.fixture(scope="module")
def browser():
    with open_browser("move the panels that paint in a real browser (about two minutes)") as opened:
        yield opened


# ---------------------------------------------------------------- the engine's experiments


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    with serve(write_site(tmp_path_factory.mktemp("site"))) as address:
        yield open_page(browser, address)


@pytest.fixture(scope="module")
def generators():
    made = {}
    return lambda name: made.setdefault(name, ToolGenerator(name, "cpu"))


@torch.inference_mode()
def walked(flux, timesteps, clip_prompt=PROMPT, moved=(0, 0), guided=(0, 1)):
    """A picture by the notebooks' own means."""
    inputs = prepare(flux.t5, flux.clip, get_noise(1, 128, 128, "cpu", torch.float32, SEED), PROMPT)
    inputs |= {"vec": flux.clip([clip_prompt]), "img_ids": inputs["img_ids"] + torch.tensor([0.0, *moved])}
    x, plain = inputs.pop("img"), velocity_field(flux.model, inputs, 3.0)
    if flux.spec.two_passes:
        uncond = embed_empty(flux.t5, flux.clip)
        plain = guided_between(velocity_field(flux.model, inputs, 3.0, uncond=uncond), plain, *guided)
    for t, t_next in pairwise(timesteps):
        x = euler_step(x, plain(x, t), t, t_next)
    return to_picture(flux.ae.decode(unpatchify(x, 128, 128))[0])


def assert_same(painted, expected):
    apart = np.abs(painted.astype(int) - np.array(expected).astype(int))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.001


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        ("tiny-dev", "timesteps", time_shift(1.5, 1.0, torch.linspace(1, 0, 4)).tolist()),
        ("tiny-dev", "moved", [5, -3]),
        ("tiny", "clip_prompt", "a flat house on a black background"),
        ("tiny", "guided", [0.4, 0.9]),
    ],
)
def test_experiments(page, generators, model, option, value):
    levels = value if option == "timesteps" else get_schedule(4, 64)
    expected = walked(generators(model), levels, **({} if option == "timesteps" else {option: value}))
    options = dict(prompt=PROMPT, width=128, height=128, num_steps=4, guidance=3.0, seed=SEED)
    assert_same(paint(page, model=model, **options, **{option: value}), expected)
    assert np.abs(paint(page, model=model, **options) - np.array(expected).astype(int)).mean() > 2, "nothing changed"


def test_a_head_left_out(page, generators):
    flux, options = generators("tiny-schnell"), dict(prompt=PROMPT, width=128, height=128, guidance=0.0, seed=SEED)
    for module, name in (
        (flux.model.double_blocks[1], "double_blocks.1"),
        (flux.model.single_blocks[2], "single_blocks.2"),
    ):
        with ablate(module, 3):
            expected = flux.generate_image(num_steps=4, **options)
        assert_same(
            paint(page, model="tiny-schnell", leave_out=f"{name}.attention.3", num_steps=4, **options), expected
        )


def test_a_delta_at_half_its_scale(page, generators, monkeypatch):
    canny, base = generators("tiny-canny"), generators("tiny").model.state_dict()
    edges = outline(generators("tiny-schnell").generate_image(128, 128, 2, 0.0, 3, "a flat cat on a white background"))
    encode_exactly(canny, monkeypatch)
    whole, delta = canny.model.state_dict(), read(TINY_FOLDER / "canny.safetensors")
    kept = {name: x.clone() for name, x in whole.items()}
    canny.model.load_state_dict(lora.merge(lora.widen_img_in(base, 128), delta, 0.5))
    options = dict(num_steps=3, guidance=3.0, seed=SEED)
    expected = canny.control(edges, PROMPT, **options)
    canny.model.load_state_dict(kept)
    options |= dict(model="tiny-canny", prompt=PROMPT, width=128, height=128, edges=encoded(edges))
    assert_same(paint(page, lora_scale=0.5, **options), expected)
    assert_same(paint(page, **options), canny.control(edges, PROMPT, num_steps=3, guidance=3.0, seed=SEED))


# ---------------------------------------------------------------- the book's panels


@pytest.fixture(scope="module")
def address(browser):
    with serve_book() as address:
        yield address


def last_picture(panel):
    """What the panel has painted, of a row of pictures the last one, at its own size."""
    data = panel.locator("> img").get_attribute("src").partition(",")[2]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    row = panel.get_attribute("data-draw") in ROWS
    return picture.crop((picture.width - 128, 0, picture.width, 128)) if row else picture


def frame(move, name, size):
    """The picture that the notebook drew for this place, of a row the last one, many of them twice as large."""
    kept = Image.open(SITE / "_static" / "frames" / name / move["file"]).convert("RGB")
    width = size[0] * kept.height // size[1]
    return kept.crop((kept.width - width, 0, kept.width, kept.height)).resize(size, Image.Resampling.BOX)


def wait_for_another(panel, before):
    expect(panel.locator("> img")).not_to_have_attribute("src", before, timeout=60_000)


def put(panel, control, place):
    """Move a control to a place, and wait for the picture."""
    before = panel.locator("> img").get_attribute("src")
    moved = panel.locator(f'[data-control="{control}"]')
    moved.evaluate(
        "(e, place) => (e.value = place, e.dispatchEvent(new Event('input', { bubbles: true })))", str(place)
    )
    wait_for_another(panel, before)


def first_place(panel, move):
    return panel.locator(f'[data-control="{move["control"]}"]').get_attribute("data-first")


@pytest.mark.parametrize("name", PANELS)
def test_panels_paint_what_their_notebooks_painted(browser, address, name, record_property):
    """Every slider and menu at the last place that the book has a picture of, the others at their first."""
    tab = browser.new_page()
    tab.goto(f"{address}notebooks/{name}.html")
    assert tab.locator(".flux-load").count() == len(PANELS[name])
    apart = {}
    for draw in PANELS[name]:
        panel = tab.locator(f'.flux-frames[data-draw="{draw}"]')
        moves = json.loads(panel.locator("script[type='application/json']").text_content())
        last_places = {move["control"]: move for move in moves[:-1]}
        put(panel, moves[0]["control"], moves[0]["place"])
        kept = panel.locator("> img").get_attribute("src")
        assert kept.endswith(moves[0]["file"]), "before the model is loaded"
        put(panel, moves[0]["control"], first_place(panel, moves[0]))
        before = panel.locator("> img").get_attribute("src")
        panel.locator(".flux-load").click()
        wait_for_another(panel, before)
        for move in [moves[-1], *last_places.values()]:
            control = panel.locator(f'[data-control="{move["control"]}"]')
            if move is not moves[-1]:
                if control.get_attribute("type") == "text":
                    continue
                put(panel, move["control"], move["place"])
            picture = last_picture(panel)
            if draw not in FIGURES:
                kept = frame(move, name, picture.size)
                apart[f"{draw} {move['control']}"] = np.abs(np.array(picture).astype(int) - np.array(kept)).mean()
            if move is not moves[-1]:
                put(panel, move["control"], first_place(panel, move))
        expect(panel.locator(".flux-status")).to_contain_text("Painted in this page")
    tab.close()
    print({key: round(float(value), 2) for key, value in apart.items()})
    assert not {key: value for key, value in apart.items() if value > 4}


# ---------------------------------------------------------------- the live map's arrows


def test_guidance_of_an_own_prompt_is_the_package_s(browser, address, record_property):
    tab = browser.new_page()
    tab.goto(f"{address}index.html#prompt={PROMPT}&seed={SEED}&station=11")
    tab.get_by_role("button", name="Load the model").click()
    caption, own = tab.locator("#station .caption"), tab.get_by_role("button", name=f"Draw this for “{PROMPT}”")
    own.wait_for(timeout=60_000)
    assert PROMPT not in caption.inner_text()
    start = time.perf_counter()
    own.click()
    expect(caption).to_contain_text(f"“{PROMPT}”", timeout=60_000)
    record_property("measured", f"the live map draws an own prompt's guidance in {time.perf_counter() - start:.1f} s")
    tiny, dev = (FluxGenerator(name, "cpu") for name in ("tiny", "tiny-dev"))
    planes, _ = paintings.guidance_planes(tiny, dev, PROMPT, SEED)
    for step, plane in enumerate(planes):
        strip = tab.get_by_role("button", name=f"Step {step + 1} of 4")
        strip.click()
        expect(strip).to_have_attribute("aria-pressed", "true", timeout=20_000)
        shown = json.loads(tab.locator("#figure").get_attribute("data-numbers"))
        assert shown["t"] == pytest.approx(plane["t"])
        for key in ("dev", "off"):
            assert np.array(shown[key]) == pytest.approx(np.array(plane[key]), abs=1e-3), (step, key)
    strongest = paintings.PICTURES_AT[-1]
    expected = tiny.generate_image(128, 128, paintings.GUIDED_STEPS, strongest, SEED, PROMPT)
    pixels = tab.locator("#figure canvas").last.evaluate(
        "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 128, 128).data]"
    )
    assert_same(np.array(pixels).reshape(128, 128, 4)[..., :3], expected)
    tab.close()
