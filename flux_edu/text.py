"""Chapter 7, the text encoders: T5's sequence and CLIP's one vector. Eq. (7.1) and (7.2)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from flux_edu.io.advice import advise
from flux_edu.io.checkpoint import CheckpointError, listed


class TextEmbedder(nn.Module):
    """A text encoder of transformers with its tokenizer: texts in, numbers out.

    Eq. (7.1):  txt = last hidden states of T5 ∈ R^{B × L_txt × C}   (C = 4096, L_txt = 512 or 256)
    Eq. (7.2):  y = CLIP's state at the end-of-text token ∈ R^{B × C}   (C = 768)

    Every text is padded to max_length and the padding is not masked: FLUX was trained to read it. A text that is too
    long is cut, with a warning that says by how much. Raffel et al., "T5", 2020; Radford et al., "CLIP", 2021.
    """

    def __init__(self, encoder: T5EncoderModel | CLIPTextModel, tokenizer: PreTrainedTokenizerBase, max_length: int):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pooled = isinstance(encoder, CLIPTextModel)
        if self.pooled:
            self._check_end_of_text()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        kind: type[T5EncoderModel] | type[CLIPTextModel],
        max_length: int,
        tokenizer_path: str | Path | None = None,
    ) -> "TextEmbedder":
        """From a local folder in transformers' layout (model.safetensors, config.json, tokenizer files).

        tokenizer_path: where the tokenizer stands in a folder of its own, as in FLUX.1's repositories.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path} is not a folder; give the folder of a {kind.__name__} with its tokenizer, as transformers"
                " saves it"
            )
        if not any(path.glob("*.safetensors")):
            raise CheckpointError(
                f"{path} holds no .safetensors file, and pickled weights are not read: take a folder that has"
                " model.safetensors, or convert the weights where you trust them"
            )
        encoder, found = kind.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"]):  # transformers would leave these at random numbers
            raise CheckpointError(
                f"{path} is not the folder of a {kind.__name__}: {len(missing)} of its tensors are missing:"
                f" {listed(missing)}"
            )
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_path or path, local_files_only=True, model_max_length=max_length
        )
        return cls(encoder.eval(), tokenizer, max_length)

    def _check_end_of_text(self) -> None:
        """CLIP pools at its end-of-text token; with a tokenizer that writes another it would pool anywhere, silently.

        An eos_token_id of 2, as in the published config.json, means to transformers: the token of the highest number.
        """
        written, wanted = self.tokenizer("")["input_ids"][-1:], self.encoder.config.eos_token_id
        if wanted == 2:
            wanted = max(self.tokenizer.get_vocab().values())
        if written != [wanted]:
            raise ValueError(
                f"this CLIP pools at token {wanted}, but its tokenizer ends a text with {written or 'nothing'}: take"
                " the tokenizer that belongs to it, or set eos_token_id in its configuration"
            )

    def tokens(self, text: list[str]) -> Tensor:
        """The token numbers, "B max_length", cut and padded."""
        if isinstance(text, str):
            raise TypeError(f"text is one string; pass a list, [{text[:40]!r}]")
        for one, ids in zip(text, self.tokenizer(text, verbose=False)["input_ids"], strict=True):
            if (cut := len(ids) - self.max_length) > 0:
                advise(
                    f"{type(self.encoder).__name__} reads {self.max_length} tokens; the last {cut} of {one[:40]!r}…"
                    " are cut. Shorten the prompt."
                )
        batch = self.tokenizer(
            text, truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return batch["input_ids"]

    def forward(self, text: list[str]) -> Float[Tensor, "B ..."]:
        device = next(self.encoder.parameters()).device
        out = self.encoder(input_ids=self.tokens(text).to(device), attention_mask=None)
        return out.pooler_output if self.pooled else out.last_hidden_state


@torch.inference_mode()
def embed_empty(t5: TextEmbedder, clip: TextEmbedder, batch: int) -> tuple[Tensor, Tensor]:
    """(txt, vec) of the empty prompt, the unconditioned half of two-pass guidance, Eq. (6.4)."""
    return t5([""] * batch), clip([""] * batch)
