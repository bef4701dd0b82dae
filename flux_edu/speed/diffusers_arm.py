"""What `bench` puts side by side: our loop, diffusers' transformer with the same numbers, and 8-bit linear layers."""

import time

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.io import diffusers_layout
from flux_edu.model import Flux
from flux_edu.modulation import Modulation
from flux_edu.sampling import denoise
from flux_edu.speed.modulation_cache import known_ahead


class Exact(nn.Module):
    """Their embedding of noise level, guidance and text, told the first two in float32.

    Their forward pass rounds both to the model's dtype first. In bfloat16 the two models would be asked about different
    noise levels (notebook 13), and no comparison of what they answer would mean much.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.numbers = inner, ()

    def forward(self, *rounded_and_pooled: Tensor) -> Tensor:
        return self.inner(*self.numbers, rounded_and_pooled[-1])


class Theirs(nn.Module):
    """FluxTransformer2DModel with the numbers of ours, behind the same signature."""

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
        self.inner.time_text_embed = Exact(self.inner.time_text_embed)
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


def our_loop(model: Flux, given: dict[str, Tensor], timesteps: list[float], guidance: float) -> Tensor:
    """`sampling.denoise` with everything known ahead that can be."""
    fixed = {name: given[name] for name in ("img_ids", "txt_ids", "vec")}
    with known_ahead(model, **fixed, timesteps=timesteps, guidance=guidance):
        return denoise(model, **given, timesteps=timesteps, guidance=guidance)


def their_loop(model: Theirs, given: dict[str, Tensor], timesteps: list[float], guidance: float) -> Tensor:
    """The Euler loop of `sampling.denoise` around diffusers' class; `given` is what `denoise` takes."""
    x, dtype = given["img"].float(), given["txt"].dtype
    made = dict(device=x.device, dtype=torch.float32)
    w = torch.full((1,), guidance, **made)
    with torch.inference_mode():
        for t, t_next in zip(timesteps[:-1], timesteps[1:], strict=True):
            args = [x.to(dtype), given["img_ids"], given["txt"], given["txt_ids"]]
            x = x + (t_next - t) * model(*args, torch.full((1,), t, **made), given["vec"], w).float()
    return x


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of either class: each kind is compiled once, in seconds, where the whole takes minutes."""
    inner = model.inner if isinstance(model, Theirs) else model
    names = ("double_blocks", "single_blocks", "transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(inner, name, ())]


def start_compiler(device: torch.device) -> float:
    """Seconds until torch.compile has compiled next to nothing: its own start, once a process."""
    start = time.perf_counter()
    torch.compile(lambda x: x + 1)(torch.ones(3, device=device)).cpu()
    return time.perf_counter() - start


def to_rows8(x: Float[Tensor, "rows K"]) -> tuple[Float[Tensor, "rows K"], Float[Tensor, "rows 1"]]:
    """8-bit floating point (e4m3: largest number 448) and a float32 scale a row: x ≈ rows · scale."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn), scale


class Linear8(nn.Module):
    """A linear layer whose product is of 8-bit numbers: half the bytes, 4 significant bits.

    y_ij = a_i s_j Σ_k X_ik W_jk + c_j  with 8-bit X and W, a scale a_i for every token and s_j for every output channel
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        (self.rows, self.scale), self.bias = to_rows8(linear.weight.detach()), linear.bias

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... out"]:
        tokens, scale = to_rows8(x.flatten(end_dim=-2))
        # F.scaled_mm without its checks, which torch.compile cannot follow; fast: sums stay in the tensor cores' own
        # registers, of fewer bits than float32, and are not added up outside after every few products
        numbers = tokens, self.rows.t(), scale, self.scale.t(), self.bias
        y = torch._scaled_mm(*numbers, out_dtype=x.dtype, use_fast_accum=True)
        return y.unflatten(0, x.shape[:-1])


def in_fp8(model: nn.Module) -> nn.Module:
    """Every linear layer of the blocks that tokens pass, in 8 bits; what makes the modulations is known ahead."""
    for block in blocks(model):
        for module in list(block.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, nn.Linear) and not isinstance(module, Modulation):
                    setattr(module, name, Linear8(layer))
    return model
