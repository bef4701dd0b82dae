"""What FLUX.2 does otherwise: shared modulation, gated MLPs, no biases, four axes. Notebook 16; no numbered equations.

The parts of chapters 3 to 5 are used again wherever they are the same. Parameter names are those of FLUX.2's
checkpoints. Source: github.com/black-forest-labs/flux2 (Apache-2.0); the tests compare with diffusers' class.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import (
    QKNorm,
    SelfAttention,
    attention,
    join_streams,
    joint_attention,
    split_heads,
    split_streams,
)
from flux_edu.embeddings import MLPEmbedder, timestep_embedding
from flux_edu.model import EMBEDDING_WIDTH
from flux_edu.modulation import Modulation, ModulationOut, modulate
from flux_edu.rope import EmbedND
from flux_edu.schedule import get_lin_function
from flux_edu.single_stream import LastLayer

TwoBranches = tuple[ModulationOut, ModulationOut]  # attention's and the MLP's


def empirical_mu(image_seq_len: int, num_steps: int) -> float:
    """μ of FLUX.2: a line over the tokens for 200 steps, another for 10, and a straight blend between the two.

    The line for 200 steps has the same numbers as FLUX.1's, Eq. (1.2); more than 4300 tokens use it alone, whatever the
    number of steps. The constants are those of `compute_empirical_mu` in the FLUX.2 reference code, which gives no
    reason for them.
    """
    for_200 = 0.00016927 * image_seq_len + 0.45666666
    if image_seq_len > 4300:
        return for_200
    for_10 = 8.73809524e-05 * image_seq_len + 1.89833333
    return get_lin_function(10, for_10, 200, for_200)(num_steps)


def make_ids(
    batch: int, img: tuple[int, int], txt: int, references: list[tuple[int, int]] | tuple = ()
) -> tuple[Float[Tensor, "B L_txt 4"], Float[Tensor, "B L_img 4"]]:
    """Ids on four axes, (picture, row, column, word): text (0, 0, 0, l), image (0, h, w, 0).

    Reference pictures, rows × columns each, follow as more image tokens with 10, 20, … on the first axis.
    """
    txt_ids = torch.zeros(txt, 4)
    txt_ids[:, 3] = torch.arange(txt)
    pictures = []
    for k, (h, w) in enumerate([img, *references]):
        row, col = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        zero = torch.zeros_like(row)
        pictures.append(rearrange([zero + 10 * k, row, col, zero], "axes h w -> (h w) axes").float())
    return txt_ids.expand(batch, -1, -1), torch.cat(pictures).expand(batch, -1, -1)


class SwiGLU(nn.Module):
    """The first half of the channels decides, through SiLU, how much of the second half passes. Shazeer, 2020."""

    def forward(self, x: Float[Tensor, "B L wide"]) -> Float[Tensor, "B L wide//2"]:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


def gated_mlp(dim: int, hidden: int) -> nn.Sequential:
    """Wider twice over, gated, back: three matrices' worth of weights where GELU needs two."""
    return nn.Sequential(nn.Linear(dim, 2 * hidden), SwiGLU(), nn.Linear(hidden, dim))


