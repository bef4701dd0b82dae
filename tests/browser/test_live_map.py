"""The live map in Chromium: its numbers are the package's, keys and screen readers find their way, nothing comes from
elsewhere. The page is built as docs/book.py builds it, without the notebooks around it.
"""

import json
import math
from statistics import median

import live_map
import numpy as np
import paintings
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from einops import rearrange
from lab import open_browser
from PIL import Image
from playwright.sync_api import expect
from web import serve

from flux_edu import attention, single_stream
from flux_edu.io.images import to_picture
from flux_edu.patchify import get_noise, patchify, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.rope import apply_rope, rope, rope_frequencies
from flux_edu.sampling import predict_x0
from flux_edu.schedule import get_lin_function, get_schedule
from flux_edu.teaching.labs.activations import ablate
from flux_edu.teaching.labs.attention_maps import quadrant_shares, record_attention, word_map

PROMPT, SEED = "a flat robot on a white background", 3
BUSY = 2.5  # how much slower a busy machine may be
STATIONS = 14
# Moves a control of the station; the milliseconds until the frame with the redrawn figure is there.
MOVE = """() => new Promise((resolve) => {
  const figure = document.getElementById("figure");
  const control = figure.querySelector("input[type=range], .cells, .chip[aria-pressed=false], .plane");
  const drawn = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  new MutationObserver(drawn).observe(figure, { attributeFilter: ["data-numbers"] });
  const start = performance.now();
  if (control.type === "range") {
    if (control.value === control.max) control.value = control.min;
    else control.stepUp();
    control.dispatchEvent(new Event("input"));
  } else if (control.matches(".cells")) {
    control.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  } else control.click();
})"""


@pytest.fixture(scope="module")
def browser():
    with open_browser("open the live map in a real browser (about a minute)") as opened:
        yield opened


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    live_map.install(site)
    with serve(site) as address:
        yield address


@pytest.fixture(scope="module")
def context(browser, address):
    """One reader's browser: what it has loaded once stays in its cache. No page of it asks for anything outside."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    errors, outside = [], []
    local = (address, "data:", "blob:")
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("request", lambda request: request.url.startswith(local) or outside.append(request.url))
    yield context
    assert not errors and not outside


@pytest.fixture
def page(context, address):
    page = context.new_page()
    show(page, address)
    yield page
    page.close()


def show(page, address, state=""):
    page.goto(f"{address}index.html{state}")
    page.locator("body[data-ready]").wait_for()


def numbers(page):
    return json.loads(page.locator("#figure").get_attribute("data-numbers"))


def choose(page, station):
    page.get_by_label("Station", exact=True).select_option(str(station))
    return numbers(page)


@pytest.fixture(scope="module")
def schnell():
    return FluxGenerator("tiny-schnell", device="cpu")


@pytest.fixture(scope="module")
def painted(context, address, schnell):
    """A page that has loaded the model and painted its own prompt, and the package's record of the same walk."""
    page = context.new_page()
    show(page, address, f"#prompt={PROMPT}&seed={SEED}&word=2&patch=27&block=1&step=1")
    page.get_by_role("button", name="Load the model, 34 MB, once").click()
    expect(page.get_by_role("status")).to_contain_text("tiny-schnell, 4 steps, seed 3", timeout=60_000)
    return page, record_attention(schnell, PROMPT, SEED, 4)


# ---------------------------------------------------------------- the page


def test_it_is_there_within_a_second_and_moves_before_anything_is_loaded(page, capsys):
    ready = page.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1000
    with capsys.disabled():
        print(f"\nthe live map, from the first request to interactive: {ready:.2f} s", end=" ")
    assert ready < BUSY * 1
    kept = sum(path.stat().st_size for path in paintings.painted().rglob("*") if path.is_file())
    assert kept <= 400_000
    first = page.locator("#station .caption").inner_text()
    page.get_by_role("button", name="Step 3 of 4").click()
    assert page.locator("#station .caption").inner_text() != first and "step=2" in page.url


def test_a_change_is_drawn_at_once(page, record_property):
    """From a control that is moved to the frame that shows the change, on every station that has one."""
    times = []
    for station in range(STATIONS - 1):
        choose(page, station)
        times.append(median(page.evaluate(MOVE) for _ in range(5)))
    said = f"the live map draws a change in {median(times):.0f} ms (aim 50), on its slowest station in {max(times):.0f}"
    record_property("measured", said)
    assert median(times) < 50 * BUSY


