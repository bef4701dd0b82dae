"""Where to compute: what was asked for if it is there, else the fastest that is."""

import pytest
import torch

from flux_edu.io import device


@pytest.fixture
def machine(monkeypatch):
    """Pretend that a machine has so many CUDA devices, or an Apple GPU."""

    def has(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(("cuda", "mps", "picked"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_the_fastest_is_picked(machine, cuda, mps, picked):
    machine(cuda, mps)
    assert device.pick_device() == torch.device(picked)


def test_what_is_asked_for_is_taken(machine):
    machine(cuda=2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert device.pick_device(name) == device.pick_device(torch.device(name)) == torch.device(name)


def test_what_is_not_there_is_an_error_that_says_what_is(machine):
    machine(cuda=0, mps=True)
    for name in ("cuda", "xla", "meta"):
        message = f"device '{name}' is not available on this machine; there is mps, cpu. Name none"
        with pytest.raises(ValueError, match=message):
            device.pick_device(name)
    machine(cuda=2)
    with pytest.raises(ValueError, match=r"device 'cuda:2' is not available .* there is cuda \(0 to 1\), cpu\. Name"):
        device.pick_device("cuda:2")


def test_a_word_that_is_no_device_is_an_error():
    with pytest.raises(ValueError, match="'gpu' is no device; choose one of cuda, mps, cpu, or none"):
        device.pick_device("gpu")
