"""The autoencoder against diffusers' AutoencoderKL: encode, decode, the map of weights. Nothing stays in float32."""

import pytest
import torch
from diffusers import AutoencoderKL
from parity_tools import FLOAT32_BAR, FLOAT64_BAR, draw, error, hold, normal, short
from small_models import AUTOENCODER as SMALL
from small_models import same
from torch import nn

from flux_edu import autoencoder
from flux_edu.configs import configs
from flux_edu.io import diffusers_layout
from flux_edu.io.checkpoint import CheckpointError, load_strict

HEIGHT, WIDTH = 40, 24


def their_autoencoder(p):
    return AutoencoderKL(
        in_channels=p.in_channels,
        out_channels=p.out_ch,
        down_block_types=("DownEncoderBlock2D",) * len(p.ch_mult),
        up_block_types=("UpDecoderBlock2D",) * len(p.ch_mult),
        block_out_channels=[p.ch * m for m in p.ch_mult],
        layers_per_block=p.num_res_blocks,
        latent_channels=p.z_channels,
        norm_num_groups=p.norm_groups,
        scaling_factor=p.scale_factor,
        shift_factor=p.shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def pair(p=SMALL, dtype=torch.float32):
    """(ours, theirs) with equal parameters."""
    ours = draw(autoencoder.AutoEncoder(p), seed=31)
    theirs = their_autoencoder(p).eval().requires_grad_(False)
    theirs.load_state_dict(diffusers_layout.ae_to_diffusers(ours.state_dict()), strict=True)
    return ours.to(dtype), nn.Module.to(theirs, dtype)


bars = pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, FLOAT32_BAR), (torch.float64, FLOAT64_BAR)])


@pytest.mark.equation("8.1")
@bars
def test_encode(dtype, bar):
    ours, theirs = pair(dtype=dtype)
    x = normal(2, 3, HEIGHT, WIDTH, seed=1).to(dtype)
    moments = theirs.encode(x).latent_dist
    z = ours.encode(x)
    assert z.shape == (2, 5, HEIGHT // 8, WIDTH // 8) and z.dtype == dtype
    hold(f"autoencoder encode {short(dtype)}", error(z, (moments.mode() - 0.1159) * 0.3611), bar)
    _, logvar = ours.encoder(x).chunk(2, dim=1)
    hold(f"autoencoder encode, log variance, {short(dtype)}", error(logvar.clamp(-30, 20), moments.logvar), bar)


@pytest.mark.equation("8.2")
@bars
def test_decode(dtype, bar):
    ours, theirs = pair(dtype=dtype)
    z = normal(2, 5, 3, 7, seed=2).to(dtype)
    x = ours.decode(z)
    assert x.shape == (2, 3, 24, 56) and x.dtype == dtype
    hold(f"autoencoder decode {short(dtype)}", error(x, theirs.decode(z / 0.3611 + 0.1159).sample), bar)


def test_thirty_two_groups_as_published():
    p = autoencoder.AutoEncoderParams(64, 3, 32, 3, (1, 2), 1, 5, 0.3611, 0.1159)
    ours, theirs = pair(p)
    x = normal(1, 3, 14, 22, seed=3)
    hold("autoencoder encode, 32 groups", error(ours.encoder(x), theirs.encoder(x)), FLOAT32_BAR)


def test_every_level_and_every_channel_counts():
    """The last pixel row and column too, where the lopsided padding of a halving shows."""
    ours, _ = pair()
    x = normal(1, 3, HEIGHT, WIDTH, seed=1)
    for y in (x.flip(1), x.flip(2), x.flip(3), torch.cat([x[..., :-1, :], -x[..., -1:, :]], dim=2)):
        assert error(ours.encode(y), ours.encode(x)) > 1e-3


# ---------------------------------------------------------------- the map of weights


def test_both_directions_are_each_others_inverse():
    ours = draw(autoencoder.AutoEncoder(SMALL), 31).state_dict()
    theirs = draw(their_autoencoder(SMALL), 32).state_dict()
    assert same(diffusers_layout.diffusers_to_ae(diffusers_layout.ae_to_diffusers(ours)), ours)
    assert same(diffusers_layout.ae_to_diffusers(diffusers_layout.diffusers_to_ae(theirs)), theirs)
    load_strict(autoencoder.AutoEncoder(SMALL), diffusers_layout.diffusers_to_ae(theirs))


def test_one_half_alone_is_mapped_too():
    theirs = draw(their_autoencoder(SMALL), 32).state_dict()
    whole = diffusers_layout.diffusers_to_ae(theirs)
    for half in ("encoder", "decoder"):
        part = diffusers_layout.diffusers_to_ae({key: x for key, x in theirs.items() if key.startswith(half)})
        assert same(part, {key: x for key, x in whole.items() if key.startswith(half)})


def test_up_blocks_in_the_wrong_order_do_not_load():
    theirs = diffusers_layout.ae_to_diffusers(draw(autoencoder.AutoEncoder(SMALL), 31).state_dict())
    turned = {
        key.replace("up_blocks.0", "up_blocks.X").replace("up_blocks.3", "up_blocks.0"): x for key, x in theirs.items()
    }
    turned = {key.replace("up_blocks.X", "up_blocks.3"): x for key, x in turned.items()}
    with pytest.raises(CheckpointError, match="decoder.up"):
        load_strict(autoencoder.AutoEncoder(SMALL), diffusers_layout.diffusers_to_ae(turned))


def test_a_foreign_key_is_an_error_that_names_it():
    """Quantisation convolutions belong to other models' autoencoders, to_query to diffusers before 0.18."""
    ours = draw(autoencoder.AutoEncoder(SMALL), 31).state_dict()
    theirs = diffusers_layout.ae_to_diffusers(ours)
    with pytest.raises(CheckpointError, match="1 keys do not belong to diffusers' layout: post_quant_conv.weight"):
        diffusers_layout.diffusers_to_ae(theirs | {"post_quant_conv.weight": torch.zeros(5, 5, 1, 1)})
    with pytest.raises(
        CheckpointError, match="1 keys do not belong to the published layout: encoder.mid.attn_2.q.bias"
    ):
        diffusers_layout.ae_to_diffusers(ours | {"encoder.mid.attn_2.q.bias": torch.zeros(24)})
    with pytest.raises(CheckpointError, match="diffusers' layout .use diffusers_layout.diffusers_to_ae."):
        diffusers_layout.ae_to_diffusers(theirs)
    with pytest.raises(CheckpointError, match="looks like an autoencoder$"):
        diffusers_layout.diffusers_to_ae(ours)


def test_the_published_names_all_have_a_place_in_diffusers():
    p = configs["flux-dev"].ae_params
    with torch.device("meta"):
        ours, theirs = autoencoder.AutoEncoder(p).state_dict(), their_autoencoder(p).state_dict()
    there = diffusers_layout.ae_to_diffusers(ours)
    assert {key: x.shape for key, x in there.items()} == {key: x.shape for key, x in theirs.items()}
    assert len(there) == 244
    back = diffusers_layout.diffusers_to_ae(there)
    assert {key: x.shape for key, x in back.items()} == {key: x.shape for key, x in ours.items()}
