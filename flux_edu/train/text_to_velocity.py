"""T5, CLIP and Flux as one module, as they are trained together, and what they start from."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import T5EncoderModel

from flux_edu.configs import ModelSpec
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.io.device import autocast
from flux_edu.io.tiny import load_part, tiny_embedders
from flux_edu.model import Flux
from flux_edu.single_stream import LastLayer, SingleStreamBlock
from flux_edu.train.objectives import Text, inputs
from flux_edu.train.trainer import capture_cuda_graphs

BLOCKS = DoubleStreamBlock, SingleStreamBlock, LastLayer  # what is compiled, each by itself


class TextEncoders(nn.Module):
    """T5 and CLIP with the tokenizer that they share: tokens in, (txt, vec) out."""

    def __init__(self, tokenizer_file: str | Path, length: int):
        super().__init__()
        t5, clip = tiny_embedders(tokenizer_file, length)
        self.tokenizer, self.length, self.t5, self.clip = t5.tokenizer, length, t5.encoder, clip.encoder

    def load(self, folder: Path) -> "TextEncoders":
        """The weights of a folder, not to be trained on."""
        load_part(self.t5, folder / "t5.safetensors")
        load_part(self.clip, folder / "clip.safetensors")
        return self.requires_grad_(False).eval()

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L_txt"]:
        ids = self.tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")["input_ids"]
        return torch.tensor(ids, device=self.t5.device)

    def forward(self, tokens: Int[Tensor, "B L_txt"], to_clip: Int[Tensor, "B L_txt"] | None = None) -> Text:
        """T5's states and CLIP's vector; to_clip is what CLIP reads if not the same."""
        txt = self.t5(input_ids=tokens).last_hidden_state.float()
        return txt, self.clip(input_ids=tokens if to_clip is None else to_clip).pooler_output.float()

    def read(self, texts: list[str]) -> Text:
        return self(self.tokenize(texts))


class TextToVelocity(nn.Module):
    """Tokens of a caption and a noisy latent in, the velocity out."""

    def __init__(self, spec: ModelSpec, tokenizer_file: str | Path):
        super().__init__()
        self.texts, self.flux = TextEncoders(tokenizer_file, spec.txt_tokens).train(), Flux(spec.params)
        adaLN_zero_init(self.flux)
        init_position_bias(self.texts.t5)

    def forward(
        self,
        x: Float[Tensor, "B L C"],
        t: Float[Tensor, "B"],
        tokens: Int[Tensor, "B L_txt"],
        grid: tuple[int, int] | None = None,
        to_clip: Int[Tensor, "B L_txt"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        # bfloat16 for the products on a GPU only; t, ids and rotations stay float32 as they are, autocast or not
        with autocast(x.device):
            return self.flux(*inputs(x, t, self.texts(tokens, to_clip), grid=grid))

    def parts(self) -> dict[str, nn.Module]:
        """The three networks by the names of their files."""
        return {"t5": self.texts.t5, "clip": self.texts.clip, "flux": self.flux}

    def capture(self, shapes: dict[int, int]) -> None:
        """For training on a GPU: replay the transformer as CUDA graphs.

        shapes has the number of pictures for each number of image tokens.
        """
        device = self.texts.t5.device
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            empty, samples = self.texts.read([""]), []
            for tokens, n in shapes.items():
                text = tuple(part.detach().repeat(n, *part[0].ndim * [1]).requires_grad_() for part in empty)
                x, t = torch.randn(n, tokens, self.flux.params.in_channels), torch.rand(n)
                parts = inputs(x.to(device), t.to(device), text, grid=(1, tokens))
                samples.append(tuple(part.contiguous() for part in parts))
            capture_cuda_graphs(self.flux, *samples)

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of the blocks of all three networks: what Muon is for."""
        inside = ("_blocks.", ".block.", ".layers.")
        return [
            p
            for name, p in self.named_parameters()
            if p.ndim == 2 and any(part in name for part in inside) and "relative_attention_bias" not in name
        ]


def adaLN_zero_init(model: Flux) -> None:
    """Every modulation and the last layer start at zero: each block then passes its input on, and the guess is 0."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("_mod.lin", "modulation.", "adaLN", "final_layer.linear")):
            nn.init.zeros_(parameter)


@torch.no_grad()
def init_position_bias(t5: T5EncoderModel) -> None:
    """T5's heads start by looking at their neighbours, every other head to the left, every other to the right.

    Left as transformers draws it, the position bias is so small that every token sees the whole text alike, padding
    included, and training never leaves that: the encoder stays a bag of words, as `docs/make/probe_word_order.py`
    measures. A pretrained T5 has learned its positions; one that begins from nothing needs this push. It is no promise:
    beside a CLIP that tells the order, a long run may leave T5 without it all the same (notebook 07).
    """
    table = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # buckets × heads
    half, heads = len(table) // 2, table.shape[1]
    away = torch.arange(len(table)) % half  # the distance in tokens; T5 counts far ones on a log scale
    after = torch.arange(len(table)) >= half  # whether the other token stands to the right
    for head in range(heads):
        slope = 1.0 if head < heads / 2 else 0.35
        other_side = (after != (head % 2 == 0)) & (away > 0)
        table[:, head] = -slope * away - 4.0 * other_side
