"""What people ask for: captions and pictures agree, and what is measured of them without a judge is right."""

import re

import numpy as np
import pytest
import torch
from asked_verdict import asked_verdict, regions
from tokenizers import Tokenizer

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.train import asked, latent_pool
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.data import CHINESE, COLOURS, SIXTEEN, STYLES, captions, draw_scenes, held_out, load_drawings
from flux_edu.train.judge_model import ground_colour
from flux_edu.train.latent_pool import Pool, compose_scenes
from flux_edu.train.text_to_velocity import TextEncoders
from flux_edu.train.tokenizer import pieces, word_tokenizer

BALLOON = {"emoji": "🎈", "en": ["red balloon"], "zh": "红色气球"}
FOX = {"emoji": "🦊", "en": ["fox"], "zh": "狐狸"}


@pytest.fixture(scope="module")
def catalogue():
    return asked.make_catalogue(load_drawings())


def test_requests_are_worded_as_people_type_them():
    english = asked.ask_english(BALLOON, 3, "flat", False, "", "white")
    assert english == "three flat red balloons on a white background"
    assert asked.ask_english(FOX, 1, "", True, "in the corner", "") == "a small fox in the corner"
    assert asked.ask_english({"en": ["owl"]}, 1, "", False, "", "orange") == "an owl on an orange background"
    assert asked.ask_chinese(FOX, 1, "", False, "", "", asked.measure_word(FOX)) == "一只狐狸"
    corner = asked.ask_chinese(BALLOON, 2, "flat", True, "in the upper left corner", "white", "个")
    assert corner == "白色背景上左上角的两个小扁平红色气球"


def test_plurals_and_measure_words():
    words = {"fox": "foxes", "polar bear": "polar bears", "puppy": "puppies", "wolf": "wolves", "tropical fish": ""}
    words |= {"computer mouse": "computer mice", "key": "keys", "wrench": "wrenches", "t-shirt": "t-shirts"}
    assert {name: asked.plural(name) for name in words} == words | {"tropical fish": "tropical fish"}
    entries = [
        ("🚗", "汽车"),
        ("🌹", "玫瑰"),
        ("🐴", "马"),
        ("🦛", "河马"),
        ("🐌", "蜗牛"),
        ("📖", "打开的书本"),
        ("🎈", "气球"),
    ]
    words = [asked.measure_word({"emoji": emoji, "zh": name}) for emoji, name in entries]
    assert words == list("辆朵匹只只本个")


@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 128), (96, 160)])
def test_captions_and_pictures_agree(catalogue, width, height):
    """Number, colour, place, size and background, read from the English words and looked for in the picture."""
    drawings, n = catalogue.drawings, 160
    requests = asked.draw_asked(catalogue, n, 7, width=width, height=height, counted=0.6)
    texts = asked.asked_captions(drawings, requests, 7, chinese=0.0)
    pictures = asked.render_asked(drawings, requests, width, height)
    grounds, right = ground_colour(pictures), asked_verdict(catalogue, pictures, requests)
    seen = {"number": 0, "place": 0, "small": 0, "ground": 0}
    for i, (text, masks) in enumerate(zip(texts, regions(pictures), strict=True)):
        entry = drawings.names[drawings.concept[requests.drawing[i]]]
        number = {"two": 2, "three": 3}.get(text.removeprefix("a picture of ").split()[0], 1)
        assert number == requests.count[i] and (entry["en"][0] in text or asked.plural(entry["en"][0]) in text)
        seen["number"] += number > 1
        if on := re.search(r" on an? (\w+) background$", text):
            seen["ground"] += 1
            assert list(COLOURS)[grounds[i]] == on[1]
        if len(masks) == 0:  # the thing has the colour of its background
            continue
        y, x = np.nonzero(masks.any(axis=0))
        middle = (x.min() + x.max()) / 2 / width, (y.min() + y.max()) / 2 / height
        for words, axis, sign in (("left", 0, -1), ("right", 0, 1), ("upper|top", 1, -1), ("lower|bottom", 1, 1)):
            if re.search(rf"(in|on|at) the (upper |lower )?({words})\b", text):
                seen["place"] += 1
                assert sign * (middle[axis] - 0.5) > 0.05, text
        if "small " in text and number == 1:
            seen["small"] += 1
            assert np.ptp(y) <= 0.4 * min(width, height)
    assert min(seen.values()) >= 5, seen
    several = requests.count > 1
    assert right["count"][several].mean() > 0.97 and right["tint"].mean() > 0.97
    assert right["small"][~several].mean() > 0.97 and right["place"][~several].mean() > 0.97


def test_a_verdict_can_be_wrong(catalogue):
    """Another number, and another colour, are seen."""
    requests = asked.draw_asked(catalogue, 60, 3, tinted=1.0, counted=1.0, placed=0.0, small=0.0)
    requests = requests[np.flatnonzero(requests.count > 1)]
    pictures = asked.render_asked(catalogue.drawings, requests)
    requests.count = 5 - requests.count  # two for three, three for two
    assert asked_verdict(catalogue, pictures, requests)["count"].mean() < 0.05
    turned = asked_verdict(catalogue, pictures.roll(1, dims=1), requests)["tint"]
    assert turned.mean() < 0.5


