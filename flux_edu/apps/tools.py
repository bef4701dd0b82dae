"""Chapter 12, the tools ready to paint: fill a hole, follow outlines, edit by instruction, vary a picture.

The generator of `pipeline` with a method a tool. Each method checks what it is given and makes of it what goes in
beside the text, Eq. (12.1) to (12.4); the walk from noise to picture is the same.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from flux_edu.configs import configs
from flux_edu.io.advice import advise
from flux_edu.io.images import (
    WIDE_MODES,
    check_metadata,
    check_picture,
    picture_hash,
    to_picture,
    to_rgb,
    to_tensor,
    upright,
)
from flux_edu.io.options import check_number, checked_picture
from flux_edu.patchify import PIXELS_PER_TOKEN
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import Callback, SamplingOptions
from flux_edu.tools import canny, control_cond, fill_cond, hide, kontext_size, reference_tokens
from flux_edu.train.edits import resolve_pronoun
from flux_edu.train.judge_model import ZeroShotClassifier, load_classifier

# method → the models that can do it
TOOLS = {
    "fill": ("tiny-fill", "flux-dev-fill"),
    "control": ("tiny-canny", "flux-dev-canny", "flux-dev-depth", "flux-dev-canny-lora", "flux-dev-depth-lora"),
    "edit": ("tiny-kontext", "flux-dev-kontext"),
    "redux": ("tiny-redux",),
}
# method → its pictures, as `repaint` takes them
PICTURES = {"fill": ("picture", "mask"), "control": ("edges",), "edit": ("picture",), "redux": ("picture",)}
TINY_SIZE = 128, 128  # the tiny ones have learned no other
# words of `train.edits` that the tiny Kontext and Redux have read besides those of prompts
EDIT_WORDS = "and bottom in into it left make off remove right style swap the top turn 把背景变成风格左右上下互换去掉"
NO_SIGLIP = (
    "the published Redux sees with SigLIP (so400m-patch14-384), which this package does not read; its own file is only"
    " the adapter beside dev that tools.Redux loads. Complete is the tiny one: ToolGenerator('tiny-redux')"
)


class ToolGenerator(FluxGenerator):
    """A FLUX.1 tool with its encoders and autoencoder, ready to paint.

    name says which: "tiny-fill", "tiny-canny", "tiny-kontext" and "tiny-redux" ship with this package, LoRAs of "tiny"
    that `flux_edu.train.tools` has trained; "flux-dev-fill", "-canny", "-depth" and "-kontext" are read from your own
    files as `FluxGenerator` does. Steps and guidance left out are those of the model, a seed left out is drawn. `info`
    tells pictures by their hashes, `repaint` paints again.
    """

    def __init__(self, name: str = "tiny-fill", device: str | torch.device | None = None):
        if name == "flux-dev-redux":
            raise ValueError(NO_SIGLIP)
        super().__init__(name, device)
        if self.vocabulary and name in TOOLS["edit"] + TOOLS["redux"]:
            self.vocabulary = self.vocabulary + EDIT_WORDS.split()

    @torch.inference_mode()
    def fill(
        self,
        picture: Image.Image,
        mask: Image.Image,
        prompt: str,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """Paint anew what is white in the mask, as the prompt says, and keep what is black.  Eq. (12.2)

        The prompt tells of the whole picture. Both pictures have one size, its sides multiples of 16. What is kept has
        been through the autoencoder; `Image.composite(painted, picture, mask)` puts back its very pixels.
        """
        self.check_tool("fill")
        size = size_of_whole_tokens("picture", picture)
        options = self.tool_options(prompt, size, num_steps, guidance, seed)
        x = to_tensor(checked_picture("picture", picture)).to(self.device)
        m = mask_numbers(mask, size).to(self.device)
        img_cond = fill_cond(self.encode(hide(x, m)), m)
        metadata = tool_metadata("fill", picture=picture, mask=read_mask(mask))
        return self.paint(options, img_cond=img_cond, metadata=metadata, callback=callback)

    @torch.inference_mode()
    def control(
        self,
        edges: Image.Image,
        prompt: str,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """Paint what the prompt says along these edges: white outlines on black, as `outline` makes them.  Eq. (12.1)

        A Depth model takes distances instead, near ones light. What is painted is as large; sides are multiples of 16.
        """
        self.check_tool("control")
        options = self.tool_options(prompt, size_of_whole_tokens("edges", edges), num_steps, guidance, seed)
        x = to_tensor(checked_picture("edges", edges))
        if "canny" in self.name:
            advise_outlines(x)
        img_cond = control_cond(self.encode(x))
        metadata = tool_metadata("control", edges=edges)
        return self.paint(options, img_cond=img_cond, metadata=metadata, callback=callback)

    @torch.inference_mode()
    def edit(
        self,
        picture: Image.Image,
        instruction: str,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """Paint the picture changed as the instruction says: "make the background blue".  Eq. (12.3)

        It is resized first, with advice: to 128 × 128 for the tiny Kontext, else to one of `KONTEXT_SIZES`. For "it"
        the tiny one takes names from the judge, see `info`. What stays is painted too; see `train.edits.edit_mask`.
        """
        self.check_tool("edit")
        rgb = checked_picture("picture", picture)
        tiny = self.spec.repo_id is None
        size = TINY_SIZE if tiny else kontext_size(*rgb.size)
        options = self.tool_options(instruction, size, num_steps, guidance, seed)
        x = resized(rgb, size, f"{self.name} edits it at")
        if tiny and resolve_pronoun(instruction, []) != instruction:
            options.prompt = resolve_pronoun(instruction, load_judge(self.device).things(x.to(self.device))[0])
        img_cond_seq = reference_tokens(self.encode(x))
        metadata = tool_metadata("edit", picture=picture)
        return self.paint(options, img_cond_seq=img_cond_seq, metadata=metadata, callback=callback)

    @torch.inference_mode()
    def redux(
        self,
        picture: Image.Image,
        prompt: str = "",
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """Paint another picture of what is seen in this one: "in 3d style on a blue background".  Eq. (12.4)

        The tiny Redux sees with the eye of the judge, `Judge.encode_image`, and paints 128 × 128 pixels.
        """
        self.check_tool("redux")
        rgb = checked_picture("picture", picture)
        options = self.tool_options(prompt, TINY_SIZE, num_steps, guidance, seed)
        x = resized(rgb, TINY_SIZE, "the eye sees it at").to(self.device)
        states = load_judge(self.device).judge.encode_image(x)
        metadata = tool_metadata("redux", picture=picture)
        return self.paint(options, image_states=states, metadata=metadata, callback=callback)

    def repaint(
        self,
        metadata: dict,
        init_image: Image.Image | None = None,
        picture: Image.Image | None = None,
        mask: Image.Image | None = None,
        edges: Image.Image | None = None,
    ) -> Image.Image:
        """As `FluxGenerator.repaint`; a tool's picture needs the same pictures again, known by their hashes."""
        check_metadata(metadata)
        if (tool := metadata.get("tool")) is None:
            return super().repaint(metadata, init_image)
        self.check_painter(metadata)
        if tool not in list(PICTURES):
            raise ValueError(f"the picture was painted by {tool!r}, which is none of {', '.join(PICTURES)}")
        passed = {"picture": picture, "mask": mask, "edges": edges}
        if tool == "fill" and mask is not None:
            passed["mask"] = read_mask(mask)
        for name in PICTURES[tool]:
            if passed[name] is None or picture_hash(passed[name]) != metadata.get(f"{name}_sha256"):
                raise ValueError(
                    f"the picture was painted by {tool} from {' and '.join(PICTURES[tool])}: pass the same ones again;"
                    f" {name} is {'missing' if passed[name] is None else 'another one (its hash differs)'}"
                )
        options = {key: metadata[key] for key in ("num_steps", "guidance", "seed")}
        return getattr(self, tool)(*(passed[name] for name in PICTURES[tool]), metadata["prompt"], **options)

    def check_tool(self, tool: str) -> None:
        """That this model has learned it: tokens of a wrong width would fail, but dev given a reference just paints."""
        if self.name in TOOLS[tool]:
            return
        if tool == "redux" and self.spec.repo_id:
            raise ValueError(NO_SIGLIP)
        expected, channels = configs[TOOLS[tool][0]].params.in_channels, self.spec.params.in_channels
        why = (
            f"its tokens have {channels} channels, not {expected}" if channels != expected else "it has not learned to"
        )
        makers = " or ".join(f"ToolGenerator({name!r})" for name in TOOLS[tool])
        raise ValueError(f"{self.name} cannot do {tool}: {why}. Make {makers}")

    def tool_options(
        self, prompt: str, size: tuple[int, int], steps: int | None, guidance: float | None, seed: int | None
    ) -> SamplingOptions:
        """As `options`, with the model's own numbers where none were asked for."""
        steps = self.spec.num_steps if steps is None else steps
        guidance = self.spec.guidance if guidance is None else guidance
        return self.options(prompt, *size, steps, guidance, seed)


