"""The notes on time scheduling."""

import math

import torch

from flux_edu.attention import join_streams
from flux_edu.configs import configs
from flux_edu.patchify import token_grid
from flux_edu.schedule import get_lin_function, get_schedule, time_shift
from flux_edu.teaching.errata.entry import Check, Erratum

PART = "time scheduling"


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


LINE = r"$m = \frac{y_2 - y_1}{x_2 - x_1}, \quad b = y_1 - m \cdot x_1$"

ENTRIES = [
    Erratum(
        13, PART, "what μ controls", r"\(\mu\)：控制函数曲线的中心位置。", "imprecise",
        r"Half true: the half-point moves, but the curve is not moved sideways. μ multiplies the odds of every level by"
        r" the same factor, $t'/(1-t') = e^\mu\,(t/(1-t))^\sigma$, and leaves both ends where they are.",
        ("1.3", "1.4"), ("01_schedule", "μ multiplies the odds"),
        Check("odds of t' over odds of t at t = 0.2, 0.5, 0.8 (e^1.15)", centre_notes, centre_right, (3.15819,) * 3),
    ),
    Erratum(
        15, PART, "t = 0", r"取值范围为 \([0, 1]\)", "imprecise",
        r"At t = 0 the formula divides by zero. In PyTorch the value survives ($1/0 = \infty$), the gradient is NaN,"
        r" and a Python number raises. Equal and safe: $t' = e^\mu t^\sigma / (e^\mu t^\sigma + (1-t)^\sigma)$, with"
        r" slope $e^\mu$ at 0 for σ = 1.",
        ("1.3",), ("01_schedule", "The slope at t = 0"),
        Check("(value, slope) at t = 0 for μ = 1.15", end_notes, end_right, (0.0, 3.15819)),
    ),
    Erratum(
        12, PART, "the direction of μ", r"当 \(\mu\) 增大时，函数曲线向右偏移", "wrong",
        r"In the plot of t' over t it moves to the **left**: the half-point is $t^* = 1/(1+e^{\mu/\sigma})$, 0.5,"
        " 0.378 and 0.240 for μ = 0, 0.5 and 1.15, and t' > t for μ > 0. Plotted over the step index, along which t"
        " falls, the same curve does bulge to the upper right; perhaps that was meant. Name the axes.",
        ("1.3", "1.4"), ("01_schedule", "A larger μ moves the curve to the left"),
        Check("the t that becomes one half, μ = 1.15", direction_notes, direction_right, 0.240489),
        figure=(
            "The figure has the same shift twice. In which of the two does a larger μ move the curve to the right?",
            "explore(plots.mu_directions, mu=(-1, 3.5, 0.05), steps=(4, 50, 1))",
        ),
    ),
    Erratum(
        14, PART, "what σ controls", r"当 \(\sigma\) 增大时，函数曲线变得更陡峭", "imprecise",
        r"Steeper near the half-point only, flatter at both ends: $dt'/dt = \sigma\,t'(1-t')/(t(1-t))$. FLUX always has"
        " σ = 1; with μ = 0 that is no change at all.",
        ("1.3", "1.4"), ("01_schedule", "What σ does to the slope"),
        Check("slope for σ = 2 at t = 0.02, 0.5, 0.98", steep_notes, steep_right, (0.042464, 2.0, 0.042464)),
    ),
    Erratum(
        34, PART, "the line, the spacing, two orders", LINE, "right",
        r"The line through two points, the spacing $\Delta = 1/N$ of the unshifted levels, text before image in the"
        " joint attention, and attention before MLP in the residuals are as in the code (the last of them is taken"
        " apart in notebook 04).",
        ("1.2", "1.5", "4.8", "4.11", "4.12"), ("01_schedule", "Eq. 1.2 · μ from the number of tokens"),
        Check("μ(1000), four unshifted steps, order of six tokens", line_notes, line_right,
              (0.625937, (1, 0.75, 0.5, 0.25, 0), tuple("txtimg"))),
    ),
    Erratum(
        16, PART, "what μ depends on",
        r"也就是根据分辨率计算时间步长的调整参数。256 对应的 \(\mu\) 值为 0.5", "imprecise",
        r"It is read off the number of **image tokens**, $L = \lceil H/16 \rceil \lceil W/16 \rceil$: 256 × 256 pixels"
        r" have 256 of them, 1024 × 1024 have 4096. $\mu(L) = 0.456667 + 1.692708 \cdot 10^{-4} L$.",
        ("1.2",), ("01_schedule", "L counts tokens, not pixels"),
        Check("μ of 1024 × 1024 pixels", tokens_notes, tokens_right, 1.15),
    ),
    Erratum(
        37, PART, "base_shift", r"\(\text{base\_shift}\)：时间调整的基础值。", "imprecise",
        "No base that everything else is added to, and no least value: it is μ at 256 tokens. Smaller pictures get"
        " less.",
        ("1.2",), ("01_schedule", "Eq. 1.2 · μ from the number of tokens"),
        Check("μ of 128 × 128 pixels, 64 tokens", base_notes, base_right, 0.4675),
    ),
    Erratum(
        17, PART, "max_shift", r"\(\text{max\_shift}\)：时间调整的最大值。", "wrong",
        "It is μ at 4096 tokens, a point on a line and not a maximum. Nothing is clamped.",
        ("1.2",), ("01_schedule", "`max_shift` is no maximum"),
        Check("μ of 2048 × 2048 pixels", maximum_notes, maximum_right, 3.23),
    ),
    Erratum(
        46, PART, "levels, not lengths", "生成从 1 到 0 的等间隔时间步长。", "imprecise",
        "时间步长 is the *length* of a step. What the list holds are noise **levels** (噪声水平), N + 1 of them for N"
        " steps; the lengths are their N differences, $t_i - t_{i+1}$, and shifted ones are not equal. `num_steps`"
        " counts the lengths, `timesteps` holds the levels.",
        ("1.5",), ("01_schedule", "Eq. 1.5 · The schedule"),
        Check("for four steps: how many numbers, the first, the last", lengths_notes, lengths_right, (5, 1.0, 0.0)),
    ),
    Erratum(
        18, PART, "is there always a shift?", r"\(\text{shift}\)：是否对时间步长进行调整。", "missing",
        "When is it off? For schnell: its levels stay evenly spaced, whatever the size. Only the dev family is"
        " shifted.",
        ("1.5",), ("01_schedule", "schnell has no shift"),
        Check("schnell's four steps", schnell_notes, schnell_right, (1, 0.75, 0.5, 0.25, 0), speaker="a guess"),
    ),
]  # fmt: skip
