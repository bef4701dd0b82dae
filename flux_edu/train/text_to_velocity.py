"""T5, CLIP and Flux as one module, as they are trained together, and what they start from."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from flux_edu.configs import ModelSpec
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.io.tiny import tiny_embedders
from flux_edu.model import Flux
from flux_edu.patchify import PIXELS_PER_TOKEN, make_img_ids, make_txt_ids
from flux_edu.single_stream import LastLayer, SingleStreamBlock
from flux_edu.text import TextEmbedder
from flux_edu.train.common import compile_blocks, record
from flux_edu.train.data import SIZE


class TextToVelocity(nn.Module):
    """T5, CLIP and Flux as one module: tokens of a caption and a noisy latent in, the velocity out."""

    def __init__(self, spec: ModelSpec, tokenizer_file: str | Path):
        super().__init__()
        t5, clip = tiny_embedders(tokenizer_file, spec.txt_tokens)
        self.t5, self.clip, self.flux = t5.encoder.train(), clip.encoder.train(), Flux(spec.params)
        side = SIZE // PIXELS_PER_TOKEN
        self.register_buffer("img_ids", make_img_ids(1, side, side), persistent=False)
        self.register_buffer("txt_ids", make_txt_ids(1, spec.txt_tokens), persistent=False)
        zero_start(self.flux)
        local_start(self.t5)

    def forward(
        self, x: Float[Tensor, "B L C"], t: Float[Tensor, "B"], tokens: Int[Tensor, "B L_txt"]
    ) -> Float[Tensor, "B L C"]:
        # bfloat16 for the products on a GPU only; t, ids and rotations stay float32 as they are, autocast or not
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            txt = self.t5(input_ids=tokens).last_hidden_state
            vec = self.clip(input_ids=tokens).pooler_output
            img_ids, txt_ids = self.img_ids.expand(len(x), -1, -1), self.txt_ids.expand(len(x), -1, -1)
            return self.flux(x, img_ids, txt, txt_ids, t, vec)

    def record(self, batch: int) -> None:
        """For training on a GPU: compile all three networks, and replay the transformer as a CUDA graph."""
        self.t5.compile(dynamic=False)
        self.clip.compile(dynamic=False)
        compile_blocks(self.flux, DoubleStreamBlock, SingleStreamBlock, LastLayer)
        p, device = self.flux.params, self.img_ids.device
        img_ids, txt_ids = (ids.repeat(batch, 1, 1) for ids in (self.img_ids, self.txt_ids))
        img = torch.randn(*img_ids.shape[:2], p.in_channels, device=device)
        txt = torch.randn(*txt_ids.shape[:2], p.context_in_dim, device=device, requires_grad=True)
        vec = torch.randn(batch, p.vec_in_dim, device=device, requires_grad=True)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            record(self.flux, img, img_ids, txt, txt_ids, torch.rand(batch, device=device), vec)

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of the blocks of all three networks: what Muon is for."""
        inside = ("_blocks.", ".block.", ".layers.")
        return [
            p
            for name, p in self.named_parameters()
            if p.ndim == 2 and any(part in name for part in inside) and "relative_attention_bias" not in name
        ]

    def embedders(self, tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[TextEmbedder, TextEmbedder]:
        """The two encoders as the sampler wants them."""
        return TextEmbedder(self.t5, tokenizer, length), TextEmbedder(self.clip, tokenizer, length)


def zero_start(model: Flux) -> None:
    """Every modulation and the last layer start at zero: each block then passes its input on, and the guess is 0."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("_mod.lin", "modulation.", "adaLN", "final_layer.linear")):
            nn.init.zeros_(parameter)


@torch.no_grad()
def local_start(t5: T5EncoderModel) -> None:
    """T5's heads start by looking at their neighbours, every other head to the left, every other to the right.

    Left as transformers draws it, the position bias is so small that every token sees the whole text alike, padding
    included, and training never leaves that: the encoder stays a bag of words (`train.probe_word_order` measures it).
    A pretrained T5 has learned its positions; one that begins from nothing needs this push. It is no promise: beside a
    CLIP that tells the order, a long run may leave T5 without it all the same (notebook 07).
    """
    table = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # buckets × heads
    half, heads = len(table) // 2, table.shape[1]
    away = torch.arange(len(table)) % half  # the distance in tokens; T5 counts far ones on a log scale
    after = torch.arange(len(table)) >= half  # whether the other token stands to the right
    for head in range(heads):
        slope = 1.0 if head < heads / 2 else 0.35
        other_side = (after != (head % 2 == 0)) & (away > 0)
        table[:, head] = -slope * away - 4.0 * other_side