def outline(picture: Image.Image, low: float = 50, high: float = 200) -> Image.Image:
    """The edges of any picture, white on black, for `control`; low and high are the thresholds of `tools.canny`."""
    picture = checked_picture("picture", picture)
    for name, threshold in (("low", low), ("high", high)):
        check_number(name, threshold, 0, 10_000, "50 and 200 are usual")
    if low > high:
        raise ValueError(f"thresholds {low:g} and {high:g}: the lower one comes first")
    return to_picture(canny(to_tensor(picture)[0], low, high))


@cache
def load_judge(device: torch.device) -> ZeroShotClassifier:
    """The judge of chapter 9: the tiny Redux was trained on its network's features, and it knows all things by name."""
    return load_classifier(device=device)


def tool_metadata(tool: str, **pictures: Image.Image) -> dict:
    """For the metadata: the tool, and size and hash of each picture."""
    metadata: dict = {"tool": tool}
    for name, picture in pictures.items():
        metadata |= {f"{name}_size": list(upright(picture).size), f"{name}_sha256": picture_hash(picture)}
    return metadata


# ---------------------------------------------------------------- pictures and masks


def size_of_whole_tokens(name: str, picture: object) -> tuple[int, int]:
    """The size of a picture that is painted at its own: whole tokens, or an error."""
    check_picture(name, picture)
    w, h = upright(picture).size
    if w % PIXELS_PER_TOKEN or h % PIXELS_PER_TOKEN:
        near = " × ".join(str(max(1, round(side / PIXELS_PER_TOKEN)) * PIXELS_PER_TOKEN) for side in (w, h))
        raise ValueError(f"{name} has {w} × {h} pixels; sides must be multiples of 16: resize it, e.g. to {near}")
    return w, h


