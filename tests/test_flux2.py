"""FLUX.2: numbers equal to diffusers' class, parameters as published, one table for both generations."""

import re
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.pipelines.flux2 import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch.utils.flop_counter import FlopCounterMode

from flux_edu import attention, single_stream
from flux_edu.attention import attention_explicit
from flux_edu.configs import configs
from flux_edu.flux2 import architectures
from flux_edu.flux2 import model as flux2
from flux_edu.model import Flux
from flux_edu.teaching.plots import chapter_16 as plots

SMALL = flux2.Flux2Params(
    context_in_dim=37,
    hidden_size=60,
    num_heads=3,
    depth=2,
    depth_single_blocks=3,
    guidance_embed=True,
    in_channels=11,
    axes_dim=(4, 8, 2, 6),
)


def random_model(params=SMALL, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = flux2.Flux2(params).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def random_inputs(params=SMALL, h=5, w=7, L_txt=13, dtype=torch.float64):
    txt_ids, img_ids = flux2.make_ids(2, (h, w), L_txt)
    return dict(
        img=torch.randn(2, h * w, params.in_channels, dtype=dtype),
        img_ids=img_ids,
        txt=torch.randn(2, L_txt, params.context_in_dim, dtype=dtype),
        txt_ids=txt_ids,
        timesteps=torch.tensor([0.83, 0.17]),
        guidance=torch.tensor([4.0, 1.5]) if params.guidance_embed else None,
    )


def oracle(model):
    """diffusers' class with the same weights, moved by diffusers' own conversion of the published layout."""
    p = model.params
    other = Flux2Transformer2DModel(
        in_channels=p.in_channels,
        num_layers=p.depth,
        num_single_layers=p.depth_single_blocks,
        attention_head_dim=p.hidden_size // p.num_heads,
        num_attention_heads=p.num_heads,
        joint_attention_dim=p.context_in_dim,
        mlp_ratio=p.mlp_ratio,
        axes_dims_rope=p.axes_dim,
        rope_theta=p.theta,
        guidance_embeds=p.guidance_embed,
    )
    other.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(model.state_dict()))
    return other.to(next(model.parameters()).dtype).eval()


@pytest.mark.parametrize("guidance_embed", [True, False])
@pytest.mark.parametrize("dtype, bar", [(torch.float32, 3e-5), (torch.float64, 2e-6)])  # RoPE's table is float32
@torch.no_grad()
def test_the_numbers_are_those_of_diffusers(guidance_embed, dtype, bar):
    model = random_model(replace(SMALL, guidance_embed=guidance_embed), dtype=dtype)
    inputs = random_inputs(model.params, dtype=dtype)
    ours = model(**inputs)
    theirs = oracle(model)(
        hidden_states=inputs["img"],
        encoder_hidden_states=inputs["txt"],
        timestep=inputs["timesteps"],
        img_ids=inputs["img_ids"],
        txt_ids=inputs["txt_ids"],
        guidance=inputs["guidance"],
    ).sample
    assert ours.std() > 0.05
    assert (ours - theirs).abs().max() < bar * ours.abs().max()


def test_a_distilled_model_asks_for_its_guidance():
    inputs = random_inputs() | {"guidance": None}
    with pytest.raises(ValueError, match="pass guidance"):
        random_model()(**inputs)


def on_meta(model, params):
    with torch.device("meta"):
        return model(params)


@pytest.mark.parametrize(
    "name, tensors, numbers",
    [  # the makers say 32B, 9B and 4B; FLUX.1's are those of its checkpoints
        ("FLUX.1 dev", 780, 11_901_408_320),
        ("FLUX.1 schnell", 776, 11_891_178_560),
        ("FLUX.2 dev", 299, 32_223_281_152),
        ("FLUX.2 klein 9B", None, 9_078_581_248),
        ("FLUX.2 klein 4B", None, 3_875_544_576),
    ],
)
def test_parameters_are_counted_as_published(name, tensors, numbers):
    design = architectures.DESIGNS[name]
    params = design.params()
    model = on_meta(flux2.Flux2 if isinstance(params, flux2.Flux2Params) else Flux, params)
    assert sum(p.numel() for p in model.parameters()) == numbers
    assert sum(architectures.parameters(design).values()) == numbers, "the arithmetic of the table"
    assert tensors is None or len(model.state_dict()) == tensors
    if isinstance(params, flux2.Flux2Params):
        other = on_meta(
            lambda p: Flux2Transformer2DModel(
                num_layers=p.depth,
                num_single_layers=p.depth_single_blocks,
                num_attention_heads=p.num_heads,
                joint_attention_dim=p.context_in_dim,
                guidance_embeds=p.guidance_embed,
            ),
            params,
        )
        assert sum(p.numel() for p in other.parameters()) == numbers


def test_each_part_of_the_arithmetic_is_that_of_the_models():
    for name in ("FLUX.1 dev", "FLUX.2 klein 4B"):
        design = architectures.DESIGNS[name]
        model = on_meta(Flux if name.startswith("FLUX.1") else flux2.Flux2, design.params())
        counted = {
            "modulation of the blocks": 0,
            "double blocks": 0,
            "single blocks": 0,
            "inputs, vector, last layer": 0,
        }
        for key, parameter in model.named_parameters():
            if "_mod." in key or ".modulation." in key or "stream_modulation" in key:
                part = "modulation of the blocks"
            else:
                part = {"double_blocks": "double blocks", "single_blocks": "single blocks"}.get(
                    key.split(".")[0], "inputs, vector, last layer"
                )
            counted[part] += parameter.numel()
        assert counted == architectures.parameters(design)


