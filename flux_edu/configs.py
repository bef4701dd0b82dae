"""Every published FLUX.1 variant, and the tiny ones that ship with this package."""

import difflib
from dataclasses import dataclass, replace

from flux_edu.autoencoder import AutoEncoderParams
from flux_edu.model import FluxParams


@dataclass(frozen=True)
class ModelSpec:
    """A network's shape and how it wants to be sampled.

    num_steps and guidance are the defaults of the makers' command line since June 2025; diffusers has 28 and 3.5 for
    dev.
    two_passes: guidance takes a second evaluation with the empty prompt, Eq. (6.4), because the model is not distilled.
    shift: whether the schedule depends on the picture's size, Eq. (1.5). txt_tokens: how many tokens T5 reads.
    lora: the file that is put onto the weights of `base`, see `io.lora`. A Redux has a base too, and adds an adapter.
    """

    params: FluxParams
    ae_params: AutoEncoderParams
    repo_id: str | None
    num_steps: int
    guidance: float
    shift: bool = True
    txt_tokens: int = 512
    two_passes: bool = False
    lora: str | None = None
    base: str | None = None


DEV = FluxParams(
    in_channels=64,
    out_channels=64,
    vec_in_dim=768,
    context_in_dim=4096,
    hidden_size=3072,
    mlp_ratio=4.0,
    num_heads=24,
    depth=19,
    depth_single_blocks=38,
    axes_dim=(16, 56, 56),
    theta=10_000,
    qkv_bias=True,
    guidance_embed=True,
)
SCHNELL = replace(DEV, guidance_embed=False)
CONTROL = replace(DEV, in_channels=64 + 64)  # the picture, and the encoded control image
FILL = replace(DEV, in_channels=64 + 64 + 256)  # the picture, the masked picture, 8 × 8 mask pixels a latent place
TINY = replace(
    SCHNELL,
    vec_in_dim=256,
    context_in_dim=256,
    hidden_size=320,
    num_heads=5,
    depth=3,
    depth_single_blocks=6,
    axes_dim=(8, 28, 28),
)
TINY_DEV = replace(TINY, guidance_embed=True)
TINY_CONTROL = replace(TINY, in_channels=64 + 64)
TINY_FILL = replace(TINY, in_channels=64 + 64 + 256)

AE = AutoEncoderParams(
    resolution=256,
    in_channels=3,
    ch=128,
    out_ch=3,
    ch_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    z_channels=16,
    scale_factor=0.3611,
    shift_factor=0.1159,
)
TINY_AE = replace(  # both factors are measured after training; 8 groups of 4 channels, see AutoEncoderParams
    AE, resolution=128, ch=32, norm_groups=8, scale_factor=0.66696, shift_factor=0.05045
)

CANNY = ModelSpec(CONTROL, AE, "black-forest-labs/FLUX.1-Canny-dev", num_steps=50, guidance=30.0)
DEPTH = ModelSpec(CONTROL, AE, "black-forest-labs/FLUX.1-Depth-dev", num_steps=50, guidance=10.0)
TINY_BASE = ModelSpec(TINY, TINY_AE, None, num_steps=28, guidance=3.0, txt_tokens=32, two_passes=True)

# repositories on the Hugging Face hub; the first ten entries are those of the reference implementation
configs = {
    "flux-dev": ModelSpec(DEV, AE, "black-forest-labs/FLUX.1-dev", num_steps=50, guidance=2.5),
    "flux-dev-krea": ModelSpec(DEV, AE, "black-forest-labs/FLUX.1-Krea-dev", num_steps=50, guidance=2.5),
    "flux-dev-redux": ModelSpec(
        DEV, AE, "black-forest-labs/FLUX.1-Redux-dev", num_steps=50, guidance=2.5, base="flux-dev"
    ),
    "flux-dev-kontext": ModelSpec(DEV, AE, "black-forest-labs/FLUX.1-Kontext-dev", num_steps=30, guidance=2.5),
    "flux-schnell": ModelSpec(
        SCHNELL, AE, "black-forest-labs/FLUX.1-schnell", num_steps=4, guidance=0.0, shift=False, txt_tokens=256
    ),
    "flux-dev-canny": CANNY,
    "flux-dev-depth": DEPTH,
    "flux-dev-canny-lora": replace(
        CANNY, repo_id=f"{CANNY.repo_id}-lora", base="flux-dev", lora="flux1-canny-dev-lora.safetensors"
    ),
    "flux-dev-depth-lora": replace(
        DEPTH, repo_id=f"{DEPTH.repo_id}-lora", base="flux-dev", lora="flux1-depth-dev-lora.safetensors"
    ),
    "flux-dev-fill": ModelSpec(FILL, AE, "black-forest-labs/FLUX.1-Fill-dev", num_steps=50, guidance=30.0),
    # the shipped ones: but for the first, low-rank deltas of "tiny", made by the stages of `flux_edu.train`
    "tiny": TINY_BASE,
    "tiny-dev": replace(TINY_BASE, params=TINY_DEV, two_passes=False, lora="dev.safetensors"),
    "tiny-fill": replace(TINY_BASE, params=TINY_FILL, guidance=1.5, lora="fill.safetensors"),
    "tiny-canny": replace(TINY_BASE, params=TINY_CONTROL, lora="canny.safetensors"),
    "tiny-kontext": replace(TINY_BASE, lora="kontext.safetensors"),
    "tiny-redux": replace(TINY_BASE, lora="redux.safetensors"),
    "tiny-schnell": replace(
        TINY_BASE, num_steps=4, guidance=0.0, shift=False, two_passes=False, lora="schnell.safetensors"
    ),
}


def get_spec(name: str) -> ModelSpec:
    """The variant of this name; an unknown one is answered with the nearest that exist."""
    typed = name.lower() if isinstance(name, str) else ""
    if typed and name in configs:
        return configs[name]
    repos = {key: spec.repo_id.lower() for key, spec in configs.items() if spec.repo_id}
    near = [key for key, repo_id in repos.items() if typed in (repo_id, repo_id.partition("/")[2])]
    near = near or difflib.get_close_matches(typed, configs, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(f"no variant is called {name!r}{hint} There are: {', '.join(configs)}")
