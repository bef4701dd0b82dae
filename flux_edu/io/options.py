"""What a user may ask for: every number and picture is checked here, once, before anything large is made of it."""

import secrets
from numbers import Integral, Real

import torch
from PIL import Image

from flux_edu.configs import ModelSpec
from flux_edu.io.advice import advise
from flux_edu.io.device import total_memory
from flux_edu.io.images import check_picture, to_rgb, white_of
from flux_edu.patchify import PIXELS_PER_TOKEN
from flux_edu.sampling import SamplingOptions

MOST_STEPS = 10_000  # more of them change nothing that 8 bits a colour would show
MOST_GUIDANCE = 100  # the published models take 2.5 to 30; at 1e30 the numbers overflow and the picture is black


def sampling_options(
    spec: ModelSpec,
    prompt: str,
    width: int,
    height: int,
    num_steps: int,
    guidance: float,
    seed: int | None,
) -> SamplingOptions:
    """The options as plain numbers of Python, sides rounded to whole tokens, a seed drawn where it is None."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt is a {type(prompt).__name__}; pass one text, each call paints one picture")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError("prompt holds bytes that are no text; save it as UTF-8 and read it so") from None
    width, height = round_size(width, height)
    check_number("num_steps", num_steps, 1, MOST_STEPS, f"{spec.num_steps} is usual", whole=True)
    check_number("guidance", guidance, -MOST_GUIDANCE, MOST_GUIDANCE, f"{spec.guidance} is usual")
    if seed is None:
        seed = secrets.randbelow(2**31)
    check_number("seed", seed, 0, 2**63 - 1, "None has one drawn", whole=True)
    return SamplingOptions(prompt, width, height, int(num_steps), float(guidance), int(seed))


def check_number(name: str, value: Real, low: float, high: float, hint: str, whole: bool = False) -> None:
    """A TypeError for text, True and the like, a ValueError for a number that is not between low and high."""
    expected = f"choose a {'whole ' * whole}number from {low} to {high}; {hint}"
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise TypeError(f"{name} = {value!r:.60} is a {type(value).__name__}: {expected}")
    if not low <= value <= high:  # NaN is not either
        raise ValueError(f"{name} = {value}: {expected}")


def round_size(width: int, height: int) -> tuple[int, int]:
    """Both sides rounded down to multiples of 16, the pixels of a token; says so if that changes them."""
    for name, side in (("width", width), ("height", height)):
        if isinstance(side, bool) or not isinstance(side, Integral):
            raise TypeError(f"{name} = {side!r:.60} is a {type(side).__name__}: choose a whole number of pixels")
    if min(width, height) < PIXELS_PER_TOKEN:
        raise ValueError(f"{width} × {height} pixels: both sides must be at least 16, the size of one token")
    rounded = [int(side) // PIXELS_PER_TOKEN * PIXELS_PER_TOKEN for side in (width, height)]
    if rounded != [width, height]:
        advise(f"sizes are multiples of 16: painting {rounded[0]} × {rounded[1]} instead of {width} × {height}")
    return rounded[0], rounded[1]


def check_room(spec: ModelSpec, width: int, height: int, device: torch.device) -> None:
    """A ValueError where not even two of the decoder's layers of full size, the least it holds, fit into memory."""
    least, there = 2 * 4 * spec.ae_params.ch * width * height, total_memory(device)
    if least > there:
        raise ValueError(
            f"{width} × {height} pixels: decoding them takes {least / 2**30:,.0f} GiB at the least, and {device} has"
            f" {there / 2**30:,.0f}; choose a smaller size"
        )


def check_text_is_enough(name: str, spec: ModelSpec) -> None:
    """A ValueError for a model that reads a picture in the channels of its tokens."""
    if spec.params.in_channels != spec.params.out_channels:
        raise ValueError(
            f"{name} needs a control picture or a mask beside the prompt; pass what tools.control_cond or"
            " tools.fill_cond makes of it to sampling.denoise as img_cond, or let"
            f" apps.tools.ToolGenerator({name!r}) do it"
        )


def checked_picture(name: str, picture: object) -> Image.Image:
    """The picture as it is read, 8-bit RGB, with advice where another reading is possible."""
    check_picture(name, picture)
    rgb = to_rgb(picture)
    if picture.mode in ("I", "F"):
        advise(f"{name} holds numbers of 32 bits: 0 is read as black, {white_of(picture)} as white")
    if picture.has_transparency_data and rgb.tobytes() != to_rgb(picture, "black").tobytes():
        advise(f"{name} is transparent in places, which are read as white; paste it onto another ground to have that")
    return rgb


def advise_shape(name: str, picture: Image.Image, width: int, height: int) -> None:
    """Advice where a picture is squeezed by more than 5 % on its way to another size."""
    across, down = picture.width * height, picture.height * width
    if max(across, down) > 1.05 * min(across, down):
        advise(
            f"{name} has {picture.width} × {picture.height} pixels and is squeezed to {width} × {height};"
            f" PIL.ImageOps.fit(picture, ({width}, {height})) cuts off what is too long"
        )
