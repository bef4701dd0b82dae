"""Teach the tiny FLUX a tool: `python -m flux_edu.train.tools fill`, or canny, kontext, redux. Eq. (12.1) to (12.4).

Nothing but the input is new. The loss is that of the flow, Eq. (9.1), with a picture beside the text; what is trained
is a low-rank delta of every layer that a token passes. The blocks' modulations stay: what they are told, noise
level and pooled text, is what it was. The tiny Redux learns its small network besides; the published one is that
network alone.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.io import lora
from flux_edu.io.checkpoint import State, read
from flux_edu.model import Flux
from flux_edu.patchify import patchify
from flux_edu.tools import Redux, control_cond, fill_cond, hide, make_ref_ids
from flux_edu.train import distillation
from flux_edu.train.data import captions, draw_scenes, paint
from flux_edu.train.distillation import Stage, build, half
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
    paint_edits,
    scatter,
    wishes,
)
from flux_edu.train.evaluate_tools import measure
from flux_edu.train.guidance import training_levels
from flux_edu.train.judge_model import load_classifier
from flux_edu.train.latent_pool import Pool
from flux_edu.train.objectives import Text, flow_loss

LEAVE = ("_mod.lin", ".modulation.lin", "time_in")  # what says how noisy a picture is, and how that steers the blocks
# A picture's tokens have 64 numbers: where they come in and where they go out, no fewer dimensions may be left.
RANKS = {"img_in": 128, "final_layer.linear": 64}
# Another style is learned last, and of two things later than of one: both are taught more often than the rest.
TAUGHT, PAIRS = (BACKGROUND, STYLE, STYLE, STYLE, SWAP, REMOVE), 0.9
EYE = 104  # numbers a token of `Judge.encode_image`

# ---------------------------------------------------------------- what is seen beside the noise


class ToolPool(Pool):
    """Latents with texts, and with what the tool is given of another picture.

    `shape` is that of the third part, a row. `inputs` puts it where the network reads it.
    """

    shape: tuple[int, ...]

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.given = torch.empty(self.size, *self.shape, dtype=torch.bfloat16, device=self.x.device)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.x, self.tokens, self.given

    @staticmethod
    def inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, given: Tensor) -> tuple[Tensor, ...]:
        """What the transformer takes."""
        raise NotImplementedError


class ChannelPool(ToolPool):
    """What is given has a token for every place, and joins it channel by channel."""

    @staticmethod
    def inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, given: Tensor) -> tuple[Tensor, ...]:
        """Eq. (12.1) and (12.2)."""
        x, *others = distillation.inputs(x, t, text)
        return torch.cat([x, given], dim=-1), *others


class CannyPool(ChannelPool):
    """Scenes with their own outlines, drawn with a threshold that differs from picture to picture.

    Half of them stand where no drawing of the base's training stands: outlines shall be followed wherever they are.
    """

    shape = (64, 64)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        scenes = scatter(draw_scenes(self.drawings, n, seed, unseen=unseen), seed)
        pictures = paint(self.drawings, scenes)
        edges = outlines(pictures, np.exp(np.random.default_rng(seed).uniform(np.log(100), np.log(400), n)))
        texts = self.encode_text(captions(self.drawings, scenes, seed))
        return patchify(self.encode(pictures)), texts, control_cond(self.encode(edges))


class FillPool(ChannelPool):
    """Scenes with a hole, and the hole; the text is that of the whole scene."""

    shape = (64, 64 + 256)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        scenes = draw_scenes(self.drawings, n, seed, unseen=unseen)
        pictures, masks = paint(self.drawings, scenes), draw_masks(scenes, seed).to(self.x.device)
        given = fill_cond(self.encode(hide(pictures, masks)), masks)
        return patchify(self.encode(pictures)), self.encode_text(captions(self.drawings, scenes, seed)), given


class KontextPool(ToolPool):
    """Pictures after an edit with the instruction, and the picture before it as the reference."""

    shape = (64, 64)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        shares = {} if unseen else {"kinds": TAUGHT, "pairs": PAIRS}
        edits = draw_edits(self.drawings, n, seed, unseen=unseen, **shares)
        before, after = paint_edits(self.drawings, edits)
        texts = self.encode_text(instructions(self.drawings, edits, seed))
        return patchify(self.encode(after)), texts, patchify(self.encode(before))

    @staticmethod
    def inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, given: Tensor) -> tuple[Tensor, ...]:
        """Eq. (12.3)."""
        x, ids, *others = distillation.inputs(x, t, text)
        side = int(given.shape[1] ** 0.5)
        apart = make_ref_ids(len(x), side, side).to(x.device)
        return torch.cat([x, given], dim=1), torch.cat([ids, apart], dim=1), *others


class ReduxPool(ToolPool):
    """One thing in the style and on the background asked for, and what the eye sees of another picture of it."""

    shape = (16, EYE)

    def __init__(self, drawings, *args, **how):
        self.judge = load_classifier(device=drawings.pixels.device).judge
        super().__init__(drawings, *args, **how)

    @torch.no_grad()
    def compose(self, n: int, seed: int, unseen: bool = False) -> tuple[Tensor, ...]:
        variations = draw_variations(self.drawings, n, seed, unseen=unseen)
        before, after = paint_edits(self.drawings, variations)
        texts = self.encode_text(wishes(self.drawings, variations, seed))
        return patchify(self.encode(after)), texts, self.judge.encode_image(before)

    def batch(self, n: int, empty: float = 0.1) -> tuple[Tensor, ...]:
        """As in `Pool`; a tenth loses its picture too, which is told by zeros."""
        x, tokens, seen = super().batch(n, empty)
        return x, tokens, torch.where(torch.rand(n, 1, 1, device=x.device) < empty, 0.0, seen)

    @staticmethod
    def inputs(flux: Flux, x: Tensor, t: Tensor, text: Text, given: Tensor) -> tuple[Tensor, ...]:
        """Eq. (12.4)."""
        return distillation.inputs(x, t, (flux.redux(text[0], given), text[1]))


POOLS: dict[str, type[ToolPool]] = {
    "fill": FillPool,
    "canny": CannyPool,
    "kontext": KontextPool,
    "redux": ReduxPool,
}

# ---------------------------------------------------------------- training


def make_student(name: str, base: State, rank: int) -> Flux:
    """The base, wider at its entrance if the tool needs that, with an untrained delta."""
    spec = configs[f"tiny-{name}"]
    student = build(spec, lora.widen_img_in(base, spec.params.in_channels))
    whole = ("redux",) if name == "redux" else ()
    if whole:  # a part of the transformer, so that both are trained and kept as one
        student.redux = Redux(EYE, spec.params.context_in_dim).to(base["img_in.weight"].device)
    return lora.make_trainable(student, rank, train_whole=whole, leave=LEAVE, ranks=RANKS)


def velocity(
    pool: type[ToolPool], flux: nn.Module, x: Float[Tensor, "B L C"], t: Tensor, text: Text, given: Tensor
) -> Float[Tensor, "B L C"]:
    """One evaluation; of what is said of a reference nothing is kept."""
    return flux(*pool.inputs(flux, x, t, text, given))[:, : x.shape[1]].float()


def main() -> None:
    parser = distillation.arguments(__doc__, out="runs/tools", seconds=200, rank=16)
    parser.add_argument("tool", choices=tuple(POOLS))
    parser.add_argument("--renew", type=int, default=100, help="steps after which 2,048 latents are replaced")
    parser.add_argument("--start", type=Path, help="a delta of the same ranks to begin with")
    parser.add_argument("--judged", type=int, default=512, help="pictures of each kind to judge at the end")
    args = parser.parse_args()
    name, pool = args.tool, POOLS[args.tool]
    args.out = args.out / name
    stage = Stage(args, configs[f"tiny-{name}"], pool)
    device, held = stage.device, stage.held
    student = make_student(name, stage.base, args.rank)
    if args.start:
        lora.go_on(student, read(args.start, device), str(args.start))

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (9.1) with a picture in the condition."""
        stage.pool.turn(step // args.renew)
        x_0, tokens, given = stage.pool.batch(args.batch)
        t = training_levels(args.batch, x_0.shape[1], device)
        with half(device):
            text = stage.texts(tokens)
            return flow_loss(partial(velocity, pool, model), x_0, torch.randn_like(x_0), t, text, given)

    @torch.no_grad()
    def held_out(model: nn.Module, step: int) -> float:
        """The same on held-out combinations, with noise and noise levels that are the same every time."""
        torch.manual_seed(0)
        rows = slice(0, 512)
        x_0, text, given = held[0][rows], tuple(each[rows] for each in held[1]), held[2][rows]
        t = training_levels(len(x_0), x_0.shape[1], device)
        return float(flow_loss(partial(velocity, pool, model), x_0, torch.randn_like(x_0), t, text, given))

    delta, steps = stage.train(student, loss, held_out, inputs=partial(pool.inputs, student), given=held[2])
    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        noted = {"steps": steps, "seconds": round(args.seconds), "rank": args.rank, "batch": args.batch}
        kept = stage.keep(delta, f"{name}.safetensors", noted)
        flux = lora.with_delta(stage.spec, stage.base, kept, name).requires_grad_(False).eval()
        report = noted | {"held_out": held_out(flux, steps)}
        report |= measure(name, flux, stage.texts, stage.ae, stage.drawings, args.out, args.judged)
        (args.out / f"{name}.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
