"""Weight files: what is wrong with one is said by name, nothing is half loaded and nothing half written."""

import json
import pickle
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_edu.configs import configs
from flux_edu.io import checkpoint
from flux_edu.io.checkpoint import CheckpointError
from flux_edu.model import Flux, FluxParams

PARAMS = FluxParams(12, 8, 10, 14, 24, 4.0, 2, 1, 1, (2, 4, 6), 10_000, qkv_bias=True, guidance_embed=True)


def model():
    torch.manual_seed(0)
    return Flux(PARAMS)


def other_state():
    """Fits the model, and differs from it everywhere."""
    return {name: x + 1 for name, x in model().state_dict().items()}


def write(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def float32(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


# ---------------------------------------------------------------- there and back


def test_a_state_dict_comes_back_bit_for_bit(tmp_path):
    state = {
        "a": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 3, 5).bfloat16(),
        "double": torch.randn(3, dtype=torch.float64),
        "numbers": torch.arange(11),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(4, 6).T,  # not contiguous
    }
    checkpoint.save(state, tmp_path / "new folder" / "x.safetensors", {"made": "here"})
    back = checkpoint.read(str(tmp_path / "new folder" / "x.safetensors"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], x) and back[name].dtype == x.dtype for name, x in state.items())
    assert checkpoint.read_metadata(tmp_path / "new folder" / "x.safetensors") == {"made": "here"}


def test_a_model_on_meta_takes_the_tensors_of_the_file_over(tmp_path):
    state = {name: x.bfloat16() for name, x in other_state().items()}
    checkpoint.save(state, tmp_path / "x.safetensors")
    with torch.device("meta"):
        net = Flux(PARAMS)
    state = checkpoint.read(tmp_path / "x.safetensors")
    checkpoint.load_strict(net, state)
    assert net.img_in.weight.dtype == torch.bfloat16 and not any(p.is_meta for p in net.parameters())
    assert net.img_in.weight.data_ptr() == state["img_in.weight"].data_ptr()


def test_a_model_with_numbers_keeps_its_dtype_and_gets_the_files():
    net, state = model(), other_state()
    checkpoint.load_strict(net, {name: x.double() for name, x in state.items()})
    assert all(p.dtype == torch.float32 and torch.equal(p, state[name]) for name, p in net.named_parameters())


# ---------------------------------------------------------------- files that are none


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="gone.safetensors is not a file; give the path of a .safetensors file"):
        checkpoint.read(tmp_path / "gone.safetensors")
    with pytest.raises(
        CheckpointError, match=f"{tmp_path.name} should hold one .safetensors file or .*; it holds none"
    ):
        checkpoint.read(tmp_path)


class Harmful:
    opened = []

    def __reduce__(self):
        return (Harmful.opened.append, ("the pickle was run",))


def test_a_pickled_file_is_refused_unopened(tmp_path):
    pickle_file, torch_file = tmp_path / "weights.ckpt", tmp_path / "model.safetensors"
    pickle_file.write_bytes(pickle.dumps({"state_dict": Harmful()}))
    torch.save(other_state(), torch_file)
    for path in (pickle_file, torch_file):
        with pytest.raises(CheckpointError, match=rf"{path.name} \([\d,]+ bytes\) cannot be .* It is a pickled file"):
            checkpoint.read(path)
    assert not Harmful.opened


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"x.safetensors \(0 bytes\) cannot be .*: header too small. If it is damaged or was cut short, download"),
        (b"abc", "header too small"),
        (b"hello " * 99, "header too large"),
        (struct.pack("<Q", 2**63), "header too large"),
        (b"GGUF\3\0\0\0" + bytes(99), "It is a GGUF file, .*: take the .safetensors file"),
        (b"<!doctype html><html><body>Access is restricted</body></html>", "It is a web page, not the file: sign in"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "the pointer of Git LFS, .* `git lfs pull`"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, data, said):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b"\xff\xfe\xfd",
        b"[1, 2]",
        b"17",
        {"a": 5},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": "ab"}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}},
        {"a": float32([3], 0, 8)},  # three numbers in eight bytes
        {"a": float32([1], 0, 4), "b": float32([1], 0, 4)},  # in the same place
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": float32([1], 0, 4)},  # four bytes too many in the file
        {},
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'  # the same name twice
        b' "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
    ],
)
def test_a_header_that_is_broken_or_does_not_agree_with_the_file(tmp_path, header):
    path = write(tmp_path / "x.safetensors", header, 8 * b"\0")
    with pytest.raises(CheckpointError, match="x.safetensors .* cannot be read .* download or copy it again"):
        checkpoint.read(path)


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E8M0", "U16", "U32", "C64"])
def test_kinds_of_numbers_that_are_not_read_are_named(tmp_path, kind):
    """4 bits, the MX formats, unsigned numbers: torch has a type for some, the network for none."""
    size = {"F4": 4, "F6_E2M3": 6, "F8_E8M0": 8, "U16": 16, "U32": 32, "C64": 64}[kind]
    path = write(
        tmp_path / "x.safetensors", {"a": {"dtype": kind, "shape": [8], "data_offsets": [0, size]}}, bytes(size)
    )
    with pytest.raises(
        CheckpointError, match=f"x.safetensors holds numbers of kind {kind}, .*: a. Take the file in bf"
    ):
        checkpoint.read(path)


