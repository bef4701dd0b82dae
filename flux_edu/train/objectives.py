"""What every training minimises: Eq. (9.1) to (11.2). Needs PyTorch and the chapters alone."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.sampling import guide
from flux_edu.schedule import get_lin_function, interpolate

Text = tuple[Tensor, Tensor]  # T5's states, "B L_txt C", and CLIP's vector, "B C"
Velocity = Callable[..., Tensor]  # of x, t and what else the velocity depends on

# ---------------------------------------------------------------- the velocity of a network


def inputs(
    x: Float[Tensor, "B L C"],
    t: Float[Tensor, "B"],
    text: Text,
    w: Float[Tensor, "B"] | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[Tensor, ...]:
    """What the transformer takes for pictures of these rows and columns of tokens; without a grid for square ones."""
    rows, columns = grid or (math.isqrt(x.shape[1]),) * 2
    img_ids = make_img_ids(1, rows, columns).to(x.device).expand(len(x), -1, -1)
    txt_ids = make_txt_ids(1, text[0].shape[1]).to(x.device).expand(len(x), -1, -1)
    return x, img_ids, text[0], txt_ids, t, text[1], *(() if w is None else (w,))


def velocity(
    flux: nn.Module,
    x: Float[Tensor, "B L C"],
    t: Float[Tensor, "B"],
    text: Text,
    w: Float[Tensor, "B"] | None = None,
    grid: tuple[int, int] | None = None,
) -> Float[Tensor, "B L C"]:
    """v_θ(x_t, t, c, w): one evaluation of the transformer."""
    return flux(*inputs(x, t, text, w, grid)).float()


# ---------------------------------------------------------------- Eq. (9): rectified flow


def flow_loss(
    v_theta: Velocity,
    x_0: Float[Tensor, "B ..."],
    noise: Float[Tensor, "B ..."],
    t: Float[Tensor, "B"],
    *condition,
) -> Float[Tensor, ""]:
    """Rectified flow: at a random point of the straight path, guess its direction.

    Eq. (9.1):  L = E ‖v_θ(x_t, t, c) - (ε - x_0)‖²,  x_t = (1 - t) x_0 + t ε

    A mean over all numbers. v_θ is called with x_t, t and the condition c. Liu et al., 2022; Esser et al., 2024.
    """
    x_t = interpolate(x_0, noise, t)
    return F.mse_loss(v_theta(x_t, t, *condition).float(), noise - x_0)


def logit_normal(mean: float, deviation: float, n: int, device: torch.device | str = "cpu") -> Float[Tensor, "n"]:
    """Noise levels to train on, most of them in the middle, where guessing is hardest.

    Eq. (9.2):  logit t ~ N(a, c²),  that is t = 1 / (1 + e^-(a + c n)) with n ~ N(0, 1)
    """
    return torch.sigmoid(mean + deviation * torch.randn(n, device=device))


def shift_logit_normal(mean: float, deviation: float, mu: float, sigma: float = 1.0) -> tuple[float, float]:
    """What the schedule's shift, Eq. (1.3), makes of logit-normal noise levels: logit-normal ones again.

    Eq. (9.3):  (a, c) ↦ (μ + σ a, σ c)

    So training on shifted levels and shifting the levels of training are one thing.
    """
    return mu + sigma * mean, sigma * deviation


def levels_of(length: int) -> tuple[float, float]:
    """Mean and deviation to train on with L image tokens: sampling shifts its levels by μ(L), so training does."""
    return shift_logit_normal(0.0, 1.0, get_lin_function()(length))


def contrastive_loss(
    image: Float[Tensor, "B C"], text: Float[Tensor, "B C"], label: Int[Tensor, "B"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Each crop shall find its text among all texts of the batch, and each text its crop.

    Eq. (9.4):  L = -1/2B Σ_i 1/|P_i| Σ_{j ∈ P_i} [ log softmax_j(s ⟨u_i, v_j⟩) + log softmax_j(s ⟨u_j, v_i⟩) ]

    u are the crops' unit vectors, v the texts', P_i all places in the batch with the text of i, itself among them: with
    the plain loss two foxes in one batch would push each other's names away. Radford et al., "CLIP", 2021.
    """
    same = (label[:, None] == label).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


