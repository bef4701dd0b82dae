"""Eight bits a number, and files that others have open."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_checkpoint import PARAMS, model
from torch import nn

from flux_edu.io import checkpoint
from flux_edu.io.checkpoint import CheckpointError
from flux_edu.model import Flux

# ---------------------------------------------------------------- eight bits a number


def test_int8_is_wrong_by_at_most_a_254th_of_the_rows_largest(tmp_path):
    torch.manual_seed(1)
    sizes = torch.logspace(-6, 6, 31)[:, None]  # every row in its own order of magnitude
    state = {
        "linear.weight": torch.randn(31, 53) * sizes,
        "conv.weight": torch.randn(7, 5, 3, 3),
        "half": torch.randn(11, 17).half(),
        "brain": torch.randn(11, 17).bfloat16(),
    }
    checkpoint.save_int8(state, tmp_path / "x.safetensors")
    back = checkpoint.read(tmp_path / "x.safetensors")
    assert back.keys() == state.keys()
    for name, x in state.items():
        x, y = x.float().flatten(1), back[name].flatten(1)
        assert back[name].shape == state[name].shape and y.dtype == torch.float32
        largest = x.abs().amax(dim=1, keepdim=True)
        assert ((y - x).abs() <= largest / 254 * (1 + 1e-5)).all()
        assert ((y - x).abs() > largest / 600).any(), "it was rounded to eight bits at all"
        torch.testing.assert_close(y.abs().amax(dim=1, keepdim=True), largest)  # the largest number is kept


def test_int8_stores_one_byte_a_number_and_a_scale_a_row(tmp_path):
    checkpoint.save_int8({"w": torch.randn(3, 40), "b": torch.randn(3)}, tmp_path / "x.safetensors", {"from": "run 7"})
    raw = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert raw["w"].dtype == torch.int8 and raw["w::row_scale"].shape == (3, 1) and raw["b"].dtype == torch.float32
    assert raw["w"].abs().amax(dim=1).tolist() == [127, 127, 127]
    assert checkpoint.read_metadata(tmp_path / "x.safetensors") == {"from": "run 7"}


def test_int8_leaves_vectors_and_short_rows_as_they_are(tmp_path):
    state = {
        "bias": torch.randn(99),
        "scalar": torch.tensor(0.1),
        "short": torch.randn(50, 7),
        "one": torch.randn(5, 1),
    }
    checkpoint.save_int8(state, tmp_path / "x.safetensors")
    back = checkpoint.read(tmp_path / "x.safetensors")
    assert all(torch.equal(back[name], x) for name, x in state.items())


def test_int8_keeps_rows_of_zeros_and_rows_of_next_to_nothing(tmp_path):
    x = torch.randn(4, 32)
    x[1] = 0
    x[2] *= 1e-20
    x[3] *= 1e-44
    checkpoint.save_int8({"w": x}, tmp_path / "x.safetensors")
    y = checkpoint.read(tmp_path / "x.safetensors")["w"]
    assert torch.equal(y[1], torch.zeros(32))
    assert ((y[2] - x[2]).abs() <= x[2].abs().max() / 254 * (1 + 1e-5)).all()
    assert y[3].isfinite().all() and y[3].abs().max() < 1e-30


def test_int8_takes_parameters_and_loads_into_a_model(tmp_path):
    net = model()
    checkpoint.save_int8(dict(net.named_parameters()), tmp_path / "x.safetensors")
    again = Flux(PARAMS)
    checkpoint.load_strict(again, checkpoint.read(tmp_path / "x.safetensors"))
    for p, q in zip(again.parameters(), net.parameters(), strict=True):
        assert (p - q).norm() <= 0.01 * q.norm()


def test_int8_refuses_nan(tmp_path):
    with pytest.raises(CheckpointError, match="NaN or infinite numbers in 1 of 2 tensors: b"):
        checkpoint.save_int8({"a": torch.ones(2), "b": torch.tensor([1, float("nan")])}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_scale_without_its_rows_is_an_error(tmp_path):
    checkpoint.save({"w::row_scale": torch.ones(3, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds w::row_scale without its rows: it was not written whole"):
        checkpoint.read(tmp_path / "x.safetensors")


def test_a_module_of_any_kind_is_audited():
    with pytest.raises(
        CheckpointError, match=r"does not fit Linear.*1 misshapen: weight is \(3, 2\), should be \(2, 3\)"
    ):
        checkpoint.load_strict(nn.Linear(3, 2), {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})


# ---------------------------------------------------------------- a file that others have open


@pytest.mark.parametrize("over", [b"\0" * 500, b""], ids=["written over", "cut short"])
def test_what_was_read_stays_when_another_program_changes_the_file(tmp_path, over):
    checkpoint.save({"a": torch.ones(1000)}, tmp_path / "a.safetensors")
    state = checkpoint.read(tmp_path / "a.safetensors")
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.truncate(200 if not over else None)
        file.seek(200)
        file.write(over)
    assert state["a"].eq(1).all()


def test_a_file_that_a_kernel_holds_on_windows_is_told(tmp_path, monkeypatch):
    """There a mapped file cannot be replaced: [WinError 5] by itself says neither which file nor why."""

    def refuse(self, target):
        raise PermissionError(13, "Access is denied", str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match="a.safetensors cannot be replaced: .* a notebook's kernel, has the file"):
        checkpoint.save({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_place_for_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    for below in ("file/a.safetensors", "file/deeper/a.safetensors"):
        with pytest.raises(NotADirectoryError, match="file is a file: nothing can be saved in it"):
            checkpoint.save({"a": torch.ones(3)}, tmp_path / below)
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        checkpoint.save({"a": torch.ones(3)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    checkpoint.save({"a": torch.ones(3)}, "~/new/a.safetensors")
    assert checkpoint.read("~/new/a.safetensors")["a"].eq(1).all() and (tmp_path / "new").is_dir()
