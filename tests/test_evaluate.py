"""The measure: what is held out, the judge and its loss, what is painted, judged and reported. Eq. (9.4)."""

import argparse
import json
import math
from dataclasses import replace

import evaluate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from eval_configs import EvalConfig, comparisons, eval_configs, size_configs
from evaluate import contact_sheet, gather, new_styles, parse_size, prompt_scenes, save_sheets
from PIL import Image
from reports import markdown, score_table, write_reports

from flux_edu.io.checkpoint import CheckpointError, save_int8
from flux_edu.io.tiny import tiny_tokenizer
from flux_edu.train.data import (
    ABOVE,
    BESIDE,
    COLOURS,
    ONE,
    SHIPPED,
    SIZE,
    STYLES,
    Drawings,
    Scenes,
    captions,
    draw_scenes,
    held_out,
    load_drawings,
    render,
)
from flux_edu.train.judge import augment, find_duplicates, save_index, training_crops
from flux_edu.train.judge_model import (
    JUDGE_FOLDER,
    Judge,
    ZeroShotClassifier,
    best_arrangement,
    ground_colour,
    load_classifier,
    name_tokens,
    object_crops,
    verdict,
    views,
)
from flux_edu.train.objectives import contrastive_loss


@pytest.fixture(scope="module")
def drawings():
    return load_drawings()


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


@pytest.fixture(scope="module")
def own(classifier, drawings):
    """The shipped drawings, numbered as in the judge's index, with pixels for those that ship and none for others."""
    where = {(s, classifier.drawings.names[c]["en"][0]): i for i, (s, c) in enumerate(_parts(classifier.drawings))}
    return np.array([where[s, drawings.names[c]["en"][0]] for s, c in _parts(drawings)])