class DoubleStreamBlock2(nn.Module):
    """FLUX.1's double block, Eq. (4.11) and (4.12), with modulations from outside and a gated MLP."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(hidden_size * mlp_ratio)
        self.img_attn = SelfAttention(hidden_size, num_heads, qkv_bias=False)
        self.img_mlp = gated_mlp(hidden_size, hidden)
        self.txt_attn = SelfAttention(hidden_size, num_heads, qkv_bias=False)
        self.txt_mlp = gated_mlp(hidden_size, hidden)

    def forward(
        self,
        img: Float[Tensor, "B L_img D"],
        txt: Float[Tensor, "B L_txt D"],
        img_mod: TwoBranches,
        txt_mod: TwoBranches,
        pe: Float[Tensor, "B 1 L pairs 2 2"],
    ) -> tuple[Float[Tensor, "B L_img D"], Float[Tensor, "B L_txt D"]]:
        img_mod1, img_mod2 = img_mod
        txt_mod1, txt_mod2 = txt_mod
        img_qkv = self.img_attn.heads(modulate(img, img_mod1))
        txt_qkv = self.txt_attn.heads(modulate(txt, txt_mod1))
        txt_A, img_A = joint_attention(txt_qkv, img_qkv, pe)
        img = img + img_mod1.gate * self.img_attn.proj(img_A)
        txt = txt + txt_mod1.gate * self.txt_attn.proj(txt_A)
        img = img + img_mod2.gate * self.img_mlp(modulate(img, img_mod2))
        txt = txt + txt_mod2.gate * self.txt_mlp(modulate(txt, txt_mod2))
        return img, txt


class SingleStreamBlock2(nn.Module):
    """FLUX.1's single block, Eq. (5.2) to (5.4), with the modulation from outside and the MLP half gated."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.num_heads = num_heads
        hidden = int(hidden_size * mlp_ratio)
        self.widths = 3 * hidden_size, 2 * hidden
        self.linear1 = nn.Linear(hidden_size, sum(self.widths))
        self.linear2 = nn.Linear(hidden_size + hidden, hidden_size)
        self.norm = QKNorm(hidden_size // num_heads)
        self.mlp_act = SwiGLU()

    def forward(
        self, x: Float[Tensor, "B L D"], mod: ModulationOut, pe: Float[Tensor, "B 1 L pairs 2 2"]
    ) -> Float[Tensor, "B L D"]:
        qkv, m = self.linear1(modulate(x, mod)).split(self.widths, dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        q, k = self.norm(q, k)
        o = self.linear2(torch.cat([attention(q, k, v, pe), self.mlp_act(m)], dim=-1))
        return x + mod.gate * o


@dataclass(frozen=True)
class Flux2Params:
    """The shape of a FLUX.2; the defaults are those that all published ones share."""

    context_in_dim: int
    hidden_size: int
    num_heads: int
    depth: int
    depth_single_blocks: int
    guidance_embed: bool
    in_channels: int = 128
    mlp_ratio: float = 3.0
    axes_dim: tuple[int, ...] = (32, 32, 32, 32)
    theta: int = 2000


class Flux2(nn.Module):
    """The transformer of FLUX.2. Three modulations serve all blocks; no linear layer has a bias; no pooled text."""

    def __init__(self, params: Flux2Params):
        super().__init__()
        self.params = p = params
        D = p.hidden_size
        self.pe_embedder = EmbedND(D // p.num_heads, p.theta, p.axes_dim)
        self.img_in = nn.Linear(p.in_channels, D)
        self.txt_in = nn.Linear(p.context_in_dim, D)
        self.time_in = MLPEmbedder(EMBEDDING_WIDTH, D)
        self.guidance_in = MLPEmbedder(EMBEDDING_WIDTH, D) if p.guidance_embed else None
        self.double_stream_modulation_img = Modulation(D, double=True)
        self.double_stream_modulation_txt = Modulation(D, double=True)
        self.single_stream_modulation = Modulation(D, double=False)
        blocks = D, p.num_heads, p.mlp_ratio
        self.double_blocks = nn.ModuleList(DoubleStreamBlock2(*blocks) for _ in range(p.depth))
        self.single_blocks = nn.ModuleList(SingleStreamBlock2(*blocks) for _ in range(p.depth_single_blocks))
        self.final_layer = LastLayer(D, 1, p.in_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.bias = None

    def forward(
        self,
        img: Float[Tensor, "B L_img C"],
        img_ids: Float[Tensor, "B L_img axes"],
        txt: Float[Tensor, "B L_txt context"],
        txt_ids: Float[Tensor, "B L_txt axes"],
        timesteps: Float[Tensor, "B"],
        guidance: Float[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B L_img C"]:
        """The velocity of every image token, reference pictures included: the sampler drops theirs."""
        vec = self.time_in(timestep_embedding(timesteps, EMBEDDING_WIDTH).to(img.dtype))
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("this model is guidance-distilled: pass guidance, one number a picture")
            vec = vec + self.guidance_in(timestep_embedding(guidance, EMBEDDING_WIDTH).to(img.dtype))
        # shift, scale and gate once, for every block
        img_mod, txt_mod = self.double_stream_modulation_img(vec), self.double_stream_modulation_txt(vec)
        single_mod, _ = self.single_stream_modulation(vec)
        img, txt = self.img_in(img), self.txt_in(txt)
        pe = self.pe_embedder(join_streams(txt_ids, img_ids))
        for block in self.double_blocks:
            img, txt = block(img, txt, img_mod, txt_mod, pe)
        x = join_streams(txt, img)
        for block in self.single_blocks:
            x = block(x, single_mod, pe)
        return self.final_layer(split_streams(x, txt.shape[1])[1], vec)
