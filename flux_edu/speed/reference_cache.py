"""Keys and values of a reference picture, computed once and kept, as FLUX.2 klein 9B KV does. Eq. (18.4).

Kontext appends the tokens of a reference to those of the picture, Eq. (12.3), and computes them in every step, although
the reference never changes. All that the picture wants of them are their keys and values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from flux_edu import attention, single_stream
from flux_edu.model import Flux
from flux_edu.rope import apply_rope
from flux_edu.sampling import Text, Velocity, velocity_field

Heads = Float[Tensor, "B H L K"]
Kept = tuple[Float[Tensor, "B H L_ref K"], Float[Tensor, "B H L_ref K"]]  # rotated keys, values


def attention_with_kept(
    q: Heads,
    k: Heads,
    v: Heads,
    pe: Float[Tensor, "B 1 L pairs 2 2"],
    kept: Kept,
) -> Float[Tensor, "B L H*K"]:
    """Attention of text and picture to themselves and to a reference of which only keys and values are there.

    Eq. (18.4):  A = Softmax(Q̃ [K̃, K̃_ref]ᵀ / √d_h) [V, V_ref]

    K̃_ref and V_ref come from the step that computed them; K̃_ref is rotated to the reference's own places.
    """
    keys, values = (torch.cat(pair, dim=2) for pair in zip((apply_rope(k, pe), v), kept, strict=True))
    A = F.scaled_dot_product_attention(apply_rope(q, pe), keys, values)
    return rearrange(A, "b h l k -> b l (h k)")


def see_only_itself(L: int, L_ref: int) -> Bool[Tensor, "L L"]:
    """Who may look at whom (a row looks at the columns that are True), if the last L_ref tokens see but themselves."""
    sees = torch.ones(L, L, dtype=torch.bool)
    sees[-L_ref:, :-L_ref] = False
    return sees


@contextmanager
def attend_by(attend: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, every block computes its attention by this function."""
    own = attention.attention
    attention.attention = single_stream.attention = attend
    try:
        yield
    finally:
        attention.attention = single_stream.attention = own


def velocity_with_kept(
    model: Flux,
    inputs: dict[str, Tensor],
    guidance: float,
    reference: tuple[Float[Tensor, "_ L_ref C"], Float[Tensor, "_ L_ref 3"]],
    uncond: Text | None = None,
    keep: bool = True,
    isolated: bool = False,
) -> Velocity:
    """`velocity_field` with a reference, Eq. (12.3), whose keys and values are computed when it is asked first.

    Every block has its own. keep=False computes the reference each time. isolated: its tokens see only themselves, so
    that their keys and values depend on the picture no more, only on t.
    """
    whole = velocity_field(model, inputs, guidance, img_cond_seq=reference, uncond=uncond)
    short = velocity_field(model, inputs, guidance, uncond=uncond)
    L_ref, kept = reference[0].shape[1], []

    def with_reference(q: Heads, k: Heads, v: Heads, pe: Tensor) -> Float[Tensor, "B L H*K"]:
        q, k = apply_rope(q, pe), apply_rope(k, pe)
        kept.append((k[:, :, -L_ref:], v[:, :, -L_ref:]))
        sees = see_only_itself(q.shape[2], L_ref).to(q.device) if isolated else None
        A = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        return rearrange(A, "b h l k -> b l (h k)")

    def velocity(x: Float[Tensor, "B L C"], t: float) -> Tensor:
        if not kept or not keep:
            kept.clear()
            with attend_by(with_reference):
                return whole(x, t)
        blocks = iter(kept)
        with attend_by(lambda q, k, v, pe: attention_with_kept(q, k, v, pe, next(blocks))):
            return short(x, t)

    return velocity
