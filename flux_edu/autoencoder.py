"""Chapter 8, the autoencoder: pictures to latents and back. Eq. (8.1) and (8.2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoEncoderParams:
    """Widths of the autoencoder. scale_factor and shift_factor make the latents' mean 0 and standard deviation 1.

    norm_groups: into how many groups a group norm parts the channels, 32 in the published models, where the narrowest
    group is four channels. With one channel a group the norm would take away every channel's level, and a network that
    still has to know it hides it in one glaring pixel; so narrower autoencoders need fewer groups.
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


class GroupNorm(nn.GroupNorm):
    """Every group of channels, over all places, to mean 0 and variance 1; then a scale and a shift a channel.

    y = γ (x - μ) / √(σ² + 1e-6) + β. Wu & He, 2018.
    """

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.by_sums(x) if x.is_cuda else super().forward(x)

    def by_sums(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The same from two sums a channel, which channels-last memory gives up in one pass: σ² is mean x² - μ².

        PyTorch's kernel for GPUs reads channel after channel, and copies such memory there and back. Sums are float32.
        """
        groups, wide = {"g": self.num_groups}, {"dtype": torch.promote_types(x.dtype, torch.float32)}
        n = x[0].numel() // self.num_groups  # numbers in a group
        sums = x.sum((2, 3), **wide), torch.linalg.vector_norm(x, 2, (2, 3), **wide) ** 2
        mean, square = (reduce(s, "b (g c) -> b g 1", "sum", **groups) / n for s in sums)
        gamma, beta = (rearrange(p.to(**wide), "(g c) -> g c", **groups) for p in (self.weight, self.bias))
        scale = gamma * (square - mean**2).clamp(min=0).add(self.eps).rsqrt()
        scale, shift = (rearrange(p, "b g c -> b (g c) 1 1") for p in (scale, beta - mean * scale))
        return torch.addcmul(shift, x, scale).to(x.dtype)


class AttnBlock(nn.Module):
    """Every place of the smallest feature map looks at every other: one head, 1 × 1 convolutions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        normed = self.norm(x)
        q, k, v = (rearrange(part(normed), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v))
        found = rearrange(F.scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(found)


class ResnetBlock(nn.Module):
    """Norm, swish, convolution, twice, added to the input; a 1 × 1 convolution on the way round if widths differ."""

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = GroupNorm(groups, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Downsample(nn.Module):
    """Half the size. The padding is one row below and one column to the right, as the published weights expect."""

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
        for level, (before, width) in enumerate(zip([p.ch, *widths], widths, strict=False)):
            down = nn.Module()
            down.block = nn.ModuleList(
                ResnetBlock(before if i == 0 else width, width, p.norm_groups) for i in range(p.num_res_blocks)
            )
            if level < len(widths) - 1:
                down.downsample = Downsample(width)
            self.down.append(down)
        self.mid = Middle(widths[-1], p.norm_groups)
        self.norm_out = GroupNorm(p.norm_groups, widths[-1])
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
    """Latent to picture: the encoder backwards, with one more residual block a level."""

    def __init__(self, p: AutoEncoderParams):
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        self.conv_in = nn.Conv2d(p.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], p.norm_groups)
        self.up = nn.ModuleList()
        for level, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            up = nn.Module()
            up.block = nn.ModuleList(
                ResnetBlock(before if i == 0 else width, width, p.norm_groups) for i in range(p.num_res_blocks + 1)
            )
            if level > 0:
                up.upsample = Upsample(width)
            self.up.append(up)
        self.norm_out = GroupNorm(p.norm_groups, widths[0])
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

    The mean is taken, nothing is drawn: the reference drew a sample until June 2025, which is why one seed gave
    different image-to-image pictures. Pictures in [0, 1] come back with wrong colours. Rombach et al., "Latent
    diffusion", 2022.
    """

    def __init__(self, params: AutoEncoderParams):
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)

    def encode(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 h w"]:
        p, factor = self.params, 2 ** (len(self.params.ch_mult) - 1)
        if x.ndim != 4 or x.shape[1] != p.in_channels:
            raise ValueError(
                f"a picture of shape {tuple(x.shape)}; the autoencoder reads (batch, {p.in_channels}, height, width),"
                " with red, green and blue in [-1, 1]"
            )
        if x.shape[2] % factor or x.shape[3] % factor or not x.shape[2] * x.shape[3]:
            raise ValueError(
                f"a picture of {x.shape[3]} × {x.shape[2]} pixels: both sides must be multiples of {factor}, at least"
                f" {factor}; crop or resize it"
            )
        mean, _ = self.encoder(x).chunk(2, dim=1)
        return p.scale_factor * (mean - p.shift_factor)

    def decode(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 H W"]:
        if z.ndim != 4 or z.shape[1] != self.params.z_channels:
            raise ValueError(
                f"a latent of shape {tuple(z.shape)}; the autoencoder reads (batch, {self.params.z_channels}, rows,"
                " columns): unpatchify tokens first"
            )
        return self.decoder(z / self.params.scale_factor + self.params.shift_factor)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.decode(self.encode(x))
