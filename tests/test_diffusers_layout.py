"""Published files of every layout: one or several, from a folder, straight onto a device, and damaged ones."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from parity.parity_tools import draw
from safetensors.torch import load_file, save_file
from small_models import same

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.io import checkpoint, diffusers_layout
from flux_edu.io.checkpoint import CheckpointError
from flux_edu.model import Flux, FluxParams

PARAMS = FluxParams(12, 8, 10, 14, 24, 4.0, 2, 2, 3, (2, 4, 6), 10_000, qkv_bias=True, guidance_embed=True)
AE_PARAMS = replace(configs["tiny"].ae_params, ch=16)


def flux():
    return draw(Flux(PARAMS), 3)


def autoencoder():
    return draw(AutoEncoder(AE_PARAMS), 4)


def on_meta(kind=Flux, params=PARAMS):
    with torch.device("meta"):
        return kind(params)


def write_shards(state, folder, parts=3, stem="diffusion_pytorch_model"):
    """As the hub's libraries write them: numbered files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}-{i + 1:05}-of-{parts:05}.safetensors" for i in range(parts)]
    where = {key: names[i % parts] for i, key in enumerate(state)}
    for name in names:
        save_file({key: state[key].contiguous().clone() for key in state if where[key] == name}, folder / name)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


# ---------------------------------------------------------------- what can be given


@pytest.mark.parametrize("kind", ["file", "index", "folder of shards", "folder of one"])
def test_one_file_shards_and_folders_hold_the_same(tmp_path, kind):
    state = flux().state_dict()
    index = write_shards(state, tmp_path / "sharded")
    (tmp_path / "one").mkdir()
    checkpoint.save(state, tmp_path / "one" / "flux1-small.safetensors")
    path = {
        "file": tmp_path / "one" / "flux1-small.safetensors",
        "index": index,
        "folder of shards": tmp_path / "sharded",
        "folder of one": tmp_path / "one",
    }[kind]
    assert same(checkpoint.read(path), state)
    net = on_meta()
    diffusers_layout.load(net, path)
    assert same(net.state_dict(), state)


@pytest.mark.parametrize("layout", ["published", "diffusers"])
@pytest.mark.parametrize("part", ["transformer", "autoencoder"])
def test_both_layouts_are_loaded_strictly(tmp_path, layout, part):
    theirs, whole, kind = (
        (diffusers_layout.flux_to_diffusers, flux(), Flux)
        if part == "transformer"
        else (diffusers_layout.ae_to_diffusers, autoencoder(), AutoEncoder)
    )
    state = whole.state_dict()
    write_shards(theirs(state) if layout == "diffusers" else state, tmp_path)
    net = on_meta(kind, whole.params)
    diffusers_layout.load(net, tmp_path)
    assert same(net.state_dict(), state)


def test_numbers_are_changed_to_the_dtype_on_the_way(tmp_path):
    state = {name: x.to(torch.float8_e4m3fn) for name, x in flux().state_dict().items()}
    checkpoint.save(state | {"steps": torch.tensor(7)}, tmp_path / "x.safetensors")
    read = checkpoint.read(tmp_path / "x.safetensors", dtype=torch.bfloat16)
    assert read.pop("steps").dtype == torch.int64
    assert {x.dtype for x in read.values()} == {torch.bfloat16}
    assert all(torch.equal(read[name], x.bfloat16()) for name, x in state.items())


def test_weights_are_a_state_dict_that_stays_on_disk(tmp_path):
    state = flux().state_dict()
    with checkpoint.LazyStateDict(write_shards(state, tmp_path)) as weights:
        assert set(weights) == set(state) and len(weights) == len(state)
        assert all(x.is_meta and x.shape == state[name].shape for name, x in weights.shapes.items())
        assert torch.equal(weights["img_in.weight"], state["img_in.weight"]) and "img_in" not in weights


