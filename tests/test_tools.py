"""Chapter 12: what goes in beside the text, against diffusers' packing, and the network that reads it."""

import random
import re
from itertools import pairwise
from types import SimpleNamespace

import diffusers
import pytest
import torch
import traitlets
from diffusers.pipelines.flux import pipeline_flux_fill
from einops import rearrange
from PIL import Image
from sweep import sweep
from torch.nn import functional as F

from flux_edu import patchify, sampling, tools
from flux_edu.io import lora
from flux_edu.io.checkpoint import CheckpointError, load_strict
from flux_edu.model import Flux, FluxParams
from flux_edu.rope import EmbedND, apply_rope
from flux_edu.schedule import get_schedule
from flux_edu.teaching.panel import PANELS, Panel
from flux_edu.teaching.plots import chapter_12 as plots
from flux_edu.teaching.widgets import SQUARES, MaskCanvas, letters_of, mask_of
from flux_edu.train.judge_model import load_classifier


def small(in_channels: int = 8) -> Flux:
    torch.manual_seed(5)
    shape = dict(vec_in_dim=6, context_in_dim=10, hidden_size=24, mlp_ratio=2.0, num_heads=2, depth=1)
    rest = dict(depth_single_blocks=1, axes_dim=(2, 4, 6), theta=100, qkv_bias=True, guidance_embed=False)
    return Flux(FluxParams(in_channels=in_channels, out_channels=8, **shape, **rest)).requires_grad_(False)


def pack(x: torch.Tensor) -> torch.Tensor:
    """diffusers' way of making tokens."""
    return diffusers.FluxPipeline._pack_latents(x, len(x), x.shape[1], *x.shape[2:])


# ---------------------------------------------------------------- channels


@pytest.mark.equation("12.1")
def test_a_control_picture_lies_beside_the_noise_of_the_same_place():
    z = torch.randn(2, 16, 6, 10)
    assert torch.equal(tools.control_cond(z), pack(z))


@pytest.mark.equation("12.2")
def test_the_fill_channels_are_those_of_diffusers(monkeypatch):
    """The masked picture, then the mask, as `FluxFillPipeline.prepare_mask_latents` packs them; no VAE is at work."""
    z, mask = torch.randn(2, 16, 6, 10), (torch.rand(2, 1, 48, 80) > 0.6).float()
    vae = SimpleNamespace(encode=lambda x: x, config=SimpleNamespace(shift_factor=0.0, scaling_factor=1.0))
    pack_latents = diffusers.FluxPipeline._pack_latents
    pipeline = SimpleNamespace(vae_scale_factor=8, vae=vae, _pack_latents=pack_latents)
    monkeypatch.setattr(pipeline_flux_fill, "retrieve_latents", lambda *_, **__: z)
    theirs, latents = diffusers.FluxFillPipeline.prepare_mask_latents(
        pipeline, mask, torch.zeros(2, 3, 48, 80), 2, 16, 1, 48, 80, torch.float32, "cpu", None
    )
    ours = tools.fill_cond(z, mask)
    assert ours.shape == (2, 15, 64 + 256)
    assert torch.equal(ours, torch.cat([latents, theirs], dim=-1))


def test_a_mask_is_packed_without_loss_and_by_rows():
    mask = torch.arange(2 * 16 * 24.0).reshape(2, 1, 16, 24)
    packed = tools.pack_mask(mask)
    assert packed.shape == (2, 64, 2, 3)
    assert packed[1, 5 * 8 + 3, 1, 2] == mask[1, 0, 8 + 5, 16 + 3]
    assert torch.equal(packed.flatten().sort().values, mask.flatten())


def test_what_is_hidden_is_grey():
    picture, mask = torch.randn(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:, :] = 1
    hidden = tools.hide(picture, mask)
    assert torch.equal(hidden[..., :4, :], picture[..., :4, :]) and not hidden[..., 4:, :].any()


@pytest.mark.parametrize(
    "mask, words",
    [
        (torch.zeros(1, 1, 48, 48), "mask from 0 to 0: 1 is painted"),
        (torch.full((1, 1, 48, 48), 255.0), "mask from 255 to 255: 1 is painted"),
    ],
)
def test_a_wrong_mask_is_answered(mask, words):
    with pytest.raises(AssertionError, match=words):
        tools.fill_cond(torch.zeros(1, 16, 6, 6), mask)


