"""Steps that are not computed whole: a first-block cache and TeaCache's rule. Eq. (18.1) to (18.3).

From one step to the next the blocks add nearly the same to the image tokens. Both caches keep what they added in the
last step that was computed whole, and add it again where a cheap measurement finds that little has changed. They
differ in what they measure. Euler's step is taken all the same, so that x and t go on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import join_streams, split_streams
from flux_edu.model import Flux
from flux_edu.modulation import modulate


def relative_change(new: Float[Tensor, "..."], old: Float[Tensor, "..."]) -> float:
    """How far tokens have moved since an earlier step, in parts of their size; the mean is over all numbers.

    Eq. (18.1):  δ(s, s') = mean |s - s'| / mean |s'|
    """
    return ((new - old).abs().mean() / old.abs().mean()).item()


class StepCache(nn.Module):
    """Stands where all blocks of a Flux stood, see `cached`; `computed` says of every step whether it was whole."""

    def __init__(self, model: Flux):
        super().__init__()
        self.double_blocks, self.single_blocks = model.double_blocks, model.single_blocks
        self.computed: list[bool] = []

    def blocks(self, start: int, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> Float[Tensor, "B L_img D"]:
        """The image tokens after all blocks, from double block number `start` on."""
        for block in self.double_blocks[start:]:
            img, txt = block(img, txt, vec, pe)
        x = join_streams(txt, img)
        for block in self.single_blocks:
            x = block(x, vec, pe)
        return split_streams(x, txt.shape[1])[1]


class FirstBlockCache(StepCache):
    """The first block is always computed; the others only if what it adds has changed.

    Eq. (18.2):  x_N = x_1 + Δ',  Δ' = x'_N - x'_1,  if δ(x_1 - x_0, x'_1 - x'_0) ≤ θ; else all N blocks

    x_0 are the image tokens before the first block, x_1 and x_N those after one and all; primes mark the last step
    that was computed whole. θ = 0 computes every step. In batches one decision holds for all pictures. Zeyi Cheng's
    ParaAttention; `FirstBlockCacheConfig` in diffusers, "Apply First Block Cache" in ComfyUI.
    """

    def __init__(self, model: Flux, threshold: float):
        super().__init__(model)
        self.threshold, self.first_adds, self.rest_adds = threshold, None, None

    def forward(
        self, img: Float[Tensor, "B L_img D"], txt: Float[Tensor, "B L_txt D"], vec: Tensor, pe: Tensor
    ) -> tuple[Float[Tensor, "B L_img D"], Float[Tensor, "B L_txt D"]]:
        first, first_txt = self.double_blocks[0](img, txt, vec, pe)
        adds = first - img
        whole = self.first_adds is None or relative_change(adds, self.first_adds) > self.threshold
        if whole:
            self.first_adds, self.rest_adds = adds, self.blocks(1, first, first_txt, vec, pe) - first
        self.computed.append(whole)
        return first + self.rest_adds, txt


class TeaCache(StepCache):
    """No block is computed while the predicted changes of the output add up to less than a threshold.

    Eq. (18.3):  x_N = x_0 + Δ',  Δ' = x'_N - x'_0,  while Σ p(δ(x̃_0, x̃_0 of the step before)) < θ; else all N blocks

    x̃_0 is what the first block's attention reads, Eq. (4.5); the sum begins anew after each step that is computed
    whole, as the first and the last always are. p predicts from the change of that input the change of the output: a
    polynomial, fitted once to a model. Liu et al., "Timestep Embedding Tells", 2024.
    """

    def __init__(self, model: Flux, threshold: float, predict: Callable[[float], float], steps: int):
        super().__init__(model)
        self.threshold, self.predict, self.steps = threshold, predict, steps
        self.input, self.adds, self.sum = None, None, 0.0

    def forward(
        self, img: Float[Tensor, "B L_img D"], txt: Float[Tensor, "B L_txt D"], vec: Tensor, pe: Tensor
    ) -> tuple[Float[Tensor, "B L_img D"], Float[Tensor, "B L_txt D"]]:
        reads = modulate(img, self.double_blocks[0].img_mod(vec)[0])
        if self.computed:
            self.sum += self.predict(relative_change(reads, self.input))
        self.input = reads
        whole = len(self.computed) in (0, self.steps - 1) or self.sum >= self.threshold
        if whole:
            self.sum, self.adds = 0.0, self.blocks(0, img, txt, vec, pe) - img
        self.computed.append(whole)
        return img + self.adds, txt


@contextmanager
def cached(model: Flux, cache: StepCache) -> Iterator[StepCache]:
    """Inside, the model's blocks are the cache's to compute or to leave out. A cache serves one painting."""
    blocks = model.double_blocks, model.single_blocks
    model.double_blocks, model.single_blocks = nn.ModuleList([cache]), nn.ModuleList()
    try:
        yield cache
    finally:
        model.double_blocks, model.single_blocks = blocks
