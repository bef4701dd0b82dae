"""What the tools are trained on: edits whose picture before and after agree where they should, masks, outlines."""

import csv
import json

import evaluate_tools
import numpy as np
import pytest
import torch

from flux_edu.configs import configs
from flux_edu.io import lora
from flux_edu.io.checkpoint import read, save_int8
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.sampling import denoise
from flux_edu.train import edits as ed
from flux_edu.train import tools
from flux_edu.train.autoencoder import load_ae
from flux_edu.train.data import BESIDE, COLOURS, ONE, SHIPPED, SIZE, STYLES, draw_scenes, load_drawings, render, seen
from flux_edu.train.latent_pool import Pool
from flux_edu.train.text_to_velocity import TextEncoders


@pytest.fixture(scope="module")
def drawings():
    return load_drawings()


@pytest.fixture(scope="module")
def base():
    return read(TINY_FOLDER / "flux.safetensors")


def merged(name, base, delta):
    return lora.with_delta(configs[f"tiny-{name}"], base, delta, name)


def test_training_sees_nothing_that_is_held_out_and_measuring_nothing_else(drawings):
    trained, measured = ed.draw_edits(drawings, 200, 1), ed.draw_edits(drawings, 60, 2, unseen=True)
    assert seen(drawings, trained.before).all() and seen(drawings, trained.after).all()
    assert not seen(drawings, measured.after).any()
    variants = ed.draw_variations(drawings, 60, 3), ed.draw_variations(drawings, 60, 3, unseen=True)
    assert seen(drawings, variants[0].after).all() and not seen(drawings, variants[1].after).any()
    assert set(trained.kind) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", range(4))
def test_an_edit_changes_what_its_instruction_says_and_nothing_else(drawings, kind):
    edits = ed.draw_edits(drawings, 24, 5 + kind, kinds=(kind,))
    before, after = ed.render_edits(drawings, edits)
    said = ed.instructions(drawings, edits, seed=0, chinese=0, named=0)
    stay = evaluate_tools.should_stay(drawings, edits)
    if kind != ed.SWAP:
        assert (before - after).abs().amax(1, keepdim=True)[stay].max() < 0.05
    assert (before - after).abs().amax(dim=(1, 2, 3)).min() > 0.1
    for i, text in enumerate(said):
        scene, left = edits.before[i : i + 1], edits.shown[i]
        if kind == ed.BACKGROUND:
            assert text == f"make the background {list(COLOURS)[edits.after.colour[i]]}"
        elif kind == ed.STYLE:
            assert text == f"turn it into {STYLES[drawings.style[edits.after.drawing[i, 0]]]} style"
        elif kind == ed.SWAP:
            assert text == f"swap {'left and right' if scene.layout[0] == BESIDE else 'top and bottom'}"
            assert (edits.after.drawing[i] == edits.before.drawing[i, ::-1]).all()
        else:
            gone = edits.before.drawing[i, int(np.flatnonzero(~left)[0])]
            assert text.removeprefix("remove the ") in drawings.names[drawings.concept[gone]]["en"]


def test_another_style_can_be_asked_for_by_name(drawings):
    edits = ed.draw_edits(drawings, 12, 9, kinds=(ed.STYLE,))
    for i, text in enumerate(ed.instructions(drawings, edits, seed=0, chinese=0, named=1)):
        first = drawings.names[drawings.concept[edits.before.drawing[i, 0]]]["en"][0]
        assert text.startswith(f"turn the {first}") and (" and the " in text) == (edits.before.layout[i] != ONE)
    for i, text in enumerate(ed.instructions(drawings, edits, seed=0, chinese=1, named=1)):
        first = drawings.names[drawings.concept[edits.before.drawing[i, 0]]]["zh"]
        assert text.startswith(f"把{first}") and text.endswith("风格")


def test_opacity_is_that_of_the_drawing(drawings):
    scenes = draw_scenes(drawings, 4, 3, pairs=0)
    alpha = ed.opacity(drawings, scenes)
    plain = render(drawings, scenes, shown=None)
    corner = plain[:, :, :1, :1].expand_as(plain)
    assert alpha.min() >= -1e-5 and alpha.max() <= 1 + 1e-5
    assert (plain - corner).abs().amax(1, keepdim=True)[alpha < 1e-4].max() < 1e-3


