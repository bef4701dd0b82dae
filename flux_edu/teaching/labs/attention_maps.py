"""An atlas of attention: who takes from whom, which word is read where, how far heads look.

Notebook 15. All functions take attention weights as `trace` gives them: text tokens first, a row (query) sums to 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from flux_edu.io.images import to_tensor
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, prepare, token_grid
from flux_edu.pipeline import FluxGenerator
from flux_edu.teaching.labs.activations import Trace, trace
from flux_edu.text import TextEmbedder

# ---------------------------------------------------------------- one painting, seen from inside


@dataclass
class AttentionRecord:
    """One painting: its picture, and the attention weights of every step, block and head on the way.

    `words` are the prompt's words, each with the numbers of its tokens; `grid` is (rows, columns) of image tokens.
    """

    prompt: str
    picture: Image.Image
    timesteps: list[float]
    words: list[tuple[str, list[int]]]
    L_txt: int
    grid: tuple[int, int]
    traced: Trace  # every module's output, a row of the batch a step
    attention: Float[Tensor, "steps blocks H L L"]

    def tokens(self, word: str) -> list[int]:
        """The numbers of a word's tokens; of a word that stands there twice, the first."""
        places = [tokens for text, tokens in self.words if text == word]
        if not places:
            raise KeyError(
                f"{word!r} is not a word of {self.prompt!r}; there are {', '.join(w for w, _ in self.words)}"
            )
        return places[0]


def block_names(model: Flux) -> list[str]:
    """The names of all blocks in the order of the forward pass, as `trace` has them."""
    return [f"{kind}_blocks.{i}" for kind in ("double", "single") for i in range(len(getattr(model, f"{kind}_blocks")))]


def words_of(t5: TextEmbedder, prompt: str) -> list[tuple[str, list[int]]]:
    """The words of a prompt with the numbers of their tokens; the end of the text and the padding are two more."""
    ids = t5.tokens([prompt])[0].tolist()
    pieces = t5.tokenizer.convert_ids_to_tokens(ids)
    used = next((i for i, n in enumerate(ids) if n == t5.tokenizer.pad_token_id), len(ids))
    words: list[tuple[str, list[int]]] = []
    for i, piece in enumerate(pieces[: used - 1]):
        if piece[0] in "Ġ▁" or not words:
            words.append(("", []))
        text, tokens = words[-1]
        words[-1] = text + piece, [*tokens, i]
    spelled = [(t5.tokenizer.convert_tokens_to_string([text]).strip(), tokens) for text, tokens in words]
    ends = [("(end)", [used - 1]), ("(padding)", list(range(used, len(ids))))]
    return spelled + [(name, tokens) for name, tokens in ends if tokens]


@torch.no_grad()
def record_attention(
    generator: FluxGenerator, prompt: str, seed: int = 0, num_steps: int | None = None, guidance: float | None = None
) -> AttentionRecord:
    """Paint a prompt on 128 × 128 pixels and look at every state on the way, with the prompt and not without it.

    num_steps and guidance None are the model's own. Where guidance takes two passes, only the pass with the prompt is
    looked at.
    """
    spec, states = generator.spec, []
    w = spec.guidance if guidance is None else guidance
    picture = generator.generate_image(
        *(128, 128, num_steps or spec.num_steps, w, seed, prompt),
        callback=lambda i, t, x, v: states.append((t, x.clone())),
    )
    timesteps, noise = [t for t, _ in states], get_noise(len(states), 128, 128, generator.device, torch.float32, seed)
    ready = prepare(generator.t5, generator.clip, noise, prompt) | {"img": torch.cat([x for _, x in states])}
    ready["y"] = ready.pop("vec")
    ws = torch.full((len(states),), w) if spec.params.guidance_embed else None
    traced = trace(generator.model, **ready, timesteps=torch.tensor(timesteps), guidance=ws)
    attention = torch.stack([traced.attention(name) for name in block_names(generator.model)], dim=1)
    words = words_of(generator.t5, prompt)
    return AttentionRecord(
        prompt, picture, timesteps, words, ready["txt"].shape[1], token_grid(128, 128), traced, attention
    )


# ---------------------------------------------------------------- what to read off the weights


def quadrant_shares(A: Float[Tensor, "*more L L"], L_txt: int) -> Float[Tensor, "*more 2 2"]:
    """What text (row 0) and image queries (row 1) take from text (column 0) and from image: rows sum to 1.

    The share of a quadrant is the sum of a query's weights in it, as a mean over the queries. If attention were blind,
    text would get L_txt / L.
    """
    if not 0 < L_txt < A.shape[-1]:
        raise ValueError(f"L_txt = {L_txt} of {A.shape[-1]} tokens: a quadrant would be empty; text tokens come first")
    rows = A[..., :L_txt, :].mean(dim=-2), A[..., L_txt:, :].mean(dim=-2)
    parts = [torch.stack([row[..., :L_txt].sum(-1), row[..., L_txt:].sum(-1)], dim=-1) for row in rows]
    return torch.stack(parts, dim=-2)


