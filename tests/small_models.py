"""Models small enough to be computed at once, with random parameters, and what goes into them; sizes that differ."""

import torch
from torch import Tensor

from flux_edu.autoencoder import AutoEncoderParams
from flux_edu.model import Flux, FluxParams
from flux_edu.patchify import make_img_ids, make_txt_ids

FLUX = FluxParams(
    in_channels=5, out_channels=7, vec_in_dim=11, context_in_dim=13, hidden_size=36, mlp_ratio=2.5, num_heads=2,
    depth=2, depth_single_blocks=3, axes_dim=(4, 6, 8), theta=1000, qkv_bias=True, guidance_embed=True,
)  # fmt: skip
ONE_BLOCK = FluxParams(12, 12, 10, 14, 22, 2.0, 1, 1, 1, (6, 6, 10), 10_000, True, False)  # of each kind
AUTOENCODER = AutoEncoderParams(  # two levels of one width, as published: no shortcut between them
    resolution=64, in_channels=3, ch=6, out_ch=3, ch_mult=(1, 2, 4, 4), num_res_blocks=2, z_channels=5,
    scale_factor=0.3611, shift_factor=0.1159, norm_groups=3,
)  # fmt: skip


def random_flux(params: FluxParams, std: float = 0.3, seed: int = 0) -> Flux:
    torch.manual_seed(seed)
    model = Flux(params).eval().requires_grad_(False)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model


def random_inputs(p: FluxParams, batch: int, rows: int, columns: int, L_txt: int) -> dict[str, Tensor]:
    """What `denoise` takes."""
    return {
        "img": torch.randn(batch, rows * columns, p.in_channels),
        "img_ids": make_img_ids(batch, rows, columns),
        "txt": torch.randn(batch, L_txt, p.context_in_dim),
        "txt_ids": make_txt_ids(batch, L_txt),
        "vec": torch.randn(batch, p.vec_in_dim),
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