def test_the_controls_are_called_what_they_are(page):
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value(paintings.PROMPTS[0][0])
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny-schnell")
    for name in ("Seed", "Steps", "Guidance"):
        assert page.get_by_role("slider", name=name, exact=True).count() == 1
    expect(page.get_by_role("button", name="Paint", exact=True)).to_be_enabled()
    expect(page.locator("canvas#picture")).to_have_attribute(
        "aria-label", f"The picture painted from “{paintings.PROMPTS[0][0]}”"
    )
    expect(page.get_by_role("status")).to_contain_text("Painted when this book was built")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_screen_reader_and_weak_eyes_find_their_way(page, theme):
    if theme == "dark":
        page.get_by_role("button", name="Light or dark").click()
    for station in range(STATIONS):
        choose(page, station)
        result = Axe().run(page, options={"resultTypes": ["violations"]})
        faults = {
            rule["id"]: [node["html"][:160] for node in rule["nodes"]][:3] for rule in result.response["violations"]
        }
        assert not faults, f"station {station}, {theme}: {json.dumps(faults, indent=1)}"


def test_the_tour_is_walked_by_keyboard_left_and_resumed(page, address):
    titles = []
    for station in range(STATIONS):
        titles.append(page.locator("#station-title").inner_text())
        assert len(page.locator("#station-text").inner_text().split()) <= 60
        assert station == STATIONS - 1 or page.locator("#equations a").count() >= 3
        page.get_by_role("button", name="Next", exact=True).focus()
        page.keyboard.press("Enter")
    assert len(set(titles)) == STATIONS and all(title.endswith("?") for title in titles)
    page.get_by_role("button", name="Back", exact=True).press("Enter")
    left = page.url
    page.goto("about:blank")
    page.goto(left)
    expect(page.locator("#station-title")).to_have_text(titles[STATIONS - 2])
    page.get_by_role("link", name="Places: how does a token know where it is?").press("Enter")
    expect(page.locator("#station-title")).to_have_text(titles[6])