def test_a_large_thing_and_one_at_another_place_are_seen(catalogue):
    for places, key in ((0.0, "small"), (1.0, "place")):
        requests = asked.draw_asked(catalogue, 40, 3, tinted=0.0, counted=0.0, placed=places, small=0.0)
        pictures = asked.render_asked(catalogue.drawings, requests)
        assert asked_verdict(catalogue, pictures, requests)[key].mean() > 0.95
        empty = asked_verdict(catalogue, torch.zeros_like(pictures), requests)
        assert not empty[key].any()
        requests.small[:], requests.where[:] = True, asked.MIDDLE
        assert asked_verdict(catalogue, pictures, requests)[key].mean() < 0.1


def test_regions_are_counted_as_an_eye_would():
    picture = torch.full((1, 3, 64, 64), -1.0)
    picture[0, :, 8:20, 8:20] = 1
    picture[0, :, 8:20, 21:30] = 1  # a pixel of the ground between them is a flaw and no gap
    picture[0, 0, 40:52, 40:52] = 1
    picture[0, :, 60, 5] = 1  # a speck
    (masks,) = regions(picture)
    assert [int(mask.sum()) for mask in masks] == [12 * 22, 144]
    assert len(regions(torch.zeros(1, 3, 64, 64))[0]) == 0


def test_a_tint_changes_the_main_colour_alone(catalogue):
    drawings = catalogue.drawings
    blue = np.flatnonzero(catalogue.tint == "blue")
    assert len(blue) > 3
    for number in blue:
        entry, style = drawings.names[drawings.concept[number]], STYLES[drawings.style[number]]
        plain = drawings.pixels[drawings.find(style, entry["en"][0].removeprefix("blue "))]
        tinted, solid = drawings.pixels[number], plain[3] > 250
        median = tinted[:3, solid].float().median(dim=1).values
        assert (median - torch.tensor(COLOURS["blue"])).abs().max() < 60, (style, median)
        assert torch.equal(tinted[3], plain[3]) and entry["zh"].startswith(CHINESE["blue"] + "色")
        assert asked.tint(plain.numpy(), COLOURS["blue"])[1] >= 0.6
    grey = np.full((4, 8, 8), 255, np.uint8)
    assert asked.tint(grey, COLOURS["blue"])[1] == 0.0
    names = {drawings.names[c]["en"][0] for c in drawings.concept}
    assert "green guitar" in names and "green fox" not in names


def test_nothing_held_out_is_asked_for_in_training(catalogue):
    drawings, requests = catalogue.drawings, asked.draw_asked(catalogue, 400, 5)
    for drawing, colour in zip(requests.drawing, requests.colour, strict=True):
        name = drawings.names[drawings.concept[drawing]]["en"][0]
        assert not held_out(style=STYLES[drawings.style[drawing]], name=name)
        assert not held_out(name=name, colour=list(COLOURS)[colour])
        assert catalogue.tint[drawing] != list(COLOURS)[colour]


def test_a_pool_mixes_scenes_requests_and_pairs_in_pixels(monkeypatch):
    drawings, written = load_drawings(), []
    texts, ae = TextEncoders(TINY_FOLDER / "tokenizer.json", 32), load_ae(TINY_FOLDER / "ae.safetensors")
    pool = Pool(drawings, ae, texts, 4, (0,))
    monkeypatch.setattr(latent_pool, "encode", lambda ae, pictures: torch.zeros(len(pictures), 16, 8, 16))
    monkeypatch.setattr(pool, "tokens", lambda captions: written.extend(captions) or torch.zeros(len(captions), 32))
    latents, tokens, new = compose_scenes(pool, 120, 3, width=256, height=128, asked=0.3)
    assert len(latents) == len(tokens) == len(written) == 120 and new.nonzero()[0] == 84 and new.sum() == 36
    pairs = [text for text in written[78:84] if " of a" in text or "above" in text or "below" in text or "在" in text]
    assert len(pairs) == 6 and sum("pixel" in text or "像素" in text for text in written[78:84]) >= 4
    assert sum(text.startswith(("two", "three", "a picture")) or "一" in text for text in written[84:]) > 8
    written.clear()
    compose_scenes(pool, 20, 3, unseen=True, asked=0.3)
    assert not any(re.match("two |three |a picture", text) for text in written)


def test_chinese_by_words_is_as_many_tokens_spent_otherwise():
    drawings, tokenizer = load_drawings(), Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))
    texts = [name for entry in drawings.names for name in (*entry["en"], entry["zh"])] * 4
    by_words = word_tokenizer(drawings, texts + captions(drawings, draw_scenes(drawings, 300, seed=8), seed=8), 1200)
    names = [entry["zh"] for entry in drawings.names]
    characters, words = ([len(one.ids) for one in way.encode_batch(names)] for way in (tokenizer, by_words))
    assert np.mean(words) < 0.7 * np.mean(characters) and by_words.get_vocab_size() <= 1200
    for text in (SIXTEEN[0], "一只长颈鹿在红苹果左边", "Größe 🦊 zyx"):
        ids = by_words.encode(text).ids
        assert ids[-1] == 1 and 0 not in ids and by_words.decode(ids).strip() == text.lower()
    assert pieces("红苹果", {"红", "苹", "果", "苹果"}) == ["红", "苹果"] and pieces("红果", {"红"}) is None
