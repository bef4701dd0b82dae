"""The whole network: its five stages, what it is built from, and how it answers inputs that do not fit."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.parity_tools import draw
from small_models import FLUX as PARAMS

from flux_edu.attention import attention_explicit
from flux_edu.embeddings import timestep_embedding
from flux_edu.model import Flux
from flux_edu.patchify import make_img_ids
from flux_edu.rope import EmbedND

B, ROWS, COLS, L_TXT = 2, 3, 5, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(6)


def make_model(**changes) -> Flux:
    return draw(Flux(replace(PARAMS, **changes)).double(), seed=6)


def make_inputs(batch=B, l_txt=L_TXT) -> dict:
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(float(ROWS)), torch.arange(float(COLS)))
    return {
        "img": torch.randn(batch, ROWS * COLS, PARAMS.in_channels).double(),
        "img_ids": ids.expand(batch, -1, -1),
        "txt": torch.randn(batch, l_txt, PARAMS.context_in_dim).double(),
        "txt_ids": torch.zeros(batch, l_txt, 3),
        "timesteps": torch.rand(batch),
        "y": torch.randn(batch, PARAMS.vec_in_dim).double(),
        "guidance": torch.full((batch,), 3.5),
    }


def test_forward_is_its_five_stages():
    """The parts run by hand, with attention as the formula has it, give what the model gives."""
    model, x = make_model(), make_inputs()
    emb = {k: timestep_embedding(x[k], 256).double() for k in ("timesteps", "guidance")}
    img, txt = (x[k] @ p.weight.T + p.bias for k, p in (("img", model.img_in), ("txt", model.txt_in)))
    vec = model.time_in(emb["timesteps"]) + model.vector_in(x["y"]) + model.guidance_in(emb["guidance"])
    pe = EmbedND(18, 1000, (4, 6, 8))(torch.cat([x["txt_ids"], x["img_ids"]], dim=1))
    for block in model.double_blocks:
        img, txt = block(img, txt, vec, pe)
    rows = torch.cat([txt, img], dim=1)
    for block in model.single_blocks:
        rows = block(rows, vec, pe)
    velocity = model.final_layer(rows[:, L_TXT:], vec)
    assert velocity.shape == (B, ROWS * COLS, PARAMS.out_channels)
    torch.testing.assert_close(model(**x), velocity, rtol=1e-12, atol=1e-12)


def test_fused_and_explicit_attention_give_one_velocity(monkeypatch):
    model, x = make_model(), make_inputs()
    fused = model(**x)
    for name in ("attention", "single_stream"):
        monkeypatch.setattr(f"flux_edu.{name}.attention", attention_explicit)
    torch.testing.assert_close(model(**x), fused, rtol=1e-9, atol=1e-9)


def test_every_input_matters_and_nothing_is_kept_between_calls():
    model, x = make_model(), make_inputs()
    right = model(**x)
    for name in x:
        if name != "txt_ids":
            other = model(**x | {name: x[name] + (0.5 if "ids" not in name else torch.tensor([0, 2, 0]))})
            if name == "img_ids":  # the text stands still while the picture moves
                assert (other - right).abs().max() > 1e-6
            else:
                assert (other - right).norm() / right.norm() > 1e-3, name
    assert torch.equal(model(**x), right)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_text_tokens_may_come_in_any_order(seed):
    """All text tokens stand at (0, 0, 0), so the network itself sees no order among them."""
    model, x = make_model(), make_inputs(l_txt=6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model(**x | {"txt": x["txt"][:, order]}), model(**x), rtol=1e-9, atol=1e-9)


def test_exchanging_rows_and_columns_of_the_ids_is_exchanging_the_tokens():
    """What notebook 03 shows on a painted picture: the layout is mirrored, the inside of a patch is not."""
    model, x = make_model(), make_inputs()
    x |= {"img": x["img"][:, :9], "img_ids": make_img_ids(B, 3, 3)}
    transpose = [3 * column + row for row in range(3) for column in range(3)]
    exchanged = model(**x | {"img_ids": x["img_ids"][..., [0, 2, 1]]})
    moved = model(**x | {"img": x["img"][:, transpose]})[:, transpose]
    torch.testing.assert_close(exchanged, moved, rtol=1e-9, atol=1e-9)
    assert (exchanged - model(**x)).norm() > 1e-3 * moved.norm()


def test_pictures_of_a_batch_do_not_see_each_other():
    model, x = make_model(), make_inputs()
    alone = model(**{name: value[1:] for name, value in x.items()})
    torch.testing.assert_close(model(**x)[1:], alone, rtol=1e-9, atol=1e-9)


def test_a_model_without_guidance_ignores_it():
    model, x = make_model(guidance_embed=False), make_inputs()
    assert model.guidance_in is None
    assert torch.equal(model(**x), model(**x | {"guidance": None}))


def test_a_bfloat16_model_runs_on_float32_levels_and_ids():
    model, x = make_model().bfloat16(), make_inputs()
    half = {k: v.bfloat16() if v.dtype == torch.float64 else v for k, v in x.items()}
    assert model(**half).dtype == torch.bfloat16


def test_zeros_where_training_starts_make_the_velocity_zero():
    model, x = make_model(), make_inputs()
    for name, p in model.named_parameters():
        if "mod" in name or "final_layer" in name:
            p.zero_()
    assert torch.equal(model(**x), torch.zeros(B, ROWS * COLS, PARAMS.out_channels).double())


def test_text_dropped_before_the_single_blocks_is_another_model():
    model, x = make_model(), make_inputs()
    vec = model.conditioning(x["timesteps"], x["y"], x["guidance"])
    pe = model.pe_embedder(torch.cat([x["txt_ids"], x["img_ids"]], dim=1))
    img, txt = model.img_in(x["img"]), model.txt_in(x["txt"])
    for block in model.double_blocks:
        img, txt = block(img, txt, vec, pe)
    for block in model.single_blocks:
        img = block(img, vec, pe[:, :, L_TXT:])
    right = model(**x)
    assert (model.final_layer(img, vec) - right).norm() / right.norm() > 0.01


# ---------------------------------------------------------------- inputs that do not fit

# what is changed, and the message
MISFITS = {
    "img too wide": (lambda x: {"img": torch.zeros(B, 15, 6).double()}, r"\[6, 13, 11\] channels, not \[5, 13, 11\]"),
    "txt too narrow": (lambda x: {"txt": x["txt"][..., :8]}, r"\[5, 8, 11\] channels, not \[5, 13, 11\]"),
    "y of another CLIP": (lambda x: {"y": torch.zeros(B, 768).double()}, r"\[5, 13, 768\] channels"),
    "img_ids too short": (lambda x: {"img_ids": x["img_ids"][:, :-1]}, r"\[15, 4\] tokens, but \[14, 4\] ids"),
    "txt_ids too long": (lambda x: {"txt_ids": torch.zeros(B, 5, 3)}, r"\[15, 4\] tokens, but \[15, 5\] ids"),
    "guidance missing": (lambda x: {"guidance": None}, "guidance-distilled: pass guidance"),
    "two coordinates": (lambda x: {k: x[k][..., :2] for k in ("img_ids", "txt_ids")}, r"2 axes: \(4, 6, 8\)"),
}


@pytest.fixture
def no_type_checks():
    """As a reader runs it: without the types that pytest checks first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("misfit", MISFITS)
def test_an_input_that_does_not_fit_is_explained(misfit, no_type_checks):
    change, message = MISFITS[misfit]
    x = make_inputs()
    with pytest.raises(AssertionError, match=message):
        make_model()(**x | change(x))


def test_widths_that_do_not_divide_are_explained():
    with pytest.raises(AssertionError, match="hidden_size = 37: not 2 equal heads"):
        Flux(replace(PARAMS, hidden_size=37))
    with pytest.raises(AssertionError, match=r"axes_dim = \(4, 6, 6\): must sum to 18"):
        Flux(replace(PARAMS, axes_dim=(4, 6, 6)))
