"""Chapter 2, patchify: noise, tokens and back, ids of tokens. Eq. (2.1) to (2.5)."""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

LATENT_CHANNELS = 16  # a token is a 2 × 2 patch of the latent, 64 numbers
PATCH = 2
PIXELS_PER_TOKEN = 16  # the autoencoder shrinks 8 times, the patch twice


def token_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens that cover a picture: ⌈height/16⌉, ⌈width/16⌉."""
    assert min(height, width) >= 16, f"{width} × {height} pixels: less than one token"
    return -(-height // PIXELS_PER_TOKEN), -(-width // PIXELS_PER_TOKEN)


def get_noise(
    num_samples: int,
    height: int,
    width: int,
    device: torch.device | str,
    dtype: torch.dtype,
    seed: int,
) -> Float[Tensor, "B 16 h w"]:
    """The noise that a picture starts from.

    Eq. (2.1):  ε ∈ R^{B × 16 × 2⌈H/16⌉ × 2⌈W/16⌉},  every entry from N(0, 1)

    height and width are pixels, at least 16. It is drawn on the CPU whatever the
    device, so a seed means one picture on every machine; and in the target dtype, as
    the reference does. A bfloat16 draw is the float32 draw rounded (PyTorch 2.13), a
    float64 draw is another one.
    """
    h, w = token_grid(height, width)
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (num_samples, LATENT_CHANNELS, PATCH * h, PATCH * w)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def patchify(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B L 4*C"]:
    """Cut a latent into 2 × 2 patches and make each one a token.

    Eq. (2.2):  "b c (h ph) (w pw) -> b (h w) (c ph pw)",  L = ⌈H/16⌉⌈W/16⌉

    Tokens run row by row. Inside a token the channel comes first: feature 4c + 2ph +
    pw. The latent's sides must be even.
    """
    h, w = x.shape[-2:]
    assert h % 2 == w % 2 == 0, f"a latent of {h} × {w}: sides must be even"
    return rearrange(x, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=PATCH, pw=PATCH)


def unpatchify(
    x: Float[Tensor, "B L patch"],
    height: int,
    width: int,
) -> Float[Tensor, "B C h w"]:
    """Put the tokens of a height × width pixel picture back into a latent.

    Eq. (2.3):  "b (h w) (c ph pw) -> b c (h ph) (w pw)",  the inverse of (2.2)
    """
    h, w = token_grid(height, width)
    assert x.shape[1] == h * w, f"{x.shape[1]} tokens do not fill a grid of {h} × {w}"
    pattern = "b (h w) (c ph pw) -> b c (h ph) (w pw)"
    return rearrange(x, pattern, h=h, w=w, ph=PATCH, pw=PATCH)


def make_img_ids(batch: int, h: int, w: int) -> Float[Tensor, "B L 3"]:
    """Where each image token stands: coordinates, not serial numbers.

    Eq. (2.4):  id = (0, row, column)

    h and w count tokens. The first axis is 0 for the picture being painted; Kontext
    gives its reference picture a 1. float32 always: in bfloat16 whole numbers go wrong
    from 257 on.
    """
    row = repeat(torch.arange(h), "h -> h w", w=w)
    column = repeat(torch.arange(w), "w -> h w", h=h)
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1).float()
    return repeat(ids, "h w xyz -> b (h w) xyz", b=batch)


def make_txt_ids(batch: int, length: int) -> Float[Tensor, "B L 3"]:
    """Where each text token stands: all at the origin.

    Eq. (2.5):  id = (0, 0, 0)

    RoPE turns by the angle 0 there, so FLUX itself sees no order among text tokens:
    what order there is, the text encoders have put in.
    """
    return torch.zeros(batch, length, 3)


def prepare(
    t5: Callable[[list[str]], Tensor],
    clip: Callable[[list[str]], Tensor],
    img: Float[Tensor, "B C h w"],
    prompt: str | list[str],
) -> dict[str, Tensor]:
    """What the network reads, from noise and prompt: img, img_ids, txt, txt_ids, vec.

    One picture and many prompts, or many pictures and one prompt, are repeated to
    match; anything else must agree.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    B, _, h, w = img.shape
    batch = max(B, len(prompts))
    assert {B, len(prompts)} <= {1, batch}, f"{B} latents and {len(prompts)} prompts"
    txt = t5(prompts)
    inputs = {
        "img": patchify(img),
        "img_ids": make_img_ids(1, h // PATCH, w // PATCH),
        "txt": txt,
        "txt_ids": make_txt_ids(1, txt.shape[1]),
        "vec": clip(prompts),
    }

    def match(x: Tensor) -> Tensor:
        return x.expand(batch, *x.shape[1:]).to(img.device)

    return {name: match(x) for name, x in inputs.items()}