def test_a_widened_network_is_at_first_the_same():
    model = small()
    wide = small(20)
    load_strict(wide, lora.widen_img_in(model.state_dict(), 20))
    x, ids, txt, y, t = (
        torch.randn(2, 6, 8),
        torch.zeros(2, 6, 3),
        torch.randn(2, 3, 10),
        torch.randn(2, 6),
        torch.rand(2),
    )
    extra = torch.randn(2, 6, 12)
    rest = (ids, txt, torch.zeros(2, 3, 3), t, y)
    torch.testing.assert_close(wide(torch.cat([x, extra], -1), *rest), model(x, *rest))
    # a control LoRA of the published layout goes on top of that
    pair = {"img_in.lora_A.weight": torch.randn(2, 20), "img_in.lora_B.weight": torch.randn(24, 2)}
    merged = lora.merge(lora.widen_img_in(model.state_dict(), 20), pair)
    torch.testing.assert_close(
        merged["img_in.weight"],
        F.pad(model.img_in.weight, (0, 12)) + pair["img_in.lora_B.weight"] @ pair["img_in.lora_A.weight"],
    )
    with pytest.raises(CheckpointError, match="takes 20 channels already"):
        lora.widen_img_in(merged, 8)


# ---------------------------------------------------------------- outlines


def step_edge(height: int, H: int = 20, W: int = 30) -> torch.Tensor:
    """Black left of column 13, brighter by `height` of 255 from there on."""
    picture = torch.full((3, H, W), -1.0)
    picture[..., 13:] += height / 127.5
    return picture


def test_outlines_are_white_on_black_where_brightness_jumps():
    edges = tools.canny(step_edge(200))
    assert edges.shape == (3, 20, 30) and set(edges.unique().tolist()) == {-1, 1}
    columns = (edges[0] > 0).any(0).nonzero().flatten().tolist()
    assert len(columns) == 1 and columns[0] in (12, 13)  # one pixel thin, at the jump
    assert (edges[0, 1:-1, columns[0]] == 1).all()
    assert torch.equal(edges[0], edges[1]) and torch.equal(edges[0], edges[2])


def test_thresholds_are_in_sums_of_sobels_filter():
    """Sobel's filter answers a jump of h with 4 h: 200 is reached by a jump of 51, not by one of 49."""
    for height, is_edge in ((49, False), (51, True)):
        assert bool((tools.canny(step_edge(height)) > 0).any()) == is_edge
    assert (tools.canny(step_edge(10), 0, 39) > 0).any() and not (tools.canny(step_edge(10), 0, 41) > 0).any()
    weak = step_edge(60)  # strong above, weak below: it goes on where it began, down to the lower threshold
    weak[:, 10:, 13:] = -1 + 30 / 127.5
    lengths = [int((tools.canny(weak, low, 200)[0] > 0).any(1).sum()) for low in (50, 150)]
    assert lengths[0] >= 18 > 12 >= lengths[1]


@pytest.mark.parametrize("low, high", [(201, 200), (-1, 200)])
def test_thresholds_out_of_order_are_answered(low, high):
    with pytest.raises(AssertionError, match=f"thresholds {low}, {high}: need 0 ≤ low ≤ high"):
        tools.canny(step_edge(100), low, high)


# ---------------------------------------------------------------- tokens


@pytest.mark.equation("12.3")
def test_a_reference_keeps_its_rows_and_columns_and_has_a_plane_of_its_own():
    z = torch.randn(2, 16, 4, 6)
    tokens, ids = tools.reference_tokens(z)
    assert torch.equal(tokens, pack(z))
    theirs = diffusers.FluxKontextPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    theirs[..., 0] = 1  # as FluxKontextPipeline.prepare_latents sets it
    assert torch.equal(ids, theirs.expand(2, -1, -1))


