"""The published models: their files found, fetched and loaded, and three modes of sharing a GPU's memory."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_diffusers_layout import write_shards

from flux_edu.__main__ import main
from flux_edu.configs import TINY, TINY_CONTROL, configs
from flux_edu.io import diffusers_layout, lora, memory, published
from flux_edu.io.checkpoint import CheckpointError, read, save
from flux_edu.io.memory import Offload
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.model import Flux
from flux_edu.pipeline import FluxGenerator

MODES = Offload(), Offload(True), Offload(True, 2), Offload(True, 9)  # the tiny FLUX has 9 blocks
VARIABLES = ("FLUX_HOME", "FLUX_MODEL", "FLUX_AE", "FLUX_T5", "FLUX_CLIP")
DEV = configs["flux-dev"]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(published, "_in_cache", lambda repo_id: None)


@pytest.fixture(scope="module")
def tiny():
    return FluxGenerator("tiny", "cpu")


@pytest.fixture
def small(tiny, tmp_path, monkeypatch):
    """A published variant of the tiny parts, and its repository, laid out as those of FLUX.1 are."""
    monkeypatch.setitem(configs, "flux-small", replace(tiny.spec, repo_id="someone/FLUX.1-small"))
    monkeypatch.setattr(published, "CLIP_TOKENS", tiny.spec.txt_tokens)
    home = tmp_path / "FLUX.1-small"
    save({key: x.bfloat16() for key, x in tiny.model.state_dict().items()}, home / "flux1-small.safetensors")
    save({key: x.bfloat16() for key, x in tiny.ae.state_dict().items()}, home / "ae.safetensors")
    for part, folder, tokenizer in (
        (tiny.t5, "text_encoder_2", "tokenizer_2"),
        (tiny.clip, "text_encoder", "tokenizer"),
    ):
        part.encoder.save_pretrained(home / folder)
        part.tokenizer.save_pretrained(home / tokenizer)
    return home


def paint(generator):
    return np.array(generator.generate_image(48, 32, 1, 3.0, 1, "a fox"), dtype=float)


# ---------------------------------------------------------------- finding


def test_a_repository_is_found_by_its_home(small, monkeypatch):
    monkeypatch.setenv("FLUX_HOME", str(small))
    files = published.find("flux-small")
    assert not files.missing
    assert {key: path.name for key, path in files.paths.items()} == {
        "FLUX_MODEL": "flux1-small.safetensors",
        "FLUX_AE": "ae.safetensors",
        "FLUX_T5": "text_encoder_2",
        "FLUX_CLIP": "text_encoder",
    }


def test_one_path_counts_more_than_the_home(small, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_HOME", str(small))
    monkeypatch.setenv("FLUX_T5", str(tmp_path))
    monkeypatch.setenv("FLUX_AE", str(tmp_path / "nowhere.safetensors"))
    files = published.find("flux-small")
    assert files.paths["FLUX_T5"] == tmp_path
    assert files.missing == [f"FLUX_AE = {tmp_path / 'nowhere.safetensors'} does not exist"]


def test_a_home_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_HOME", str(tmp_path / "nowhere"))
    assert f"FLUX_HOME = {tmp_path / 'nowhere'} is not a folder" in published.find("flux-dev").missing


OTHERS = ("dev", "kontext-dev", "krea-dev", "redux-dev", "canny-dev-lora", "schnell")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("flux-dev", "flux1-dev.safetensors"),
        ("flux-dev-kontext", "flux1-kontext-dev.safetensors"),
        ("flux-dev-krea", "flux1-krea-dev.safetensors"),
        ("flux-dev-redux", "flux1-dev.safetensors"),  # its own file is the adapter
        ("flux-dev-canny-lora", "flux1-dev.safetensors"),
        ("flux-schnell", "flux1-schnell.safetensors"),
        ("flux-dev-fill", None),
    ],
)
def test_of_several_files_each_variant_takes_its_own(monkeypatch, tmp_path, name, file):
    for other in OTHERS:
        (tmp_path / f"flux1-{other}.safetensors").touch()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "x.safetensors").touch()  # nobody knows whose it is
    monkeypatch.setenv("FLUX_HOME", str(tmp_path))
    files = published.find(name)
    assert files.paths.get("FLUX_MODEL") == (tmp_path / file if file else None)
    if not file:
        assert any("but no flux1-fill-dev.safetensors" in line for line in files.missing)
    if name == "flux-dev-canny-lora":
        assert files.paths["FLUX_LORA"].name == "flux1-canny-dev-lora.safetensors"


def test_empty_folders_are_no_encoders(small, monkeypatch):
    for folder in ("text_encoder", "text_encoder_2"):
        for path in (small / folder).glob("*.safetensors"):
            path.unlink()
    monkeypatch.setenv("FLUX_HOME", str(small))
    assert published.find("flux-small").missing == ["set FLUX_T5, FLUX_CLIP to where they are"]


def test_another_networks_file_is_refused_by_its_header(small, monkeypatch, capsys):
    """A LoRA under the model's name; nothing is read of the rest."""
    save({"img_in.lora_A.weight": torch.zeros(2, 64)}, small / "flux1-small.safetensors")
    monkeypatch.setenv("FLUX_HOME", str(small))
    with pytest.raises(CheckpointError, match="flux1-small.safetensors does not fit Flux; it looks like a LoRA, not a"):
        FluxGenerator("flux-small", "cpu")
    assert main(["real", "flux-small"]) == 2 and "looks like a LoRA" in capsys.readouterr().err