def test_the_address_is_text_and_never_html(context, address):
    page = context.new_page()
    prompt = "<img src=x onerror='window.hit=1'><b>fox</b>"
    show(page, address, f"#station=1&seed=-5&steps=4000&model=<i>&prompt={prompt}")
    assert page.get_by_label("Prompt", exact=True).input_value() == prompt
    assert (
        page.get_by_label("Seed", exact=True).input_value() == "0"
        and page.get_by_label("Steps", exact=True).input_value() == "4"
    )
    assert page.locator("main b, main i, img[src=x]").count() == 0 and not page.evaluate("window.hit")
    page.close()


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_screen_is_too_narrow(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for station in range(STATIONS):
        choose(page, station)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"station {station}"


def test_a_missing_file_is_a_sentence_and_the_five_paintings_stay(browser, address):
    page = browser.new_page()
    page.route("**/schnell.safetensors*", lambda route: route.fulfill(status=404))
    show(page, address)
    page.get_by_role("button", name="Load the model").click()
    expect(page.get_by_role("status")).to_contain_text("schnell.safetensors", timeout=30_000)
    page.get_by_role("button", name=paintings.PROMPTS[3][0]).click()
    expect(page.get_by_role("status")).to_contain_text("Painted when this book was built")
    page.close()


# ---------------------------------------------------------------- the numbers of the five paintings


def test_the_stations_before_the_network_show_the_packages_numbers(page, schnell):
    prompt, seed = paintings.PROMPTS[0]
    shown = choose(page, 1)
    assert shown["ids"] == [schnell.t5.tokenizer(prompt)["input_ids"][2]]
    assert shown["row"] == pytest.approx(schnell.t5([prompt])[0, 2, ::4][:8].tolist(), abs=0.05)
    x = patchify(get_noise(1, 128, 128, "cpu", torch.float32, seed))
    shown = choose(page, 2)
    assert shown["id"] == [0, 3, 3] and shown["token"] == pytest.approx(x[0, 27].tolist(), abs=1e-6)
    choose(page, 3)
    page.get_by_label("Pixels on a side").fill("1024")
    page.get_by_label("Number of steps N").fill("12")
    shown = numbers(page)
    assert shown["size"] == 1024 and shown["steps"] == 12
    assert shown["levels"] == pytest.approx(get_schedule(shown["steps"], (shown["size"] // 16) ** 2), abs=1e-12)
    assert shown["mu"] == pytest.approx(get_lin_function()((shown["size"] // 16) ** 2))


def test_places_turn_queries_and_keys_as_the_package_turns_them(page):
    choose(page, 6)
    page.get_by_label("Place of the query").fill("4")
    page.get_by_label("Place of the key").fill("9")
    page.get_by_label("Pair of channels").fill("3")
    shown = []
    for i, j in ((4, 9), (8, 13)):
        q, k = (turned_arrow(phase, place, pair=3) for phase, place in ((0.3, i), (1.1, j)))
        shown.append(numbers(page))
        assert shown[-1]["omega"] == pytest.approx(float(rope_frequencies(28, 10_000)[3]))
        assert shown[-1]["score"] == pytest.approx(float(q @ k), abs=1e-6)
        assert math.cos(shown[-1]["angle"]) == pytest.approx(float(q @ k), abs=1e-6)
        page.get_by_label("Move both").fill("8")
    assert shown[0]["score"] == pytest.approx(shown[1]["score"]) and shown[0]["score"] != pytest.approx(math.cos(0.8))


def turned_arrow(phase, place, pair):
    x = torch.zeros(1, 1, 1, 28)
    x[..., 2 * pair], x[..., 2 * pair + 1] = math.cos(phase), math.sin(phase)
    return apply_rope(x, rope(torch.full((1, 1, 1), float(place)), 28, 10_000)).flatten()


def check_inside(page, record, generator, step, word, near):
    """Stations 4, 5, 7, 8, 9 and 10 against a record of the same walk; `near` compares two lists of numbers."""
    shown = choose(page, 4)["rows"]
    rows = [row for row in paintings.modulation_rows(generator) if row[0].startswith("double 1")]
    expected = paintings.modulations(record, generator)[step]
    where = [name for name, _, _ in paintings.modulation_rows(generator)]
    for (name, _, _), row in zip(rows, shown, strict=True):
        assert row[0] == name
        near(row[1:], expected[where.index(name)].square().mean(-1).sqrt().tolist(), coarse=True)
    lengths = paintings.norms(record, generator)[step, 1, 0]
    shown = choose(page, 5)
    for key, x in (("before", lengths[0]), ("after", lengths[1])):
        near(shown[key], [float(x.min()), float(x.max())])
    A = record.attention[step, 1].mean(0)
    shown = choose(page, 7)
    assert (shown["block"], shown["word"]) == (1, word)
    near(shown["map"], word_map(A, record.tokens(word), record.L_txt, record.grid).flatten().tolist())
    near(sum(shown["quadrants"], []), quadrant_shares(A, record.L_txt).flatten().tolist())
    expected = paintings.changes(record, generator)[step]
    assert expected[:3].argmax(0).tolist() == [2, 0] and expected[3:, 1].argmax() == 5  # as the stations' texts say
    near(sum(choose(page, 8)["changes"], []), expected[:3].flatten().tolist())
    near(sum(choose(page, 9)["changes"], []), expected[3:].flatten().tolist())
    velocity = record.traced["final_layer"][step]
    near([choose(page, 10)["v"]], [float(velocity.square().mean().sqrt())])


def test_the_kept_numbers_are_the_packages_in_eight_bits(page, address, schnell):
    prompt, seed = paintings.PROMPTS[0]
    show(page, address, "#step=1&word=2&block=1&station=7")

    def near(shown, expected, coarse=False):  # WebP and every eighth channel
        assert shown == pytest.approx(expected, rel=0.3 if coarse else 0.1, abs=0.02)

    page.reload()
    page.locator("body[data-ready]").wait_for()
    check_inside(page, record_attention(schnell, prompt, seed, 4), schnell, 1, "fox", near)


def test_guidance_is_shown_as_the_package_computes_it(page):
    tiny, dev = (FluxGenerator(name, "cpu") for name in ("tiny", "tiny-dev"))
    planes, _ = paintings.guidance_planes(tiny, dev, *paintings.PROMPTS[0])
    choose(page, 11)
    for step, plane in enumerate(planes):
        page.get_by_role("button", name=f"Step {step + 1} of 4").click()
        shown = numbers(page)
        for key in ("t", "dev", "off"):
            assert np.array(shown[key]) == pytest.approx(np.array(plane[key]), abs=1e-3), (step, key)
        page.get_by_label("w of the arrows").fill("5")
        said = f"went {shown['dev'][4][0]:.2f} along and lies {shown['off'][4]:.2f} away"
        assert said in page.locator("#station .caption").inner_text()
    for plane in planes:  # the more it is told to follow the prompt, the farther it goes
        along = [x for x, _ in plane["dev"]]
        assert along == sorted(along)
    assert [along for along, _ in planes[0]["dev"][:4]] == pytest.approx([1, 2, 3, 4], rel=0.1)
    assert planes[-1]["dev"][3][0] < 3  # later it falls behind


# ---------------------------------------------------------------- the engine's own painting


def shown_picture(page, canvas="#figure figure:last-child canvas"):
    data = page.locator(canvas).last.evaluate(
        "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 128, 128).data)"
    )
    return np.array(data).reshape(128, 128, 4)[..., :3].astype(int)


def assert_same(shown, picture):
    far = np.abs(shown - np.asarray(picture).astype(int))
    assert far.max() <= 1 and (far > 0).mean() < 0.001


def test_an_own_prompt_is_painted_as_the_generator_paints_it(painted):
    page, record = painted
    assert_same(shown_picture(page, "#picture"), record.picture)


def test_the_numbers_inside_an_own_painting_are_the_packages(painted, schnell):
    page, record = painted

    def near(shown, expected, coarse=False):
        assert shown == pytest.approx(expected, rel=1e-3, abs=1e-5)

    check_inside(page, record, schnell, 1, "robot", near)


def test_a_block_left_out_is_left_out_as_the_package_does(painted, schnell):
    page, _ = painted
    choose(page, 8)
    page.get_by_role("button", name="Paint without double block 2").click()
    page.get_by_text("without double block 2", exact=True).wait_for(timeout=20_000)
    with ablate(schnell.model.double_blocks[1]):
        assert_same(shown_picture(page), schnell.generate_image(128, 128, 4, 0, SEED, PROMPT))


def test_a_word_that_nobody_looks_at_has_no_weight_in_the_package_either(painted, schnell, monkeypatch):
    page, record = painted
    choose(page, 7)
    page.get_by_role("button", name="Paint with nobody looking at “robot”").click()
    page.get_by_text("nobody looks at “robot”; T5 and CLIP have read it").wait_for(timeout=20_000)
    tokens = torch.tensor(record.tokens("robot"))

    def hidden(q, k, v, pe):
        weights = attention.attention_weights(q, k, pe).index_fill(-1, tokens, 0)
        return rearrange(weights / weights.sum(-1, keepdim=True) @ v, "b h l k -> b l (h k)")

    monkeypatch.setattr(attention, "attention", hidden)
    monkeypatch.setattr(single_stream, "attention", hidden)
    expected = schnell.generate_image(128, 128, 4, 0, SEED, PROMPT)
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(record.picture)).mean() > 5
    assert_same(shown_picture(page), expected)


def test_pixels_come_from_the_planes_that_are_on_as_in_the_package(painted, schnell):
    page, record = painted
    x0 = []
    schnell.generate_image(*(128, 128, 4, 0, SEED, PROMPT), callback=lambda i, t, x, v: x0.append(predict_x0(x, v, t)))
    z = unpatchify(x0[-1], 128, 128)
    table = torch.tensor(json.loads((paintings.painted() / "painted.json").read_text("utf-8"))["preview"])
    colours = (z[0].flatten(1).T @ table[:16] + table[16]).clamp(0, 255).round().to(torch.uint8).reshape(16, 16, 3)
    large = np.asarray(Image.fromarray(colours.numpy()).resize((128, 128), Image.Resampling.BILINEAR), float)
    error = np.mean((large - np.asarray(record.picture)) ** 2)
    assert choose(page, 12)["db"] == pytest.approx(10 * math.log10(255**2 / error), abs=0.2)
    page.get_by_role("group", name="Planes of the latent").get_by_role("button", name="3", exact=True).click()
    expect(page.locator("#figure .wait")).to_have_count(0, timeout=20_000)
    assert numbers(page)["off"] == [2]
    z[:, 2] = 0
    assert_same(shown_picture(page), to_picture(schnell.ae.decode(z)[0]))


def test_the_newest_wish_is_painted_and_the_model_stays_in_the_cache(painted, context, address):
    page, _ = painted
    seed = page.get_by_label("Seed", exact=True)
    for value in ("4", "5", "6"):
        seed.fill(value)
    expect(page.get_by_role("status")).to_contain_text("seed 6", timeout=20_000)
    again = context.new_page()
    fetched = []
    again.on("request", lambda request: fetched.append(request.url))
    show(again, address)
    again.get_by_role("button", name="Start the model, which this browser keeps").click()
    expect(again.get_by_role("status")).to_contain_text("this browser keeps it", timeout=60_000)
    assert not [url for url in fetched if ".safetensors" in url]
    again.close()
