"""Chapter 6, sampling: from noise to a picture by the velocity. Eq. (6.1) to (6.4)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flux_edu.model import Flux
from flux_edu.schedule import interpolate

Velocity = Callable[[Tensor, float], Tensor]  # of a state x at noise level t
Text = tuple[Tensor, Tensor]  # T5's states, "B L_txt context", and CLIP's, "B vec_in"
Callback = Callable[[int, float, Tensor, Tensor], None]  # called with i, t, x, v


@dataclass
class SamplingOptions:
    """What one picture is made from: sizes in pixels, seed from 0 to 2**63 - 1."""

    prompt: str
    width: int
    height: int
    num_steps: int
    guidance: float
    seed: int


def predict_x0(
    x: Float[Tensor, "B ..."],
    v: Float[Tensor, "B ..."],
    t: float,
) -> Float[Tensor, "B ..."]:
    """The picture the model has in mind at noise level t.

    Eq. (6.1):  dx/dt = v_θ(x, t),  v = ε - x_0,  so x̂_0 = x_t - t v

    The noise it has in mind is x_t + (1 - t) v.
    """
    return x - t * v


def euler_step(
    x: Float[Tensor, "B ..."],
    v: Float[Tensor, "B ..."],
    t: float,
    t_next: float,
) -> Float[Tensor, "B ..."]:
    """One step along the velocity, from noise level t to t_next.

    Eq. (6.2):  x_{i+1} = x_i + (t_{i+1} - t_i) v_θ(x_i, t_i)

    t falls, so the factor is negative: v points to the noise and we walk away from it.
    The notes have the sign the other way round.
    """
    return x + (t_next - t) * v


def guide(
    v_uncond: Float[Tensor, "B ..."],
    v_cond: Float[Tensor, "B ..."],
    w: float | Float[Tensor, "..."],
) -> Float[Tensor, "B ..."]:
    """Classifier-free guidance: past the prompted velocity, away from the unprompted.

    Eq. (6.4):  v_w = v_∅ + w (v_c - v_∅)

    w = 1 is the prompted model itself, w = 0 ignores the prompt. Two evaluations a
    step. FLUX.1 dev has learned the result of this, for the number w it is told, and
    needs only one. Ho & Salimans, 2022; Eq. (10.1) is the same formula.
    """
    return v_uncond + w * (v_cond - v_uncond)


def image_to_image_start(
    z: Float[Tensor, "B ..."],
    noise: Float[Tensor, "B ..."],
    timesteps: list[float],
    strength: float,
) -> tuple[Float[Tensor, "B ..."], list[float]]:
    """Where image to image enters the schedule, and the mix it starts from.

    Eq. (6.3):  i = ⌊(1 - ς) N + ½⌋, at most N - 1 while ς > 0;
                x = t_i ε + (1 - t_i) z;  then steps i … N

    z is the encoded start picture, ς the strength in [0, 1]: 1 starts from pure noise
    (text to image), 0 takes no step at all and returns z. Strength counts steps, not
    noise: on a shifted schedule one half already means far more than half noise. The
    reference truncates instead of rounding, and so starts a level too early by float
    error (ς = 0.8, N = 50 gives i = 9, not 10: 41 steps instead of 40).
    """
    assert 0 <= strength <= 1, f"ς = {strength}: must lie in [0, 1]"
    N = len(timesteps) - 1
    i = math.floor((1 - strength) * N + 0.5 + 1e-9)  # (1 - 0.9) * 5 is 0.4999…
    if strength > 0:
        i = min(i, N - 1)
    t = torch.full((z.shape[0],), timesteps[i], device=z.device)
    return interpolate(z, noise, t), timesteps[i:]


def velocity_field(
    model: Flux,
    inputs: dict[str, Tensor],
    guidance: float | Float[Tensor, "B"] = 2.5,
    *,
    img_cond: Float[Tensor, "_ L_img extra"] | None = None,
    img_cond_seq: tuple[Tensor, Tensor] | None = None,
    uncond: Text | None = None,
) -> Velocity:
    """The velocity of all image tokens as a function (x, t) → v, in float32.

    inputs holds img_ids, txt, txt_ids and vec, as `patchify.prepare` makes them. t is
    one noise level, or one for each picture of the batch.

    Guidance, Eq. (6.4), comes in one of two ways. A distilled model (FLUX.1 dev) is
    told w and evaluated once. A model that is not takes `uncond`, the (txt, vec) of the
    empty prompt, and is evaluated with and without the prompt, both in one batch; with
    w = 1 the half without it would cancel and is left out. Without `uncond` such a
    model ignores w.

    img_cond is joined to the channels of every token, Eq. (12.1) and (12.2);
    img_cond_seq, tokens "B L_ref C" and their ids "B L_ref 3", to the sequence,
    Eq. (12.3), and what the model says of them is cut off. One picture serves a batch.
    """
    img_ids, txt_ids = inputs["img_ids"], inputs["txt_ids"]
    txt, vec = inputs["txt"], inputs["vec"]
    if img_cond_seq is not None:
        ref_ids = img_cond_seq[1].expand(len(img_ids), -1, -1)
        img_ids = torch.cat([img_ids, ref_ids], dim=1)
    passes = 1 if uncond is None or guidance == 1 else 2
    if passes == 2:  # first half of the batch without the prompt, second half with it
        txt = torch.cat([uncond[0].expand_as(txt), txt])
        vec = torch.cat([uncond[1].expand_as(vec), vec])
        img_ids, txt_ids = img_ids.repeat(2, 1, 1), txt_ids.repeat(2, 1, 1)
    dtype = model.img_in.weight.dtype
    txt, vec = txt.to(dtype), vec.to(dtype)
    w = torch.zeros(len(vec), device=vec.device) + guidance

    def velocity(x: Float[Tensor, "B L C"], t: float | Float[Tensor, "B"]) -> Tensor:
        img = x
        if img_cond is not None:
            img = torch.cat([img, img_cond.expand(len(x), -1, -1)], dim=-1)
        if img_cond_seq is not None:
            img = torch.cat([img, img_cond_seq[0].expand(len(x), -1, -1)], dim=1)
        img = img.repeat(passes, 1, 1).to(dtype)
        t = (torch.zeros(len(x), device=x.device) + t).repeat(passes)
        v = model(img, img_ids, txt, txt_ids, t, vec, w)[:, : x.shape[1]].float()
        return v if passes == 1 else guide(*v.chunk(2), guidance)

    return velocity


@torch.inference_mode()
def denoise(
    model: Flux,
    img: Float[Tensor, "B L_img C"],
    img_ids: Float[Tensor, "B L_img 3"],
    txt: Float[Tensor, "B L_txt context"],
    txt_ids: Float[Tensor, "B L_txt 3"],
    vec: Float[Tensor, "B vec_in"],
    timesteps: list[float],
    guidance: float = 2.5,
    *,
    img_cond: Float[Tensor, "_ L_img extra"] | None = None,
    img_cond_seq: tuple[Tensor, Tensor] | None = None,
    uncond: Text | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "B L_img C"]:
    """Follow the velocity from timesteps[0] to timesteps[-1] by Euler's steps.

    Eq. (6.2):  x_{i+1} = x_i + (t_{i+1} - t_i) v_θ(x_i, t_i)

    N + 1 timesteps are N steps; callback(i, t, x, v) sees every one. The sum is kept in
    float32: in bfloat16 the first, small steps of a long schedule would change nothing.
    The other arguments are those of `velocity_field`.
    """
    assert len(timesteps) > 0, "timesteps is empty: pass the N + 1 of get_schedule"
    inputs = {"img_ids": img_ids, "txt": txt, "txt_ids": txt_ids, "vec": vec}
    conditions = {"img_cond": img_cond, "img_cond_seq": img_cond_seq, "uncond": uncond}
    velocity = velocity_field(model, inputs, guidance, **conditions)
    x = img.float()
    for i, (t, t_next) in enumerate(pairwise(timesteps)):
        v = velocity(x, t)
        if callback:
            callback(i, t, x, v)
        x = euler_step(x, v, t, t_next)
    return x