def test_an_encoder_of_another_width_is_refused(small, monkeypatch):
    monkeypatch.setenv("FLUX_HOME", str(small))
    monkeypatch.setitem(configs, "flux-small", replace(configs["flux-small"], params=replace(TINY, context_in_dim=96)))
    save(Flux(configs["flux-small"].params).state_dict(), small / "flux1-small.safetensors")
    with pytest.raises(CheckpointError, match="FLUX_T5 = .* is an encoder of width 256; flux-small reads 96"):
        FluxGenerator("flux-small", "cpu")


def test_the_hubs_cache_is_looked_into(small, monkeypatch):
    monkeypatch.setattr(published, "_in_cache", lambda repo_id: small if repo_id == "someone/FLUX.1-small" else None)
    assert not published.find("flux-small").missing
    assert published.find("flux-dev").missing == ["set FLUX_MODEL, FLUX_AE, FLUX_T5, FLUX_CLIP to where they are"]


def test_the_cache_is_read_without_a_network(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert published._in_cache("black-forest-labs/FLUX.1-dev") is None
    assert published._in_cache(None) is None


# ---------------------------------------------------------------- the hub


def refusal(kind):
    from httpx import Request, Response

    return kind("no", response=Response(403, request=Request("GET", "https://huggingface.co")))


def test_a_closed_door_is_answered_with_two_steps(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    for kind in (GatedRepoError, RepositoryNotFoundError):

        def closed(*_, kind=kind, **__):
            raise refusal(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", closed)
        with pytest.raises(PermissionError) as caught:
            published.download("flux-dev")
        assert "(1) sign in and accept them at https://huggingface.co/black-forest-labs/FLUX.1-dev" in str(caught.value)
        assert "(2) run `hf auth login` here" in str(caught.value)


def test_an_error_of_the_hub_in_many_lines_becomes_one(monkeypatch, capsys):
    import huggingface_hub

    def cut_off(*_, **__):
        raise OSError("Consistency check failed: 12 of 34 bytes.\n\nThis is usually due to network issues.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cut_off)
    assert main(["real", "flux-schnell", "--download"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("flux-edu: Consistency check failed") and last.endswith("due to network issues.")


def test_only_what_is_needed_is_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options, repo=repo) or str(tmp_path)
    )
    assert published.download("flux-schnell") == [tmp_path]
    assert asked == {"repo": "black-forest-labs/FLUX.1-schnell", "allow_patterns": published.WANTED}
    assert not any("transformer" in pattern or pattern.startswith("vae") for pattern in published.WANTED)  # 24 GB again
    assert published.download("flux-dev-depth-lora") == [tmp_path] * 2 and asked["repo"].endswith("FLUX.1-dev")
    with pytest.raises(ValueError, match="tiny ships with this package"):
        published.find("tiny")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "flux-edu\[real\]"'):
        published.download("flux-dev")


def test_the_command_line(small, monkeypatch, capsys, tmp_path):
    assert main(["real", "flux-dev"]) == 1
    out = capsys.readouterr().out
    assert (
        "missing: set FLUX_MODEL" in out
        and "| 24 GiB | 24.7 GB | model offload, 2 blocks sequentially | 24.1 GB |" in out
    )
    assert main(["real", "flux-deV"]) == 2 and "did you mean flux-dev" in capsys.readouterr().err
    assert main(["real", "convert", str(small / "ae.safetensors"), str(tmp_path / "b.safetensors")]) == 0
    assert "b.safetensors: diffusers' layout" in capsys.readouterr().out


def test_what_is_missing_is_answered_with_terms_command_and_what_this_machine_will_do(capsys):
    assert main(["real", "flux-dev"]) == 1
    out = capsys.readouterr().out
    assert (
        "Accept its terms (FLUX.1 [dev] Non-Commercial License) at https://huggingface.co/black-forest-labs/FLUX.1-d"
        in out
    )
    assert "then `flux-edu real flux-dev --download` (34 GB)." in out
    assert "Here: device cpu, no CUDA GPU. All parts share the host's memory, 34 GB of weights." in out
    assert main(["real", "flux-schnell"]) == 1 and "(Apache-2.0)" in capsys.readouterr().out


# ---------------------------------------------------------------- LoRA variants


def test_a_control_lora_is_put_onto_its_base(small, tiny, monkeypatch):
    """As flux-dev-canny-lora: dev's file, its entrance widened, the LoRA's pairs and scales of norms."""
    delta = read(TINY_FOLDER / "canny.safetensors")
    scale = "double_blocks.0.img_attn.norm.query_norm.scale"
    delta[scale] = torch.full_like(tiny.model.state_dict()[scale], 0.5)
    save(delta, small / "flux1-small-lora.safetensors")
    spec = replace(configs["flux-small"], params=TINY_CONTROL, repo_id="someone/FLUX.1-small-lora", base="flux-small")
    monkeypatch.setitem(configs, "flux-small-lora", replace(spec, lora="flux1-small-lora.safetensors"))
    monkeypatch.setenv("FLUX_HOME", str(small))
    generator = FluxGenerator("flux-small-lora", "cpu")
    state = {key: x.bfloat16() for key, x in tiny.model.state_dict().items()}
    expected = lora.merge(lora.widen_img_in(state, 128), delta)
    assert all(torch.equal(x, expected[key]) for key, x in generator.model.state_dict().items())
    assert generator.model.state_dict()[scale].eq(0.5).all()


# ---------------------------------------------------------------- painting, in every offload mode


@pytest.fixture(scope="module")
def in_bfloat16():
    """What the shipped weights paint, rounded to bfloat16 in place."""
    generator = FluxGenerator("tiny", "cpu")
    generator.model.bfloat16(), generator.ae.bfloat16()
    return paint(generator)


@pytest.mark.parametrize(
    ("offload", "layout"),
    [*((offload, "published") for offload in MODES), (MODES[0], "diffusers")],
    ids=str,
)
def test_every_offload_mode_paints_the_same(small, tiny, in_bfloat16, monkeypatch, offload, layout):
    if layout == "diffusers":
        (model := small / "flux1-small.safetensors").unlink()
        whole = tiny.model.state_dict()
        write_shards(
            diffusers_layout.flux_to_diffusers({k: x.bfloat16() for k, x in whole.items()}), small / "transformer"
        )
        assert not model.exists()
    monkeypatch.setenv("FLUX_HOME", str(small))
    monkeypatch.setattr(memory, "choose_offload", lambda spec, free: offload)
    generator = FluxGenerator("flux-small", "cpu")
    assert generator.offload == offload and generator.model.img_in.weight.dtype == torch.bfloat16
    painted = paint(generator)
    assert np.abs(painted - in_bfloat16).max() <= 1
    assert np.array_equal(paint(generator), painted)


def test_a_visitor_goes_home_without_being_copied_back():
    linear = torch.nn.Linear(3, 5).requires_grad_(False)
    home = linear.weight.data_ptr()
    with torch.inference_mode():
        with memory.on_device(torch.device("cpu"), linear):
            pass
        try:
            with memory.on_device(torch.device("cpu"), linear):
                linear.weight.data = linear.weight.data.double()
                raise KeyError
        except KeyError:
            pass
    assert linear.weight.data_ptr() == home and linear.weight.dtype == torch.float32
    linear(torch.ones(2, 3, requires_grad=True)).sum().backward()  # no inference tensor was left in it


def test_blocks_come_and_leave_one_at_a_time(monkeypatch):
    """A block's numbers are there while it computes, and only then."""
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3))).requires_grad_(False)
    expected, present = model(torch.ones(1, 3)), []
    forward = torch.nn.Linear.forward

    def watched(layer, x):
        present.append([not other.weight.is_meta for other in model])
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    memory.offload_blocks([model[1], model[2]], torch.device("cpu"))
    assert torch.equal(model(torch.ones(1, 3)), expected)
    assert present == [[True, False, False], [True, True, False], [True, False, True]]
    assert [layer.weight.is_meta for layer in model] == [False, True, True]
