"""FLUX on one page is the package: every function the same numbers, every picture the same pixels."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import microflux
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.patchify import make_img_ids, make_txt_ids, patchify, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.rope import EmbedND, apply_rope
from flux_edu.schedule import get_schedule

PAGE = Path(microflux.__file__)
PROMPTS = ("a 3d fox on a blue background", "红色背景上，贴纸狐狸在苹果左边")


@pytest.fixture(scope="module")
def tiny():
    return FluxGenerator("tiny", "cpu")


@pytest.fixture(scope="module")
def weights():
    return {name: microflux.load(name) for name in ("flux", "t5", "clip", "ae")}


def test_it_is_one_page():
    text = PAGE.read_text("utf-8")
    lines = text.splitlines()
    assert len(lines) <= 350 and max(map(len, lines)) <= 88
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom | ast.Import)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert not [module for module in modules if module.startswith("flux_edu")]
    statements = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    assert len(statements) == len(set(statements)), "one statement a line"


@pytest.mark.parametrize("text", ["", *PROMPTS, "fox " * 50])
def test_the_encoders_say_the_same(tiny, weights, text):
    ids = microflux.tokenize(text)
    with torch.inference_mode():
        torch.testing.assert_close(microflux.t5(weights["t5"], ids), tiny.t5([text])[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(microflux.clip(weights["clip"], ids), tiny.clip([text])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("steps", "L", "shift"), [(7, 24, True), (5, 4096, True), (4, 64, False)])
def test_the_schedule_is_the_same(steps, L, shift):
    assert microflux.get_schedule(steps, L, shift) == pytest.approx(get_schedule(steps, L, shift=shift), abs=1e-12)


def test_tokens_ids_and_rotations_are_the_same():
    z = torch.randn(16, 6, 10)
    tokens = microflux.patchify(z)
    assert torch.equal(tokens, patchify(z[None])[0])
    assert torch.equal(microflux.unpatchify(tokens, 3, 5), unpatchify(tokens[None], 48, 80)[0])
    ids = microflux.make_ids(3, 5)
    expected = torch.cat([make_txt_ids(1, 32), make_img_ids(1, 3, 5)], dim=1)
    assert torch.equal(ids, expected[0].long())
    q = torch.randn(5, 47, 64)
    R = EmbedND(64, 10_000, (8, 28, 28))(expected)
    turned = apply_rope(q[None], R)[0]
    torch.testing.assert_close(microflux.apply_rope(q, microflux.rope(ids)), turned, rtol=1e-5, atol=1e-6)


def test_the_blocks_and_the_network_are_the_same(tiny, weights):
    W, model, h, w = weights["flux"], tiny.model, 3, 5
    img, txt, vec = torch.randn(15, 320), torch.randn(32, 320), torch.randn(320)
    pe, R = microflux.rope(microflux.make_ids(h, w)), EmbedND(64, 10_000, (8, 28, 28))
    ids = torch.cat([make_txt_ids(1, 32), make_img_ids(1, h, w)], dim=1)
    with torch.inference_mode():
        pair = microflux.double_block(W, "double_blocks.1", img, txt, vec, pe)
        expected = model.double_blocks[1](img[None], txt[None], vec[None], R(ids))
        for ours, theirs in zip(pair, expected, strict=True):
            assert (ours - theirs[0]).norm() < 1e-5 * theirs.norm()
        x = torch.cat([txt, img])
        single = microflux.single_block(W, "single_blocks.4", x, vec, pe)
        expected = model.single_blocks[4](x[None], vec[None], R(ids))[0]
        assert (single - expected).norm() < 1e-5 * expected.norm()
        noise, txt, y = torch.randn(15, 64), torch.randn(32, 256), torch.randn(256)
        v = microflux.flux(W, noise, 0.7, txt, y, 3.0, pe)
        inputs = noise[None], make_img_ids(1, h, w), txt[None], make_txt_ids(1, 32), torch.tensor([0.7]), y[None]
        torch.testing.assert_close(v, model(*inputs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "steps"), [("tiny-schnell", 4), ("tiny-dev", 5), ("tiny", 4)])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_paints_the_same_picture(model, steps, prompt):
    page = np.array(microflux.paint(prompt, model, steps, 2.5, seed=3, width=128, height=96)).astype(int)
    package = FluxGenerator(model, "cpu").generate_image(128, 96, steps, 2.5, 3, prompt)
    apart = np.abs(page - np.array(package))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.01 and page.std() > 10


def test_the_command_paints_a_file(tmp_path):
    command = [sys.executable, str(PAGE), "a flat robot on a white background", "--steps", "1", "--out", "robot.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with Image.open(tmp_path / "robot.png") as picture:
        assert picture.size == (128, 128)


def test_the_weights_are_those_of_the_package(tiny, weights):
    for name, x in tiny.model.state_dict().items():
        assert torch.equal(weights["flux"][name], x)
    assert microflux.FOLDER.resolve() == Path(str(TINY_FOLDER)).resolve()
