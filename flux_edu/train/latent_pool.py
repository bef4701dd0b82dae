"""Latents of compositions with their captions on the device, renewed block by block."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flux_edu.autoencoder import AutoEncoder
from flux_edu.io.device import autocast
from flux_edu.patchify import patchify
from flux_edu.train.data import SIZE, Drawings, captions, draw_scenes, render
from flux_edu.train.text_to_velocity import TextEncoders
from flux_edu.train.trainer import seed_of

BLOCK = 2048  # latents that are made at once
Compose = Callable[..., tuple[Tensor, ...]]  # of a pool, n, a seed, and whether held-out combinations are wanted


def compose_scenes(
    pool: "Pool", n: int, seed: int, unseen: bool = False, width: int = SIZE, height: int = SIZE
) -> tuple[Tensor, Tensor]:
    """Scenes of one size with their captions."""
    scenes = draw_scenes(pool.drawings, n, seed, unseen=unseen, width=width, height=height)
    latents = patchify(pool.encode(render(pool.drawings, scenes, width=width, height=height)))
    return latents, pool.tokens(captions(pool.drawings, scenes, seed))


class Pool:
    """Latents of pictures of one size with the tokens of their captions, on the device, to draw batches from.

    They are a window on an endless list of blocks. Block r depends on the seed and on r alone, so that a run that is
    started again has the same ones. `compose` makes them: latents, tokens, and what a tool is given besides.
    """

    def __init__(
        self,
        drawings: Drawings,
        ae: AutoEncoder,
        texts: TextEncoders,
        size: int,
        seed: tuple[int, ...],
        compose: Compose = compose_scenes,
    ):
        self.drawings, self.ae, self.texts, self.seed = drawings, ae, texts, seed
        self.compose = partial(compose, self)
        self.block = min(BLOCK, size)
        self.held: list[int | None] = [None] * (size // self.block)  # which block is where
        self.parts: tuple[Tensor, ...] = ()  # latents, tokens and the rest, row by row
        self.empty = self.tokens([""])

    def tokens(self, captions: list[str]) -> Int[Tensor, "n L_txt"]:
        return self.texts.tokenize(captions).to(self.drawings.pixels.device, torch.int16)

    @torch.no_grad()
    def encode(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """The autoencoder's latents, on a GPU by products in bfloat16."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with autocast(pictures.device):
            return torch.cat([self.ae.encode(part) for part in pictures.split(1024)]).float()

    def refresh(self, n: int) -> None:
        """Hold the blocks from n on; those that are there already stay where they are."""
        for r in range(n, n + len(self.held)):
            i = r % len(self.held)
            if self.held[i] != r:
                new = self.compose(self.block, seed_of(*self.seed, r))
                new = [part.to(torch.bfloat16 if part.is_floating_point() else torch.int16) for part in new]
                if not self.parts:  # room for all blocks
                    self.parts = tuple(part.repeat(len(self.held), *[1] * (part.ndim - 1)) for part in new)
                for rows, part in zip(self.parts, new, strict=True):
                    rows[i * self.block : (i + 1) * self.block] = part
                self.held[i] = r

    def batch(self, n: int, empty: float = 0.1) -> tuple[Tensor, ...]:
        """n entries at random; a share `empty` loses its caption, for two-pass guidance, Eq. (6.4)."""
        latents, tokens, *others = self.parts
        at = torch.randint(len(latents), (n,), device=latents.device)
        drop = torch.rand(n, 1, device=latents.device) < empty
        tokens = torch.where(drop, self.empty, tokens[at]).long()
        return latents[at].float(), tokens, *(other[at].float() for other in others)
