"""The shipped tiny FLUX: its files, its autoencoder, and what it paints. Speed is printed: machines differ."""

import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pack_weights import CARD, LIMIT, shipped_bytes, shipped_names

from flux_edu.configs import TINY_AE
from flux_edu.io.checkpoint import read_metadata
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.patchify import get_noise, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty
from flux_edu.train.autoencoder import psnr, round_trip
from flux_edu.train.data import COLOURS, SIXTEEN, SIZE, STYLES, draw_scenes, load_drawings, render

STEPS = 3  # grounds and things show after three steps, colours after eight; the model card's sheets have 28
PROMPTS = [SIXTEEN[i] for i in (0, 1, 2, 3)]  # white, blue, yellow and green backgrounds


@pytest.fixture(scope="module")
def tiny():
    return FluxGenerator("tiny", device="cpu")


@pytest.fixture(scope="module")
@torch.inference_mode()
def painted(tiny):
    """Four prompts from one noise, in one batch, two passes."""
    start = time.perf_counter()
    noise = get_noise(1, SIZE, SIZE, "cpu", torch.float32, seed=0)
    inputs = prepare(tiny.t5, tiny.clip, noise, PROMPTS)
    timesteps = get_schedule(STEPS, inputs["img"].shape[1])
    x = denoise(tiny.model, **inputs, timesteps=timesteps, guidance=3.0, uncond=embed_empty(tiny.t5, tiny.clip))
    pictures = tiny.ae.decode(unpatchify(x, SIZE, SIZE)).clamp(-1, 1)
    print(f"\n{len(PROMPTS)} pictures, {STEPS} steps, two passes: {time.perf_counter() - start:.1f} s")
    return pictures


# ---------------------------------------------------------------- files


def test_weights_and_drawings_stay_a_small_download():
    assert shipped_bytes() < LIMIT, "run python docs/make/pack_weights.py, which says what to leave out"


def test_the_model_card_names_every_file_by_its_hash():
    listed = dict(re.findall(r"\| `([\w.]+)` \| [\d,]+ \| `([0-9a-f]{64})` \|", CARD.read_text("utf-8")))
    hashes = {name: hashlib.sha256((TINY_FOLDER / name).read_bytes()).hexdigest() for name in shipped_names()}
    assert listed == hashes, "the files have changed: run python docs/make/pack_weights.py"


def test_the_latents_factors_in_the_file_are_those_of_the_config():
    metadata = read_metadata(TINY_FOLDER / "ae.safetensors")
    assert float(metadata["scale_factor"]) == TINY_AE.scale_factor
    assert float(metadata["shift_factor"]) == TINY_AE.shift_factor


def test_the_vocabulary_knows_colours_and_styles_and_the_live_map_counts_it():
    known = set(json.loads((TINY_FOLDER / "vocabulary.json").read_text("utf-8")))
    assert {*COLOURS, *STYLES, "background", "左", "立", "贴", "素"} <= known
    english = [word for word in known if not "\u4e00" <= word[0] <= "\u9fff"]
    live_map = (Path(__file__).parents[1] / "docs" / "live_map" / "words.js").read_text("utf-8")
    assert f'"English words it knows", "{len(english):,}"' in live_map


# ---------------------------------------------------------------- the autoencoder


def test_pictures_come_back_from_their_latents(tiny):
    drawings = load_drawings()
    x = render(drawings, draw_scenes(drawings, 6, seed=21))
    z = tiny.ae.encode(x)
    assert z.shape == (6, 16, 16, 16)
    assert abs(z.mean()) < 0.35 and 0.7 < z.std() < 1.3  # what scale and shift are for
    assert psnr(x, round_trip(tiny.ae, x)) > 31  # 34.2 over many; six pictures vary


def test_plain_pictures_come_back_plain(tiny):
    plain = torch.tensor([list(COLOURS.values())]).float()[0] / 127.5 - 1
    x = plain[:, :, None, None].expand(-1, -1, 64, 64).contiguous()
    off = (round_trip(tiny.ae, x).clamp(-1, 1) - x).abs() * 127.5
    assert off.mean() < 1
    assert off.max() < 8, "a speck: see norm_groups of AutoEncoderParams"


# ---------------------------------------------------------------- what it paints


def test_backgrounds_have_the_colour_asked_for(painted):
    for prompt, picture in zip(PROMPTS, painted, strict=True):
        name = prompt.split(" on a ")[1].split()[0]
        edge = torch.cat([picture[:, :6].flatten(1), picture[:, -6:].flatten(1)], dim=1).median(1).values
        off = {other: (edge - torch.tensor(rgb) / 127.5 + 1).abs().max().item() for other, rgb in COLOURS.items()}
        assert min(off, key=off.get) == name, f"{prompt}: the ground looks {min(off, key=off.get)}"


def test_something_stands_on_the_ground(painted):
    middle = painted[:, :, 40:88, 40:88] - painted[:, :, :1, :1]
    assert (middle.abs().amax(1).flatten(1).median(1).values > 0.2).all()


def test_other_prompts_give_other_pictures(painted):
    for i in range(len(painted)):
        for j in range(i):
            assert (painted[i] - painted[j]).abs().mean() > 0.1


@torch.inference_mode()
def test_things_change_sides_with_their_words(tiny):
    orders = [
        "a flat fox left of a red apple on a white background",
        "a flat red apple left of a fox on a white background",
    ]
    for seed in (0, 1):
        red = []
        for prompt in orders:
            pixels = np.asarray(tiny.generate_image(SIZE, SIZE, 8, 3.0, seed, prompt), dtype=int)
            apple = (pixels[..., 0] > 180) & (pixels[..., 1] < 100) & (pixels[..., 2] < 110)  # redder than any fox
            red.append((apple[:, : SIZE // 2].sum(), apple[:, SIZE // 2 :].sum()))
        (fox_left, apple_right), (apple_left, fox_right) = red
        assert apple_right > 10 * fox_left and apple_left > 10 * fox_right, red
