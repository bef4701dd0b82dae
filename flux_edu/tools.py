"""Chapter 12, the FLUX.1 tools: how a picture goes in. Eq. (12.1) to (12.4).

Three ways. Control and fill widen every image token by channels; Kontext appends the
picture's tokens to the image tokens; Redux appends a few to the text. The transformer
itself stays what it is.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.patchify import PATCH, make_img_ids, patchify

PIXELS_PER_LATENT = 8  # a side; the autoencoder shrinks so much

# ------------------------------------------------ more channels: control and fill


def control_cond(z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B L 4*C"]:
    """What a Canny or Depth model reads beside the noisy tokens: edges or depths.

    Eq. (12.1):  x̃ = [x_t ; patchify(z_c)] ∈ R^{L × (64 + 64)}

    z_c is the control picture after `AutoEncoder.encode`, an RGB picture like any
    other; give the result to `denoise` as img_cond. Token by token the two show the
    same place, so no id and no attention are needed to match them.
    """
    return patchify(z)


def canny(
    picture: Float[Tensor, "3 H W"],
    low: float = 50,
    high: float = 200,
) -> Float[Tensor, "3 H W"]:
    """The outlines of a picture, an RGB picture that is 1 on edges and -1 elsewhere.

    An edge begins where brightness changes faster than `high` (of 8 bits, summed by
    Sobel's filter) and goes on as long as it changes faster than `low`. Canny, 1986, by
    OpenCV; 50 and 200 are the thresholds of the FLUX.1 code.
    """
    assert 0 <= low <= high, f"thresholds {low:g}, {high:g}: need 0 ≤ low ≤ high"
    import cv2  # large, and needed only here

    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels = rearrange(pixels, "c h w -> h w c").contiguous().numpy()
    edges = torch.from_numpy(cv2.Canny(pixels, low, high)).float()
    return (edges / 127.5 - 1).expand(3, -1, -1)


def pack_mask(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 64 h w"]:
    """A mask of pixels in the latent's grid: 8 × 8 pixels of a place are 64 channels.

    "b 1 (h p) (w q) -> b (p q) h w", p = q = 8. Nothing is lost. 1 is painted anew, 0
    kept. H and W are multiples of 8.
    """
    p = PIXELS_PER_LATENT
    return rearrange(mask, "b 1 (h p) (w q) -> b (p q) h w", p=p, q=p)


def fill_cond(
    z_kept: Float[Tensor, "B C h w"],
    mask: Float[Tensor, "B 1 H W"],
) -> Float[Tensor, "B L cond"]:
    """What a Fill model reads beside the noisy tokens: what is kept, and the mask.

    Eq. (12.2):  x̃ = [x_t ; patchify(z_m) ; patchify(pack(m))] ∈ R^{L × (64+64+256)}

    z_m is `AutoEncoder.encode` of `hide(picture, m)`; m has a number for every pixel of
    the picture, 1 where it is painted anew, 0 where it is kept.
    """
    low, high = mask.min(), mask.max()
    assert 0 <= low and 0 < high <= 1, f"mask from {low:g} to {high:g}: 1 is painted"
    return torch.cat([patchify(z_kept), patchify(pack_mask(mask).to(z_kept))], dim=-1)


def hide(
    picture: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
) -> Float[Tensor, "B 3 H W"]:
    """The picture with 0, a middle grey, wherever the mask is 1."""
    return picture * (1 - mask)


# ------------------------------------------------ more tokens: Kontext

# width, height that Kontext's code prefers: near a million pixels, multiples of 16
KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392)),
    *((800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800)),
    *((1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)


def kontext_size(width: int, height: int) -> tuple[int, int]:
    """The size of `KONTEXT_SIZES` of the nearest aspect, for the reference picture."""
    assert min(width, height) > 0, f"{width} × {height} pixels: no side may be 0"
    return min(KONTEXT_SIZES, key=lambda size: abs(size[0] / size[1] - width / height))


def reference_tokens(
    z: Float[Tensor, "B C h w"],
) -> tuple[Float[Tensor, "B L 4*C"], Float[Tensor, "B L 3"]]:
    """What Kontext reads after the noisy tokens: those of a reference picture, apart.

    Eq. (12.3):  x̃ = [x_t ; patchify(z_r)] ∈ R^{(L + L_r) × 64},
                 id_r = (1, row, column),  v = first L of v_θ(x̃)

    The first axis of the ids tells the two pictures apart: 0 for the one being painted.
    Give the result to `denoise` as img_cond_seq. The reference may have another size;
    it costs attention as any tokens do.
    """
    h, w = z.shape[2] // PATCH, z.shape[3] // PATCH
    return patchify(z), make_ref_ids(len(z), h, w).to(z.device)


def make_ref_ids(batch: int, h: int, w: int) -> Float[Tensor, "B L 3"]:
    """The ids of a reference picture of h × w tokens: (1, row, column)."""
    return make_img_ids(batch, h, w) + torch.tensor([1.0, 0.0, 0.0])


# ------------------------------------------------ more text: Redux


class Redux(nn.Module):
    """Tokens of a picture turned into words that T5 might have said.

    Eq. (12.4):  txt̃ = [txt ; W_down SiLU(W_up s + b_up) + b_down],  ids (0, 0, 0)

    s are the last states of an image encoder. FLUX.1 Redux takes SigLIP's 729 tokens of
    1152, 4096 · 3 inside; its file loads strictly. The order of the tokens is lost on
    FLUX, as all text stands at the origin: SigLIP has put it in.
    """

    def __init__(self, width: int = 1152, txt_width: int = 4096):
        super().__init__()
        self.redux_up = nn.Linear(width, 3 * txt_width)
        self.redux_down = nn.Linear(3 * txt_width, txt_width)

    def forward(
        self,
        txt: Float[Tensor, "B L txt"],
        s: Float[Tensor, "B N width"],
    ) -> Float[Tensor, "B L+N txt"]:
        words = self.redux_down(F.silu(self.redux_up(s)))
        return torch.cat([txt, words], dim=1)
