"""Chapter 12, the FLUX.1 tools: how a picture goes in beside the text. Eq. (12.1) to (12.4).

Three ways. Control and fill widen every image token by channels; Kontext appends the picture's tokens to the image
tokens; Redux appends a few to the text. The transformer itself stays what it is.
"""

import re

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.io.checkpoint import CheckpointError, State
from flux_edu.patchify import PATCH, make_img_ids, patchify

PIXELS_PER_LATENT = 8  # a side; the autoencoder shrinks so much

# ---------------------------------------------------------------- more channels: control and fill


def control_cond(z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B L 4*C"]:
    """What a Canny or Depth model reads beside the noisy tokens: the encoded edges or depths, patch by patch.

    Eq. (12.1):  x̃ = [x_t ; patchify(z_c)] ∈ R^{L × (64 + 64)}

    z_c is the control picture after `AutoEncoder.encode`, an RGB picture like any other; give the result to `denoise`
    as img_cond. Token by token the two show the same place, so no id and no attention are needed to match them.
    """
    return patchify(z)


def canny(picture: Float[Tensor, "3 H W"], low: float = 50, high: float = 200) -> Float[Tensor, "3 H W"]:
    """The outlines of a picture, as a Canny model is given them: an RGB picture that is 1 on edges and -1 elsewhere.

    An edge begins where brightness changes faster than `high` (of 8 bits, summed by Sobel's filter) and goes on as long
    as it changes faster than `low`. Canny, 1986, by OpenCV; 50 and 200 are the thresholds of the FLUX.1 code.
    """
    if not 0 <= low <= high:
        raise ValueError(f"thresholds {low:g} and {high:g}: the lower one comes first, and neither is below 0")
    import cv2  # large, and only few here need it

    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()
    edges = torch.from_numpy(cv2.Canny(rearrange(pixels, "c h w -> h w c").contiguous().numpy(), low, high))
    return (edges.float() / 127.5 - 1).expand(3, -1, -1)


def pack_mask(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 64 h w"]:
    """A mask of pixels in the latent's grid, without loss: the 8 × 8 pixels of a place become 64 channels.

    "b 1 (h p) (w q) -> b (p q) h w", p = q = 8. 1 is painted anew, 0 kept. H and W are multiples of 8.
    """
    return rearrange(mask, "b 1 (h p) (w q) -> b (p q) h w", p=PIXELS_PER_LATENT, q=PIXELS_PER_LATENT)


def fill_cond(z_kept: Float[Tensor, "B C h w"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B L cond"]:
    """What a Fill model reads beside the noisy tokens: the picture without its masked part, and the mask.

    Eq. (12.2):  x̃ = [x_t ; patchify(z_m) ; patchify(pack(m))] ∈ R^{L × (64 + 64 + 256)}

    z_m is `AutoEncoder.encode` of `hide(picture, m)`. Checks that the mask is of the picture's size, holds nothing but
    0 … 1, and marks anything at all.
    """
    h, w = z_kept.shape[-2:]
    size = h * PIXELS_PER_LATENT, w * PIXELS_PER_LATENT
    if tuple(mask.shape[-2:]) != size:
        raise ValueError(
            f"the mask has {mask.shape[-1]} × {mask.shape[-2]} pixels, the picture {size[1]} × {size[0]}: resize one of"
            " them"
        )
    low, high = mask.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"the mask holds numbers from {low:g} to {high:g}: 1 is to be painted, 0 to be kept")
    if high == 0:
        raise ValueError("the mask is empty: nothing would be painted; mark a part with 1")
    return torch.cat([patchify(z_kept), patchify(pack_mask(mask).to(z_kept))], dim=-1)


def hide(picture: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The picture with 0, a middle grey, wherever the mask is 1."""
    return picture * (1 - mask)


def widen_img_in(state: State, in_channels: int) -> State:
    """The same network for wider tokens: new columns of img_in are zero, so at first what they bring changes nothing.

    That is how the control LoRAs of FLUX.1 are put onto dev: widen 64 to 128, then `lora.merge`.
    """
    W = state["img_in.weight"]
    if in_channels < W.shape[1]:
        raise CheckpointError(
            f"img_in takes {W.shape[1]} channels already; it can be widened, not narrowed to {in_channels}"
        )
    return state | {"img_in.weight": F.pad(W, (0, in_channels - W.shape[1]))}


# ---------------------------------------------------------------- more tokens: Kontext

# width, height that the code of Kontext prefers: all near one million pixels, sides multiples of 16
KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)


def kontext_size(width: int, height: int) -> tuple[int, int]:
    """The size of `KONTEXT_SIZES` whose aspect is nearest; a reference picture is resized to it before encoding."""
    if min(width, height) < 1:
        raise ValueError(f"{width} × {height} pixels: both sides must be at least 1")
    return min(KONTEXT_SIZES, key=lambda size: abs(size[0] / size[1] - width / height))


def reference_tokens(z: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B L 4*C"], Float[Tensor, "B L 3"]]:
    """What Kontext reads after the noisy tokens: a reference picture's tokens, in the same rows and columns, but apart.

    Eq. (12.3):  x̃ = [x_t ; patchify(z_r)] ∈ R^{(L + L_r) × 64},  id_r = (1, row, column),  v = first L of v_θ(x̃)

    The first axis of the ids tells the two pictures apart: 0 for the one being painted. Give the result to `denoise` as
    img_cond_seq. The reference may have another size; it costs attention as any tokens do.
    """
    return patchify(z), make_ref_ids(len(z), z.shape[2] // PATCH, z.shape[3] // PATCH).to(z.device)


def make_ref_ids(batch: int, h: int, w: int) -> Float[Tensor, "B L 3"]:
    """The ids of a reference picture of h × w tokens: (1, row, column)."""
    return make_img_ids(batch, h, w) + torch.tensor([1.0, 0.0, 0.0])


def spell_out(instruction: str, things: list[dict]) -> str:
    """The instruction with names for "it", {"en": [name, …], "zh": name} each; Chinese leaves "it" out: in front there.

    "turn it into 3d style" of a fox becomes "turn the fox into 3d style", "变成立体风格" becomes "把狐狸变成立体风格".
    """
    if instruction.startswith("变成"):
        return f"把{'和'.join(thing['zh'] for thing in things)}{instruction}"
    return re.sub(r"\bit\b", " and ".join(f"the {thing['en'][0]}" for thing in things), instruction)


def changed(
    painted: Float[Tensor, "3 H W"], given: Float[Tensor, "3 h w"], share: float = 0.75
) -> Float[Tensor, "1 H W"]:
    """Where an edit has changed a picture: 1 where much, 0 where hardly, and a slope between.

    m = min(max(d / τ - 1, 0), 1);  given + m ⊙ (painted - given) has the given pixels again where m is 0

    d is the largest of the three colours' differences, averaged over 5 × 5 pixels, and τ a share of Otsu's threshold,
    the one that best parts the numbers d in two classes (1979, by OpenCV). So it is for edits that change much wherever
    they change anything, such as another background. Of a thing removed, the rim comes back.
    """
    if share <= 0:
        raise ValueError(f"share = {share:g}: it must be above 0; near 0, all that was painted stays painted")
    if painted.shape != given.shape:
        shapes = tuple(painted.shape), tuple(given.shape)
        raise ValueError(f"pictures of shapes {shapes[0]} and {shapes[1]}: compare two of one size, each (3, H, W)")
    import cv2

    d = ((painted.clamp(-1, 1) - given.clamp(-1, 1)).abs().amax(dim=0) * 127.5).round().byte()
    d = cv2.blur(d.cpu().numpy(), (5, 5))
    threshold, _ = cv2.threshold(d, 0, 255, cv2.THRESH_OTSU)
    tau = max(share * threshold, 1)  # at least one of 255 steps: two equal pictures have the threshold 0
    return (torch.from_numpy(d)[None] / tau - 1).clamp(0, 1).to(given)


# ---------------------------------------------------------------- more text: Redux


class Redux(nn.Module):
    """Tokens of a picture turned into words that T5 might have said, to be appended to the prompt's.

    Eq. (12.4):  txt̃ = [txt ; W_down SiLU(W_up s + b_up) + b_down],  ids (0, 0, 0)

    s are the last states of an image encoder. FLUX.1 Redux takes SigLIP's 729 tokens of 1152, 4096 · 3 inside; its file
    loads strictly. The order of the tokens is lost on FLUX, as all text stands at the origin: SigLIP has put it in.
    """

    def __init__(self, width: int = 1152, txt_width: int = 4096):
        super().__init__()
        self.redux_up = nn.Linear(width, 3 * txt_width)
        self.redux_down = nn.Linear(3 * txt_width, txt_width)

    def forward(self, txt: Float[Tensor, "B L txt"], s: Float[Tensor, "B N width"]) -> Float[Tensor, "B L+N txt"]:
        return torch.cat([txt, self.redux_down(F.silu(self.redux_up(s)))], dim=1)


@torch.no_grad()
def see(judge: nn.Module, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 16 104"]:
    """The image encoder of the tiny Redux: 4 × 4 places, with 96 features and 8 numbers that say which place it is.

    The features are those of the judge's eye (`train.judge`), before it makes one vector of them.
    """
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
        features = judge.image[:-2](F.interpolate(pictures, (64, 64), mode="area")).float()
    four = torch.eye(4, device=pictures.device)
    place = torch.cat([four.repeat_interleave(4, dim=0), four.repeat(4, 1)], dim=1)  # row, then column
    return torch.cat([rearrange(features, "b c h w -> b (h w) c"), place.expand(len(pictures), -1, -1)], dim=-1)