def word_map(
    A: Float[Tensor, "*more L L"], tokens: Iterable[int], L_txt: int, grid: tuple[int, int]
) -> Float[Tensor, "*more h w"]:
    """How much every image token takes from a word, laid out as the picture; the tokens of a word are summed."""
    tokens = list(tokens)
    _check_grid(A, L_txt, grid)
    if not tokens or not all(0 <= i < L_txt for i in tokens):
        raise ValueError(f"tokens = {tokens}: pass the numbers of a word's tokens, from 0 to {L_txt - 1}")
    return A[..., L_txt:, tokens].sum(dim=-1).unflatten(-1, grid)


def place_of(weights: Float[Tensor, "h w"]) -> tuple[float, float]:
    """The mean place of a map's weight, (row, column) in tokens from the picture's middle; down and right positive."""
    h, w = weights.shape
    share = weights / weights.sum()
    row, column = (torch.arange(n, dtype=share.dtype) - (n - 1) / 2 for n in (h, w))
    return float((share.sum(1) * row).sum()), float((share.sum(0) * column).sum())


def offset_profile(
    A: Float[Tensor, "*more L L"], L_txt: int, grid: tuple[int, int]
) -> Float[Tensor, "*more rows columns"]:
    """How much an image token takes from another by where that one lies: (dy, dx) = (0, 0) is the middle.

    There are 2h − 1 rows and 2w − 1 columns; down and right are positive. Every entry is a mean over the pairs of
    tokens that have this offset, each query's weights made to sum to 1 over the image and multiplied by the number of
    image tokens: an even look is 1 everywhere.
    """
    h, w = grid
    _check_grid(A, L_txt, grid)
    looks = _over_image(A, L_txt) * (h * w)
    dy, dx = (there.flatten() for there in _offsets(h, w))
    cell = ((dy + h - 1) * (2 * w - 1) + dx + w - 1).to(A.device)
    sums = looks.new_zeros(*looks.shape[:-2], (2 * h - 1) * (2 * w - 1)).index_add_(-1, cell, looks.flatten(-2))
    return (sums / torch.bincount(cell)).unflatten(-1, (2 * h - 1, 2 * w - 1))


def mean_offset(
    A: Float[Tensor, "*more L L"], L_txt: int, grid: tuple[int, int]
) -> tuple[Float[Tensor, "*more 2"], Float[Tensor, "*more"]]:
    """Where image tokens look in the image: the mean offset (dy, dx) in tokens, and how many tokens they look at.

    Down and right are positive. The number is exp(entropy), as a mean over queries: 1 for a query that takes all from a
    single token, h·w for an even one. Each query's weights are made to sum to 1 over the image first. An even look has
    the mean offset 0, as the picture's edges cancel.
    """
    _check_grid(A, L_txt, grid)
    looks = _over_image(A, L_txt)
    there = torch.stack(_offsets(*grid), dim=-1).to(looks)
    offset = (looks[..., None] * there).sum(dim=-2).mean(dim=-2)
    entropy = torch.special.entr(looks).sum(dim=-1)
    return offset, entropy.exp().mean(dim=-1)


def mirror_attention(
    A: Float[Tensor, "*more L L"], L_txt: int, grid: tuple[int, int], parts: int = 1
) -> Float[Tensor, "*more"]:
    """How much image tokens take from their mirror image, in times an even share.

    parts is how many things stand side by side: each has an equal share of the columns and an upright axis in its
    middle. Only tokens whose mirror image is at least three columns away count: a nearer one is met by heads that look
    at a neighbour.
    """
    h, w = grid
    _check_grid(A, L_txt, grid)
    if w % parts:
        raise ValueError(f"{w} columns cannot be shared out to {parts} things side by side")
    y, x = (place.flatten() for place in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    wide = w // parts
    mirror = x // wide * wide + wide - 1 - x % wide
    far = (mirror - x).abs() >= 3
    looks = _over_image(A, L_txt)[..., torch.arange(h * w), y * w + mirror]
    return h * w * looks[..., far].mean(dim=-1)


def asymmetry(picture: Image.Image, reach: int = 16) -> float:
    """How unlike its mirror image a picture is, about the best of the upright axes near its middle.

    The distance of the two, in parts of what stands out from the colour of the upper left corner; 0 is symmetric.
    `reach` is how many pixels the mirror image may be moved aside to fit better.
    """
    x = to_tensor(picture)
    shown = (x - x[..., :1, :1]).norm()
    return min(float((x - x.flip(-1).roll(s, -1)).norm() / shown) for s in range(-reach, reach + 1))


def _offsets(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Row and column of the token looked at (second axis) less those of the one that looks (first axis)."""
    y, x = (place.flatten() for place in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    return y[None] - y[:, None], x[None] - x[:, None]


def _over_image(A: Tensor, L_txt: int) -> Tensor:
    quadrant = A[..., L_txt:, L_txt:]
    return quadrant / quadrant.sum(dim=-1, keepdim=True)


def _check_grid(A: Tensor, L_txt: int, grid: tuple[int, int]) -> None:
    if L_txt + grid[0] * grid[1] != A.shape[-1]:
        raise ValueError(
            f"{L_txt} text tokens and a grid of {grid[0]} × {grid[1]} make {L_txt + grid[0] * grid[1]} tokens, the"
            f" weights are for {A.shape[-1]}: pass the L_txt and the grid of this picture"
        )
