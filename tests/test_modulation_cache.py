"""What is computed before the first step: the same numbers, layers that come back, and misuse that is refused."""

from dataclasses import replace

import pytest
import torch
from small_models import random_flux, random_inputs

from flux_edu.configs import configs
from flux_edu.model import Flux
from flux_edu.modulation import Modulation
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed.modulation_cache import Precomputed, precompute_modulations

B, ROWS, COLUMNS, L_TXT, STEPS = 2, 3, 5, 7, 4


@pytest.fixture(params=["tiny", "tiny-dev"])
def model(request) -> Flux:
    return random_flux(replace(configs[request.param].params, depth=1, depth_single_blocks=2), std=0.05, seed=2)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return random_inputs(model.params, B, ROWS, COLUMNS, L_TXT)


def precomputed(model, inputs, timesteps, guidance=3.0):
    return precompute_modulations(model, inputs["img_ids"], inputs["txt_ids"], inputs["vec"], timesteps, guidance)


def test_a_loop_with_everything_precompute_modulations_gives_the_same_numbers(model, inputs):
    how = dict(timesteps=get_schedule(STEPS, ROWS * COLUMNS), guidance=3.0)
    expected = denoise(model, **inputs, **how)
    with precomputed(model, inputs, **how):
        out = denoise(model, **inputs, **how)
    assert (expected - inputs["img"]).std() > 0.1, "the model does nothing"
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for changed in ({"guidance": 9.0}, {"timesteps": get_schedule(STEPS, 4096)}):
        with precomputed(model, inputs, **how | changed):
            other = denoise(model, **inputs, **how)
        noticed = "timesteps" in changed or model.params.guidance_embed
        assert ((other - expected).abs().max() > 1e-3) == noticed, changed


def test_no_layer_that_reads_the_vector_works_inside(model, inputs):
    at_work, hooks = [], []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_hook(lambda *_, name=name: at_work.append(name)))
    timesteps = get_schedule(STEPS, ROWS * COLUMNS)
    with precomputed(model, inputs, timesteps):
        at_work.clear()
        denoise(model, **inputs, timesteps=timesteps, guidance=3.0)
    assert at_work and not [name for name in at_work if ".lin" in name.replace("linear", "") or "adaLN" in name]
    assert at_work.count("single_blocks.1.linear2") == STEPS
    for hook in hooks:
        hook.remove()


def test_the_layers_come_back_in_their_order_even_after_an_error(model, inputs):
    names, keys = [name for name, _ in model.named_modules()], list(model.state_dict())
    layers = [module.lin for module in model.modules() if isinstance(module, Modulation)]
    with pytest.raises(RuntimeError, match="stop"), precomputed(model, inputs, [1.0, 0.5, 0.0]):
        assert any(isinstance(module, Precomputed) for module in model.modules())
        raise RuntimeError("stop")
    assert [name for name, _ in model.named_modules()] == names and list(model.state_dict()) == keys
    assert [module.lin for module in model.modules() if isinstance(module, Modulation)] == layers
    assert not model._forward_pre_hooks


def test_other_evaluations_than_those_precomputed_are_refused(model, inputs):
    half = {name: x[:1] for name, x in inputs.items()}
    with (
        precomputed(model, inputs, [1.0, 0.0]),
        pytest.raises(ValueError, match="computed before are 1 evaluations of 2 pictures"),
    ):
        denoise(model, **half, timesteps=[1.0, 0.0], guidance=3.0)
    with precomputed(model, inputs, [1.0, 0.0]), pytest.raises(ValueError, match="this is another"):
        denoise(model, **inputs, timesteps=[1.0, 0.5, 0.0], guidance=3.0)
    with pytest.raises(ValueError, match="1 noise levels make no step"), precomputed(model, inputs, [0.0]):
        pass
