"""A latent seen without the decoder, and `sample --show-steps`, which shows every step so."""

import re

import pytest
import torch
from PIL import Image

from flux_edu.__main__ import main
from flux_edu.apps import show_steps
from flux_edu.io.preview import fit_preview, load_preview, preview
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.train.data import captions, draw_scenes, load_drawings, render

COMMAND = ["sample", "a 3d fox", "--steps", "3", "--seed", "0", "--width", "80", "--height", "48", "--out", "fox.png"]


def random_preview(rank=5, channels=3):
    torch.manual_seed(0)
    return {
        "near": torch.randn(rank, channels, 3, 3),
        "pixels": torch.randn(192, rank, 1, 1),
        "bias": torch.randn(192),
    }


def test_a_pixel_is_a_sum_over_nine_places():
    numbers, z = random_preview(), torch.randn(1, 3, 5, 7)
    near, pixels = numbers["near"], numbers["pixels"][:, :, 0, 0]
    row, column, colour, i, j = 2, 3, 1, 6, 4
    seen = (near * z[0, :, row - 1 : row + 2, column - 1 : column + 2]).sum((1, 2, 3))
    channel = colour * 64 + i * 8 + j
    x = preview(z, **numbers)
    assert x.shape == (1, 3, 40, 56)
    torch.testing.assert_close(
        x[0, colour, row * 8 + i, column * 8 + j], pixels[channel] @ seen + numbers["bias"][channel]
    )


def test_a_map_of_that_rank_is_found_again():
    numbers, z = random_preview(), torch.randn(4, 3, 11, 13)
    x = preview(z, **numbers)
    torch.testing.assert_close(preview(z, **fit_preview(z, x, rank=5)), x, atol=1e-3, rtol=1e-3)
    assert (preview(z, **fit_preview(z, x, rank=4)) - x).norm() > 0.05 * x.norm()


def decibels(z, x):
    """How near the shipped preview of these latents is to pictures, the mean over pictures."""
    error = (preview(z, **load_preview()).clamp(-1, 1) - x.clamp(-1, 1)).square().mean((1, 2, 3))
    return 10 * (4 / error).log10().mean().item()


@torch.inference_mode()
def test_what_ships_is_24_decibels_from_pictures_it_was_not_fitted_to():
    drawings = load_drawings()
    x = render(drawings, draw_scenes(drawings, 8, seed=3))
    assert decibels(FluxGenerator("tiny", "cpu").ae.encode(x), x) > 24


@torch.inference_mode()
def test_what_ships_is_26_decibels_from_what_the_decoder_makes_of_painted_latents():
    flux, drawings = FluxGenerator("tiny-schnell", "cpu"), load_drawings()
    prompts = captions(drawings, draw_scenes(drawings, 8, seed=3), seed=3, chinese=0)
    inputs = prepare(flux.t5, flux.clip, get_noise(8, 128, 128, "cpu", torch.float32, seed=3), prompts)
    z = unpatchify(denoise(flux.model, **inputs, timesteps=get_schedule(4, 64, shift=False)), 128, 128)
    assert decibels(z, flux.ae.decode(z)) > 25


def test_half_blocks_are_two_pixels_a_letter():
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    picture.paste((200, 100, 50), (0, 2, 4, 4))
    lines = show_steps.half_blocks(picture, columns=2).split("\n")
    assert lines == ["\x1b[38;2;1;2;3;48;2;200;100;50m▀" * 2 + "\x1b[0m"]


@pytest.mark.parametrize("colours", [False, True])
def test_every_step_is_shown_in_a_terminal_or_saved_as_a_strip(colours, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show_steps, "can_show_colours", lambda: colours)
    assert main([*COMMAND, "--show-steps"]) == 0
    shown = capsys.readouterr().out
    with Image.open("fox.png") as picture:
        painted = picture.convert("RGB")
    if colours:
        assert re.findall(r"step (\d), t = (\S+)", shown)[0] == ("1", "1.00") and shown.count("step ") == 3
        assert "▀" in shown and not (tmp_path / "fox-steps.png").exists()
        return
    assert "▀" not in shown
    with Image.open("fox-steps.png") as strip:
        assert strip.size == (3 * 80, 48)
        last = strip.convert("RGB").crop((160, 0, 240, 48))
    apart = [abs(a - b) for a, b in zip(last.resize((5, 3)).tobytes(), painted.resize((5, 3)).tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 20, "the last estimate is what was painted"
