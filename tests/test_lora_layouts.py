"""LoRA files of other programs: each layout changes the same numbers as by diffusers' own conversion, or is refused."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from safetensors.torch import save_file

from flux_edu.configs import CONTROL, SCHNELL
from flux_edu.io import lora
from flux_edu.io.advice import collect
from flux_edu.io.checkpoint import CheckpointError
from flux_edu.io.diffusers_layout import flux_to_diffusers
from flux_edu.io.lora_layouts import read_layout, read_lora
from flux_edu.model import Flux

D, RANK = 3072, 2  # diffusers' conversion of kohya's files has the width written into it
DOUBLE, SINGLE = "double_blocks.0", "single_blocks.0"
OURS = (
    *(
        f"{DOUBLE}.{stream}_{part}"
        for stream in ("img", "txt")
        for part in ("attn.qkv", "attn.proj", "mlp.0", "mod.lin")
    ),
    *(f"{SINGLE}.{part}" for part in ("linear1", "linear2", "modulation.lin")),
    *("img_in", "txt_in", "vector_in.out_layer", "final_layer.linear", "final_layer.adaLN_modulation.1"),
)


@pytest.fixture(scope="module")
def state():
    """The names and shapes of FLUX.1's widths in one block of each kind, without numbers."""
    with torch.device("meta"):
        return Flux(replace(SCHNELL, depth=1, depth_single_blocks=1)).state_dict()


def pairs(state, names=OURS, seed=0):
    """A random A and B for every layer, in the published layout."""
    random = torch.Generator().manual_seed(seed)
    out = {}
    for name in names:
        rows, columns = state[name + ".weight"].shape
        out[name + ".lora_A.weight"] = torch.randn(RANK, columns, generator=random)
        out[name + ".lora_B.weight"] = torch.randn(rows, RANK, generator=random)
    return out


def change_by_diffusers(converted, state):
    """B A x of every weight in diffusers' layout, for one x a width; the prefix is off."""
    converted = {key.removeprefix("transformer."): x for key, x in converted.items()}
    names = {key.removesuffix(".lora_A.weight") for key in converted if key.endswith(".lora_A.weight")}
    return {
        name: converted[f"{name}.lora_B.weight"] @ (converted[f"{name}.lora_A.weight"] @ probe(converted, name))
        for name in names
    }


def probe(delta, name):
    columns = delta[f"{name}.lora_A.weight"].shape[1]
    return torch.randn(columns, generator=torch.Generator().manual_seed(columns))


def change_by_us(delta, state):
    """The same of the sums that `read_layout` makes, cut into diffusers' layers as `flux_to_diffusers` cuts weights."""
    fused = {}
    for update in read_layout(delta, state, "x.safetensors")[0]:
        rows, columns = state[f"{update.module}.weight"].shape
        probe = torch.randn(columns, generator=torch.Generator().manual_seed(columns))
        change = fused.setdefault(f"{update.module}.weight", torch.zeros(rows))
        change[update.rows] += update.factor * (update.B @ (update.A @ probe))
    wide = {key: x[:, None].expand(-1, state[key].shape[1]) for key, x in fused.items()}
    return {key.removesuffix(".weight"): x[:, 0] for key, x in flux_to_diffusers(wide).items()}


def agree(delta, converted, state):
    """Wherever diffusers changes a layer we change it alike, and what it leaves alone stays as it is."""
    ours, expected = change_by_us(delta, state), change_by_diffusers(converted, state)
    assert expected, "diffusers found something to change"
    for name, change in expected.items():
        torch.testing.assert_close(ours[name], change, atol=2e-3, rtol=1e-4)
    assert all(not x.any() for name, x in ours.items() if name not in expected)


def kohya(delta, alpha=None):
    out = {}
    for key, x in delta.items():
        name, _, part = key.partition(".lora_")
        out[f"lora_unet_{name.replace('.', '_')}.lora_{'down' if part[0] == 'A' else 'up'}.weight"] = x
        if alpha:
            out[f"lora_unet_{name.replace('.', '_')}.alpha"] = torch.tensor(alpha)
    return out


# ---------------------------------------------------------------- as diffusers reads them


@pytest.mark.parametrize("alpha", [None, 2.0, 0.5])
def test_kohya(state, alpha):
    """diffusers leaves out alpha for the last layer; so those two are compared without."""
    delta = kohya(pairs(state), alpha)
    if alpha:
        delta = {key: x for key, x in delta.items() if not ("final_layer" in key and key.endswith("alpha"))}
    agree(delta, theirs._convert_kohya_flux_lora_to_diffusers(dict(delta)), state)


