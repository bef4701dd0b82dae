"""Latents of compositions with their captions on the device, renewed block by block; a pool for each size."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.patchify import patchify
from flux_edu.train.asked import asked_captions, draw_asked, make_catalogue, render_asked
from flux_edu.train.autoencoder import encode
from flux_edu.train.data import SIZE, STYLES, Drawings, Scenes, captions, draw_scenes, render
from flux_edu.train.text_to_velocity import TextEncoders
from flux_edu.train.trainer import seed_of

BLOCK = 2048  # latents that are made at once
Compose = Callable[..., tuple[Tensor, ...]]  # of a pool, n, a seed, and whether held-out combinations are wanted
Size = tuple[int, int]  # width and height in pixels
# How often a step takes pictures of a size. All other shapes of 96 to 256 pixels, in steps of 32, share the rest.
# With 0.28 of the steps 128 × 128 fell behind the weights that knew it alone (RUNS, 30 November).
SHARES: dict[Size, float] = {(128, 128): 0.40, (96, 96): 0.09, (160, 160): 0.05, (192, 192): 0.09, (224, 224): 0.05}
SHARES |= {(256, 256): 0.15, (256, 128): 0.06, (128, 256): 0.06}
OFTEN = tuple(SHARES)  # the sizes that the loss is measured at, and that a GPU records graphs for
SELDOM = set(itertools.product(range(96, 257, 32), repeat=2)) - set(OFTEN)
SHARES |= dict.fromkeys(sorted(SELDOM), (1 - sum(SHARES.values())) / len(SELDOM))


def compose_scenes(
    pool: "Pool", n: int, seed: int, unseen: bool = False, width: int = SIZE, height: int = SIZE, asked: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes of one size, their captions, and which are of `train.asked`, in training a share `asked`.

    A sixth as many are pairs in pixel style, which is learned last.
    """
    size, m = {"width": width, "height": height}, 0 if unseen else round(asked * n)
    parts = [draw_scenes(pool.drawings, n - m - m // 6, seed, unseen=unseen, **size)]
    if pixels := m // 6:
        pairs = draw_scenes(pool.drawings, 20 * pixels, seed + 1, pairs=1.0, **size)
        in_pixels = (pool.drawings.style[pairs.drawing] == STYLES.index("pixel")).all(axis=1)
        parts.append(pairs[np.resize(np.flatnonzero(in_pixels), pixels)])
    scenes = Scenes.join(parts)
    pictures, texts = render(pool.drawings, scenes, **size), captions(pool.drawings, scenes, seed)
    if m:
        catalogue = make_catalogue(pool.drawings)
        requests = draw_asked(catalogue, m, seed, **size)
        pictures = torch.cat([pictures, render_asked(catalogue.drawings, requests, **size)])
        texts += asked_captions(catalogue.drawings, requests, seed)
    return patchify(encode(pool.ae, pictures)), pool.tokens(texts), torch.arange(n, device=pictures.device) >= n - m


def grid_of(size: Size) -> tuple[int, int]:
    """Rows and columns of tokens."""
    return size[1] // 16, size[0] // 16


def batch_of(batch: int, size: Size) -> int:
    """How many pictures of this size have as many tokens, text included, as a batch of 128 × 128."""
    square, tokens, text = (SIZE // 16) ** 2, math.prod(grid_of(size)), configs["tiny"].txt_tokens
    return max(1, batch * (square + text) // (tokens + text))


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


class Pools:
    """A pool for each size. Which one a step takes is drawn from the seed, the same in every process.

    `pool` is how many latents there are of the commonest size; of the others as many fewer as they are rarer.
    """

    def __init__(
        self,
        drawings: Drawings,
        ae: AutoEncoder,
        texts: TextEncoders,
        pool: int,
        seed: tuple[int, int],
        renew: int,
        shares: dict[Size, float],
        compose: Compose = compose_scenes,
    ):
        most, self.renew, self.sizes = max(shares.values()), renew, list(shares)
        p = np.array(list(shares.values())) / sum(shares.values())
        self.order = np.random.default_rng(seed[0]).choice(len(shares), 10**6, p=p)
        self.pools = {}
        for (width, height), share in shares.items():
            sized = compose if len(shares) == 1 else partial(compose, width=width, height=height)
            latents = max(1, round(pool * share / most))
            self.pools[width, height] = Pool(drawings, ae, texts, latents, (*seed, width, height), sized)

    def fill(self, step: int = 0) -> None:
        """All of them as they are at a step, before it: what is made later costs time of the training."""
        for size, pool in self.pools.items():
            pool.refresh(self.renewed(size, step))

    def renewed(self, size: Size, step: int) -> int:
        """How many blocks a size has had renewed: one after every `renew` steps of it."""
        return int((self.order[:step] == self.sizes.index(size)).sum()) // self.renew

    def held_out(self, size: Size, seed: int, n: int | None = None) -> tuple[Tensor, ...]:
        """Latents of combinations that training never sees, as many as a block has, their tokens and the rest."""
        x, tokens, *others = self.pools[size].compose(n or self.pools[size].block, seed=seed, unseen=True)
        return x, tokens.long(), *others

    def at(self, step: int) -> tuple[Size, Pool]:
        """The size of this step and its pool, renewed as far as it should be."""
        size = self.sizes[self.order[step]]
        self.pools[size].refresh(self.renewed(size, step))
        return size, self.pools[size]
