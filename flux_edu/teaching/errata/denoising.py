"""The notes on the denoising step."""

import math
from itertools import pairwise

import torch

from flux_edu.configs import DEV, configs
from flux_edu.embeddings import timestep_embedding
from flux_edu.sampling import euler_step, predict_x0
from flux_edu.schedule import get_schedule, interpolate
from flux_edu.teaching.errata.arguments import small_flux, small_inputs
from flux_edu.teaching.errata.entry import Check, Erratum

PART = "去噪步骤, the denoising step"


def rounded_notes():
    t = torch.tensor([0.987], dtype=torch.bfloat16)  # dtype=img.dtype
    return torch.cos(1000 * t).item()


def rounded_right():
    return timestep_embedding(torch.tensor([0.987]), 256)[0, 0]


def channels_notes():
    return [DEV.in_channels] * 3


def channels_right():
    return [configs[name].params.in_channels for name in ("flux-dev-canny", "flux-dev-depth", "flux-dev-fill")]


X_0, NOISE = torch.tensor([[0.3, -0.7]]), torch.tensor([[1.1, 0.4]])


def sign_notes():
    x, t = NOISE, get_schedule(4, 4096)
    for t_n, t_next in pairwise(t):
        x = x + (t_n - t_next) * (NOISE - X_0)
    return x[0]


def sign_right():
    x, t = NOISE, get_schedule(4, 4096)
    for t_n, t_next in pairwise(t):
        x = euler_step(x, NOISE - X_0, t_n, t_next)
    return x[0]


def points_notes():
    t = torch.linspace(1, 0, 4)  # n = 0 … N - 1, for N steps
    return len(t) - 1


def points_right():
    return len(get_schedule(4, 4096)) - 1


def derivative_notes():
    x, later = (interpolate(X_0, NOISE, torch.tensor([t])) for t in (0.25, 0.75))
    return predict_x0(x, (later - x) / 0.5, 0.25)[0]  # f = dx/dt, taken along the straight path


def derivative_right():
    x = interpolate(X_0, NOISE, torch.tensor([0.25]))
    return predict_x0(x, NOISE - X_0, 0.25)[0]


def condition_notes():
    f = lambda x, t: x / t  # noqa: E731  some function of x and t alone
    x = small_inputs()["img"]
    return bool((f(x, 0.5) != f(x, 0.5)).any())


def condition_right():
    inputs, model = small_inputs(), small_flux()
    texts = inputs["txt"], torch.randn(1, 3, 11)
    img, ids, vec = (inputs["img"], inputs["img_ids"]), inputs["txt_ids"], inputs["vec"]
    a, b = (model(*img, txt, ids, torch.ones(1), vec) for txt in texts)
    return not torch.allclose(a, b, atol=1e-5)


STEP = r"$x_{t_{n-1}  } = x_{t_{n}} + (t_{n} - t_{n-1}) \cdot f_\text{pred}$"
ODE = r"$\frac{\mathrm{d} x}{\mathrm{d} t} = f_\text{pred}(x,t)$"

ENTRIES = [
    Erratum(
        31, PART, "the dtype of t", "`t = torch.full((img.shape[0],), t_curr, dtype=img.dtype, device=img.device)`",
        "missing",
        "In the reference img is bfloat16, with 8 significant bits, so t is rounded before it is multiplied by 1000,"
        " and once more after: 0.987 is embedded as 988, and guidance 3.5 as 3504. The sum of the steps is bfloat16"
        " too. Keep t and the sum in float32.",
        ("4.1", "6.2"), ("04_double_stream", "t is rounded, twice"),
        Check("first cosine of the embedding of t = 0.987", rounded_notes, rounded_right, math.cos(987),
              speaker="the reference"),
        "sampling.py and layers.py of the reference; diffusers rounds in the other order, see diffusers#9405",
    ),
    Erratum(
        30, PART, "img_cond", "`img=torch.cat((img, img_cond), dim=-1) if img_cond is not None else img,`",
        "missing",
        "A second picture as more *channels* of the same tokens: a control image (64 more) for canny and depth, the"
        " masked picture and the mask (64 + 256 more) for fill. Kontext appends *tokens* instead.",
        ("12.1", "12.2", "12.3"), ("12_tools", "Eq. 12.1 · Control: another picture of the same place"),
        Check("channels a token for canny, depth, fill", channels_notes, channels_right, (128, 128, 384),
              speaker="a guess"),
    ),
    Erratum(
        1, PART, "the sign of the step", STEP, "wrong",
        r"$x_{n+1} = x_n + (t_{n+1} - t_n)\,v_\theta(x_n, t_n)$ with $t_0 = 1 > \dots > t_N = 0$. The factor is"
        " **negative**: v points to the noise and we walk away from it. The notes' sign is wrong whichever way n is"
        " counted; their code has it right (its `t_prev` is the *next*, lower level).",
        ("6.2",), ("06_sampling", "The wrong sign"),
        Check("end of four exact steps (the picture)", sign_notes, sign_right, (0.3, -0.7)),
        figure=(
            "The figure walks with the true velocity, so only the sign is at stake. Does it help to take more steps?",
            "explore(plots.step_sign, steps=(1, 20, 1))",
        ),
    ),
    Erratum(
        2, PART, "how many levels", r"where $t_n,n=0,1,\ldots,N-1$  starts from 1 and ends at 0.", "imprecise",
        "The notes do not say what N counts. If N is the number of steps, as in their `num_steps`, there are N + 1"
        " levels, n = 0 … N; their line holds if N counts the levels. Their own `linspace(1, 0, num_steps + 1)` has it"
        " right (No. 34). The network is evaluated at the first N levels and never at 0.",
        ("1.5",), ("01_schedule", "N steps have N + 1 levels"),
        Check("steps of the list, if N = 4 is the number of steps", points_notes, points_right, 4),
    ),
    Erratum(
        33, PART, "which way f points", ODE, "right",
        r"On the path $x_t = (1-t)x_0 + t\varepsilon$ the ODE leaves no choice: $f = dx/dt = \varepsilon - x_0$,"
        r" towards the noise. So the picture in mind is $\hat x_0 = x_t - t\,v$, the noise $\hat\varepsilon ="
        r" x_t + (1-t)\,v$."
        " The notes never name the path; their step (No. 1) has the other sign.",
        ("6.1",), ("06_sampling", "Eq. 6.1 · What the velocity says"),
        Check("the picture, from a state at t = 0.25", derivative_notes, derivative_right, (0.3, -0.7)),
        "the sign of the training target is asked about in x-flux#32",
    ),
    Erratum(
        39, PART, "what f depends on", r"$f_\text{pred}(x,t)$", "missing",
        r"The text is left out: $v_\theta(x, t;\ \text{txt}, \mathbf{y}, w)$. All of it stays fixed along the walk, so"
        " it is one ODE *for each prompt*.",
        ("4.3", "6.1"), ("06_sampling", "Eq. 6.1 · What the velocity says"),
        Check("another text gives another velocity", condition_notes, condition_right, True),
    ),
]  # fmt: skip