def test_kohya_with_diffusers_names(state):
    """Written so by ai-toolkit in 2024."""
    names = (
        "transformer_blocks_0_attn_to_q",
        "transformer_blocks_0_attn_add_v_proj",
        "transformer_blocks_0_attn_to_out_0",
    )
    random = torch.Generator().manual_seed(1)
    delta = {}
    for name in names:
        delta[f"lora_transformer_{name}.lora_down.weight"] = torch.randn(RANK, D, generator=random)
        delta[f"lora_transformer_{name}.lora_up.weight"] = torch.randn(D, RANK, generator=random)
        delta[f"lora_transformer_{name}.alpha"] = torch.tensor(1.0)
    agree(delta, theirs._convert_kohya_flux_lora_to_diffusers(dict(delta)), state)


def test_xlabs(state):
    random = torch.Generator().manual_seed(2)
    delta = {}
    for name, rows, columns in (
        *((f"{DOUBLE}.processor.qkv_lora{number}", 3 * D, D) for number in (1, 2)),
        *((f"{DOUBLE}.processor.proj_lora{number}", D, D) for number in (1, 2)),
        (f"{SINGLE}.processor.qkv_lora", 3 * D, D),
        (f"{SINGLE}.processor.proj_lora", D, 5 * D),
    ):
        delta[f"{name}.down.weight"] = torch.randn(RANK, columns, generator=random)
        delta[f"{name}.up.weight"] = torch.randn(rows, RANK, generator=random)
    agree(delta, theirs._convert_xlabs_flux_lora_to_diffusers(dict(delta)), state)


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model.transformer."])
def test_diffusers_and_peft(state, prefix):
    """Nothing to convert for diffusers: q, k, v and the MLP stand apart, and not all of them are there."""
    shapes = {
        "transformer_blocks.0.attn.to_q": (D, D),
        "transformer_blocks.0.attn.to_v": (D, D),
        "transformer_blocks.0.ff.net.0.proj": (4 * D, D),
        "single_transformer_blocks.0.attn.to_k": (D, D),
        "single_transformer_blocks.0.proj_mlp": (4 * D, D),
        "norm_out.linear": (2 * D, D),
        "proj_out": (64, D),
    }
    random = torch.Generator().manual_seed(3)
    delta = {}
    for name, (rows, columns) in shapes.items():
        delta[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=random)
        delta[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=random)
    agree({prefix + key: x for key, x in delta.items()}, delta, state)
    adapter = {key.replace(".weight", ".default.weight"): x for key, x in delta.items()}
    agree({prefix + key: x for key, x in adapter.items()}, delta, state)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model."])
def test_published_names_stay_as_they_are(state, prefix):
    scale = f"{DOUBLE}.img_attn.norm.query_norm.scale"
    delta = pairs(state) | {scale: torch.rand(128)}
    updates, whole = read_layout({prefix + key: x for key, x in delta.items()}, state, "x.safetensors")
    assert [update.module for update in updates] == list(OURS) and {update.factor for update in updates} == {1.0}
    for update in updates:
        assert (
            update.A is delta[f"{update.module}.lora_A.weight"] and update.B is delta[f"{update.module}.lora_B.weight"]
        )
    assert whole.keys() == {scale} and whole[scale] is delta[scale]


def test_a_whole_control_lora():
    """As the files of Canny and Depth: every layer, with biases and scales of norms, an entrance of 128 channels.

    diffusers swaps the halves of A, too, for the last modulation, and so pairs ranks that do not belong together; that
    layer is held by `test_kohya`, where it swaps B alone.
    """
    with torch.device("meta"):
        state = Flux(CONTROL).state_dict()
    random = torch.Generator().manual_seed(4)
    delta = {}
    for key, x in state.items():
        if x.ndim == 2:
            delta[key.replace(".weight", ".lora_A.weight")] = torch.randn(RANK, x.shape[1], generator=random)
            delta[key.replace(".weight", ".lora_B.weight")] = torch.randn(x.shape[0], RANK, generator=random)
        else:
            delta[key.replace(".bias", ".lora_B.bias")] = torch.randn(x.shape, generator=random)
    converted = theirs._convert_bfl_flux_control_lora_to_diffusers(dict(delta))
    assert converted.keys() >= {"transformer.norm_out.linear.lora_A.weight"}
    last = "final_layer.adaLN_modulation.1"
    part = {key: x for key, x in delta.items() if last not in key}
    agree(part, {key: x for key, x in converted.items() if "norm_out" not in key}, state)
    assert len(lora.layers(delta)) == sum(x.ndim == 2 for x in state.values()) == 314
    converted = {key.removeprefix("transformer."): x for key, x in converted.items()}
    updates, vectors = read_layout(delta, state, "x.safetensors")
    vectors |= {f"{update.module}.bias": update.bias for update in updates}
    for key, x in flux_to_diffusers(state | vectors).items():
        if x.ndim == 1:
            assert torch.equal(converted[key if key in converted else key.replace(".bias", ".lora_B.bias")], x), key


# ---------------------------------------------------------------- alpha


