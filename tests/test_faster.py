"""Chapter 18: what may be left out of a step. Caches, a kept reference, guidance in part of the steps, few bits."""

from dataclasses import replace

import pytest
import torch
from small_models import random_flux, random_inputs

from flux_edu.attention import attention
from flux_edu.configs import configs
from flux_edu.model import Flux
from flux_edu.modulation import modulate
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.rope import EmbedND, apply_rope
from flux_edu.sampling import denoise, velocity_field
from flux_edu.schedule import get_schedule
from flux_edu.speed.few_bits import round_rest, round_to_bits, rounded
from flux_edu.speed.guidance_interval import guided_between
from flux_edu.speed.reference_cache import attention_with_kept, see_only_itself, velocity_with_kept
from flux_edu.speed.step_cache import FirstBlockCache, TeaCache, cached, relative_change
from flux_edu.teaching.plots import chapter_18 as plots
from flux_edu.tools import make_ref_ids

B, ROWS, COLUMNS, L_TXT, STEPS = 2, 3, 5, 7, 5
TIMES = get_schedule(STEPS, ROWS * COLUMNS)


@pytest.fixture(scope="module")
def model() -> Flux:
    return random_flux(replace(configs["tiny"].params, depth=2, depth_single_blocks=2), std=0.05, seed=2)


@pytest.fixture(scope="module")
def inputs(model) -> dict[str, torch.Tensor]:
    return random_inputs(model.params, B, ROWS, COLUMNS, L_TXT)


@pytest.fixture
def tokens(model):
    """Image tokens, text tokens, vector and rotations, as the first block reads them."""
    pe = model.pe_embedder(torch.cat([make_txt_ids(B, L_TXT), make_img_ids(B, ROWS, COLUMNS)], dim=1))
    D = model.params.hidden_size
    return torch.randn(B, ROWS * COLUMNS, D), torch.randn(B, L_TXT, D), torch.randn(B, D), pe


def after_all_blocks(model, img, txt, vec, pe):
    for block in model.double_blocks:
        img, txt = block(img, txt, vec, pe)
    x = torch.cat([txt, img], dim=1)
    for block in model.single_blocks:
        x = block(x, vec, pe)
    return x[:, L_TXT:]


# ---------------------------------------------------------------- caches of steps


@pytest.mark.equation("18.1")
def test_the_change_is_in_parts_of_the_earlier_size():
    old, new = torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, -2.0]])
    assert relative_change(new, old) == pytest.approx(1 / 2)  # both have moved by 1, their mean size was 2


@pytest.mark.equation("18.2")
def test_a_first_block_cache_adds_what_the_rest_added_last(model, tokens):
    img, txt, vec, pe = tokens
    cache = FirstBlockCache(model, threshold=0.1)
    out, _ = cache(img, txt, vec, pe)
    torch.testing.assert_close(out, after_all_blocks(model, img, txt, vec, pe))
    first, _ = model.double_blocks[0](img, txt, vec, pe)
    moved = img + 0.01 * torch.randn_like(img)
    out_moved, _ = cache(moved, txt, vec, pe)
    first_moved, _ = model.double_blocks[0](moved, txt, vec, pe)
    torch.testing.assert_close(out_moved, first_moved + (out - first))
    other = torch.randn_like(img)
    torch.testing.assert_close(cache(other, txt, -vec, pe)[0], after_all_blocks(model, other, txt, -vec, pe))
    assert cache.computed == [True, False, True]


@pytest.mark.equation("18.3")
def test_teacache_adds_up_what_it_predicts_and_computes_both_ends(model, tokens):
    img, txt, vec, pe = tokens
    states = [img + 0.05 * i * torch.randn_like(img) for i in range(6)]
    reads = [modulate(x, model.double_blocks[0].img_mod(vec)[0]) for x in states]
    changes = [relative_change(new, old) for new, old in zip(reads[1:], reads[:-1], strict=True)]
    threshold = 2 * (changes[0] + changes[1]) + changes[2]  # reached at step 3 where p(δ) = 2 δ, and passed
    cache = TeaCache(model, threshold, lambda change: 2 * change, steps=6)
    outs = [cache(x, txt, vec, pe)[0] for x in states]
    assert cache.computed == [True, False, False, True, False, True]
    for i, at in ((0, 0), (2, 0), (3, 3), (4, 3), (5, 5)):  # a step, and the whole one that it takes Δ from
        expected = states[i] + after_all_blocks(model, states[at], txt, vec, pe) - states[at]
        torch.testing.assert_close(outs[i], expected)


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_a_painting_inside_a_cache(model, inputs, limit):
    """Threshold 0 is the painting itself; none of the others is reached, then the first step alone is whole."""
    expected = denoise(model, **inputs, timesteps=TIMES)
    blocks = model.double_blocks, model.single_blocks
    for cache in (FirstBlockCache(model, limit), TeaCache(model, limit, lambda change: change, STEPS)):
        with cached(model, cache):
            out = denoise(model, **inputs, timesteps=TIMES)
        assert torch.allclose(out, expected, atol=1e-5) == (limit == 0)
        assert sum(cache.computed) == (STEPS if limit == 0 else 1 + isinstance(cache, TeaCache))
    with pytest.raises(RuntimeError, match="stop"), cached(model, FirstBlockCache(model, 0.1)):
        raise RuntimeError("stop")
    assert (model.double_blocks, model.single_blocks) == blocks