def resized(picture: Image.Image, size: tuple[int, int], why: str) -> Float[Tensor, "1 3 H W"]:
    """The numbers of a picture brought to a size, with advice if that changes it."""
    if picture.size != size:
        advise(f"the picture has {picture.width} × {picture.height} pixels; {why} {size[0]} × {size[1]}")
    return to_tensor(picture.resize(size, Image.Resampling.LANCZOS))


def mask_numbers(mask: object, size: tuple[int, int]) -> Float[Tensor, "1 1 H W"]:
    """1 where `read_mask` finds white, 0 elsewhere; a mask of another size than the picture is an error."""
    check_picture("mask", mask)
    width, height = upright(mask).size
    if (width, height) != size:
        raise ValueError(
            f"the mask has {width} × {height} pixels, the picture {size[0]} × {size[1]}: resize one of them"
        )
    return (to_tensor(read_mask(mask))[:, :1] + 1) / 2


def read_mask(mask: object) -> Image.Image:
    """A mask of any mode as 8 bits: 255 where it is white, 0 where it is black or transparent.

    1 is white as well in a mask of 0 and 1. Other values and an empty mask are errors.
    """
    check_picture("mask", mask)
    grey = np.array(to_rgb(mask, ground="black").convert("L"))
    used = np.unique(grey).tolist()
    strokes = "np.array(mask.convert('RGBA'))[..., 3]" if mask.has_transparency_data else ""
    if used == [0]:
        hint = f"; if its strokes are what is opaque, pass Image.fromarray({strokes} > 127)" * bool(strokes)
        raise ValueError(
            "the mask is empty: all of it is black or transparent, so nothing would be painted; mark a part with"
            f" white{hint}"
        )
    if set(used) <= {0, 1}:
        return Image.fromarray(255 * grey)
    if other := [value for value in used if value not in (0, 255)]:
        numbers = strokes or ("np.array(mask)" if mask.mode in WIDE_MODES else "np.array(mask.convert('L'))")
        middle = np.asarray(mask.convert("F")).max() / 2 if mask.mode in WIDE_MODES else used[-1] // 2
        raise ValueError(
            f"the mask holds {', '.join(map(str, other[:4]))}{' …' if len(other) > 4 else ''}: 255, white, is painted,"
            f" 0, black, is kept. Image.fromarray({numbers} > {middle:g}) decides for each pixel"
        )
    return Image.fromarray(grey)


def advise_outlines(x: Float[Tensor, "1 3 H W"]) -> None:
    """Advice where a picture cannot be white lines on black."""
    if x.mean() > 0:
        advise("the edges are mostly light; a Canny model knows white lines on black: PIL.ImageOps.invert turns them")
    elif (x.abs() < 0.75).float().mean() > 0.1:
        advise(
            "the edges hold many greys, as a picture does and no outline; apps.tools.outline(picture) finds its edges"
        )
