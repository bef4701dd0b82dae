"""Every published variant has the published names and shapes.

The list below is that of the published checkpoints, written out in their own terms and made without the package: a
table of module names with rows and columns. Its counts are those of the files' headers.
"""

import dataclasses
from math import prod

import pytest
import torch

from flux_edu import configs
from flux_edu.autoencoder import AutoEncoder
from flux_edu.model import Flux

D = 3072


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def qk_norm(name):
    return {f"{name}.query_norm.scale": (128,), f"{name}.key_norm.scale": (128,)}


def published_transformer(in_channels, guidance):
    keys = linear("img_in", D, in_channels) | linear("txt_in", D, 4096)
    keys |= linear("time_in.in_layer", D, 256) | linear("time_in.out_layer", D, D)
    keys |= linear("vector_in.in_layer", D, 768) | linear("vector_in.out_layer", D, D)
    if guidance:
        keys |= linear("guidance_in.in_layer", D, 256) | linear("guidance_in.out_layer", D, D)
    for i in range(19):
        for stream in (f"double_blocks.{i}.img", f"double_blocks.{i}.txt"):
            keys |= linear(f"{stream}_mod.lin", 18432, D)
            keys |= linear(f"{stream}_attn.qkv", 9216, D) | qk_norm(f"{stream}_attn.norm")
            keys |= linear(f"{stream}_attn.proj", D, D)
            keys |= linear(f"{stream}_mlp.0", 12288, D) | linear(f"{stream}_mlp.2", D, 12288)
    for block in (f"single_blocks.{i}" for i in range(38)):
        keys |= linear(f"{block}.linear1", 21504, D) | linear(f"{block}.linear2", D, 15360)
        keys |= qk_norm(f"{block}.norm") | linear(f"{block}.modulation.lin", 9216, D)
    return keys | linear("final_layer.linear", 64, D) | linear("final_layer.adaLN_modulation.1", 6144, D)