# ---------------------------------------------------------------- a reference that is computed once


@pytest.mark.equation("18.4")
def test_attention_with_kept_keys_is_attention_to_all(model):
    ids = torch.cat([make_txt_ids(1, 4), make_img_ids(1, 2, 3), make_ref_ids(1, 2, 2)], dim=1)
    pe = EmbedND(64, 10_000, (8, 28, 28))(ids)
    q, k, v = torch.randn(3, 1, 5, 14, 64)
    whole = attention(q, k, v, pe)
    own = slice(0, 10)
    kept = apply_rope(k, pe)[:, :, 10:], v[:, :, 10:]
    out = attention_with_kept(q[:, :, own], k[:, :, own], v[:, :, own], pe[:, :, own], kept)
    torch.testing.assert_close(out, whole[:, :10])


@torch.no_grad()
def test_a_kept_reference_is_computed_once_and_a_lone_one_does_not_depend_on_the_picture(model, inputs):
    ref = torch.randn(1, 6, 64), make_ref_ids(1, 2, 3)
    plain = velocity_field(model, inputs, 1.0, img_cond_seq=ref)
    x, y = inputs["img"], torch.randn_like(inputs["img"])
    kept, again = velocity_with_kept(model, inputs, 1.0, ref), velocity_with_kept(model, inputs, 1.0, ref, keep=False)
    for velocity in (kept, again):
        torch.testing.assert_close(velocity(x, 0.9), plain(x, 0.9))
    torch.testing.assert_close(again(y, 0.5), plain(y, 0.5))
    assert (kept(y, 0.5) - plain(y, 0.5)).abs().max() > 1e-4
    lone = velocity_with_kept(model, inputs, 1.0, ref, isolated=True)
    lone(x, 0.5)  # at the same t the keys of a reference that sees only itself are the same for any picture
    torch.testing.assert_close(lone(y, 0.5), velocity_with_kept(model, inputs, 1.0, ref, isolated=True)(y, 0.5))
    assert (kept(x, 0.9) - plain(x, 0.9)).abs().max() < 1e-4 and see_only_itself(5, 2).sum() == 19


# ---------------------------------------------------------------- guidance in part of the steps


@pytest.mark.equation("18.5")
def test_guidance_between_two_levels():
    velocity = guided_between(lambda x, t: 3 * x, lambda x, t: x, low=0.25, high=0.75)
    one = torch.ones(1, 2, 3)
    assert [velocity(one, t).mean().item() for t in (1.0, 0.75, 0.5, 0.25, 0.1)] == [1, 3, 3, 1, 1]


# ---------------------------------------------------------------- few bits


@pytest.mark.equation("18.6")
def test_numbers_become_multiples_of_a_scale():
    W = torch.tensor([[7.0, 3.4, -0.6, 0.0, 70.0, 34.0, -6.0, 4.0]])
    torch.testing.assert_close(round_to_bits(W, 4, 4), torch.tensor([[7.0, 3, -1, 0, 70, 30, -10, 0]]))
    torch.testing.assert_close(round_to_bits(W, 4), torch.tensor([[10.0, 0, 0, 0, 70, 30, -10, 0]]))
    W = torch.randn(11, 60)
    scales = W.unflatten(1, (5, 12)).abs().amax(-1) / 31
    off = (round_to_bits(W, 6, 12) - W).abs().unflatten(1, (5, 12)).amax(-1)
    assert (off <= scales / 2 + 1e-6).all() and off.max() > 1e-3


@pytest.mark.equation("18.7")
def test_only_the_rest_of_a_low_rank_part_is_rounded():
    low = 10 * torch.randn(20, 3) @ torch.randn(3, 24)
    W = low + 0.1 * torch.randn(20, 24)
    error = {rank: (round_rest(W, 4, 8, rank) - W).norm() / W.norm() for rank in (0, 3, 20)}
    torch.testing.assert_close(round_rest(W, 4, 8, 0), round_to_bits(W, 4, 8))
    assert error[3] < 0.02 * error[0] and error[20] < 1e-5


def test_a_rounded_copy_leaves_the_model_and_its_modulations_alone(model):
    state = {name: p.clone() for name, p in model.state_dict().items()}
    changed = {
        name.removesuffix(".weight")
        for name, p in rounded(model, lambda W: round_to_bits(W, 4)).state_dict().items()
        if not torch.equal(p, state[name])
    }
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items())
    assert len(changed) == 2 * 8 + 2 * 2 and not any(name.endswith("lin") for name in changed)


# ---------------------------------------------------------------- the figures


def test_the_figure_of_steps_follows_the_rule_of_the_cache(model, inputs):
    added = []
    with cached(model, FirstBlockCache(model, 0.3)) as cache:
        hook = (
            model.double_blocks[0]
            .double_blocks[0]
            .register_forward_hook(lambda _, read, gives: added.append(gives[0] - read[0]))
        )
        denoise(model, **inputs, timesteps=TIMES)
        hook.remove()
    figure = plots.whole_steps(torch.stack(added), TIMES[:-1], 0.3)
    assert f"{sum(cache.computed)} of {STEPS} steps are computed whole" in figure.get_label()
