"""Chapter 2: noise, patches, ids and what the network reads, Eq. (2.1) to (2.5)."""

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import patchify
from flux_edu.teaching.plots import chapter_02 as plots

few = settings(max_examples=40, deadline=None)
sides = st.integers(16, 200)


def places(batch=2, channels=3, h=10, w=14):
    """A latent whose every entry says where it is: no two are equal."""
    return torch.arange(batch * channels * h * w, dtype=torch.float64).reshape(batch, channels, h, w)


# ---------------------------------------------------------------- 2.1


@pytest.mark.equation("2.1")
@pytest.mark.parametrize(
    "height, width, h, w", [(16, 16, 2, 2), (100, 49, 14, 8), (768, 1360, 96, 170), (17, 32, 4, 4)]
)
def test_noise_covers_the_picture_and_is_the_seeded_draw(height, width, h, w):
    noise = patchify.get_noise(3, height, width, "cpu", torch.float32, seed=11)
    drawn = torch.randn(3, 16, h, w, generator=torch.Generator("cpu").manual_seed(11))
    assert torch.equal(noise, drawn)


@pytest.mark.equation("2.1")
def test_noise_is_standard_normal():
    noise = patchify.get_noise(1, 1024, 1024, "cpu", torch.float64, seed=3)
    assert noise.dtype == torch.float64
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 1) < 0.005


def test_a_seed_is_a_picture_and_disturbs_nothing():
    state = torch.get_rng_state()
    a, b, c = (patchify.get_noise(1, 48, 80, "cpu", torch.float32, seed) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state()), "the global generator must stay where it was"
    assert torch.equal(patchify.get_noise(2, 48, 80, "cpu", torch.float32, 0)[:1], a), "a batch begins with the single"