@pytest.mark.parametrize("length", [-1, -777, 200])
def test_a_file_cut_short_is_refused(tmp_path, length):
    path = tmp_path / "x.safetensors"
    checkpoint.save(other_state(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot be read .* damaged or was cut short, download or copy it again"):
        checkpoint.read(path)


WHOLE = safetensors.torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int8)})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 20), st.binary(max_size=12)))
def test_any_bytes_are_tensors_or_a_clear_error(tmp_path, data):
    """Bytes at random, and a good file with a piece of it exchanged."""
    if isinstance(data, tuple):
        begin, length, piece = data
        data = WHOLE[:begin] + piece + WHOLE[begin + length :]
    (tmp_path / "x.safetensors").write_bytes(data)
    try:
        state = checkpoint.read(tmp_path / "x.safetensors")
    except CheckpointError as error:
        assert "x.safetensors" in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(x, torch.Tensor) for x in state.values())


# ---------------------------------------------------------------- state dicts that do not fit


def unchanged(net):
    return all(torch.equal(p, q) for p, q in zip(net.parameters(), model().parameters(), strict=True))


def refused(state, said, net=None):
    """load_strict raises, says this, and leaves every parameter as it was."""
    net = net or model()
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load_strict(net, state, source="x.safetensors")
    assert unchanged(net)


def test_what_fits_is_loaded():
    net, state = model(), other_state()
    assert not checkpoint.audit(net, state) and str(checkpoint.audit(net, state)) == "every key fits"
    checkpoint.load_strict(net, state)
    assert all(torch.equal(x, state[name]) for name, x in net.state_dict().items())


def test_missing_keys_are_named():
    state = other_state()
    del state["single_blocks.0.linear2.bias"], state["txt_in.weight"]
    refused(state, r"x.safetensors does not fit Flux; .*\. 2 missing: txt_in.weight, single_blocks.0.linear2.bias$")


def test_extra_keys_are_named():
    refused(other_state() | {"single_blocks.1.linear1.bias": torch.zeros(3)}, r"1 extra: single_blocks.1.linear1.bias$")


def test_misshapen_keys_are_named_with_both_shapes():
    state = other_state()
    state["img_in.weight"] = torch.zeros(24, 64)
    refused(
        state, r"looks like a FLUX.1 dev of width 24\. 1 misshapen: img_in.weight is \(24, 64\), should be \(24, 12\)$"
    )


def test_whole_numbers_are_no_weights():
    """An 8-bit file read by another program, without its scales, has all names and all shapes."""
    state = other_state()
    state["img_in.weight"] = state["img_in.weight"].to(torch.int8)
    refused(state, r"1 misshapen: img_in.weight holds whole numbers \(torch.int8\), should hold floating point$")


def test_of_many_keys_the_first_six_are_named_and_all_counted():
    state = {name.replace("double_blocks", "DOUBLE"): x for name, x in other_state().items()}
    report = checkpoint.audit(model(), state)
    assert len(report.missing) == len(report.extra) == 24
    refused(
        state, r"24 missing: (double_blocks\S+( \(is .{9,70}\?\))?, ){5}double_b[^,]+ …; 24 extra: (\S+, ){5}\S+ …$"
    )


def test_a_misspelt_key_is_answered_with_its_near_relative():
    state = other_state()
    state["single_blocks.0.norm.key_norm.weight"] = state.pop("single_blocks.0.norm.key_norm.scale")
    state["final_layer.adaLN_modulation.0.bias"] = state.pop("final_layer.adaLN_modulation.1.bias")
    report = checkpoint.audit(model(), state)
    assert report.missing == [
        "single_blocks.0.norm.key_norm.scale (is it single_blocks.0.norm.key_norm.weight?)",
        "final_layer.adaLN_modulation.1.bias (is it final_layer.adaLN_modulation.0.bias?)",
    ]
    refused(state, r"\(is it single_blocks.0.norm.key_norm.weight\?\)")