def test_the_rows_of_flux1_are_those_of_the_configurations():
    assert architectures.DESIGNS["FLUX.1 dev"].params() == configs["flux-dev"].params
    assert architectures.DESIGNS["FLUX.1 schnell"].params() == configs["flux-schnell"].params
    assert architectures.DESIGNS["FLUX.1 dev"].latent_channels == configs["flux-dev"].ae_params.z_channels


def test_a_mixture_can_be_counted_but_not_built():
    mixed = replace(architectures.FLUX1_DEV, shared_modulation=True)
    assert sum(architectures.parameters(mixed).values()) < sum(
        architectures.parameters(architectures.FLUX1_DEV).values()
    )
    with pytest.raises(ValueError, match="no class builds it"):
        mixed.params()


def test_arithmetic_of_an_evaluation_is_that_of_pytorchs_counter(monkeypatch):
    for module in (attention, single_stream, flux2):  # PyTorch does not count its fused attention on a CPU
        monkeypatch.setattr(module, "attention", attention_explicit)
    for name in ("FLUX.1 dev", "FLUX.2 dev"):
        small = dict(width=60, heads=3, double_blocks=2, single_blocks=3, axes=(4, 8, 8), channels=11)
        if name == "FLUX.2 dev":
            small["axes"] = (4, 8, 2, 6)
        design = replace(architectures.DESIGNS[name], **small, text_width=37)
        params = design.params()
        model = (flux2.Flux2 if name == "FLUX.2 dev" else Flux)(params)
        L_img, L_txt = 35, 13
        axes = len(design.axes)
        inputs = [torch.randn(1, L_img, 11), torch.zeros(1, L_img, axes), torch.randn(1, L_txt, 37)]
        inputs += [torch.zeros(1, L_txt, axes), torch.ones(1)]
        inputs += [torch.randn(1, 768)] * (name == "FLUX.1 dev") + [torch.ones(1)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*inputs)
        by_module = {k.split(".", 1)[1]: sum(v.values()) for k, v in counter.get_flop_counts().items() if "." in k}
        blocks = [v for k, v in by_module.items() if k.rsplit(".", 1)[0] in ("double_blocks", "single_blocks")]
        ours = architectures.flops(design, L_img, L_txt)
        shared = 0 if name == "FLUX.1 dev" else ours["modulation"]
        assert sum(blocks) == sum(ours.values()) - shared


def test_the_autoencoders_differ_by_what_the_notebook_says():
    ae = on_meta(lambda _: AutoencoderKLFlux2(), None)
    quant = 64 * 64 + 64 + 32 * 32 + 32
    wider = 32 * 512 * 9 + 32 + 16 * 512 * 9
    assert sum(p.numel() for p in ae.parameters()) == 84_046_115 == 83_819_683 + wider + quant


# ---------------------------------------------------------------- μ and ids


@pytest.mark.parametrize("L, N", [(64, 4), (1024, 10), (4096, 28), (4096, 200), (4300, 50), (4301, 50), (16384, 4)])
def test_mu_is_that_of_the_reference(L, N):
    assert flux2.empirical_mu(L, N) == pytest.approx(compute_empirical_mu(L, N), abs=1e-9)


def test_the_line_for_200_steps_is_that_of_flux1():
    from flux_edu import schedule

    for L in (256, 4096, 10_000):
        assert flux2.empirical_mu(L, 200) == pytest.approx(schedule.get_lin_function()(L), abs=1e-4)


def test_ids_are_those_of_diffusers():
    txt_ids, img_ids = flux2.make_ids(2, (5, 7), 13, [(3, 4), (2, 6)])
    assert torch.equal(txt_ids, Flux2Pipeline._prepare_text_ids(torch.zeros(2, 13, 3)).float())
    target = Flux2Pipeline._prepare_latent_ids(torch.zeros(2, 8, 5, 7)).float()
    references = Flux2Pipeline._prepare_image_ids([torch.zeros(1, 8, 3, 4), torch.zeros(1, 8, 2, 6)]).float()
    assert torch.equal(img_ids, torch.cat([target, references.expand(2, -1, -1)], dim=1))


@torch.no_grad()
def test_text_has_places_now():
    model, inputs = random_model(), random_inputs()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    right = model(**inputs)
    moved_with_ids = model(**(inputs | {"txt": inputs["txt"][:, order], "txt_ids": inputs["txt_ids"][:, order]}))
    moved = model(**(inputs | {"txt": inputs["txt"][:, order]}))
    assert (moved_with_ids - right).abs().max() < 1e-9 * right.abs().max() + 1e-9
    assert (moved - right).abs().max() > 1e-3 * right.abs().max()


# ---------------------------------------------------------------- the notebook's figures


def test_all_of_flux2s_choices_lead_to_flux2():
    """Shared modulation, gated MLP and 8 + 48 blocks at twice the width: what is left is biases, text and channels."""
    figure = plots.cost_plane(6144, 8, 48, shared_modulation=True, gated_mlp=True)
    ours = float(re.search(r"([\d.]+) billion", figure.get_label())[1])
    theirs = sum(architectures.parameters(architectures.FLUX2_DEV).values()) / 1e9
    assert ours == pytest.approx(theirs, rel=0.005)
