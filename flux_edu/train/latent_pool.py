"""Latents of compositions on the device, renewed block by block."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from flux_edu.autoencoder import AutoEncoder
from flux_edu.patchify import patchify
from flux_edu.train.common import seed_of
from flux_edu.train.data import SIZE, Drawings, captions, draw_scenes, paint

BLOCK = 2048  # latents that are made at once


class Pool:
    """Latents of compositions with the tokens of their captions, on the device, to draw batches from.

    They are a window on an endless list of blocks. Block r depends on the seed and on r alone, so that a run that is
    started again has the same ones.
    """

    def __init__(
        self,
        drawings: Drawings,
        ae: AutoEncoder,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        size: int,
        seed: tuple[int, ...],
    ):
        device = drawings.pixels.device
        self.drawings, self.ae, self.tokenizer, self.length, self.seed = drawings, ae, tokenizer, length, seed
        self.block = min(BLOCK, size)
        self.held: list[int | None] = [None] * (size // self.block)  # which block is where
        self.size = self.block * len(self.held)
        latents = 4 * ae.params.z_channels
        self.x = torch.empty(self.size, (SIZE // 16) ** 2, latents, dtype=torch.bfloat16, device=device)
        self.tokens = torch.empty(self.size, length, dtype=torch.int16, device=device)
        self.empty = self.encode_text([""])

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What `compose` makes, row by row."""
        return self.x, self.tokens

    def encode_text(self, texts: list[str]) -> Int[Tensor, "B L_txt"]:
        ids = self.tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")["input_ids"]
        return torch.tensor(ids, dtype=torch.int16).to(self.x.device)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        """n new latents with their tokens."""
        scenes = draw_scenes(self.drawings, n, seed, unseen=unseen)
        z = self.encode(paint(self.drawings, scenes))
        return patchify(z), self.encode_text(captions(self.drawings, scenes, seed))

    def encode(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """The autoencoder's latents, on a GPU by products in bfloat16."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
            return torch.cat([self.ae.encode(part) for part in pictures.split(1024)]).float()

    def turn(self, n: int) -> None:
        """Hold the blocks from n on; those that are there already stay where they are."""
        for r in range(n, n + len(self.held)):
            i = r % len(self.held)
            if self.held[i] != r:
                rows = slice(i * self.block, (i + 1) * self.block)
                for kept, new in zip(self.parts, self.compose(self.block, seed_of(*self.seed, r)), strict=True):
                    kept[rows] = new.to(kept.dtype)
                self.held[i] = r

    def batch(self, n: int, empty: float = 0.1) -> tuple[Tensor, ...]:
        """n entries at random; a share `empty` loses its caption, for two-pass guidance, Eq. (6.4)."""
        at = torch.randint(self.size, (n,), device=self.x.device)
        drop = torch.rand(n, 1, device=self.x.device) < empty
        x, tokens, *others = (part[at] for part in self.parts)
        return x.float(), torch.where(drop, self.empty, tokens).long(), *(each.float() for each in others)