def test_the_seed_does_not_depend_on_the_device():
    devices = ["meta"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        noise = patchify.get_noise(1, 48, 80, device, torch.float32, seed=0)
        assert noise.device.type == device
        if device != "meta":
            assert torch.equal(noise.cpu(), patchify.get_noise(1, 48, 80, "cpu", torch.float32, seed=0))


def test_a_bfloat16_draw_is_the_rounded_one_and_a_float64_draw_is_another():
    full = patchify.get_noise(1, 100, 100, "cpu", torch.float32, seed=0)
    half = patchify.get_noise(1, 100, 100, "cpu", torch.bfloat16, seed=0)
    double = patchify.get_noise(1, 100, 100, "cpu", torch.float64, seed=0)
    assert (half.float() - full).abs().max() < 0.01
    assert (double.float() - full).abs().max() > 1


@pytest.mark.parametrize("height, width", [(15, 64), (64, 0), (-16, 16)])
def test_pictures_smaller_than_a_token_are_refused(height, width):
    with pytest.raises(AssertionError, match="less than one token"):
        patchify.get_noise(1, height, width, "cpu", torch.float32, 0)


# ---------------------------------------------------------------- 2.2


@pytest.mark.equation("2.2")
def test_patchify_by_the_index_formula():
    x = places()
    tokens = patchify.patchify(x)
    assert tokens.shape == (2, 35, 12)
    for row in range(5):
        for column in range(7):
            for c in range(3):
                for ph in range(2):
                    for pw in range(2):
                        there = tokens[:, 7 * row + column, 4 * c + 2 * ph + pw]
                        assert torch.equal(there, x[:, c, 2 * row + ph, 2 * column + pw])


@pytest.mark.parametrize(
    "pattern",
    [
        "b c (h p) (w q) -> b (h w) (p q c)",
        "b c (h p) (w q) -> b (h w) (c q p)",
        "b c (h p) (w q) -> b (w h) (c p q)",
        "b c (p h) (q w) -> b (h w) (c p q)",
    ],
)
def test_wrong_orders_have_the_right_shape_and_the_same_numbers(pattern):
    x = patchify.get_noise(1, 112, 176, "cpu", torch.float64, seed=0)
    right, wrong = patchify.patchify(x), rearrange(x, pattern, p=2, q=2)
    assert right.shape == wrong.shape
    assert torch.equal(right.flatten().sort().values, wrong.flatten().sort().values)
    assert (right == wrong).double().mean() < 0.6, "no shape, mean or deviation shows it; most numbers are misplaced"


@pytest.mark.parametrize("h, w", [(9, 14), (10, 13)])
def test_odd_latents_are_refused(h, w):
    with pytest.raises(AssertionError, match="sides must be even"):
        patchify.patchify(torch.zeros(1, 3, h, w))


# ---------------------------------------------------------------- 2.3


@pytest.mark.equation("2.3")
def test_unpatchify_by_the_index_formula():
    tokens = torch.arange(2 * 15 * 8, dtype=torch.float64).reshape(2, 15, 8)
    x = patchify.unpatchify(tokens, 48, 80)
    assert x.shape == (2, 2, 6, 10)
    for y in range(6):
        for z in range(10):
            for c in range(2):
                there = tokens[:, 5 * (y // 2) + z // 2, 4 * c + 2 * (y % 2) + z % 2]
                assert torch.equal(x[:, c, y, z], there)


@few
@given(sides, sides, st.integers(1, 3), st.integers(1, 5))
def test_there_and_back_is_the_identity(height, width, batch, channels):
    h, w = patchify.token_grid(height, width)
    assert 16 * h >= height > 16 * (h - 1) and 16 * w >= width > 16 * (w - 1), (
        "whole tokens that just cover the picture"
    )
    x = places(batch, channels, 2 * h, 2 * w)
    tokens = patchify.patchify(x)
    assert tokens.shape == (batch, h * w, 4 * channels)
    assert torch.equal(patchify.unpatchify(tokens, height, width), x)
    assert torch.equal(patchify.patchify(patchify.unpatchify(tokens, height, width)), tokens)


def test_unpatchify_needs_the_right_number_of_tokens():
    with pytest.raises(AssertionError, match="6 tokens do not fill a grid of 4 × 3"):
        patchify.unpatchify(torch.zeros(1, 6, 8), height=64, width=48)


def test_exchanged_sides_cannot_be_noticed():
    x = places(1, 3, 10, 14)
    wrong = patchify.unpatchify(patchify.patchify(x), height=112, width=80)
    assert wrong.shape == (1, 3, 14, 10)
    assert not torch.equal(wrong, x.transpose(2, 3)), "it is not even the mirrored picture"


# ---------------------------------------------------------------- 2.4


@pytest.mark.equation("2.4")
def test_image_ids_are_places():
    ids = patchify.make_img_ids(2, 3, 5)
    expected = [[[0.0, row, column] for row in range(3) for column in range(5)]] * 2
    assert torch.equal(ids, torch.tensor(expected))


@few
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1599))
def test_ids_run_as_patchify_does(h, w, n):
    n %= h * w
    y, x = torch.meshgrid(torch.arange(2 * h), torch.arange(2 * w), indexing="ij")
    tokens = patchify.patchify(torch.stack([y, x])[None].double())[0, n]
    assert patchify.make_img_ids(1, h, w)[0, n].tolist() == [0, tokens[0] / 2, tokens[4] / 2]


def test_ids_are_float32_because_bfloat16_cannot_count():
    ids = patchify.make_img_ids(1, 1, 300)
    assert ids.dtype == patchify.make_txt_ids(1, 5).dtype == torch.float32
    columns = ids[0, :, 2]
    wrong = (columns != columns.bfloat16().float()).nonzero().flatten()
    assert wrong[0] == 257
    assert len(columns.bfloat16().unique()) == 279


# ---------------------------------------------------------------- 2.5


@pytest.mark.equation("2.5")
def test_text_ids_are_the_origin():
    assert torch.equal(patchify.make_txt_ids(2, 7), torch.tensor([[[0.0, 0.0, 0.0]] * 7] * 2))


# ---------------------------------------------------------------- prepare


def t5(prompts):
    return torch.stack([torch.full((6, 7), float(len(p))) for p in prompts])


def clip(prompts):
    return torch.stack([torch.full((5,), -float(len(p))) for p in prompts])


@pytest.mark.parametrize(
    "latents, prompt, batch", [(1, "ab", 1), (1, ["a", "bc", ""], 3), (3, "ab", 3), (3, ["ab"], 3)]
)
def test_prepare_repeats_the_single_side(latents, prompt, batch):
    img = places(latents, 3, 4, 10).float()
    out = patchify.prepare(t5, clip, img, prompt)
    assert list(out) == ["img", "img_ids", "txt", "txt_ids", "vec"]
    shapes = {"img": (10, 12), "img_ids": (10, 3), "txt": (6, 7), "txt_ids": (6, 3), "vec": (5,)}
    assert {name: tuple(x.shape) for name, x in out.items()} == {k: (batch, *s) for k, s in shapes.items()}
    prompts = [prompt] if isinstance(prompt, str) else prompt
    for i in range(batch):
        words = float(len(prompts[i % len(prompts)]))
        assert (out["txt"][i] == words).all() and (out["vec"][i] == -words).all()
        assert torch.equal(out["img"][i], patchify.patchify(img)[i % latents])
        assert out["img_ids"][i, -1].tolist() == [0, 1, 4], "two rows of five tokens"


def test_prepare_pairs_many_with_as_many():
    img = places(2, 3, 4, 6).float()
    out = patchify.prepare(t5, clip, img, ["a", "bcd"])
    assert torch.equal(out["img"], patchify.patchify(img))
    assert out["vec"][:, 0].tolist() == [-1, -3]


@pytest.mark.parametrize("latents, prompts", [(3, ["a", "b"]), (2, ["a", "b", "c"])])
def test_prepare_refuses_numbers_that_do_not_match(latents, prompts):
    with pytest.raises(AssertionError, match=f"{latents} latents and {len(prompts)} prompts"):
        patchify.prepare(t5, clip, torch.zeros(latents, 3, 4, 4), prompts)


def test_prepare_refuses_no_prompt():
    with pytest.raises(AssertionError, match="1 latents and 0 prompts"):
        patchify.prepare(t5, clip, torch.zeros(1, 3, 4, 4), [])


# ---------------------------------------------------------------- figures


def test_the_frames_are_where_the_patch_is():
    fig = plots.follow_patch(width=160, height=112, row=2, column=9)
    pixels, places, sequence, token = fig.axes
    for ax, size in ((pixels, 16), (places, 2)):
        (frame,) = ax.patches
        assert frame.get_xy() == (9 * size - 0.5, 2 * size - 0.5) and frame.get_width() == frame.get_height() == size
    assert "token 29 = 2 · 10 + 9" in sequence.get_title()
    assert "row 29" in fig.get_label()
    assert "patch (6, 9)" in plots.follow_patch(row=31, column=31).get_label(), "beyond the picture: its last patch"