MEASURED = """
import re, sys, torch
from flux_edu.io.checkpoint import LazyStateDict
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before = private()
state = dict(LazyStateDict(sys.argv[1]))
total = sum(float(x.sum()) for x in state.values())  # every page has been looked at
print(sum(x.nbytes for x in state.values()) / 2**20, private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of a process")
def test_a_lazy_state_dict_holds_no_copy_beside_the_file(tmp_path):
    save_file({f"x{i}": torch.ones(2**22) for i in range(12)}, tmp_path / "x.safetensors")
    printed = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "x.safetensors")], capture_output=True, text=True, check=True
    ).stdout
    weights_mb, more_mb = map(float, printed.split())
    assert weights_mb == 192 and more_mb < 40


# ---------------------------------------------------------------- damaged and strange


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"weight_map": 3}', '{"metadata": {}}', '{"weight_map": {"a": 5}}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "x.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="x.safetensors.index.json is no index of shards, or it is damaged"):
        checkpoint.read(tmp_path)


def test_an_index_that_an_editor_saved_with_a_mark_is_read(tmp_path):
    state = flux().state_dict()
    index = write_shards(state, tmp_path)
    index.write_text(index.read_text(), encoding="utf-8-sig")
    assert same(checkpoint.read(tmp_path), state)


@pytest.mark.parametrize("variant", ["x.fp16.safetensors.index.json", "x.safetensors.index.fp16.json"])
def test_of_two_indices_the_path_has_to_name_one(tmp_path, variant):
    state = flux().state_dict()
    index = write_shards(state, tmp_path)
    (tmp_path / variant).write_text(index.read_text())
    with pytest.raises(CheckpointError, match=f"it holds .*{variant}. Give the path of the file itself"):
        checkpoint.read(tmp_path)
    assert same(checkpoint.read(tmp_path / variant), state)


def test_the_root_of_a_pipeline_points_to_its_transformer(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it holds none. Give .* itself; its folder transformer is meant"):
        checkpoint.read(tmp_path)


# ---------------------------------------------------------------- fp8 with scales


def scaled(state, name, rows):
    """Matrices in fp8 with one scale each, or one a row, under the names of other programs."""
    out = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, x in state.items():
        if x.ndim == 2:
            scale = x.abs().amax(1, keepdim=True) / 448 if rows else x.abs().max().reshape(1) / 448
            x = (x / scale).to(torch.float8_e4m3fn)
            out[key.removesuffix("weight") + name] = scale
            out[key.removesuffix("weight") + "input_scale"] = torch.ones(1)
        out[key] = x
    return out


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled_fp8_comes_with_its_scales(tmp_path, name, rows):
    state = flux().state_dict()
    checkpoint.save(scaled(state, name, rows), tmp_path / "x.safetensors")
    net = on_meta()
    diffusers_layout.load(net, tmp_path / "x.safetensors", dtype=torch.bfloat16)
    for key, x in net.state_dict().items():
        assert (x.float() - state[key]).abs().max() <= 0.07 * state[key].abs().max(), key
    diffusers_layout.convert_file(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert checkpoint.read(tmp_path / "y.safetensors")["x_embedder.weight"].dtype == torch.bfloat16


def test_scales_of_another_kind_are_refused(tmp_path):
    """One for every 128 × 128 numbers, say."""
    state = scaled(flux().state_dict(), "weight_scale", rows=False)
    state["img_in.weight_scale"] = torch.ones(2, 3)
    checkpoint.save(state, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", r"img_in.weight_scale is \(2, 3\) beside img_in.weight .*: only one scale")


def test_scales_without_fp8_are_extra(tmp_path):
    checkpoint.save(flux().state_dict() | {"img_in.weight_scale": torch.ones(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "1 extra: img_in.weight_scale")


# ---------------------------------------------------------------- lost and doubled


def test_a_lost_shard_is_named(tmp_path):
    index = write_shards(flux().state_dict(), tmp_path)
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is made of 3 shards; not there: diffusion_pytorch_model-00002-of-00003"):
        checkpoint.read(index)


def test_a_shard_cut_short_is_named(tmp_path):
    index = write_shards(flux().state_dict(), tmp_path)
    path = tmp_path / "diffusion_pytorch_model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="00003-of-00003.safetensors .* was cut short, download or copy it again"):
        checkpoint.read(index)


def test_a_tensor_in_two_shards_is_an_error(tmp_path):
    index = write_shards(flux().state_dict(), tmp_path)
    first = tmp_path / "diffusion_pytorch_model-00001-of-00003.safetensors"
    save_file(load_file(first) | {"txt_in.weight": torch.ones(3)}, first)
    with pytest.raises(CheckpointError, match="txt_in.weight stand in two shards"):
        checkpoint.read(index)


def test_two_files_in_a_folder_are_too_many(tmp_path):
    for name in ("a", "b"):
        checkpoint.save(flux().state_dict(), tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="should hold one .safetensors file .*; it holds a.safetensors, b.saf"):
        checkpoint.read(tmp_path)


def refused(path, said, net=None):
    net = net or on_meta()
    with pytest.raises(CheckpointError, match=said):
        diffusers_layout.load(net, path)
    assert all(p.is_meta for p in net.parameters()), "nothing is half loaded"


def test_a_wrong_variant_is_refused_before_its_numbers_are_read(tmp_path, monkeypatch):
    state = {name: x for name, x in flux().state_dict().items() if not name.startswith("guidance_in")}
    checkpoint.save(state, tmp_path / "x.safetensors")
    monkeypatch.setattr(checkpoint.LazyStateDict, "__getitem__", lambda *_: pytest.fail("a tensor was read"))
    refused(tmp_path / "x.safetensors", r"x.safetensors does not fit Flux; .* 4 missing: guidance_in.in_layer.weight")


def test_nan_is_refused(tmp_path):
    state = flux().state_dict()
    state["txt_in.bias"][3] = float("nan")
    checkpoint.save(state, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "holds NaN or infinite numbers in 1 of .* tensors: txt_in.bias")


def test_a_diffusers_file_that_lacks_a_third_of_a_matrix(tmp_path):
    state = diffusers_layout.flux_to_diffusers(flux().state_dict())
    del state["transformer_blocks.0.attn.to_k.weight"]
    write_shards(state, tmp_path)
    refused(tmp_path, "double_blocks.0.img_attn.qkv.weight is made of .*; there is no transformer_blocks.0.attn.to_k.w")


@pytest.mark.parametrize("prefix", [*checkpoint.PREFIXES, "_orig_mod.", "module._orig_mod."])
def test_a_prefix_of_every_name_is_taken_off(tmp_path, prefix):
    state = flux().state_dict()
    for layout in (state, diffusers_layout.flux_to_diffusers(state)):
        checkpoint.save({prefix + name: x for name, x in layout.items()}, tmp_path / "x.safetensors")
        net = on_meta()
        diffusers_layout.load(net, tmp_path / "x.safetensors")
        assert same(net.state_dict(), state)
        diffusers_layout.convert_file(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
        assert not any(name.startswith(prefix) for name in checkpoint.read(tmp_path / "y.safetensors"))


def test_a_file_of_all_parts_is_recognised(tmp_path):
    state = {"model.diffusion_model." + name: x for name, x in flux().state_dict().items()}
    checkpoint.save(state | {"vae.decoder.conv_in.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "a FLUX.1 packed with other parts: its keys begin with model.diffusion_model.")


# ---------------------------------------------------------------- conversion, a tensor at a time


@pytest.mark.parametrize("part", ["transformer", "autoencoder"])
def test_a_file_is_converted_there_and_back(tmp_path, part):
    state, theirs = (
        (flux().state_dict(), diffusers_layout.flux_to_diffusers)
        if part == "transformer"
        else (autoencoder().state_dict(), diffusers_layout.ae_to_diffusers)
    )
    state = {name: x.bfloat16() for name, x in state.items()}
    checkpoint.save(state, tmp_path / "ours.safetensors")
    said = diffusers_layout.convert_file(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors")
    assert said == "diffusers' layout" and same(checkpoint.read(tmp_path / "theirs.safetensors"), theirs(state))
    write_shards(checkpoint.read(tmp_path / "theirs.safetensors"), tmp_path / "sharded")
    assert diffusers_layout.convert_file(tmp_path / "sharded", tmp_path / "back.safetensors") == "the published layout"
    assert same(checkpoint.read(tmp_path / "back.safetensors"), state)
    assert same(load_file(tmp_path / "back.safetensors"), state)  # as any other program reads it


def test_a_conversion_holds_one_matrix_at_a_time(tmp_path, monkeypatch):
    """Tensors read and not yet let go, at most: the three or four that make one of the other layout."""
    import weakref

    state = diffusers_layout.flux_to_diffusers(flux().state_dict())
    write_shards(state, tmp_path / "theirs")
    alive, most = weakref.WeakSet(), []
    read = checkpoint.LazyStateDict.__getitem__

    def watched(self, name):
        x = read(self, name)
        alive.add(x)
        most.append(len(alive))
        return x

    monkeypatch.setattr(checkpoint.LazyStateDict, "__getitem__", watched)
    diffusers_layout.convert_file(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert len(most) == len(state) and max(most) <= 6


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    state = flux().state_dict() | {"more": torch.ones(2)}
    checkpoint.save(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="1 keys do not belong to the published layout: more"):
        diffusers_layout.convert_file(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_comes_must_be_what_was_promised(tmp_path):
    shapes = {"a": torch.empty(3, device="meta"), "b": torch.empty(2, 2, device="meta")}
    for pieces in ([("a", torch.ones(3))], [("a", torch.ones(3)), ("b", torch.ones(2))], [("b", torch.ones(2, 2))] * 2):
        with pytest.raises(ValueError):
            diffusers_layout.save_streamed(shapes, pieces, tmp_path / "x.safetensors")
        assert not list(tmp_path.iterdir())
    odd = {"scalar": torch.tensor(1.5), "none": torch.zeros(0, 3), "turned": torch.randn(4, 6).T, "x": torch.arange(3)}
    metas = {name: torch.empty_like(x, device="meta") for name, x in odd.items()}
    diffusers_layout.save_streamed(metas, odd.items(), tmp_path / "x.safetensors")
    assert same(load_file(tmp_path / "x.safetensors"), odd)
