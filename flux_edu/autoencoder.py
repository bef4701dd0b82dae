"""Chapter 8, the autoencoder: pictures to latents and back. Eq. (8.1) and (8.2)."""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoEncoderParams:
    """Widths of the autoencoder, and what makes its latents' mean 0 and deviation 1.

    norm_groups: into how many groups a group norm parts the channels, 32 in the
    published models, where the narrowest group is four channels. With one channel a
    group the norm would take away every channel's level, and a network that still has
    to know it hides it in one glaring pixel; so narrower autoencoders need fewer
    groups.
    """

    resolution: int
    in_channels: int
    ch: int
    out_ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    scale_factor: float
    shift_factor: float
    norm_groups: int = 32


class AttnBlock(nn.Module):
    """Attention with one head: every place looks at every other."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        normed = self.norm(x)
        qkv = self.q(normed), self.k(normed), self.v(normed)
        q, k, v = (rearrange(part, "b c h w -> b 1 (h w) c") for part in qkv)
        A = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(A, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class ResnetBlock(nn.Module):
    """Norm, swish, convolution, twice, added to the input.

    Where the widths differ, the input passes a 1 × 1 convolution on its way round.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=1e-6)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=1e-6)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


def residual_blocks(before: int, width: int, number: int, groups: int) -> nn.ModuleList:
    """The blocks of a level: the first takes the width before, the rest keep it."""
    widths = [before] + [width] * number
    return nn.ModuleList([ResnetBlock(*pair, groups) for pair in pairwise(widths)])


class Downsample(nn.Module):
    """Half the size. The padding is one row below and one column to the right."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: every pixel repeated, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """The deepest part of both halves: residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Picture to moments: mean and log variance of every latent number, mean first."""

    def __init__(self, p: AutoEncoderParams):
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        self.conv_in = nn.Conv2d(p.in_channels, p.ch, 3, padding=1)
        self.down = nn.ModuleList()
        before = p.ch
        for level, width in enumerate(widths):
            down = nn.Module()
            down.block = residual_blocks(before, width, p.num_res_blocks, p.norm_groups)
            before = width
            if level < len(widths) - 1:
                down.downsample = Downsample(width)
            self.down.append(down)
        self.mid = Middle(widths[-1], p.norm_groups)
        self.norm_out = nn.GroupNorm(p.norm_groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * p.z_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B moments h w"]:
        h = self.conv_in(x)
        for down in self.down:
            for block in down.block:
                h = block(h)
            if hasattr(down, "downsample"):
                h = down.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent to picture: the encoder backwards, with one more block a level."""

    def __init__(self, p: AutoEncoderParams):
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        self.conv_in = nn.Conv2d(p.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], p.norm_groups)
        self.up = nn.ModuleList()
        for level, (width, before) in enumerate(pairwise([*widths, widths[-1]])):
            up = nn.Module()
            number = p.num_res_blocks + 1
            up.block = residual_blocks(before, width, number, p.norm_groups)
            if level > 0:
                up.upsample = Upsample(width)
            self.up.append(up)
        self.norm_out = nn.GroupNorm(p.norm_groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], p.out_ch, 3, padding=1)

    def forward(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 H W"]:
        h = self.mid(self.conv_in(z))
        for up in reversed(self.up):
            for block in up.block:
                h = block(h)
            if hasattr(up, "upsample"):
                h = up.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoEncoder(nn.Module):
    """Pictures in [-1, 1] to latents 8 times smaller with 16 channels, and back.

    Eq. (8.1):  z = scale (mean(enc(x)) - shift)
    Eq. (8.2):  x = dec(z / scale + shift)

    The mean is taken, nothing is drawn: the reference drew a sample until June 2025,
    which is why one seed gave different image-to-image pictures. Pictures in [0, 1]
    come back with wrong colours. Rombach et al., "Latent diffusion", 2022.
    """

    def __init__(self, params: AutoEncoderParams):
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)

    def encode(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 h w"]:
        p = self.params
        factor = 2 ** (len(p.ch_mult) - 1)
        h, w = x.shape[-2:]
        assert h % factor == w % factor == 0, f"{w} × {h}: not multiples of {factor}"
        mean, _ = self.encoder(x).chunk(2, dim=1)
        return p.scale_factor * (mean - p.shift_factor)

    def decode(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 H W"]:
        return self.decoder(z / self.params.scale_factor + self.params.shift_factor)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.decode(self.encode(x))
