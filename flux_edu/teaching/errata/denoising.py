"""The notes on the denoising step."""

import math
from itertools import pairwise

import torch

from flux_edu.configs import DEV, configs
from flux_edu.embeddings import timestep_embedding
from flux_edu.sampling import euler_step, predict_x0
from flux_edu.schedule import get_schedule, interpolate
from flux_edu.teaching.errata.arguments import small_flux, small_inputs
from flux_edu.teaching.errata.entry import Check


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
    f = lambda x, t: x / t  # some function of x and t alone  # noqa: E731
    x = small_inputs()["img"]
    return bool((f(x, 0.5) != f(x, 0.5)).any())


def condition_right():
    inputs, model = small_inputs(), small_flux()
    texts = inputs["txt"], torch.randn(1, 3, 11)
    img, ids, vec = (inputs["img"], inputs["img_ids"]), inputs["txt_ids"], inputs["vec"]
    a, b = (model(*img, txt, ids, torch.ones(1), vec) for txt in texts)
    return not torch.allclose(a, b, atol=1e-5)


CHECKS = [
    Check(
        31,
        "missing",
        "first cosine of the embedding of t = 0.987",
        rounded_notes,
        rounded_right,
        math.cos(987),
        speaker="the reference",
    ),
    Check(
        30,
        "missing",
        "channels a token for canny, depth, fill",
        channels_notes,
        channels_right,
        (128, 128, 384),
        speaker="a guess",
    ),
    Check(1, "wrong", "end of four exact steps (the picture)", sign_notes, sign_right, (0.3, -0.7)),
    Check(2, "imprecise", "steps of the list, if N = 4 is the number of steps", points_notes, points_right, 4),
    Check(33, "right", "the picture, from a state at t = 0.25", derivative_notes, derivative_right, (0.3, -0.7)),
    Check(39, "missing", "another text gives another velocity", condition_notes, condition_right, True),
]
