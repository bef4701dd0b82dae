"""Chapter 7, the text encoders: T5's sequence and CLIP's vector. Eq. (7.1), (7.2)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel


class TextEmbedder(nn.Module):
    """A text encoder of transformers with its tokenizer: texts in, numbers out.

    Eq. (7.1):  txt = last hidden states of T5 ∈ R^{B × L_txt × C}
    Eq. (7.2):  y = CLIP's state at the end-of-text token ∈ R^{B × C}

    C = 4096 and L_txt = 512 (schnell: 256) in T5; C = 768 in CLIP, which reads 77
    tokens. Every text is cut or padded to max_length tokens, and the padding is not
    masked, as in the makers' code. Raffel et al., "T5", 2020; Radford et al.,
    "CLIP", 2021.
    """

    def __init__(
        self,
        encoder: T5EncoderModel | CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pooled = isinstance(encoder, CLIPTextModel)

    def tokens(self, text: list[str]) -> Int[Tensor, "B L_txt"]:
        """The numbers of the tokens, cut and padded to max_length."""
        assert not isinstance(text, str), f"text is one string: pass a list, [{text!r}]"
        return self.tokenizer(
            text,
            truncation=True,
            max_length=self.max_length,
            padding="max_length",
            return_tensors="pt",
        )["input_ids"]

    def forward(self, text: list[str]) -> Float[Tensor, "B ..."]:
        ids = self.tokens(text).to(next(self.encoder.parameters()).device)
        out = self.encoder(input_ids=ids, attention_mask=None)
        return out.pooler_output if self.pooled else out.last_hidden_state


@torch.inference_mode()
def embed_empty(t5: TextEmbedder, clip: TextEmbedder) -> tuple[Tensor, Tensor]:
    """(txt, vec) of the empty prompt, which two-pass guidance needs, Eq. (6.4)."""
    return t5([""]), clip([""])