def conv(name, channels_out, channels_in, side):
    return {f"{name}.weight": (channels_out, channels_in, side, side), f"{name}.bias": (channels_out,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def resnet(name, channels_in, channels_out):
    keys = norm(f"{name}.norm1", channels_in) | conv(f"{name}.conv1", channels_out, channels_in, 3)
    keys |= norm(f"{name}.norm2", channels_out) | conv(f"{name}.conv2", channels_out, channels_out, 3)
    return keys | (conv(f"{name}.nin_shortcut", channels_out, channels_in, 1) if channels_in != channels_out else {})


def published_autoencoder():
    keys = conv("encoder.conv_in", 128, 3, 3) | norm("encoder.norm_out", 512) | conv("encoder.conv_out", 32, 512, 3)
    keys |= conv("decoder.conv_in", 512, 16, 3) | norm("decoder.norm_out", 128) | conv("decoder.conv_out", 3, 128, 3)
    for half in ("encoder", "decoder"):
        keys |= resnet(f"{half}.mid.block_1", 512, 512) | resnet(f"{half}.mid.block_2", 512, 512)
        keys |= norm(f"{half}.mid.attn_1.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            keys |= conv(f"{half}.mid.attn_1.{part}", 512, 512, 1)
    for i, (before, width) in enumerate([(128, 128), (128, 256), (256, 512), (512, 512)]):
        keys |= resnet(f"encoder.down.{i}.block.0", before, width) | resnet(f"encoder.down.{i}.block.1", width, width)
    for i, width in enumerate([128, 256, 512]):
        keys |= conv(f"encoder.down.{i}.downsample.conv", width, width, 3)
    for i, before, width in [(3, 512, 512), (2, 512, 512), (1, 512, 256), (0, 256, 128)]:
        keys |= resnet(f"decoder.up.{i}.block.0", before, width)
        keys |= resnet(f"decoder.up.{i}.block.1", width, width) | resnet(f"decoder.up.{i}.block.2", width, width)
    for i, width in [(3, 512), (2, 512), (1, 256)]:
        keys |= conv(f"decoder.up.{i}.upsample.conv", width, width, 3)
    return keys


# name: (channels in, guidance?, tensors, parameters)
PUBLISHED = {
    "flux-dev": (64, True, 780, 11_901_408_320),
    "flux-dev-krea": (64, True, 780, 11_901_408_320),
    "flux-dev-redux": (64, True, 780, 11_901_408_320),
    "flux-dev-kontext": (64, True, 780, 11_901_408_320),
    "flux-schnell": (64, False, 776, 11_891_178_560),
    "flux-dev-canny": (128, True, 780, 11_901_604_928),
    "flux-dev-depth": (128, True, 780, 11_901_604_928),
    "flux-dev-canny-lora": (128, True, 780, 11_901_604_928),
    "flux-dev-depth-lora": (128, True, 780, 11_901_604_928),
    "flux-dev-fill": (384, True, 780, 11_902_391_360),
}


def on_meta(kind, params):
    """Names and shapes of a model without a single number."""
    with torch.device("meta"):
        model = kind(params)
    assert not list(model.buffers())
    return {name: tuple(x.shape) for name, x in model.state_dict().items()}


def count(keys):
    return sum(prod(shape) for shape in keys.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformer_has_the_published_names_and_shapes(name):
    in_channels, guidance, tensors, parameters = PUBLISHED[name]
    expected = published_transformer(in_channels, guidance)
    assert (len(expected), count(expected)) == (tensors, parameters)
    assert on_meta(Flux, configs.configs[name].params) == expected


def test_autoencoder_has_the_published_names_and_shapes():
    expected = published_autoencoder()
    assert (len(expected), count(expected)) == (244, 83_819_683)
    assert count({key: shape for key, shape in expected.items() if key.startswith("encoder")}) == 34_274_208
    assert on_meta(AutoEncoder, configs.configs["flux-dev"].ae_params) == expected
    assert {configs.configs[name].ae_params for name in PUBLISHED} == {configs.configs["flux-dev"].ae_params}


def test_parts_have_the_published_sizes():
    keys = published_transformer(64, True)
    sizes = {
        "img_in": 199_680,
        "time_in": 10_229_760,
        "vector_in": 11_802_624,
        "guidance_in": 10_229_760,
        "txt_in": 12_585_984,
        "final_layer": 19_077_184,
        "double_blocks.7": 339_831_296,
        "double_blocks": 6_456_794_624,
        "single_blocks.31": 141_591_808,
        "single_blocks": 5_380_488_704,
    }
    for part, size in sizes.items():
        assert count({key: shape for key, shape in keys.items() if key.startswith(part + ".")}) == size
    modulations = {key: shape for key, shape in keys.items() if "_mod." in key or ".modulation." in key}
    assert count(modulations) == 3_228_567_552


def test_the_published_numbers_that_shapes_do_not_show():
    for name in PUBLISHED:
        params, ae = configs.configs[name].params, configs.configs[name].ae_params
        assert (params.num_heads, tuple(params.axes_dim), params.theta) == (24, (16, 56, 56), 10_000)
        assert (ae.scale_factor, ae.shift_factor, ae.norm_groups) == (0.3611, 0.1159, 32)


# name: (steps, guidance, shifted schedule?, T5 tokens)
SAMPLED = {
    "flux-dev": (50, 2.5, True, 512),
    "flux-dev-krea": (50, 2.5, True, 512),
    "flux-dev-redux": (50, 2.5, True, 512),
    "flux-dev-kontext": (30, 2.5, True, 512),
    "flux-schnell": (4, 0.0, False, 256),
    "flux-dev-canny": (50, 30.0, True, 512),
    "flux-dev-depth": (50, 10.0, True, 512),
    "flux-dev-canny-lora": (50, 30.0, True, 512),
    "flux-dev-depth-lora": (50, 10.0, True, 512),
    "flux-dev-fill": (50, 30.0, True, 512),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_variants_are_sampled_as_the_reference_does(name):
    spec = configs.configs[name]
    assert (spec.num_steps, spec.guidance, spec.shift, spec.txt_tokens) == SAMPLED[name]
    assert not spec.two_passes, "a distilled model needs no second pass"
    assert spec.repo_id.startswith("black-forest-labs/FLUX.1-")


def test_the_repositories_are_all_different():
    repositories = [configs.configs[name].repo_id for name in PUBLISHED]
    assert len(set(repositories)) == len(PUBLISHED)


def test_every_other_variant_is_a_small_one():
    for name, spec in configs.configs.items():
        if name not in PUBLISHED:
            assert count(on_meta(Flux, spec.params)) < 50_000_000, name
            assert spec.repo_id is None, "it ships with the package"
            assert spec.params.in_channels % 4 == 0 and spec.ae_params.z_channels * 4 == spec.params.out_channels


def test_a_variant_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.configs["flux-dev"].params.depth = 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("flux-shnell", "flux-schnell"), ("Flux_Dev", "flux-dev"), ("tinny", "tiny"), ("fill", "flux-dev-fill")]
    + [("TINY", "tiny"), ("FLUX.1-dev", "flux-dev[?]"), ("black-forest-labs/FLUX.1-Krea-dev", "flux-dev-krea[?]")],
)
def test_an_unknown_variant_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(
        ValueError, match=f"no variant is called '{typed}'; did you mean .*{meant}.*There are: flux-dev,"
    ):
        configs.get_spec(typed)


def test_a_name_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match="no variant is called 'stable diffusion'.*There are: flux-dev, .*tiny"):
        configs.get_spec("stable diffusion")
