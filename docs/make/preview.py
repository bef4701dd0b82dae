"""Fit the preview of the tiny FLUX's latents: `python docs/make/preview.py`, two minutes."""

import math

import torch

from flux_edu.io.checkpoint import save_int8
from flux_edu.io.preview import FILE, fit_preview, load_preview, preview
from flux_edu.pipeline import FluxGenerator
from flux_edu.train.data import draw_scenes, load_drawings, render


@torch.inference_mode()
def latents(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many composed pictures and their latents."""
    drawings = load_drawings()
    x = render(drawings, draw_scenes(drawings, count, seed=seed))
    ae = FluxGenerator("tiny", "cpu").ae
    return torch.cat([ae.encode(part) for part in x.split(8)]), x


def main() -> None:
    numbers = fit_preview(*latents(256, seed=11))
    # matrices get a scale a row
    save_int8({name: x.flatten(1) if x.ndim > 1 else x for name, x in numbers.items()}, FILE)
    z, x = latents(64, seed=12)
    error = (preview(z, **load_preview()).clamp(-1, 1) - x).square().mean().item()
    print(f"{10 * math.log10(4 / error):.2f} dB on 64 other pictures")


if __name__ == "__main__":
    main()
