"""Guidance distillation, which makes a dev of the tiny FLUX: `python -m flux_edu.train.guidance`. Eq. (10.1), (10.2).

The teacher is evaluated twice, with and without the caption. The student is told w and learns to give the result at
once: `guidance_in` and a low-rank delta of every other linear layer are trained, nothing else. Meng et al., "On
Distillation of Guided Diffusion Models", 2022. That FLUX.1 dev was made by guidance distillation says its model card.
"""

import json

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.embeddings import MLPEmbedder
from flux_edu.io.checkpoint import State
from flux_edu.io.lora import make_trainable
from flux_edu.model import EMBEDDING_WIDTH, Flux
from flux_edu.schedule import get_lin_function, interpolate
from flux_edu.train.data import SIXTEEN
from flux_edu.train.distillation import Stage, arguments, build, half, one_noise, sample, schedule
from flux_edu.train.flow import sheet
from flux_edu.train.objectives import Text, guidance_loss, guided_velocity, logit_normal, shift_logit_normal, velocity

WEAKEST, STRONGEST = 1.0, 6.0  # the guidance to learn, a little beyond what is used: 1.5 to 5


# ---------------------------------------------------------------- the objective


def training_levels(n: int, length: int, device: torch.device | str) -> Float[Tensor, "n"]:
    """Noise levels as the teacher was trained on, Eq. (9.2) and (9.3), but a fifth evenly spread.

    The sampler begins at t = 1, and there guidance does most: it decides what is painted. The logit-normal hardly ever
    looks there.
    """
    t = logit_normal(*shift_logit_normal(0.0, 1.0, get_lin_function()(length)), n, device)
    return torch.where(torch.rand(n, device=device) < 0.2, torch.rand(n, device=device), t)


def training_strengths(n: int, device: torch.device | str) -> Float[Tensor, "n"]:
    """One guidance a picture, evenly spread."""
    return WEAKEST + (STRONGEST - WEAKEST) * torch.rand(n, device=device)


# ---------------------------------------------------------------- the student


@torch.no_grad()
def start_guidance(guidance_in: MLPEmbedder) -> None:
    """At first w changes nothing; and the sinusoids that turn more than once while w grows by 1 stay silent for good.

    The embedding multiplies by 1000, as for t, and from w = 1 to 6 its fastest sinusoid turns 800 times. What they say
    about w would be learned as noise.
    """
    nn.init.zeros_(guidance_in.out_layer.weight)
    nn.init.zeros_(guidance_in.out_layer.bias)
    frequency = 10_000 ** (-torch.arange(EMBEDDING_WIDTH // 2) / (EMBEDDING_WIDTH // 2))  # f_i of Eq. (4.1)
    turns = 1000 * frequency / (2 * torch.pi)
    slow = (turns < 1).float().repeat(2).to(guidance_in.in_layer.weight.device)  # cosines, then sines
    guidance_in.in_layer.weight *= slow
    guidance_in.in_layer.weight.register_hook(lambda gradient: gradient * slow)


def make_student(base: State, rank: int) -> Flux:
    """The teacher with a guidance embedder and an untrained delta of this rank."""
    student = Flux(configs["tiny-dev"].params).to(base["img_in.weight"].device)
    start_guidance(student.guidance_in)
    student.load_state_dict(base, strict=False)
    return make_trainable(student, rank, train_whole=("guidance_in",))


@torch.no_grad()
def relative_error(student: nn.Module, teacher: nn.Module, x_0: Tensor, text: Text, empty: Text, w: float) -> float:
    """Mean of ‖v_φ - v_w‖ / ‖v_w‖, with noise and noise levels that are the same every time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x_0.shape, generator=generator).to(x_0.device)
    mean, deviation = shift_logit_normal(0.0, 1.0, get_lin_function()(x_0.shape[1]))
    t = torch.sigmoid(mean + deviation * torch.randn(len(x_0), generator=generator)).to(x_0.device)
    ratios = []
    for x, level, txt, vec in zip(*(a.split(256) for a in (interpolate(x_0, noise, t), t, *text)), strict=True):
        strength = torch.full_like(level, w)
        v_w = guided_velocity(teacher, x, level, (txt, vec), empty, strength)
        v = velocity(student, x, level, (txt, vec), strength)
        ratios.append((v - v_w).flatten(1).norm(dim=1) / v_w.flatten(1).norm(dim=1))
    return float(torch.cat(ratios).mean())


# ---------------------------------------------------------------- training


def main() -> None:
    args = arguments(__doc__, out="runs/dev", seconds=230, rank=32).parse_args()
    spec = configs["tiny-dev"]
    stage = Stage(args, spec)
    device, held, empty = stage.device, stage.held, stage.empty
    plain = build(configs["tiny"], stage.base)  # the teacher again, not recorded, for other sizes of batch
    teacher = stage.recorded(build(configs["tiny"], stage.base), 2 * args.batch)
    student = make_student(stage.base, args.rank)

    sixteen, noise, times = stage.texts.read(list(SIXTEEN)), one_noise(device), schedule(spec, spec.num_steps)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (10.2): the student's one pass beside the teacher's two."""
        x_0, tokens = stage.pool.batch(args.batch)
        t, w = training_levels(args.batch, x_0.shape[1], device), training_strengths(args.batch, device)
        x_t = interpolate(x_0, torch.randn_like(x_0), t)
        with half(device):
            text = stage.texts(tokens)
            return guidance_loss(velocity(model, x_t, t, text, w), guided_velocity(teacher, x_t, t, text, empty, w))

    def look(model: nn.Module, step: int) -> float:
        sheet(stage.ae, sample(model, noise, sixteen, times, 3.0)).save(args.out / f"{step}.png")
        few = [a[:256] for a in (held[0], *held[1])]
        return relative_error(model, plain, few[0], (few[1], few[2]), empty, 3.0)

    delta, steps = stage.train(student, loss, look)

    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        noted = {"steps": steps, "seconds": round(args.seconds), "rank": args.rank, "batch": args.batch}
        dev = build(spec, stage.save(delta, "dev.safetensors", noted))
        report = noted | {
            f"error_w{w}": relative_error(dev, plain, *held, empty, w) for w in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
        }
        (args.out / "dev.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
        for w in (1.5, 3.0, 5.0):
            sheet(stage.ae, sample(dev, noise, sixteen, times, w)).save(args.out / f"sixteen_w{w}.png")
            sheet(stage.ae, sample(plain, noise, sixteen, times, w, empty)).save(args.out / f"teacher_w{w}.png")
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
