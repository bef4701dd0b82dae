"""What does not depend on the picture, computed before the first step: every block's modulations, and the rotations.

The vector vec of Eq. (4.3) is made of noise level, guidance and text, and the rotations of Eq. (3.4) of places. All of
these are known when sampling begins, so the shift, scale and gate of every block at every step are too. The matrices
that make them are 27 % of FLUX.1's parameters. Step by step, all of them are read from memory each time, for one
vector; before the first step, once for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import join_streams
from flux_edu.model import Flux
from flux_edu.modulation import Modulation
from flux_edu.sampling import denoise


class Precomputed(nn.Module):
    """Stands where a layer stood and returns what that would, from a table with a row for every step."""

    def __init__(self, rows: Float[Tensor, "N ..."]):
        super().__init__()
        self.rows, self.row = rows, rows[0]

    def forward(self, _: Tensor) -> Tensor:
        return self.row


@contextmanager
def precompute_modulations(
    model: Flux,
    img_ids: Float[Tensor, "B L_img axes"],
    txt_ids: Float[Tensor, "B L_txt axes"],
    vec: Float[Tensor, "B vec_in"],
    timesteps: list[float],
    guidance: float = 2.5,
) -> Iterator[None]:
    """Inside, call `denoise` once, with the same arguments: it gives the same numbers with less work a step.

    The layers that read vec make way for their tables and come back at the end; the blocks do not notice. Whatever
    else changes vec has no effect meanwhile. For one evaluation a step: not for guidance by two passes, Eq. (6.4).
    """
    N, B, dtype = len(timesteps) - 1, len(vec), model.img_in.weight.dtype
    if N < 1:
        raise ValueError(f"{len(timesteps)} noise levels make no step, so there is nothing to compute before the first")
    with torch.inference_mode():
        t = torch.tensor(timesteps[:-1], dtype=torch.float32, device=vec.device).repeat_interleave(B)
        conditioning = F.silu(model.conditioning(t, vec.to(dtype).repeat(N, 1), torch.full_like(t, guidance)))
        rotations = model.pe_embedder(join_streams(txt_ids, img_ids))
        parents = [(module, "lin") for module in model.modules() if isinstance(module, Modulation)]
        parents.append((model.final_layer.adaLN_modulation, "1"))  # 0 is the SiLU
        tables = [Precomputed(getattr(*parent)(conditioning).unflatten(0, (N, B))) for parent in parents]
        parents.append((model, "pe_embedder"))
        tables.append(Precomputed(rotations.expand(N, *rotations.shape)))
    layers = [getattr(*parent) for parent in parents]
    steps = iter(range(N))

    def next_step(_: nn.Module, args: tuple) -> None:
        i = next(steps, None)
        if i is None or len(args[0]) != B:
            raise ValueError(f"computed before are {N} evaluations of {B} pictures, in order; this is another")
        for table in tables:
            table.row = table.rows[i]

    hook = model.register_forward_pre_hook(next_step)
    try:
        for parent, table in zip(parents, tables, strict=True):
            setattr(*parent, table)
        yield
    finally:
        hook.remove()
        for parent, layer in zip(parents, layers, strict=True):
            setattr(*parent, layer)


def denoise_precomputed(model: Flux, inputs: dict[str, Tensor], timesteps: list[float], guidance: float) -> Tensor:
    """`sampling.denoise` with everything computed before the first step that can be."""
    fixed = {name: inputs[name] for name in ("img_ids", "txt_ids", "vec")}
    with precompute_modulations(model, **fixed, timesteps=timesteps, guidance=guidance):
        return denoise(model, **inputs, timesteps=timesteps, guidance=guidance)
