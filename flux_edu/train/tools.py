"""Teach the tiny FLUX a tool: `python -m flux_edu.train.tools fill`, or canny, kontext, redux. Eq. (12.1) to (12.4).

Nothing but the input is new. The loss is that of the flow, Eq. (9.1), with a picture beside the text; what is trained
is a low-rank delta of every layer that a token passes. The blocks' modulations stay: their input, noise level
and pooled text, is what it was. The tiny Redux learns its small network besides; the published one is that
network alone. With --taught it learns from the base, which is told by name what Redux has to see.
"""

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.io import lora
from flux_edu.io.checkpoint import State
from flux_edu.io.device import autocast
from flux_edu.model import Flux
from flux_edu.patchify import patchify
from flux_edu.schedule import interpolate
from flux_edu.tools import Redux, control_cond, fill_cond, hide
from flux_edu.train.autoencoder import encode
from flux_edu.train.data import SIZE, captions, draw_scenes, render
from flux_edu.train.distillation import Distillation, Inputs, arguments, build
from flux_edu.train.edits import (
    BACKGROUND,
    REMOVE,
    STYLE,
    SWAP,
    draw_edits,
    draw_masks,
    draw_variations,
    instructions,
    outlines,
    render_edits,
    scatter,
    wishes,
)
from flux_edu.train.guidance import training_levels
from flux_edu.train.judge_model import Judge, load_classifier
from flux_edu.train.latent_pool import Compose, Pool
from flux_edu.train.objectives import Text, flow_loss, inputs, velocity
from flux_edu.train.trainer import save_report

LEAVE = ("_mod.lin", ".modulation.lin", "time_in")  # what says how noisy a picture is, and how that steers the blocks
# A picture's tokens have 64 numbers: where they come in and where they go out, no fewer dimensions may be left.
RANKS = {"img_in": 128, "final_layer.linear": 64}
# Another style is learned last, and of two things later than of one: both are taught more often than the rest.
EDIT_KINDS, PAIRS = (BACKGROUND, STYLE, STYLE, STYLE, SWAP, REMOVE), 0.9
STATE_WIDTH = 104  # numbers a token of `Judge.encode_image`

# latents, tokens, and the condition, which is what goes in beside the text; of Redux also the tokens of whole captions
Parts = tuple[Tensor, ...]

# ---------------------------------------------------------------- what is painted, and from what


@torch.no_grad()
def compose_canny(pool: Pool, n: int, seed: int, unseen: bool = False) -> Parts:
    """Scenes with their own outlines, drawn with a threshold that differs from picture to picture.

    Half of them stand where no drawing of the base's training stands: outlines shall be followed wherever they are.
    """
    scenes = scatter(draw_scenes(pool.drawings, n, seed, unseen=unseen), seed)
    pictures = render(pool.drawings, scenes)
    edges = outlines(pictures, np.exp(np.random.default_rng(seed).uniform(np.log(100), np.log(400), n)))
    tokens = pool.tokens(captions(pool.drawings, scenes, seed))
    return patchify(encode(pool.ae, pictures)), tokens, control_cond(encode(pool.ae, edges))


@torch.no_grad()
def compose_fill(pool: Pool, n: int, seed: int, unseen: bool = False) -> Parts:
    """Scenes with a hole, and the hole; the text is that of the whole scene."""
    scenes = draw_scenes(pool.drawings, n, seed, unseen=unseen)
    pictures = render(pool.drawings, scenes)
    masks = draw_masks(scenes, seed).to(pictures.device)
    tokens = pool.tokens(captions(pool.drawings, scenes, seed))
    return patchify(encode(pool.ae, pictures)), tokens, fill_cond(encode(pool.ae, hide(pictures, masks)), masks)


@torch.no_grad()
def compose_kontext(pool: Pool, n: int, seed: int, unseen: bool = False) -> Parts:
    """Pictures after an edit with the instruction, and the picture before it as the reference."""
    shares = {} if unseen else {"kinds": EDIT_KINDS, "pairs": PAIRS}
    edits = draw_edits(pool.drawings, n, seed, unseen=unseen, **shares)
    before, after = render_edits(pool.drawings, edits)
    tokens = pool.tokens(instructions(pool.drawings, edits, seed))
    return patchify(encode(pool.ae, after)), tokens, patchify(encode(pool.ae, before))


@cache
def load_judge(device: torch.device) -> Judge:
    return load_classifier(device=device).judge


@torch.no_grad()
def compose_redux(pool: Pool, n: int, seed: int, unseen: bool = False) -> Parts:
    """One thing in the style and on the background asked for, and what the judge sees of another picture of it.

    In training a tenth loses its picture, for two-pass guidance: zeros stand for none.
    """
    variations = draw_variations(pool.drawings, n, seed, unseen=unseen)
    before, after = render_edits(pool.drawings, variations)
    tokens = pool.tokens(wishes(pool.drawings, variations, seed))
    states = load_judge(before.device).encode_image(before)
    if not unseen:
        states[torch.from_numpy(np.random.default_rng((seed, 1)).random(n) < 0.1).to(states.device)] = 0.0
    whole = pool.tokens(captions(pool.drawings, variations.after, seed, complete=True))
    return patchify(encode(pool.ae, after)), tokens, states, whole


