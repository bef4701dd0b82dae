"""Guidance distillation, which makes a dev of the tiny FLUX: `python -m flux_edu.train.guidance`. Eq. (10.1), (10.2).

The teacher is evaluated twice, with and without the caption. The student reads w and learns to give the result at
once: `guidance_in` and a low-rank delta of every other linear layer are trained, nothing else. Meng et al., "On
Distillation of Guided Diffusion Models", 2022. That FLUX.1 dev was made by guidance distillation says its model card.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.embeddings import MLPEmbedder
from flux_edu.io.checkpoint import State
from flux_edu.io.device import autocast
from flux_edu.io.lora import make_trainable
from flux_edu.model import EMBEDDING_WIDTH, Flux
from flux_edu.schedule import interpolate
from flux_edu.train.data import SIXTEEN
from flux_edu.train.distillation import Distillation, arguments, build, one_noise, sample, schedule, sheet
from flux_edu.train.latent_pool import SHARES, batch_of, compose_scenes, grid_of
from flux_edu.train.objectives import Text, guidance_loss, guided_velocity, levels_of, logit_normal, velocity
from flux_edu.train.trainer import save_report

LOWEST, HIGHEST = 1.0, 6.0  # the guidance to learn, a little beyond what is used: 1.5 to 5


def training_levels(n: int, length: int, device: torch.device | str) -> Float[Tensor, "n"]:
    """Noise levels as the teacher was trained on, Eq. (9.2) and (9.3), but a fifth evenly spread.

    The sampler begins at t = 1, and there guidance does most: it decides what is painted. The logit-normal hardly ever
    looks there.
    """
    t = logit_normal(*levels_of(length), n, device)
    return torch.where(torch.rand(n, device=device) < 0.2, torch.rand(n, device=device), t)


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
    mean, deviation = levels_of(x_0.shape[1])
    t = torch.sigmoid(mean + deviation * torch.randn(len(x_0), generator=generator)).to(x_0.device)
    x_t, scale = interpolate(x_0, noise, t), torch.full_like(t, w)
    v_w = guided_velocity(partial(velocity, teacher), x_t, t, text, empty, scale)
    v = velocity(student, x_t, t, text, scale)
    return float(((v - v_w).flatten(1).norm(dim=1) / v_w.flatten(1).norm(dim=1)).mean())


def main() -> None:
    parser = arguments(__doc__, out="runs/dev", seconds=230, rank=32)
    parser.add_argument("--asked", type=float, default=0.0, help="share of pictures of train.asked")
    args = parser.parse_args()
    spec = configs["tiny-dev"]
    stage = Distillation(args, spec, SHARES, partial(compose_scenes, asked=args.asked))
    device, empty, (x_held_out, text_held_out, _) = stage.device, stage.empty, stage.held_out
    plain = build(configs["tiny"], stage.base)  # the teacher again, not captured, for other sizes of batch
    teacher = stage.captured(build(configs["tiny"], stage.base), 2)
    student = make_student(stage.base, args.rank)
    sixteen, noise, timesteps = stage.texts.read(list(SIXTEEN)), one_noise(device), schedule(spec, 8)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (10.2): the student's one pass beside the teacher's two."""
        size, pool = stage.pools.at(step)
        x_0, tokens, *_ = pool.batch(batch_of(args.batch, size))
        t = training_levels(len(x_0), x_0.shape[1], device)
        w = LOWEST + (HIGHEST - LOWEST) * torch.rand(len(x_0), device=device)  # one a picture
        x_t, v_theta = interpolate(x_0, torch.randn_like(x_0), t), partial(velocity, teacher, grid=grid_of(size))
        with autocast(device):
            text = stage.texts(tokens)
            v_w = guided_velocity(v_theta, x_t, t, text, empty, w)
            return guidance_loss(velocity(model, x_t, t, text, w, grid_of(size)), v_w)

    def evaluate(model: nn.Module, step: int) -> float:
        sheet(stage.ae, sample(model, noise, sixteen, timesteps, 3.0)).save(args.out / f"{step}.png")
        few = tuple(part[:256] for part in text_held_out)
        return relative_error(model, plain, x_held_out[:256], few, empty, 3.0)

    delta, steps = stage.train(student, loss, evaluate)

    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        metadata = stage.metadata(steps)
        dev = stage.save(delta, "dev", metadata)
        scales = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
        errors = {f"error_w{w}": relative_error(dev, plain, x_held_out, text_held_out, empty, w) for w in scales}
        save_report(args.out / "dev.json", metadata | errors)
        for w in (1.5, 3.0, 5.0):
            sheet(stage.ae, sample(dev, noise, sixteen, timesteps, w)).save(args.out / f"sixteen_w{w}.png")
            sheet(stage.ae, sample(plain, noise, sixteen, timesteps, w, empty)).save(args.out / f"teacher_w{w}.png")
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