def test_the_kontext_sizes_are_those_of_diffusers():
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    assert [*tools.KONTEXT_SIZES] == PREFERRED_KONTEXT_RESOLUTIONS
    assert tools.kontext_size(512, 512) == (1024, 1024)
    assert tools.kontext_size(1920, 1080) == (1392, 752)
    assert tools.kontext_size(1, 100) == (672, 1568)
    with pytest.raises(AssertionError, match="no side may be 0"):
        tools.kontext_size(0, 5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_denoise_joins_channels_and_tokens(guidance):
    """Two steps by hand: what is joined is the model's input at every step, and only the picture's tokens move."""
    model, wide = small(), small(13)
    noise, txt, y = torch.randn(1, 6, 8), torch.randn(1, 3, 10), torch.randn(1, 6)
    ids, txt_ids = patchify.make_img_ids(1, 2, 3), torch.zeros(1, 3, 3)
    reference = torch.randn(1, 4, 8), patchify.make_img_ids(1, 2, 2) + torch.tensor([1.0, 0, 0])
    cond, timesteps = torch.randn(1, 6, 5), [1.0, 0.7, 0.2]
    empty = torch.randn(1, 3, 10), torch.randn(1, 6)

    def walk(step):
        x = noise
        for t, t_next in pairwise(timesteps):
            level = torch.tensor([t])
            v_empty, v = step(x, empty[0], level, empty[1]), step(x, txt, level, y)
            x = x + (t_next - t) * (v_empty + guidance * (v - v_empty))
        return x

    def beside(x, txt, t, y):
        return wide(torch.cat([x, cond], -1), ids, txt, txt_ids, t, y)

    def after(x, txt, t, y):
        return model(torch.cat([x, reference[0]], 1), torch.cat([ids, reference[1]], 1), txt, txt_ids, t, y)[:, :6]

    how = dict(timesteps=timesteps, guidance=guidance, uncond=empty)
    x = sampling.denoise(wide, noise, ids, txt, txt_ids, y, **how, img_cond=cond)
    torch.testing.assert_close(x, walk(beside), rtol=1e-4, atol=1e-5)
    x = sampling.denoise(model, noise, ids, txt, txt_ids, y, **how, img_cond_seq=reference)
    torch.testing.assert_close(x, walk(after), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- text


@pytest.mark.equation("12.4")
def test_redux_is_the_class_of_diffusers():
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    theirs = ReduxImageEncoder(redux_dim=11, txt_in_features=7)
    ours = tools.Redux(11, 7)
    load_strict(ours, theirs.state_dict())
    txt, s = torch.randn(2, 3, 7), torch.randn(2, 5, 11)
    out = ours(txt, s)
    assert torch.equal(out[:, :3], txt)
    torch.testing.assert_close(out[:, 3:], theirs(s).image_embeds)


def test_the_eye_of_the_tiny_redux_sees_what_and_where():
    """Its features are those that the judge makes one vector of; behind them stands the place, row first."""
    judge = load_classifier().judge
    pictures = torch.rand(2, 3, 128, 96) * 2 - 1
    seen = judge.encode_image(pictures)
    assert seen.shape == (2, 16, 96 + 8)
    small = F.interpolate(pictures, (64, 64), mode="area")
    features = rearrange(seen[..., :96], "b (h w) c -> b (c h w)", h=4)
    torch.testing.assert_close(F.normalize(judge.image[-1](features), dim=-1), judge.embed_crops(small))
    for i in range(16):
        assert seen[1, i, 96:].nonzero().flatten().tolist() == [i // 4, 4 + i % 4]
    assert torch.equal(seen[0, :, 96:], seen[1, :, 96:])
    turned = judge.encode_image(pictures.flip(-1))
    assert not torch.equal(turned[..., :96], seen[..., :96])


def test_the_published_redux_has_64_million_parameters():
    with torch.device("meta"):
        model = tools.Redux()
    assert sum(p.numel() for p in model.parameters()) == 64_503_808


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    "draw, values, words",
    [
        (plots.fill_inputs, {"left": 0, "top": 0, "side": 128}, "100% of the pixels are masked"),
        (plots.fill_inputs, {"left": 120, "top": 120, "side": 1}, "0% of the pixels"),
        (plots.kontext_sizes, {"width": 256, "height": 3840}, "672 × 1568"),
        (plots.kontext_sizes, {"width": 3840, "height": 256}, "1568 × 672"),
        (plots.two_planes, {"index": 0, "row": 4}, "(0, 4, c): 1.000"),
        (plots.two_planes, {"index": 4, "row": 8}, "(4, 8, c)"),
        (plots.where_strength_enters, {"strength": 0.0}, "strength 0.00, .* 0.00 on the shifted schedule and 0.00 on"),
        (plots.where_strength_enters, {"strength": 1.0, "tokens": 64}, "1.00 on the shifted schedule and 1.00 on the"),
    ],
)
def test_figures_at_their_ends(draw, values, words):
    label = draw(**values).get_label()
    assert words in label or re.search(words, label)


def test_the_strength_figure_tells_where_image_to_image_begins():
    """The numbers of its label are those of `image_to_image_start`, on both schedules."""
    for strength, tokens in ((0.3, 4096), (0.65, 64)):
        label = plots.where_strength_enters(strength=strength, tokens=tokens).get_label()
        for name, shift in (("shifted", True), ("even", False)):
            timesteps = get_schedule(28, tokens, shift=shift)
            _, rest = sampling.image_to_image_start(torch.zeros(1), torch.zeros(1), timesteps, strength)
            assert f"{rest[0]:.2f} on the {name} schedule" in label


def test_pictures_around_a_hole():
    mask = plots.hole(10, 20, 30)
    assert mask.getbbox() == (10, 20, 40, 50) and {value for _, value in mask.getcolors()} == {0, 255}
    covered = plots.covered(Image.new("RGB", (128, 128), "red"), mask)
    assert covered.getpixel((10, 20)) == (128, 128, 128) and covered.getpixel((9, 20)) == (255, 0, 0)
    strip = plots.beside(covered, mask, covered, alt="three pictures")
    assert strip.size == (3 * 256 + 2 * 8, 256) and strip.info["alt"] == "three pictures"
    assert strip.getpixel((258, 3)) == (255, 255, 255) and strip.getpixel((300, 3)) == (0, 0, 0)


# ---------------------------------------------------------------- a mask drawn by hand


def test_a_drawn_mask_is_a_control_of_a_panel():
    picture, first = Image.new("RGB", (128, 128), "red"), plots.hole(32, 64, 40)
    seen = []

    def draw(mask: str = "") -> Image.Image:
        seen.append(mask_of(mask, (128, 128)))
        return plots.beside(plots.covered(picture, seen[-1]), alt=f"{mask.count('1')} squares are covered")

    control = MaskCanvas(picture, first)
    panel = Panel(draw, {"mask": control})
    PANELS.remove(panel)
    assert seen[-1].tobytes() == first.tobytes() and "100 squares" in panel.picture.value
    before = panel.picture.value
    control.value = "1" * SQUARES**2  # what the browser sends
    assert seen[-1].getextrema() == (255, 255) and "1024 squares" in panel.picture.value
    assert [move.error for move in sweep(panel)] == [None]  # Reset: a mask has no other places
    panel.children[0].children[-1].click()
    assert panel.picture.value == before and control.value == letters_of(first)
    assert control.picture.startswith("data:image/png;base64,") and control.description == "mask"


def test_letters_are_a_mask():
    letters = "".join(random.Random(1).choice("01") for _ in range(SQUARES**2))
    mask = mask_of(letters, (128, 128))
    assert mask.getpixel((4 * 7, 4 * 3)) == 255 * int(letters[3 * SQUARES + 7])
    assert letters_of(mask) == letters
    for wrong in ("1", "2" * SQUARES**2):
        with pytest.raises(traitlets.TraitError, match="a mask is 1024 letters, each 0 or 1"):
            MaskCanvas(Image.new("RGB", (16, 16)), value=wrong)


def test_the_score_in_another_plane_is_that_of_the_rotations():
    """The figure's number against vectors turned by the tiny FLUX's own embedder."""
    ids = torch.tensor([[[0.0, 4, 4], [1, 4, 4], [1, 4, 7]]])
    ones = torch.ones(1, 1, 3, 64)
    turned = apply_rope(ones, EmbedND(64, 10_000, (8, 28, 28))(ids))
    scores = (turned[0, 0, 0] @ turned[0, 0].T) / 64
    label = plots.two_planes(1, 4, 4).get_label()
    assert f"(1, 4, c): {scores[1]:.3f} at column 4" in label
    assert plots.two_planes(1, 4, 7).get_label().count(f"{scores[2]:.3f} at column 7") == 1
