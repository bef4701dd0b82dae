"""The notes on time scheduling."""

import math

import torch

from flux_edu.attention import join_streams
from flux_edu.configs import configs
from flux_edu.patchify import token_grid
from flux_edu.schedule import get_lin_function, get_schedule, time_shift
from flux_edu.teaching.errata.entry import Check


def timesteps(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def centre_notes():
    t = timesteps(0.2, 0.5, 0.8)
    shifted = t + 0.26  # a curve moved sideways, by as much as its half-point moves at μ = 1.15
    return shifted / (1 - shifted) / (t / (1 - t))


def centre_right():
    t = timesteps(0.2, 0.5, 0.8)
    shifted = time_shift(1.15, 1.0, t)
    return shifted / (1 - shifted) / (t / (1 - t))


def steep_notes():
    return 2.0, 2.0, 2.0  # twice as steep, wherever one looks


def steep_right():
    t = timesteps(0.02, 0.5, 0.98).requires_grad_()
    time_shift(0.0, 2.0, t).sum().backward()
    return t.grad


def end_notes():
    t = timesteps(0.0).requires_grad_()
    shifted = math.exp(1.15) / (math.exp(1.15) + (1 / t - 1) ** 1.0)
    shifted.sum().backward()
    return shifted.item(), t.grad.item()


def end_right():
    t = timesteps(0.0).requires_grad_()
    shifted = time_shift(1.15, 1.0, t)
    shifted.sum().backward()
    return shifted.item(), t.grad.item()


def direction_notes():
    return 1 / (1 + math.exp(-1.15))  # moved to the right


def direction_right():
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    return t[(time_shift(1.15, 1.0, t) - 0.5).abs().argmin()]


def line_notes():
    m = (1.15 - 0.5) / (4096 - 256)
    timesteps = [1 - k * (1 / 4) for k in range(5)]
    return m * 1000 + 0.5 - m * 256, timesteps, [*"txt", *"img"]


def line_right():
    txt, img = (torch.tensor([[[float(ord(letter))] for letter in name]]) for name in ("txt", "img"))
    order = [chr(int(token)) for token in join_streams(txt, img).flatten()]
    return get_lin_function()(1000), get_schedule(4, 1000, shift=False), order


def tokens_notes():
    return get_lin_function()(1024)  # the resolution of 1024 × 1024 pixels


def tokens_right():
    rows, columns = token_grid(1024, 1024)
    return get_lin_function()(rows * columns)


def base_notes():
    return max(0.5, get_lin_function()(64))


def base_right():
    return get_lin_function(y1=0.5)(64)


def maximum_notes():
    return min(1.15, get_lin_function()(128 * 128))


def maximum_right():
    return get_lin_function(y2=1.15)(128 * 128)


def lengths_notes():
    lengths = [1 / 4] * 4  # "时间步长", step lengths: four of them
    return len(lengths), lengths[0], lengths[-1]


def lengths_right():
    levels = get_schedule(4, 4096)
    return len(levels), levels[0], levels[-1]


def schnell_notes():
    return get_schedule(4, 4096)


def schnell_right():
    return get_schedule(4, 4096, shift=configs["flux-schnell"].shift)


CHECKS = [
    Check(
        13,
        "imprecise",
        "odds of t' over odds of t at t = 0.2, 0.5, 0.8 (e^1.15)",
        centre_notes,
        centre_right,
        (3.15819,) * 3,
    ),
    Check(15, "imprecise", "(value, slope) at t = 0 for μ = 1.15", end_notes, end_right, (0.0, 3.15819)),
    Check(12, "wrong", "the t that becomes one half, μ = 1.15", direction_notes, direction_right, 0.240489),
    Check(
        14, "imprecise", "slope for σ = 2 at t = 0.02, 0.5, 0.98", steep_notes, steep_right, (0.042464, 2.0, 0.042464)
    ),
    Check(
        34,
        "right",
        "μ(1000), four unshifted steps, order of six tokens",
        line_notes,
        line_right,
        (0.625937, (1, 0.75, 0.5, 0.25, 0), tuple("txtimg")),
    ),
    Check(16, "imprecise", "μ of 1024 × 1024 pixels", tokens_notes, tokens_right, 1.15),
    Check(37, "imprecise", "μ of 128 × 128 pixels, 64 tokens", base_notes, base_right, 0.4675),
    Check(17, "wrong", "μ of 2048 × 2048 pixels", maximum_notes, maximum_right, 3.23),
    Check(
        46,
        "imprecise",
        "for four steps: how many numbers, the first, the last",
        lengths_notes,
        lengths_right,
        (5, 1.0, 0.0),
    ),
    Check(
        18, "missing", "schnell's four steps", schnell_notes, schnell_right, (1, 0.75, 0.5, 0.25, 0), speaker="a guess"
    ),
]