# ---------------------------------------------------------------- where the network reads it


def channel_inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, cond: Tensor) -> tuple[Tensor, ...]:
    """Eq. (12.1) and (12.2): a condition with a token for every place joins it channel by channel."""
    x, *others = inputs(x, t, text)
    return torch.cat([x, cond], dim=-1), *others


def sequence_inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, cond: Tensor) -> tuple[Tensor, ...]:
    """Eq. (12.3): a reference picture's tokens stand behind the noisy ones."""
    x, img_ids, *others = inputs(x, t, text)
    ref_ids = img_ids + torch.tensor([1.0, 0.0, 0.0], device=x.device)
    return torch.cat([x, cond], dim=1), torch.cat([img_ids, ref_ids], dim=1), *others


def text_inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, cond: Tensor) -> tuple[Tensor, ...]:
    """Eq. (12.4): what is seen of a picture becomes words."""
    return inputs(x, t, (flux.redux(text[0], cond), text[1]))


class Tool(NamedTuple):
    compose: Compose
    inputs: Inputs


TOOLS = {
    "fill": Tool(compose_fill, channel_inputs),
    "canny": Tool(compose_canny, channel_inputs),
    "kontext": Tool(compose_kontext, sequence_inputs),
    "redux": Tool(compose_redux, text_inputs),
}


def make_student(name: str, base: State, rank: int) -> Flux:
    """The base, wider at its entrance if the tool needs that, with an untrained delta."""
    spec = configs[f"tiny-{name}"]
    student = build(spec, lora.widen_img_in(base, spec.params.in_channels))
    whole = ("redux",) if name == "redux" else ()
    if whole:  # a part of the transformer, so that both are trained and kept as one
        student.redux = Redux(STATE_WIDTH, spec.params.context_in_dim).to(base["img_in.weight"].device)
    return lora.make_trainable(student, rank, train_whole=whole, leave=LEAVE, ranks=RANKS)


def tool_velocity(
    tool: Tool, flux: nn.Module, x: Float[Tensor, "B L C"], t: Tensor, text: Text, cond: Tensor
) -> Float[Tensor, "B L C"]:
    """v_θ(x_t, t, c): one evaluation; of what is said of a reference nothing is kept."""
    return flux(*tool.inputs(flux, x, t, text, cond))[:, : x.shape[1]].float()


def main() -> None:
    parser = arguments(__doc__, out="runs/tools", seconds=200, rank=16)
    parser.add_argument("tool", choices=tuple(TOOLS))
    parser.add_argument("--taught", action="store_true", help="redux learns the base's velocity for whole captions")
    args = parser.parse_args()
    if args.taught and args.tool != "redux":
        parser.error(f"--taught is for redux: no caption says all that {args.tool} is given")
    name, tool = args.tool, TOOLS[args.tool]
    args.out = args.out / name
    stage = Distillation(args, configs[f"tiny-{name}"], {(SIZE, SIZE): 1.0}, tool.compose)
    student = make_student(name, stage.base, args.rank)
    teacher = stage.captured(build(configs["tiny"], stage.base)) if args.taught else None

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.1) with a picture in the condition; a teacher's velocity, if there is one, stands for ε - x_0."""
        _, pool = stage.pools.at(step)
        x_0, tokens, cond, *whole = pool.batch(args.batch)
        t, noise = training_levels(len(x_0), x_0.shape[1], stage.device), torch.randn_like(x_0)
        x_t = interpolate(x_0, noise, t)
        with autocast(stage.device):
            with torch.no_grad():
                v = velocity(teacher, x_t, t, stage.texts(whole[0].long())) if teacher else noise - x_0
            return F.mse_loss(tool_velocity(tool, model, x_t, t, stage.texts(tokens), cond), v)

    @torch.no_grad()
    def held_out(model: nn.Module, step: int) -> float:
        """Eq. (9.1) on held-out combinations, with noise and noise levels that are the same every time."""
        torch.manual_seed(0)
        (x_0, text, cond, *_), v_theta = stage.held_out, partial(tool_velocity, tool, model)
        x_0, text = x_0[:512], tuple(part[:512] for part in text)
        t = training_levels(len(x_0), x_0.shape[1], stage.device)
        return float(flow_loss(v_theta, x_0, torch.randn_like(x_0), t, text, cond[:512]))

    delta, steps = stage.train(student, loss, held_out, inputs=partial(tool.inputs, student), cond=stage.held_out[2])
    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        metadata = stage.metadata(steps)
        flux = stage.save(delta, name, metadata)
        save_report(args.out / f"{name}.json", metadata | {"held_out": held_out(flux, steps)})
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
