"""diffusers' transformer with the numbers of ours, for the bench and for parity."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from flux_edu.io import diffusers_layout
from flux_edu.model import Flux


class Float32Timestep(nn.Module):
    """Their embedding of noise level, guidance and text, which reads the first two in float32.

    Their forward pass rounds both to the model's dtype first. In bfloat16 the two models would be asked about different
    noise levels (notebook 13), and no comparison of what they answer would mean much.
    """

    def __init__(self, embedder: nn.Module):
        super().__init__()
        self.embedder, self.numbers = embedder, ()

    def forward(self, *rounded_and_pooled: Tensor) -> Tensor:
        return self.embedder(*self.numbers, rounded_and_pooled[-1])


class DiffusersFlux(nn.Module):
    """FluxTransformer2DModel on the very tensors of ours, behind the same signature."""

    def __init__(self, ours: Flux):
        super().__init__()
        from diffusers import FluxTransformer2DModel  # extra: dev

        p = self.params = ours.params
        with torch.device("meta"):
            self.inner = FluxTransformer2DModel(
                in_channels=p.in_channels,
                num_layers=p.depth,
                num_single_layers=p.depth_single_blocks,
                attention_head_dim=p.hidden_size // p.num_heads,
                num_attention_heads=p.num_heads,
                joint_attention_dim=p.context_in_dim,
                pooled_projection_dim=p.vec_in_dim,
                guidance_embeds=p.guidance_embed,
                axes_dims_rope=p.axes_dim,
            )
        self.inner.load_state_dict(diffusers_layout.flux_to_diffusers(ours.state_dict()), strict=True, assign=True)
        self.inner.time_text_embed = Float32Timestep(self.inner.time_text_embed)
        self.inner.eval().requires_grad_(False)

    def forward(self, img, img_ids, txt, txt_ids, timesteps, y, guidance=None):
        guidance = guidance if self.params.guidance_embed else None
        self.inner.time_text_embed.numbers = [1000 * x for x in (timesteps, guidance) if x is not None]
        return self.inner(
            hidden_states=img,
            encoder_hidden_states=txt,
            pooled_projections=y,
            timestep=timesteps,
            img_ids=img_ids[0],
            txt_ids=txt_ids[0],
            guidance=guidance,
            return_dict=False,
        )[0]


@torch.inference_mode()
def denoise_diffusers(
    model: DiffusersFlux, inputs: dict[str, Tensor], timesteps: list[float], guidance: float
) -> Tensor:
    """The Euler loop of `sampling.denoise` around diffusers' class; `inputs` are those that `denoise` takes."""
    x, dtype = inputs["img"].float(), inputs["txt"].dtype
    w = torch.full((1,), guidance, dtype=torch.float32, device=x.device)
    for t, t_next in pairwise(timesteps):
        level = torch.full_like(w, t)
        v = model(x.to(dtype), inputs["img_ids"], inputs["txt"], inputs["txt_ids"], level, inputs["vec"], w)
        x = x + (t_next - t) * v.float()
    return x


@contextmanager
def cached_diffusers(model: DiffusersFlux, threshold: float) -> Iterator[None]:
    """Inside, diffusers' own first-block cache; like `step_cache.cached`, for one painting."""
    from diffusers import FirstBlockCacheConfig

    model.inner.enable_cache(FirstBlockCacheConfig(threshold))
    try:
        with model.inner.cache_context("cond"):
            yield
    finally:
        model.inner.disable_cache()
