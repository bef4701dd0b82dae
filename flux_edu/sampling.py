"""Chapter 6, sampling: from noise to a picture by following the velocity. Eq. (6.1) to (6.4)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flux_edu.model import Flux
from flux_edu.schedule import interpolate


@dataclass
class SamplingOptions:
    """What one picture is made from. Sizes in pixels; seed None means: draw one and report it."""

    prompt: str
    width: int
    height: int
    num_steps: int
    guidance: float
    seed: int | None


def predict_x0(x: Float[Tensor, "B ..."], v: Float[Tensor, "B ..."], t: float) -> Float[Tensor, "B ..."]:
    """The picture the model has in mind at noise level t.

    Eq. (6.1):  dx/dt = v_θ(x, t),  v = ε - x_0,  so x̂_0 = x_t - t v

    The noise it has in mind is x_t + (1 - t) v.
    """
    return x - t * v


def euler_step(x: Float[Tensor, "B ..."], v: Float[Tensor, "B ..."], t: float, t_next: float) -> Float[Tensor, "B ..."]:
    """One step along the velocity, from noise level t to t_next.

    Eq. (6.2):  x_{i+1} = x_i + (t_{i+1} - t_i) v_θ(x_i, t_i)

    t falls, so the factor is negative: v points to the noise and we walk away from it. The notes have the sign the
    other way round.
    """
    return x + (t_next - t) * v


def guide(
    v_uncond: Float[Tensor, "B ..."], v_cond: Float[Tensor, "B ..."], w: float | Float[Tensor, "..."]
) -> Float[Tensor, "B ..."]:
    """Classifier-free guidance: walk past the prompted velocity, away from the unprompted one.

    Eq. (6.4):  v_w = v_∅ + w (v_c - v_∅)

    w = 1 is the prompted model itself, w = 0 ignores the prompt. Two evaluations a step. FLUX.1 dev has learned the
    result of this, for the number w it is told, and needs only one. Ho & Salimans, 2022; Eq. (10.1) is the same
    formula.
    """
    return v_uncond + w * (v_cond - v_uncond)


def image_to_image_start(
    z: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], timesteps: list[float], strength: float
) -> tuple[Float[Tensor, "B ..."], list[float]]:
    """Where image to image enters the schedule, and the mix of picture and noise it starts from.

    Eq. (6.3):  i = ⌊(1 - ς) N + ½⌋, at most N - 1 while ς > 0;  x = t_i ε + (1 - t_i) z;  then steps i … N

    z is the encoded start picture, ς the strength in [0, 1]: 1 starts from pure noise (text to image), 0 takes no
    step at all and returns z. Strength counts steps, not noise: on a shifted schedule one half already means far more
    than half noise. The reference truncates instead of rounding, and so loses a step to float error (ς = 0.8, N = 50
    gives 9, not 10).
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength = {strength}: it must lie in [0, 1]; 0 keeps the start picture, 1 ignores it")
    N = len(timesteps) - 1
    i = math.floor((1 - strength) * N + 0.5 + 1e-9)  # (1 - 0.9) * 5 is 0.4999…; the guard makes it the half it means
    if strength > 0:
        i = min(i, N - 1)
    t = torch.full((z.shape[0],), timesteps[i], device=z.device)
    return interpolate(z, noise, t), timesteps[i:]


@torch.inference_mode()
def denoise(
    model: Flux,
    img: Float[Tensor, "B L_img C"],
    img_ids: Float[Tensor, "B L_img 3"],
    txt: Float[Tensor, "B L_txt context"],
    txt_ids: Float[Tensor, "B L_txt 3"],
    vec: Float[Tensor, "B vec_in"],
    timesteps: list[float],
    guidance: float = 4.0,
    *,
    img_cond: Float[Tensor, "B L_img extra"] | None = None,
    img_cond_seq: tuple[Float[Tensor, "B L_ref C"], Float[Tensor, "B L_ref 3"]] | None = None,
    uncond: tuple[Tensor, Tensor] | None = None,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
) -> Float[Tensor, "B L_img C"]:
    """Follow the velocity from timesteps[0] to timesteps[-1] by Euler steps, Eq. (6.2).

    Guidance, Eq. (6.4), comes in one of two ways. A distilled model (FLUX.1 dev) is told w and evaluated once a
    step. A model that is not takes `uncond`, the (txt, vec) of the empty prompt, and is evaluated with and without
    the prompt, both in one batch; with guidance 1 the second half would cancel and is left out. Without `uncond` such
    a model ignores it.

    img_cond is joined to the channels of every token, Eq. (12.1) and (12.2); img_cond_seq, tokens and their ids, to the
    sequence, Eq. (12.3), and what the model says of them is cut off. callback(i, t, x, v) sees every step. The sum is
    kept in float32: in bfloat16 the first, small steps of a long schedule would change nothing.
    """
    if len(timesteps) < 1:
        raise ValueError("timesteps is empty; pass the noise levels of get_schedule, N + 1 numbers for N steps")
    dtype, (B, L) = model.img_in.weight.dtype, img.shape[:2]
    if img_cond_seq is not None:
        img_ids = torch.cat([img_ids, img_cond_seq[1]], dim=1)
    two_passes = uncond is not None and guidance != 1
    if two_passes:  # first half of the batch without the prompt, second half with it
        txt, vec = torch.cat([uncond[0].expand_as(txt), txt]), torch.cat([uncond[1].expand_as(vec), vec])
        img_ids, txt_ids = img_ids.repeat(2, 1, 1), txt_ids.repeat(2, 1, 1)
    txt, vec = txt.to(dtype), vec.to(dtype)
    w = torch.full((len(vec),), guidance, dtype=torch.float32, device=img.device)
    x = img.float()
    for i, (t, t_next) in enumerate(zip(timesteps[:-1], timesteps[1:], strict=True)):
        tokens = x if img_cond is None else torch.cat([x, img_cond], dim=-1)
        tokens = tokens if img_cond_seq is None else torch.cat([tokens, img_cond_seq[0]], dim=1)
        tokens = tokens.repeat(2 if two_passes else 1, 1, 1).to(dtype)
        level = torch.full((len(vec),), t, dtype=torch.float32, device=img.device)
        v = model(tokens, img_ids, txt, txt_ids, level, vec, w)[:, :L].float()
        if two_passes:
            v = guide(v[:B], v[B:], guidance)
        if callback:
            callback(i, t, x, v)
        x = euler_step(x, v, t, t_next)
    return x