def test_a_measured_mask_hides_one_thing_and_leaves_the_other(drawings):
    scenes = draw_scenes(drawings, 30, 4, pairs=1)
    masks = ed.draw_masks(scenes, seed=1, measured=True)
    assert masks.shape == (30, 1, SIZE, SIZE) and set(masks.unique().tolist()) == {0, 1}
    first = ed.opacity(drawings, scenes, np.array([[True, False]] * 30))
    second = ed.opacity(drawings, scenes, np.array([[False, True]] * 30))
    for mask, *both in zip(masks, first, second, strict=True):
        hidden = sorted(float((mask * (opacity > 0.5)).sum() / (opacity > 0.5).sum()) for opacity in both)
        assert hidden[0] < 0.05 and hidden[1] > 0.9
    assert (ed.draw_masks(scenes, seed=1).flatten(1).sum(1) > 0).all()


def test_outlines_agree_with_themselves_and_within_a_pixel(drawings):
    pictures = render(drawings, draw_scenes(drawings, 3, 8))
    edges = ed.outlines(pictures, np.full(3, 200.0))
    assert set(edges.unique().tolist()) == {-1, 1}
    assert ed.edge_agreement(edges, edges).tolist() == [1, 1, 1]
    assert ed.edge_agreement(edges.roll(1, dims=-1), edges).min() > 0.95
    assert ed.edge_agreement(edges.roll(9, dims=-1), edges).max() < 0.8


@pytest.mark.parametrize("name", tools.TOOLS)
def test_an_untrained_tool_is_the_base_and_a_trained_one_is_merged(drawings, base, name):
    student, tool = tools.make_student(name, base, rank=8), tools.TOOLS[name]
    torch.manual_seed(0)
    x, t, text = torch.randn(2, 64, 64), torch.tensor([0.3, 0.8]), (torch.randn(2, 32, 256), torch.randn(2, 256))
    ae, texts = load_ae(TINY_FOLDER / "ae.safetensors"), TextEncoders(TINY_FOLDER / "tokenizer.json", 32)
    pool = Pool(drawings, ae, texts, size=2, seed=(0,), compose=tool.compose)
    pool.refresh(0)
    _, _, cond, *_ = pool.batch(2)
    with torch.inference_mode():
        v = tools.tool_velocity(tool, student, x, t, text, cond)
        if name in ("fill", "canny"):  # the new channels change nothing yet
            torch.testing.assert_close(v, tools.tool_velocity(tool, student, x, t, text, 0 * cond))
    for key, p in student.named_parameters():
        if key.endswith("lora_B.weight"):
            torch.nn.init.normal_(p, std=0.02)
    delta = lora.trained_delta(student)
    assert not any("_mod.lin" in key or "time_in" in key for key in delta)
    with torch.inference_mode():
        trained = tools.tool_velocity(tool, student, x, t, text, cond)
        torch.testing.assert_close(
            tools.tool_velocity(tool, merged(name, base, delta), x, t, text, cond),
            trained,
            atol=2e-4,
            rtol=2e-4,
        )
    assert (trained - v).abs().max() > 1e-3