@pytest.mark.parametrize("alpha", [0.5, 2.0, 32])
def test_alpha_over_rank_is_a_factor_of_b_a_and_of_the_bias(alpha):
    state = {"img_in.weight": torch.randn(5, 7), "img_in.bias": torch.randn(5)}
    A, B, bias = torch.randn(RANK, 7), torch.randn(5, RANK), torch.randn(5)
    delta = {"img_in.lora_A.weight": A, "img_in.lora_B.weight": B, "img_in.lora_B.bias": bias}
    merged = lora.merge(state, delta | {"img_in.alpha": torch.tensor(float(alpha))}, 0.7)
    factor = 0.7 * alpha / RANK
    torch.testing.assert_close(merged["img_in.weight"], state["img_in.weight"] + factor * B @ A)
    torch.testing.assert_close(merged["img_in.bias"], state["img_in.bias"] + factor * bias)


@pytest.mark.parametrize("where", ["header", "adapter_config.json"])
def test_alpha_may_stand_in_the_header_or_in_a_configuration(state, tmp_path, where):
    name = f"{DOUBLE}.img_attn.proj"
    delta, config = pairs(state, [name]), {"transformer.lora_alpha": 8, "transformer.r": RANK}
    header = {"lora_adapter_metadata": json.dumps(config)} if where == "header" else None
    save_file(delta, tmp_path / "adapter_model.safetensors", metadata=header)
    if where != "header":
        (tmp_path / where).write_text(json.dumps({"lora_alpha": 8, "r": RANK, "alpha_pattern": {}}))
    [update], _ = read_layout(read_lora(tmp_path), state, "x.safetensors")
    assert update.factor == 8 / RANK
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "use_rslora": True}))
    if where != "header":
        with pytest.raises(CheckpointError, match="has use_rslora in its LoRA configuration, which is not read here"):
            read_lora(tmp_path)


@pytest.mark.parametrize("config", [b"[]", b"{", b'{"lora_alpha": "x"}', b'{"lora_alpha": "\xe9"}', b"[" * 100_000])
def test_a_configuration_that_is_damaged_is_told(state, tmp_path, config):
    save_file(pairs(state, [f"{DOUBLE}.img_attn.proj"]), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(config)
    with pytest.raises(CheckpointError, match="has a LoRA configuration that cannot be read: take another file"):
        read_lora(tmp_path)


# ---------------------------------------------------------------- what is left out, and what is refused


@pytest.mark.parametrize(
    "key",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_down.weight",
    ],
)
def test_text_encoders_are_left_out_with_a_word(state, key):
    delta = pairs(state, ["img_in"])
    with collect() as advice:
        updates, whole = read_layout(delta | {key: torch.zeros(2, 3)}, state, "x.safetensors")
    assert [update.module for update in updates] == ["img_in"] and not whole
    assert advice == ["x.safetensors changes text encoders too (1 tensors): they are left out"]
    with pytest.raises(CheckpointError, match="x.safetensors holds nothing for the transformer"):
        read_layout({key: torch.zeros(2, 3)}, state, "x.safetensors")


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.weight", "DoRA"),
        ("lokr_w1", "LoKr"),
        ("hada_w1_a", "LoHa"),
        ("oft_blocks", "OFT"),
        ("diff", "whole differences"),
        ("diff_b", "whole differences"),
    ],
)
def test_what_is_no_product_of_two_matrices_is_refused_by_name(state, ending, kind):
    delta = pairs(state, ["img_in"]) | {f"{DOUBLE}.img_attn.proj.{ending}": torch.ones(3)}
    with pytest.raises(CheckpointError, match=f"x.safetensors holds {kind}.*: only W . B A is merged here"):
        read_layout(delta, state, "x.safetensors")


def test_nothing_is_appended_and_nothing_silently_left(state):
    for key in ("down_blocks.0.attn.lora_A.weight", "some.tensor", "lora_unet_input_blocks_1_proj.lora_up.weight"):
        with pytest.raises(CheckpointError, match=f"does not fit: 1 problems. {key} belongs to no layer"):
            read_layout(pairs(state, ["img_in"]) | {key: torch.zeros(2, 2)}, state, "x.safetensors")


def test_a_part_of_a_wrong_size_is_named(state):
    delta = {"transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, D)}
    delta["transformer_blocks.0.attn.to_q.lora_B.weight"] = torch.zeros(D + 1, 2)
    with pytest.raises(CheckpointError, match=r"0.img_attn.qkv\[0:3072\] is \(3072, 3072\), B \(3073, 2\)"):
        read_layout(delta, state, "x.safetensors")


@pytest.mark.parametrize("shape", [(0,), (3,), (1, 2)])
def test_an_alpha_is_one_number(state, shape):
    delta = pairs(state, ["img_in"]) | {"img_in.alpha": torch.ones(shape)}
    with pytest.raises(CheckpointError, match=r"img_in.alpha is \(.*\), should be one number"):
        read_layout(delta, state, "x.safetensors")


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale = {scale}: it must be a finite number"):
        lora.merge({}, {}, scale)