# ---------------------------------------------------------------- Eq. (10): guidance in one pass


@torch.no_grad()
def guided_velocity(
    v_theta: Velocity,
    x: Float[Tensor, "B L C"],
    t: Float[Tensor, "B"],
    text: Text,
    empty: Text,
    w: Float[Tensor, "B"],
) -> Float[Tensor, "B L C"]:
    """What the student is to learn: the teacher's two passes, in one batch, and the step past the prompted one.

    Eq. (10.1):  v_w(x_t, t, c) = v_∅ + w (v_c - v_∅),  v_c = v_θ(x_t, t, c),  v_∅ = v_θ(x_t, t, ∅)

    One w a picture. The formula is that of Eq. (6.4). For the empty caption v_c is v_∅, so w changes nothing there.
    """
    both = tuple(torch.cat([e.expand_as(c), c]) for e, c in zip(empty, text, strict=True))
    v_uncond, v_cond = v_theta(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return guide(v_uncond, v_cond, w[:, None, None])


def guidance_loss(v: Float[Tensor, "B L C"], v_w: Float[Tensor, "B L C"]) -> Float[Tensor, ""]:
    """How far the one pass is from the two, in parts of their velocity.

    Eq. (10.2):  min_φ E ‖v_φ(x_t, t, c, w) - v_w(x_t, t, c)‖² / ‖v_w(x_t, t, c)‖²

    The expectation is over pictures, captions, noise, t and w. Meng et al. weigh by t; here each sample counts in
    parts of its own length: guidance makes velocities longer, most of all near t = 1, and these samples would otherwise
    weigh most. The root of the loss is the relative error.
    """
    return ((v - v_w).square().mean(dim=(1, 2)) / v_w.square().mean(dim=(1, 2))).mean()


# ---------------------------------------------------------------- Eq. (11): few steps


def euler_rollout(
    v: Velocity, x: Float[Tensor, "B L C"], t: Float[Tensor, "B"], t_next: Float[Tensor, "B"], steps: int
) -> Float[Tensor, "B L C"]:
    """x_{k+1} of Eq. (11.1): where so many equal Euler steps, Eq. (6.2), lead from t to t_next, own ones a picture."""
    h = (t_next - t) / steps
    for j in range(steps):
        x = x + h[:, None, None] * v(x, t + j * h)
    return x


def mean_velocity(
    x: Float[Tensor, "B L C"], x_next: Float[Tensor, "B L C"], t: Float[Tensor, "B"], t_next: Float[Tensor, "B"]
) -> Float[Tensor, "B L C"]:
    """The one velocity that leads from x to x_next in a single step.

    Eq. (11.1):  u_k = (x_{k+1} - x_k) / (t_{k+1} - t_k),  x_{k+1} from x_k by m Euler steps along v_w

    It is the mean of the m velocities met on the way. k counts the student's steps, t_k = 1, ¾, ½, ¼, 0.
    """
    return (x_next - x) / (t_next - t)[:, None, None]


def segment_loss(v: Float[Tensor, "B L C"], u: Float[Tensor, "B L C"]) -> Float[Tensor, ""]:
    """How far the student's velocity at the beginning of a segment is from the mean velocity over it.

    Eq. (11.2):  min_φ E ‖v_φ(x_k, t_k, c) - u_k‖²,  x_0 = ε,  x_{k+1} = x_k + (t_{k+1} - t_k) v_φ(x_k, t_k, c)

    A mean over all numbers. The x_k are the student's own, taken as they are: no gradient flows through them.
    """
    return F.mse_loss(v, u)