@pytest.fixture(scope="module")
def index(classifier):
    """A sixth of the judge's index: finding what is held out among all pairs of 1,100 takes a while."""
    every = classifier.drawings
    keep = every.concept % 6 == 1
    return Drawings(every.pixels, every.style[keep], every.concept[keep] // 6, every.names[1::6])


def _parts(drawings):
    return zip(drawings.style.tolist(), drawings.concept.tolist(), strict=True)


def scenes_of(layout, drawing, colour=0):
    """Scenes at their exact places."""
    n, quarter = len(drawing), SIZE / 4
    place = np.full((n, 2, 3), SIZE / 2)
    place[..., 0] = 104 if layout == ONE else 58
    if layout != ONE:
        place[:, 0, 1 + (layout == ABOVE)] -= quarter
        place[:, 1, 1 + (layout == ABOVE)] += quarter
    return Scenes(np.full(n, layout), np.array(drawing), place, np.full(n, colour))


# ---------------------------------------------------------------- what is held out


def parts_of(drawings, scenes, i):
    """What the caption of one scene names: (style, name) of each thing, and the colour."""
    shown = [0] if scenes.layout[i] == ONE else [0, 1]
    things = [(STYLES[drawings.style[k]], drawings.names[drawings.concept[k]]["en"][0]) for k in scenes.drawing[i]]
    return [things[k] for k in shown], list(COLOURS)[scenes.colour[i]]


def is_held_out(things, colour):
    names = [name for _, name in things]
    return (
        any(held_out(style=style, name=name) for style, name in things)
        or any(held_out(name=name, colour=colour) for name in names)
        or (len(names) == 2 and held_out(name=names[0], other=names[1]))
    )


def test_the_judge_names_what_it_sees(classifier, drawings):
    """Things and their places, in pictures composed anew."""
    scenes = draw_scenes(drawings, 60, seed=12)
    seen = classifier.things(render(drawings, scenes))
    assert [len(things) for things in seen] == [1 if layout == ONE else 2 for layout in scenes.layout]
    true = [[drawings.names[c]["en"][0] for c in drawings.concept[row]] for row in scenes.drawing]
    right = [
        [thing["en"][0] for thing in things] == named[: len(things)] for things, named in zip(seen, true, strict=True)
    ]
    assert np.mean(right) >= 0.95


def test_nothing_leaks_into_training(index):
    trained, tested = draw_scenes(index, 1500, seed=3), prompt_scenes(index, 400, seed=4)
    assert not any(is_held_out(*parts_of(index, trained, i)) for i in range(len(trained)))
    assert all(is_held_out(*parts_of(index, tested, i)) for i in range(len(tested)))
    assert (tested.layout[:200] == ONE).all() and (tested.layout[200:] != ONE).all()


def test_the_split_asks_only_for_the_captions_parts(index):
    """Two scenes whose captions have the same parts are on one side, whatever places, layout and order."""
    a, b = draw_scenes(index, 100, seed=5, pairs=1.0, unseen=True), draw_scenes(index, 100, seed=5, pairs=1.0)
    for scenes, side in ((a, True), (b, False)):
        for i in range(len(scenes)):
            things, colour = parts_of(index, scenes, i)
            assert is_held_out(things[::-1], colour) is side


# ---------------------------------------------------------------- the objective


def test_a_few_steps_on_a_few_drawings_make_the_loss_fall(drawings):
    torch.manual_seed(0)
    model = Judge(len(tiny_tokenizer()), channels=(8, 16, 16))
    tokens = name_tokens(drawings)
    crops, drawing = training_crops(drawings, 12, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = contrastive_loss(*model(crops, tokens[drawing])[:2], drawing, model.log_scale.exp())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# ---------------------------------------------------------------- what the judge sees


def test_views_are_where_the_drawings_are(drawings):
    x = torch.arange(2 * 3 * SIZE * SIZE).float().reshape(2, 3, SIZE, SIZE)
    v = views(x)
    assert v.shape == (2, 5, 3, 64, 64)
    torch.testing.assert_close(v[:, 0, :, 0, 0], x[:, :, :2, :2].mean((2, 3)))
    assert (v[:, 1, :, 0, 0] == x[:, :, 32, 0]).all() and (v[:, 2, :, 0, 0] == x[:, :, 32, 64]).all()
    assert (v[:, 3, :, 0, 0] == x[:, :, 0, 32]).all() and (v[:, 4, :, 0, 0] == x[:, :, 64, 32]).all()
    scenes = Scenes(
        np.array([ABOVE, ONE, BESIDE]), np.array([[5, 6], [7, 8], [9, 10]]), np.zeros((3, 2, 3)), np.zeros(3, int)
    )
    rows = sorted(zip(*(x.tolist() for x in object_crops(scenes)), strict=True))
    assert rows == [(0, 3, 5), (0, 4, 6), (1, 0, 7), (2, 1, 9), (2, 2, 10)]


def test_training_crops_hold_what_they_say(drawings):
    """Crop and number belong together: the crop is nearer to its own drawing than to almost all others."""
    crops, drawing = training_crops(drawings, 20, seed=2)
    assert crops.shape[1:] == (3, 64, 64) and len(crops) == len(drawing)
    plain = render(drawings, scenes_of(ONE, [[k, k] for k in range(len(drawings.style))], 9))
    small, bank = F.avg_pool2d(crops, 4).flatten(1), F.avg_pool2d(views(plain)[:, 0], 4).flatten(1)
    small, bank = (x - x.mean(1, keepdim=True) for x in (small, bank))
    rank = (F.normalize(small, dim=1) @ F.normalize(bank, dim=1).T).argsort(dim=1, descending=True)
    place = (rank == drawing[:, None]).float().argmax(1).float()
    assert place.median() <= 5  # of 300; places and grounds differ, so not always the first


def test_augmenting_is_mild_and_leaves_some_alone():
    torch.manual_seed(0)
    x = torch.rand(200, 3, 64, 64) * 2 - 1
    x = F.interpolate(x[:, :, ::8, ::8], scale_factor=8)
    off = (augment(x) - x).abs().mean((1, 2, 3))
    assert 0.1 < (off == 0).float().mean() < 0.4
    assert off.max() < 0.3


# ---------------------------------------------------------------- the judge that ships


def test_the_shipped_judge_is_small_and_knows_every_drawing(classifier):
    weights, index = JUDGE_FOLDER / "judge.safetensors", JUDGE_FOLDER / "index.json"
    assert weights.stat().st_size < 1_200_000 and index.stat().st_size < 150_000
    said = json.loads((JUDGE_FOLDER / "judge.json").read_text("utf-8"))
    for kind in ("real", "after_ae"):
        assert min(said[kind].values()) >= 0.98
    assert len(classifier.names) == len(classifier.drawings.style) == sum(classifier.concept.bincount().tolist())
    assert len(classifier.drawings.names) >= 1000 and len(set(classifier.drawings.style)) == 6
    for entry in classifier.drawings.names:
        assert entry["en"] and entry["zh"]


def test_the_shipped_judge_is_right_on_real_pictures(classifier, drawings, own):
    """Held-out scenes of the shipped drawings, among all names; no drawing ships that it does not know."""
    scenes = draw_scenes(drawings, 48, seed=8, unseen=True)
    pictures = render(drawings, scenes)
    asked = Scenes(scenes.layout, own[scenes.drawing], scenes.place, scenes.colour)
    right = verdict(classifier, pictures, asked)
    for key in ("object", "style", "colour", "position", "all"):
        assert right[key].mean() >= 0.95, key
    # and it is no flatterer: asked for other things, it says no
    other = Scenes(scenes.layout, own[np.roll(scenes.drawing, 1, axis=0)], scenes.place, (scenes.colour + 1) % 10)
    wrong = verdict(classifier, pictures, other)
    assert wrong["object"].mean() < 0.1 and not wrong["colour"].any()
    assert wrong["likeness"].mean() < right["likeness"].mean() - 0.3
    turned = Scenes(scenes.layout, own[scenes.drawing[:, ::-1]], scenes.place, scenes.colour)
    two, swapped = scenes.layout != ONE, verdict(classifier, pictures, turned)
    assert not swapped["position"][two].any() and swapped["object"][two].mean() >= 0.95


def test_saved_and_loaded_it_gives_the_same_answers(drawings, tmp_path):
    torch.manual_seed(1)
    model = Judge(len(tiny_tokenizer())).eval()
    save_int8(model.state_dict(), tmp_path / "judge.safetensors")
    save_index(drawings, [[0, 1]], tmp_path / "index.json")
    one, again = ZeroShotClassifier(model, drawings, [[0, 1]]), load_classifier(tmp_path)
    assert (again.drawings.style == drawings.style).all() and (again.drawings.concept == drawings.concept).all()
    assert again.drawings.names == drawings.names and len(again.drawings.pixels) == 0
    crops = torch.rand(5, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(again.similarity(crops), one.similarity(crops), atol=0.05, rtol=0)
    assert (again.accepted == one.accepted).all()
    state = model.state_dict()
    save_int8({key: x for key, x in state.items() if key != "text.bias"}, tmp_path / "judge.safetensors")
    with pytest.raises(CheckpointError, match=r"text\.bias"):
        load_classifier(tmp_path)


def test_duplicates_are_drawings_that_look_alike(drawings):
    assert find_duplicates(drawings) == []
    copy = load_drawings()
    flat = np.flatnonzero(copy.style == STYLES.index("flat"))[:2]
    copy.pixels[int(flat[1])] = copy.pixels[int(flat[0])]
    assert find_duplicates(copy) == [[int(flat[0]), int(flat[1])]]
    torch.manual_seed(0)
    classifier = ZeroShotClassifier(Judge(len(tiny_tokenizer())).eval(), copy, find_duplicates(copy))
    a, b = (int(copy.concept[k]) for k in flat)
    assert classifier.accepted[flat[0]].nonzero().flatten().tolist() == sorted((a, b))
    assert classifier.accepted.sum() == len(copy.style) + 2


def test_colours_are_measured_from_the_border(drawings):
    scenes = draw_scenes(drawings, 60, seed=14)
    assert (ground_colour(render(drawings, scenes)).numpy() == scenes.colour).all()
    plain = torch.tensor(list(COLOURS.values())).float()[:, :, None, None].expand(-1, -1, SIZE, SIZE) / 127.5 - 1
    assert ground_colour(plain + 0.05 * torch.randn(10, 3, SIZE, SIZE)).tolist() == list(range(10))


@pytest.mark.parametrize("layout", [BESIDE, ABOVE])
@pytest.mark.parametrize("turned", [False, True])
def test_positions_with_a_judge_that_only_counts_pixels(drawings, layout, turned):
    """A similarity by pixels in place of the trained one: the arrangement is found on real pictures."""
    fox, apple = drawings.find("flat", "fox"), drawings.find("flat", "red apple")
    pictures = render(drawings, scenes_of(layout, [[apple, fox] if turned else [fox, apple]]))
    one = views(render(drawings, scenes_of(BESIDE, [[fox, apple]])))[0]
    seen = views(pictures)[0].flatten(1)
    first, second = (-(seen - one[k].flatten()).abs().mean(1)[None] for k in (1, 2))
    best, at_first, at_second = best_arrangement(first, second)
    expected = (0 if layout == BESIDE else 2) + turned
    assert best.item() == expected
    assert (at_first.item(), at_second.item()) == [(1, 2), (2, 1), (3, 4), (4, 3)][expected]


# ---------------------------------------------------------------- prompts, settings, reports


def test_prompts_name_style_and_colour_and_say_the_same_in_both_languages(index):
    scenes = prompt_scenes(index, 60, seed=1)
    english, chinese = (captions(index, scenes, 7, chinese, complete=True) for chinese in (0, 1))
    for i, (text, zh) in enumerate(zip(english, chinese, strict=True)):
        things, colour = parts_of(index, scenes, i)
        assert f" on a {colour} background" in text.replace(" an ", " a ")
        for style, name in things:
            assert style in text and name in text
        if len(things) == 2:
            first_named = text.index(things[0][1]) < text.index(things[1][1])
            back = " right of " in text or " below " in text
            assert first_named is not back or things[0][1] in things[1][1] or things[1][1] in things[0][1]
            assert ("右边" in zh or "下面" in zh) is back
    assert len(set(english)) > 50 and captions(index, scenes, 8, 0, complete=True) != english


def test_configurations_compare_one_thing_at_a_time():
    chosen = eval_configs(["tiny", "tiny-dev", "tiny-schnell"], quick=False)
    assert len(set(chosen)) == len(chosen)
    assert {s.steps for s in chosen if s.model == "tiny"} == {28, 8, 4, 2, 1}
    pairs = comparisons(chosen)
    for w in (1.5, 2.0, 3.0, 5.0):
        assert (EvalConfig("tiny-dev", 28, w), EvalConfig("tiny", 28, w)) in pairs
    assert (EvalConfig("tiny", 28, 3.0, "Chinese"), EvalConfig("tiny", 28, 3.0)) in pairs
    assert (EvalConfig("tiny-schnell", 4, 0.0), EvalConfig("tiny", 28, 3.0)) in pairs
    assert not any("trained" in (one.prompts, other.prompts) for one, other in pairs)
    assert all(one != other for one, other in pairs)
    assert len(eval_configs(["tiny", "tiny-dev", "tiny-schnell"], quick=True)) < 12


def test_sizes_are_painted_with_their_own_shift_with_none_and_with_that_of_4096_tokens():
    wide = parse_size("256x128")
    chosen = size_configs(["tiny", "tiny-schnell"], [(96, 96), wide])
    assert len(set(chosen)) == len(chosen) == 2 * (2 + 4 * 3) + 2
    usual, four = EvalConfig("tiny", 28, 3.0, size=wide), EvalConfig("tiny", 4, 1.5, size=wide)
    assert usual in chosen and EvalConfig("tiny-schnell", 4, 0.0, size=wide) in chosen
    own, none, large = (replace(four, shift_tokens=tokens).timesteps()[2] for tokens in (None, 0, 4096))
    expected = [1 / (1 + math.exp(-mu)) for mu in (0.5 - 128 * 0.65 / 3840, 0, 1.15)]  # Eq. (1.3) at t = 1/2, L = 128
    assert [own, none, large] == pytest.approx(expected, abs=1e-6)
    assert EvalConfig("tiny-schnell", 4, 0.0, size=wide).timesteps()[2] == 0.5
    pairs = comparisons(chosen)
    assert (four, usual) in pairs and (replace(four, shift_tokens=4096), four) in pairs
    assert (EvalConfig("tiny-schnell", 4, 0.0, size=wide), usual) in pairs
    assert all(one.size == other.size for one, other in pairs)
    assert str(replace(four, shift_tokens=0)) == "tiny, 4 steps, w = 1.5, English, 256 × 128, no shift"
    for wrong in ("250x128", "256", "axb"):
        with pytest.raises(argparse.ArgumentTypeError, match="multiples of 16"):
            parse_size(wrong)


def test_new_styles_are_single_things_in_styles_that_training_never_showed_them_in(index):
    scenes = prompt_scenes(index, 200, seed=3)
    new = new_styles(index, scenes)
    for i in range(200):
        (style, name), *second = parts_of(index, scenes, i)[0]
        assert new[i] == (not second and held_out(style=style, name=name))
    assert 10 < new.sum() < 90


def test_reports_say_what_is_right(tmp_path, index):
    scenes = prompt_scenes(index, 20, seed=2)
    right = {key: np.arange(20) % 2 == 0 for key in ("object", "style", "colour", "position", "all")}
    rows = score_table("tiny, 28 steps", right, scenes)
    assert [r["share"] for r in rows] == [0.5] * len(rows) and {r["n"] for r in rows} == {10}
    better = right | {"object": np.ones(20, bool)}
    paired = score_table("new − old", better, scenes, minus=right)
    assert [r["share"] for r in paired if r["measure"] == "object"] == [0.5, 0.5]
    text = markdown(rows, "share")
    assert "| tiny, 28 steps | 50.0 (23.7 to 76.3) |" in text
    write_reports(tmp_path, rows, paired, {"prompts": 20})
    assert json.loads((tmp_path / "evaluate.json").read_text("utf-8"))["shares"] == rows
    assert len((tmp_path / "evaluate.csv").read_text("utf-8").splitlines()) == 1 + len(rows) + len(paired)
    pictures = torch.zeros(20, 3, SIZE, SIZE, dtype=torch.uint8)
    save_sheets(pictures, ["a fox"] * 20, right | {"likeness": np.arange(20.0)}, tmp_path / "tiny", seed=0)
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["tiny-best.png", "tiny-lowest.png", "tiny-wrong.png"]
    assert contact_sheet(pictures[:9], ["a"] * 9).size == (8 * 136, 2 * (SIZE + 58))


def test_the_command_paints_judges_and_reports(drawings, classifier, tmp_path, monkeypatch):
    """All of it, with a judge that knows the shipped drawings alone, so that both judges can look."""
    known = ZeroShotClassifier(classifier.judge, drawings, [])
    monkeypatch.setattr(evaluate, "load_classifier", lambda *_: known)
    options = ["--quick", "--prompts=4", "--models", "tiny-schnell", f"--data={SHIPPED}", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["evaluate", *options, "--device=cpu"])
    evaluate.main()
    shares = json.loads((tmp_path / "evaluate.json").read_text("utf-8"))["shares"]
    real = ["real pictures" + change for change in ("", " after the autoencoder", " blurred to 16 × 16", " exchanged")]
    names = [*real, "tiny-schnell, 4 steps, w = 0, English"]
    assert list(dict.fromkeys(row["what"] for row in shares))[:5] == names
    rows = {name: [r for r in shares if r["what"] == name] for name in names}
    right = [row["share"] for row in rows[names[0]] if row["measure"] != "fine detail"]
    assert len(right) == 13 and min(right) == 1 and {row["n"] for row in rows[names[0]]} == {2}
    assert all(row["share"] < 0.01 for row in rows[names[2]] if row["measure"] == "fine detail")
    assert not any(row["share"] for row in rows[names[3]] if row["measure"] == "all")
    measured = {"object", "count", "tint", "small", "place", "fine detail"}
    assert measured == {row["measure"] for row in shares[-12:]}
    assert (tmp_path / "tiny-schnell-128x128-best.png").is_file()


def test_the_command_paints_other_sizes(drawings, classifier, tmp_path, monkeypatch):
    known = ZeroShotClassifier(classifier.judge, drawings, [])
    monkeypatch.setattr(evaluate, "load_classifier", lambda *_: known)
    options = ["--prompts=2", "--models", "tiny-schnell", f"--data={SHIPPED}", f"--out={tmp_path}", "--device=cpu"]
    monkeypatch.setattr("sys.argv", ["evaluate", "--sizes", "96x96", "128x64", *options])
    evaluate.main()
    shares = json.loads((tmp_path / "evaluate.json").read_text("utf-8"))["shares"]
    for size in ("96 × 96", "128 × 64"):
        real = [r["share"] for r in shares if r["what"] == f"real pictures, {size}" and r["measure"] == "colour"]
        assert real == [1, 1]
        assert any(r["what"] == f"tiny-schnell, 4 steps, w = 0, English, {size}" for r in shares)
    with Image.open(tmp_path / "tiny-schnell-128x64-best.png") as sheet:
        assert sheet.size == (8 * 136, 64 + 58)


def test_what_one_process_has_seen_is_all_there_is():
    whole = gather({"object": np.array([True, False, True]), "likeness": np.arange(3.0)}, 3)
    assert whole["object"].tolist() == [True, False, True] and whole["likeness"].tolist() == [0, 1, 2]
