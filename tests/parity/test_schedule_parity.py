"""The schedule against diffusers' FlowMatchEulerDiscreteScheduler, set up as FLUX.1's pipelines set it up."""

import numpy as np
import pytest

from flux_edu import schedule

diffusers = pytest.importorskip("diffusers")

FLUX_DEV = dict(
    num_train_timesteps=1000,
    shift=3.0,
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=4096,
)


@pytest.mark.parametrize("L", [16, 64, 256, 1000, 4080, 4096, 9216, 16384])
def test_levels_equal_diffusers(L):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**FLUX_DEV)
    mu = np.interp(L, [256, 4096], [0.5, 1.15]) if 256 <= L <= 4096 else 0.5 + (L - 256) * 0.65 / 3840
    for N in range(1, 51):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / N, N), mu=float(mu))
        theirs = scheduler.sigmas.double().numpy()
        assert np.abs(theirs - schedule.get_schedule(N, L)).max() <= 1e-6


def test_schnell_levels_equal_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    for N in range(1, 9):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / N, N))
        theirs = scheduler.sigmas.double().numpy()
        assert np.abs(theirs - schedule.get_schedule(N, 4096, shift=False)).max() <= 1e-6


@pytest.mark.parametrize("L", [16, 256, 1000, 4080, 16384])
def test_mu_equals_diffusers(L):
    calculate_shift = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux").calculate_shift
    assert schedule.get_lin_function()(L) == pytest.approx(calculate_shift(L), abs=1e-12)
