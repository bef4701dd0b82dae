"""Exercises and questions of chapter 8, the autoencoder."""

from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from flux_edu.io.images import to_tensor
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import tiny
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 8.1


def to_latent(moments: Tensor, scale: float, shift: float) -> Tensor:
    return scale * (moments.chunk(2, dim=1)[0] - shift)


def draw_latent(moments: Tensor, scale: float, shift: float) -> Tensor:
    mean, log_var = moments.chunk(2, dim=1)
    return scale * (mean + (log_var / 2).exp() * torch.randn_like(mean) - shift)


TO_LATENT = Exercise(
    "8.1",
    to_latent,
    inputs=[(normal(2, 10, 3, 7), 0.3611, 0.1159), (normal(1, 6, 5, 2), 1.7, -0.6)],
    mistakes={
        "you took the second half: those are the log variances, the mean stands first":
            lambda moments, scale, shift: scale * (moments.chunk(2, dim=1)[1] - shift),
        "you scaled before you shifted: the shift is taken off first, scale · (mean − shift)":
            lambda moments, scale, shift: to_latent(moments, scale, 0) - shift,
        "that is decoding, mean / scale + shift; encoding is the other way round":
            lambda moments, scale, shift: to_latent(moments, 1 / scale, 0) + shift,
        "two calls give two latents: nothing is drawn, FLUX takes the mean itself": draw_latent,
    },
    advice="z = scale (mean − shift), with the first half of the channels.",
)  # fmt: skip

# ---------------------------------------------------------------- 8.2


def factors(means: Tensor) -> tuple[float, float]:
    return 1 / means.std().item(), means.mean().item()


def channels_apart(seed: int) -> Tensor:
    """Means whose channels differ, and yet there is one number for all."""
    return 2.5 * normal(7, 4, 5, 6, seed=seed) + torch.tensor([0.8, 3.8, 0.8, -1.0])[:, None, None]


FACTORS = Exercise(
    "8.2",
    factors,
    inputs=[(channels_apart(3),), (0.2 * channels_apart(4) - 1,)],
    mistakes={
        "one scale and one shift for all channels: take mean and standard deviation over everything":
            lambda means: (1 / means.std((0, 2, 3)), means.mean((0, 2, 3))),
        "that scale is the standard deviation itself; the latent is multiplied by it, so it is 1 / std":
            lambda means: (means.std().item(), means.mean().item()),
        "the sign of the shift is the other way: the shift is subtracted in encoding":
            lambda means: (1 / means.std().item(), -means.mean().item()),
        "the two are exchanged: return (scale, shift)": lambda means: factors(means)[::-1],
    },
    advice="With them, scale · (means − shift) must have mean 0 and standard deviation 1.",
    tolerance=2e-3,  # the deviation may divide by n or n - 1
)  # fmt: skip

# ---------------------------------------------------------------- 8.3


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)


HALVE = Exercise(
    "8.3",
    halve,
    inputs=[
        (normal(2, 3, 10, 14), normal(5, 3, 3, 3), normal(5)),
        (normal(1, 2, 6, 4), normal(7, 2, 3, 3), normal(7)),
    ],
    mistakes={
        "you padded all round: that centres every output one pixel further up and left than the weights expect":
            lambda x, weight, bias: F.conv2d(x, weight, bias, stride=2, padding=1),
        "you padded above and to the right: F.pad counts the last axis first, (left, right, above, below)":
            lambda x, weight, bias: F.conv2d(F.pad(x, (0, 1, 1, 0)), weight, bias, stride=2),
        "without padding the last row and column are lost": lambda x, weight, bias: F.conv2d(x, weight, bias, stride=2),
    },
    advice="Pad one row of zeros below and one column right, then stride 2.",
    tolerance=1e-4,
)  # fmt: skip

# ---------------------------------------------------------------- 8.4


def my_group_norm(x: Tensor, groups: int, *, correction: int = 0) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    variance = parts.var(-1, correction=correction, keepdim=True)
    normed = (parts - parts.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt()
    return normed.reshape(x.shape)


def channels_of_their_own(B: int, C: int, h: int, w: int) -> Tensor:
    """Every channel has another level and another deviation."""
    return normal(B, C, h, w) * torch.arange(1, C + 1)[:, None, None] + 2


MY_GROUP_NORM = Exercise(
    "8.4",
    my_group_norm,
    inputs=[(channels_of_their_own(2, 12, 3, 5), 4), (channels_of_their_own(3, 10, 2, 7), 2)],
    mistakes={
        "that is one channel a group (instance norm): every channel has lost its level. A group has C / groups":
            lambda x, groups: my_group_norm(x, x.shape[1]),
        "you took `groups` for the number of channels in a group; it is the number of groups":
            lambda x, groups: my_group_norm(x, x.shape[1] // groups),
        "you divided by the standard deviation with n − 1; a norm divides by n (correction=0)":
            partial(my_group_norm, correction=1),
    },
    advice="Over a group's channels and all places, (x − mean) / √(var + 1e-6).",
    tolerance=1e-4,
)  # fmt: skip

EXERCISES = [TO_LATENT, FACTORS, HALVE, MY_GROUP_NORM]

# ---------------------------------------------------------------- questions


def yellow_disc() -> Tensor:
    """A yellow disc on blue, 128 × 128, in [-1, 1]."""
    picture = Image.new("RGB", (128, 128), (40, 90, 200))
    ImageDraw.Draw(picture).ellipse((24, 24, 104, 104), fill=(250, 210, 60))
    return to_tensor(picture)


def fewer_numbers() -> float:
    x = yellow_disc()
    return x.numel() / tiny().ae.encode(x).numel()


def wrong_range() -> float:
    x, ae = yellow_disc(), tiny().ae
    return float((ae.decode(ae.encode((x + 1) / 2)) - x).abs().mean())


QUESTIONS = [
    Question(
        section="Why not paint pixels?",
        text="A picture of 128 × 128 pixels in three colours becomes a latent. How many times fewer numbers does it"
        " have?",
        choices={
            "3 times": lambda ratio: abs(ratio - 3) < 1,
            "12 times": lambda ratio: abs(ratio - 12) < 2,
            "64 times": lambda ratio: abs(ratio - 64) < 9,
        },
        measure=fewer_numbers,
        result="{:.0f} times fewer.",
        why="64 times fewer places (8 × 8 pixels each), but 16 channels instead of 3.",
    ),
    Question(
        section="[0, 1] is not [−1, 1]",
        text="You give the encoder a picture in [0, 1] instead of [−1, 1], and decode. What do you see?",
        choices={
            "an error": lambda off: off < 0,
            "the same picture": lambda off: 0 <= off < 0.05,
            "a picture with other colours": lambda off: off >= 0.05,
        },
        measure=wrong_range,
        result="The decoded picture is off by {:.2f} on average, where black to white is 2.",
        why="0 is middle gray to the encoder. Everything comes out brighter and with less contrast, and nothing"
        " complains.",
    ),
]
