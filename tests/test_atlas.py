"""Chapter 15: shares sum to one, maps and offsets are those of a computation by hand, and what ablation leaves out."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw
from small_models import FLUX, random_flux

from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.pipeline import FluxGenerator
from flux_edu.teaching.labs import attention_maps
from flux_edu.teaching.labs.activations import ablate
from flux_edu.teaching.plots import chapter_15 as plots

H, GRID, TXT = 3, (2, 5), 7  # heads, rows and columns, text tokens
L = TXT + GRID[0] * GRID[1]


@pytest.fixture(scope="module")
def A():
    return (2 * torch.randn(2, H, L, L, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)


# ---------------------------------------------------------------- read off the weights


def test_shares_of_the_quadrants_by_hand(A):
    shares = attention_maps.quadrant_shares(A, TXT)
    assert shares.shape == (2, H, 2, 2)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, H, 2, dtype=torch.float64))
    for b, h in itertools.product(range(2), range(H)):
        image_from_text = sum(float(A[b, h, i, j]) for i in range(TXT, L) for j in range(TXT)) / (L - TXT)
        text_from_text = sum(float(A[b, h, i, j]) for i in range(TXT) for j in range(TXT)) / TXT
        assert shares[b, h, 1, 0].item() == pytest.approx(image_from_text)
        assert shares[b, h, 0, 0].item() == pytest.approx(text_from_text)


def test_an_even_look_has_even_shares_and_no_direction():
    even = torch.full((1, L, L), 1 / L)
    torch.testing.assert_close(attention_maps.quadrant_shares(even, TXT)[0, 0], torch.tensor([TXT / L, 1 - TXT / L]))
    offset, spread = attention_maps.mean_offset(even, TXT, GRID)
    torch.testing.assert_close(offset, torch.zeros(1, 2))
    torch.testing.assert_close(spread, torch.tensor([float(L - TXT)]))
    torch.testing.assert_close(attention_maps.offset_profile(even, TXT, GRID), torch.ones(1, 3, 9))


def test_a_words_map_by_hand(A):
    maps = attention_maps.word_map(A, [2, 5], TXT, GRID)
    assert maps.shape == (2, H, *GRID)
    for row, column in itertools.product(*map(range, GRID)):
        query = TXT + row * GRID[1] + column
        torch.testing.assert_close(maps[..., row, column], A[:, :, query, 2] + A[:, :, query, 5])
    every_word = sum(attention_maps.word_map(A, [i], TXT, GRID) for i in range(TXT)).mean((-1, -2))
    torch.testing.assert_close(every_word, attention_maps.quadrant_shares(A, TXT)[..., 1, 0])


def test_the_offset_profile_by_hand(A):
    profile, (h, w) = attention_maps.offset_profile(A, TXT, GRID), GRID
    assert profile.shape == (2, H, 2 * h - 1, 2 * w - 1)
    places = list(itertools.product(range(h), range(w)))
    for dy, dx in [(0, 0), (1, 0), (0, -3), (-1, 4)]:
        met = []
        for i, (y, x) in enumerate(places):
            if (y + dy, x + dx) in places:
                j = places.index((y + dy, x + dx))
                row = A[1, 2, TXT + i, TXT:]
                met.append(float(row[j] / row.sum()) * h * w)
        assert profile[1, 2, dy + h - 1, dx + w - 1].item() == pytest.approx(sum(met) / len(met))


@pytest.mark.parametrize("dy, dx", [(0, 1), (1, 0), (0, -2)])
def test_a_head_that_looks_aside(dy, dx):
    """Every token takes all from the one at this offset, at the edge from itself."""
    h, w = 4, 6
    looks, inside = torch.zeros(h * w, h * w), 0
    for i, (y, x) in enumerate(itertools.product(range(h), range(w))):
        met = 0 <= y + dy < h and 0 <= x + dx < w
        inside += met
        looks[i, (y + dy) * w + x + dx if met else i] = 1
    A = torch.block_diag(torch.eye(TXT), looks)
    profile = attention_maps.offset_profile(A, TXT, (h, w))
    assert divmod(int(profile.argmax()), 2 * w - 1) == (dy + h - 1, dx + w - 1)
    assert profile.max().item() == pytest.approx(h * w)
    offset, spread = attention_maps.mean_offset(A, TXT, (h, w))
    torch.testing.assert_close(offset, torch.tensor([dy, dx]) * inside / (h * w))
    assert spread.item() == pytest.approx(1)


def test_mean_offset_and_spread_by_hand(A):
    offset, spread = attention_maps.mean_offset(A, TXT, GRID)
    places = list(itertools.product(range(GRID[0]), range(GRID[1])))
    dy, dx, seen = 0.0, 0.0, 0.0
    for i, (y, x) in enumerate(places):
        row = (A[0, 1, TXT + i, TXT:] / A[0, 1, TXT + i, TXT:].sum()).tolist()
        dy += sum(a * (v - y) for a, (v, _) in zip(row, places, strict=True)) / len(places)
        dx += sum(a * (u - x) for a, (_, u) in zip(row, places, strict=True)) / len(places)
        seen += math.exp(-sum(a * math.log(a) for a in row)) / len(places)
    assert offset[0, 1].tolist() == pytest.approx([dy, dx])
    assert spread[0, 1].item() == pytest.approx(seen)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_head_that_looks_into_a_mirror(parts):
    """Two rows of twelve columns; every token takes half from its mirror image and half from itself."""
    h, w, looks = 2, 12, torch.eye(24) / 2
    for y, x in itertools.product(range(h), range(w)):
        mirror = w - 1 - x if parts == 1 else (5 - x if x < 6 else 17 - x)
        looks[y * w + x, y * w + mirror] += 0.5
    A = torch.block_diag(torch.eye(TXT), looks)[None]
    assert attention_maps.mirror_attention(A, TXT, (h, w), parts).item() == pytest.approx(h * w / 2)
    assert attention_maps.mirror_attention(A, TXT, (h, w), 3 - parts).item() == pytest.approx(0)
    even = torch.full((1, TXT + h * w, TXT + h * w), 1 / (TXT + h * w))
    assert attention_maps.mirror_attention(even, TXT, (h, w), parts).item() == pytest.approx(1)


def test_neighbours_are_no_mirror_images():
    """The middle columns mirror each other, and are next to each other: a head that looks right must not count."""
    looks = torch.zeros(8, 8)
    looks[torch.arange(8), (torch.arange(8) + 1) % 8] = 1
    assert attention_maps.mirror_attention(
        torch.block_diag(torch.eye(TXT), looks), TXT, (1, 8)
    ).item() == pytest.approx(1 / 3 * 4)


def test_asymmetry_of_pictures():
    disc = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(disc)
    draw.ellipse((20, 20, 40, 40), fill="red")
    assert attention_maps.asymmetry(disc) < 0.01 < attention_maps.asymmetry(disc, reach=0), (
        "the axis need not be the picture's middle"
    )
    draw.rectangle((20, 28, 28, 34), fill="blue")
    assert attention_maps.asymmetry(disc) > 0.1


def test_what_does_not_fit_is_refused(A):
    with pytest.raises(ValueError, match="5 columns cannot be shared out to 2"):
        attention_maps.mirror_attention(A, TXT, GRID, parts=2)
    with pytest.raises(ValueError, match="7 text tokens and a grid of 5 × 3 make 22 tokens, the weights are for 17"):
        attention_maps.offset_profile(A, TXT, (5, 3))
    with pytest.raises(ValueError, match="pass the L_txt and the grid"):
        attention_maps.mean_offset(A, TXT + 1, GRID)
    for tokens in ([], [TXT], [-1]):
        with pytest.raises(ValueError, match="from 0 to 6"):
            attention_maps.word_map(A, tokens, TXT, GRID)
    for L_txt in (0, L):
        with pytest.raises(ValueError, match="a quadrant would be empty"):
            attention_maps.quadrant_shares(A, L_txt)


# ---------------------------------------------------------------- without a head, without a block

D, HEADS = 36, 3
SHAPE = dict(num_heads=HEADS, depth_single_blocks=2, axes_dim=(4, 4, 4), guidance_embed=False)
PARAMS = replace(FLUX, in_channels=8, out_channels=8, **SHAPE)
BLOCKS = ["double_blocks.0", "double_blocks.1", "single_blocks.0", "single_blocks.1"]


@pytest.fixture
def model():
    return random_flux(PARAMS, seed=2)


@pytest.fixture
def inputs():
    torch.manual_seed(3)
    return {
        "img": torch.randn(2, 10, 8),
        "img_ids": make_img_ids(2, *GRID),
        "txt": torch.randn(2, TXT, 13),
        "txt_ids": make_txt_ids(2, TXT),
        "timesteps": torch.tensor([0.3, 0.8]),
        "y": torch.randn(2, 11),
    }


def close_the_gates(model, block):
    """The rows of the modulations that make gates, set to zero: such a block adds nothing."""
    part = model.get_submodule(block)
    for mod in [part.img_mod, part.txt_mod] if block.startswith("double") else [part.modulation]:
        for tensor in (mod.lin.weight, mod.lin.bias):
            tensor[2 * D : 3 * D], tensor[5 * D :] = 0, 0


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_blocks_are_named_in_the_order_of_the_forward_pass(model):
    assert attention_maps.block_names(model) == BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_without_everything_is_the_identity_on_the_residual_stream(model, inputs, block):
    whole = model(**inputs)
    with ablate(model.get_submodule(block)):
        without_it = model(**inputs)
    assert hooks(model) == 0 and torch.equal(model(**inputs), whole)
    close_the_gates(model, block)
    torch.testing.assert_close(without_it, model(**inputs))
    assert (without_it - whole).norm() > 0.01 * whole.norm()


@pytest.mark.parametrize("block", BLOCKS)
def test_one_head_is_silent_and_the_others_speak(model, inputs, block):
    """The same as zero columns for this head in the matrix behind the attention."""
    with ablate(model.get_submodule(block), 1):
        silenced = model(**inputs)
    part, K = model.get_submodule(block), D // HEADS
    ends = [part.img_attn.proj, part.txt_attn.proj] if block.startswith("double") else [part.linear2]
    for end in ends:
        end.weight[:, K : 2 * K] = 0
    torch.testing.assert_close(silenced, model(**inputs))


@pytest.mark.parametrize("block", BLOCKS[2:])
def test_all_heads_silent_is_a_block_without_attention(model, inputs, block):
    with ablate(model.get_submodule(block), range(HEADS)):
        silenced = model(**inputs)
    with ablate(model.get_submodule(block), "attention"):
        torch.testing.assert_close(silenced, model(**inputs))


def test_hooks_go_after_an_error_and_wrong_parts_are_answered(model):
    with pytest.raises(RuntimeError), ablate(model.single_blocks[0], [0, 2]):
        raise RuntimeError
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="heads 0 to 2"), ablate(model.single_blocks[1], 3):
        pass
    with pytest.raises(ValueError, match="'attention', its 'MLP' or heads"), ablate(model.single_blocks[1], "mlp"):
        pass
    assert hooks(model) == 0


# ---------------------------------------------------------------- a painting from inside


@pytest.fixture(scope="module")
def painted():
    generator = FluxGenerator("tiny-schnell", "cpu")
    return generator, attention_maps.record_attention(
        generator, "a 3d cat face left of a dog face on a pink background", num_steps=2
    )


def test_a_survey_holds_every_step_block_and_head(painted):
    generator, painting = painted
    assert painting.attention.shape == (2, 9, 5, 96, 96) and painting.timesteps == [1.0, 0.5]
    torch.testing.assert_close(painting.attention.sum(-1), torch.ones(2, 9, 5, 96))
    assert painting.L_txt == 32 and painting.grid == (8, 8)
    again = generator.generate_image(128, 128, 2, 0.0, 0, painting.prompt)
    assert again.tobytes() == painting.picture.tobytes()


def test_words_and_their_tokens(painted):
    generator, painting = painted
    words = [word for word, _ in painting.words]
    assert words == [*painting.prompt.split(), "(end)", "(padding)"]
    assert sorted(i for _, tokens in painting.words for i in tokens) == list(range(32))
    assert len(painting.tokens("3d")) == 2 and painting.tokens("a") == [0]
    with pytest.raises(KeyError, match="'fox' is not a word of .*there are a, 3d, cat"):
        painting.tokens("fox")
    long = attention_maps.words_of(generator.t5, "fox " * 31)
    assert [word for word, _ in long] == ["fox"] * 31 + ["(end)"]


def test_a_survey_of_the_other_models():
    two_passes = attention_maps.record_attention(FluxGenerator("tiny", "cpu"), "a 3d fox", num_steps=1, guidance=2.0)
    assert two_passes.attention.shape == (1, 9, 5, 96, 96)
    distilled = attention_maps.record_attention(FluxGenerator("tiny-dev", "cpu"), "a 3d fox", num_steps=1)
    assert distilled.attention.shape == (1, 9, 5, 96, 96) and distilled.timesteps == [1.0]


# ---------------------------------------------------------------- figures


def test_places_and_offsets_have_names():
    assert attention_maps.place_of(torch.tensor([[0.0, 0, 1], [0, 0, 1]])) == (0, 1)
    assert attention_maps.place_of(torch.eye(3)[:1]) == (0, -1)
    assert [plots.offset_name(*at) for at in ((0, 0), (-1, 2), (3, 0))] == [
        "the token itself",
        "1 up, 2 right",
        "3 down",
    ]
    assert (
        "1 right"
        in plots.offset_atlas(
            torch.eye(5)[2].roll(1).expand(1, 1, 5, 5) * torch.eye(5)[2][:, None], ["one"], 2
        ).get_label()
    )