def test_an_empty_state_dict_lacks_everything():
    refused({}, f"{len(other_state())} missing: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nan_and_infinity_are_found_and_their_tensor_named(value, dtype):
    state = {name: x.to(dtype) for name, x in other_state().items()}
    state["double_blocks.0.txt_mlp.2.bias"][17] = value
    refused(
        state, r"x.safetensors holds NaN or infinite numbers in 1 of \d+ tensors: double_blocks.0.txt_mlp.2.bias\. "
    )


def test_a_file_with_nan_is_refused_by_a_model_on_meta_too(tmp_path):
    state = other_state()
    state["img_in.bias"][0] = float("nan")
    checkpoint.save(state, tmp_path / "x.safetensors")
    with torch.device("meta"):
        net = Flux(PARAMS)
    with pytest.raises(CheckpointError, match="NaN or infinite numbers in 1 of .*: img_in.bias"):
        checkpoint.load_strict(net, checkpoint.read(tmp_path / "x.safetensors"))
    assert all(p.is_meta for p in net.parameters())


def published(name):
    with torch.device("meta"):
        return Flux(configs[name].params)


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("flux-dev", "a FLUX.1 dev of width 3072"),
        ("flux-schnell", "a FLUX.1 schnell of width 3072"),
        ("flux-dev-canny", "a FLUX.1 Canny or Depth control model of width 3072"),
        ("flux-dev-fill", "a FLUX.1 Fill of width 3072"),
    ],
)
def test_a_variant_is_recognised_by_its_keys(name, looks):
    assert checkpoint.looks_like(published(name).state_dict()) == looks


def test_one_variant_in_anothers_place():
    dev, schnell = published("flux-dev"), published("flux-schnell")
    with pytest.raises(
        CheckpointError, match="it looks like a FLUX.1 schnell of width 3072. 4 missing: guidance_in.in_l"
    ):
        checkpoint.load_strict(dev, schnell.state_dict())
    with pytest.raises(
        CheckpointError, match="it looks like a FLUX.1 dev of width 3072. 4 extra: guidance_in.in_layer.w"
    ):
        checkpoint.load_strict(schnell, dev.state_dict())


@pytest.mark.parametrize(
    ("key", "looks"),
    [
        (
            "transformer_blocks.0.norm1.linear.weight",
            "a transformer in diffusers' layout .use diffusers_layout.diffusers_to_flux.",
        ),
        (
            "encoder.down_blocks.0.resnets.0.conv1.bias",
            "an autoencoder in diffusers' layout .use diffusers_layout.diffusers_to_ae.",
        ),
        ("decoder.conv_in.weight", "an autoencoder"),
        ("double_blocks.0.img_mod.lin.lora_A.weight", "a LoRA, not a whole model .io.lora.merge puts it onto one."),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "a LoRA, not a whole model .io.lora.merge"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "a LoRA, not a whole model .io.lora.merge"),
        ("double_blocks.0.img_attn.proj.lokr_w1", "an adapter of another kind .LoKr, LoHa, OFT., not a whole model"),
        ("double_stream_modulation_img.lin.weight", "a FLUX.2"),
        ("distilled_guidance_layer.in_proj.weight", "a Chroma"),
        ("adaln_single.emb.timestep_embedder.linear_1.weight", "a PixArt"),
        ("controlnet_blocks.0.weight", "a ControlNet"),
        ("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "an IP-Adapter"),
        ("redux_up.weight", "the adapter of FLUX.1 Redux, which goes beside dev"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 .FLUX_T5 is its folder."),
        ("text_model.embeddings.token_embedding.weight", "a CLIP .FLUX_CLIP is its folder."),
        ("double_blocks.0.img_mod.lin.weight.quant_state.bitsandbytes__nf4", "a model quantised by another program"),
        ("module.double_blocks.0.img_mod.lin.weight", "no FLUX.1 transformer, under the prefix module."),
        ("model.embed_tokens.weight", "no FLUX.1 transformer"),
    ],
)
def test_a_stranger_is_told_what_it_seems_to_be(key, looks):
    refused({key: torch.zeros(2, 2)}, f"does not fit Flux; it looks like {looks}.* missing: .*1 extra: {key}")


# ---------------------------------------------------------------- writing


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    checkpoint.save({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    def full_disk(state, target, metadata):
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.safetensors'$"):
        checkpoint.save({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_replaces_the_old_file_at_once(tmp_path):
    path = tmp_path / "x.safetensors"
    for value in (1.0, 2.0):
        checkpoint.save({"a": torch.full((3,), value)}, path)
    assert checkpoint.read(path)["a"].tolist() == [2.0] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_parts_of_one_matrix_can_be_saved(tmp_path):
    """What diffusers_layout.flux_to_diffusers gives: pieces that share their memory."""
    whole = torch.randn(9, 4)
    checkpoint.save({"q": whole[:3], "k": whole[3:6], "v": whole[6:]}, tmp_path / "x.safetensors")
    assert torch.equal(torch.cat(list(checkpoint.read(tmp_path / "x.safetensors")[n] for n in "qkv")), whole)


def test_tensors_under_two_names_are_written_twice(tmp_path):
    table = torch.randn(5, 3)
    state = {
        "shared.weight": table,
        "embed_tokens.weight": table,
        "turned": table.T,
        "row": table[1],
        "none": table[:0],
    }
    checkpoint.save(state, tmp_path / "x.safetensors")
    assert all(torch.equal(x, state[name]) for name, x in checkpoint.read(tmp_path / "x.safetensors").items())