def test_a_teacher_says_what_single_pictures_say_only_on_average(tmp_path, monkeypatch):
    """Redux trained for one step with --taught: an aim without noise, so the loss is a fraction of Eq. (9.1)'s."""
    options = "--taught --steps 1 --pool 8 --batch 8 --report 1 --measure 8 --rank 10 --speed plain --begin".split()
    begin, out = TINY_FOLDER / "redux.safetensors", ["--data", str(SHIPPED), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["tools", "redux", *options, str(begin), *out])
    tools.main()
    with (tmp_path / "redux" / "log.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert 0 < 2 * float(row["loss"]) < json.loads((tmp_path / "redux" / "redux.json").read_text())["held_out"]
    monkeypatch.setattr("sys.argv", ["tools", "fill", "--taught"])
    with pytest.raises(SystemExit):
        tools.main()


def test_kontext_is_trained_on_what_denoise_feeds_it(base):
    """Training puts the reference where sampling puts it."""
    flux, tool = (
        merged("kontext", base, {"img_in.bias": base["img_in.bias"]}),
        tools.TOOLS["kontext"],
    )
    torch.manual_seed(1)
    x, text, cond = torch.randn(1, 64, 64), (torch.randn(1, 32, 256), torch.randn(1, 256)), torch.randn(1, 64, 64)
    with torch.inference_mode():
        v = tools.tool_velocity(tool, flux, x, torch.tensor([1.0]), text, cond)
    _, img_ids, _, txt_ids, *_ = tool.inputs(flux, x, torch.tensor([1.0]), text, cond)
    ids = img_ids[:, 64:]
    assert ids[0, :, 0].unique().tolist() == [1.0] and (ids[0, :, 1:] == img_ids[0, :64, 1:]).all()
    out = denoise(flux, x, img_ids[:, :64], text[0], txt_ids, text[1], [1.0, 0.9], img_cond_seq=(cond, ids))
    torch.testing.assert_close(out, x - 0.1 * v, atol=1e-4, rtol=1e-4)


def test_a_tool_is_measured_from_its_file(base, tmp_path, monkeypatch, capsys):
    """The whole command, with one step and two pictures."""
    for name in ("redux", "kontext"):
        save_int8(lora.trained_delta(tools.make_student(name, base, rank=1)), tmp_path / f"{name}.safetensors")
    whole = evaluate_tools.paint_with
    monkeypatch.setattr(evaluate_tools, "paint_with", lambda *args: whole(*args[:-1], steps=1))
    monkeypatch.setattr(evaluate_tools, "GUIDANCES", (1.0,))
    monkeypatch.setattr(evaluate_tools, "load_drawings", lambda _: load_drawings())
    options = [
        "redux",
        "kontext",
        "fill",
        "--weights",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--pictures",
        "2",
    ]
    monkeypatch.setattr("sys.argv", ["evaluate_tools", *options, "--device", "cpu"])
    evaluate_tools.main()
    report = json.loads((tmp_path / "out" / "redux.json").read_text())["w = 1"]
    assert {"object", "style", "colour", "strict object"} <= set(
        report
    ) and "fill is left out" in capsys.readouterr().out
    assert (tmp_path / "out" / "redux_w1.png").is_file()
    report = json.loads((tmp_path / "out" / "kontext.json").read_text())["w = 1"]
    assert set(report) == {*ed.KINDS, "style, by name"} and report["swap"]["autoencoder_db"] > 20
    said = [(tmp_path / "out" / f"kontext_style{which}.txt").read_text("utf-8") for which in ("", "_name")]
    assert said[0] == said[1] and said[0].startswith("turn the ")  # the judge has found the names


# ---------------------------------------------------------------- what an edit has changed


def test_what_an_edit_leaves_alone_is_put_back_and_the_rest_is_not():
    """A ground in another colour behind a thing that is nearly what it was; between them a slope."""
    picture = torch.full((3, 60, 80), 0.9)
    picture[:, 20:40, 20:60] = torch.rand(3, 20, 40, generator=torch.Generator().manual_seed(0)) - 0.5
    painted = picture.clone()
    painted[0] = -0.9
    painted[:, 20:40, 20:60] = picture[:, 20:40, 20:60] + 0.1
    m = ed.edit_mask(painted, picture)
    assert m.shape == (1, 60, 80) and m.min() == 0 and m.max() == 1
    mixed = picture + m * (painted - picture)
    assert torch.equal(mixed[:, 24:36, 24:56], picture[:, 24:36, 24:56])
    assert torch.equal(mixed[:, :14], painted[:, :14]) and torch.equal(mixed[:, :, 68:], painted[:, :, 68:])
    assert ((m > 0) & (m < 1)).any()
    # a smaller share leaves more of what was painted, and what is the same all over stays it
    assert ed.edit_mask(painted, picture, 0.05).sum() > m.sum() > ed.edit_mask(painted, picture, 1.2).sum()
    assert not ed.edit_mask(picture, picture).any()


def test_pictures_that_cannot_be_compared_are_an_error():
    one = torch.zeros(3, 8, 8)
    with pytest.raises(ValueError, match=r"shapes \(3, 8, 8\) and \(3, 8, 9\)"):
        ed.edit_mask(one, torch.zeros(3, 8, 9))
    with pytest.raises(ValueError, match="share = 0"):
        ed.edit_mask(one, one, 0)


def test_it_becomes_the_names_of_what_is_there():
    fox, apple = {"en": ["fox", "fox face"], "zh": "狐狸"}, {"en": ["red apple"], "zh": "红苹果"}
    for instruction, things, expected in (
        ("turn it into 3d style", [fox], "turn the fox into 3d style"),
        ("turn it into 3d style", [fox, apple], "turn the fox and the red apple into 3d style"),
        ("变成立体风格", [apple, fox], "把红苹果和狐狸变成立体风格"),
        ("remove the kitten", [fox], "remove the kitten"),  # "it" is a word, not two letters
        ("把背景变成红色", [fox], "把背景变成红色"),
    ):
        assert ed.resolve_pronoun(instruction, things) == expected
