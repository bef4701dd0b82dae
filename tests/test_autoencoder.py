"""The autoencoder: equations 8.1 and 8.2, its parts against the same by hand, and what it says to wrong sizes.

The comparison with diffusers stands in parity/test_autoencoder_parity.py.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.parity_tools import draw
from small_models import AUTOENCODER as SMALL

from flux_edu import autoencoder


def picture(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture(scope="module")
def ae():
    return draw(autoencoder.AutoEncoder(SMALL).double(), seed=0)


@pytest.mark.equation("8.1")
def test_encode_shifts_and_scales_the_mean(ae):
    x = picture(2, 3, 24, 40)
    moments = ae.encoder(x)
    mean = moments[:, :5]  # the other five are log variances
    z = ae.encode(x)
    assert moments.shape == (2, 10, 3, 5) and z.shape == (2, 5, 3, 5)
    torch.testing.assert_close(z, 0.3611 * mean - 0.3611 * 0.1159)


@pytest.mark.equation("8.2")
def test_decode_undoes_scale_and_shift_first(ae):
    z = picture(2, 5, 3, 7)
    x = ae.decode(z)
    assert x.shape == (2, 3, 24, 56)
    torch.testing.assert_close(x, ae.decoder(z / 0.3611 + 0.1159))


@pytest.mark.equation("8.1")
@pytest.mark.equation("8.2")
def test_the_affine_maps_of_both_are_each_others_inverse(ae, monkeypatch):
    monkeypatch.setattr(ae.encoder, "forward", lambda x: torch.cat([x, x], dim=1))
    monkeypatch.setattr(ae.decoder, "forward", lambda z: z)
    x = picture(2, 3, 8, 16)
    torch.testing.assert_close(ae.decode(torch.cat([ae.encode(x), x[:, :2]], dim=1))[:, :3], x)
    torch.testing.assert_close(ae.encode(x) / 0.3611 + 0.1159, x)


def test_forward_is_the_round_trip(ae):
    x = picture(1, 3, 16, 24)
    torch.testing.assert_close(ae(x), ae.decode(ae.encode(x)))


def test_encoding_draws_nothing(ae):
    x = picture(1, 3, 16, 24)
    torch.manual_seed(1)
    first = ae.encode(x)
    torch.manual_seed(2)
    assert torch.equal(ae.encode(x), first)


@settings(max_examples=8, deadline=None)
@given(h=st.integers(1, 5), w=st.integers(1, 5), B=st.integers(1, 2))
def test_a_picture_of_any_multiple_of_eight_comes_back_in_its_size(ae, h, w, B):
    x = picture(B, 3, 8 * h, 8 * w)
    assert ae.encode(x).shape == (B, 5, h, w)
    assert ae(x).shape == x.shape


# ---------------------------------------------------------------- parts


def test_halving_pads_below_and_to_the_right():
    """One number of the output, by hand, at the far corner where the padding is, and one at the near corner."""
    down = draw(autoencoder.Downsample(2).double(), seed=0)
    x = picture(1, 2, 6, 10)
    y = down(x)
    assert y.shape == (1, 2, 3, 5)
    W, c = down.conv.weight, down.conv.bias
    near = torch.einsum("ocij,cij->o", W, x[0, :, 0:3, 0:3]) + c
    far = torch.einsum("ocij,cij->o", W[:, :, :2, :2], x[0, :, 4:6, 8:10]) + c  # its third row and column read zeros
    torch.testing.assert_close(y[0, :, 0, 0], near)
    torch.testing.assert_close(y[0, :, -1, -1], far)


def test_padding_all_round_loads_the_same_weights_and_is_wrong():
    down = draw(autoencoder.Downsample(2).double(), seed=0)
    x = picture(1, 2, 6, 10)
    symmetric = F.conv2d(x, down.conv.weight, down.conv.bias, stride=2, padding=1)
    assert symmetric.shape == down(x).shape
    assert (symmetric - down(x)).norm() / down(x).norm() > 0.3


def test_doubling_repeats_every_pixel_and_convolves():
    up = draw(autoencoder.Upsample(2).double(), seed=0)
    x = picture(1, 2, 3, 5)
    large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(x), up.conv(large))


def test_attention_looks_from_every_place_at_every_other():
    block = draw(autoencoder.AttnBlock(6, 3).double(), seed=0)
    x = picture(2, 6, 3, 5)
    tokens = F.group_norm(x, 3, block.norm.weight, block.norm.bias, eps=1e-6).flatten(2).mT
    q, k, v = (tokens @ part.weight[:, :, 0, 0].T + part.bias for part in (block.q, block.k, block.v))
    attended = (q @ k.mT / 6**0.5).softmax(dim=-1) @ v
    out = (attended @ block.proj_out.weight[:, :, 0, 0].T + block.proj_out.bias).mT.unflatten(2, (3, 5))
    torch.testing.assert_close(block(x), x + out)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(6, 6), (6, 9)])
def test_residual_block(channels_in, channels_out):
    block = draw(autoencoder.ResnetBlock(channels_in, channels_out, 3).double(), seed=0)
    x = picture(2, channels_in, 5, 7)
    h = block.conv1(F.silu(F.group_norm(x, 3, block.norm1.weight, block.norm1.bias, eps=1e-6)))
    h = block.conv2(F.silu(F.group_norm(h, 3, block.norm2.weight, block.norm2.bias, eps=1e-6)))
    way_round = x if channels_in == channels_out else block.nin_shortcut(x)
    torch.testing.assert_close(block(x), way_round + h)
    assert hasattr(block, "nin_shortcut") == (channels_in != channels_out)


def test_a_group_of_channels_is_normed_as_one(ae):
    """Three groups and six give different pictures from equal weights."""
    other = autoencoder.AutoEncoder(replace(SMALL, norm_groups=6)).double()
    other.load_state_dict(ae.state_dict(), strict=True)
    x = picture(1, 3, 16, 24)
    assert (other.encode(x) - ae.encode(x)).norm() / ae.encode(x).norm() > 0.05


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(("height", "width"), [(24, 41), (20, 40), (7, 8)])
def test_sides_that_are_no_multiples_of_eight_are_an_error(ae, height, width):
    with pytest.raises(AssertionError, match=f"{width} × {height}: not multiples of 8"):
        ae.encode(picture(1, 3, height, width))
