"""Few-step distillation, makes a schnell of the tiny FLUX: `python -m flux_edu.train.few_steps`. Eq. (11.1) to (11.2).

The student has four steps. From where it stands the teacher goes to the end of the step in many small, guided ones;
the student learns their mean velocity, which is the one velocity that leads there at once. Then it makes its own step,
right or wrong, and the teacher shows the way on from there: so the student is corrected where it really goes.

This is distillation by segments, of the family of progressive distillation (Salimans & Ho, 2022, arXiv 2202.00512;
piecewise as in Yan et al., "PeRFlow", 2024, arXiv 2405.07510). FLUX.1 schnell was made otherwise, by latent adversarial
diffusion distillation (Sauer et al., 2024, arXiv 2403.12015), as its model card says: a discriminator judges the
pictures. Four steps of simple drawings do without.
"""

from collections import deque
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.io.checkpoint import State
from flux_edu.io.device import autocast
from flux_edu.io.lora import make_trainable
from flux_edu.patchify import get_noise
from flux_edu.schedule import interpolate
from flux_edu.train.data import SIXTEEN, SIZE
from flux_edu.train.distillation import Distillation, arguments, build, one_noise, sample, schedule, sheet
from flux_edu.train.latent_pool import OFTEN, SHARES, Pool, Size, batch_of, compose_scenes, grid_of
from flux_edu.train.objectives import euler_rollout, guided_velocity, mean_velocity, segment_loss, velocity
from flux_edu.train.text_to_velocity import TextEncoders
from flux_edu.train.trainer import save_report, with_prefix

# ---------------------------------------------------------------- where the student goes


class Rollouts:
    """Latents on their way from noise to picture, as many at each of the student's steps."""

    def __init__(self, pool: Pool, texts: TextEncoders, timesteps: list[float], n: int):
        x_0, tokens, *_ = pool.batch(n)
        self.pool, self.texts, self.text = pool, texts, texts(tokens)
        self.timesteps = torch.tensor(timesteps, device=x_0.device)
        self.k = torch.arange(n, device=x_0.device) % (len(timesteps) - 1)
        self.x = interpolate(x_0, torch.randn_like(x_0), self.t)  # to begin with, as none has gone anywhere yet

    @property
    def t(self) -> Float[Tensor, "B"]:
        return self.timesteps[self.k]

    @property
    def t_next(self) -> Float[Tensor, "B"]:
        return self.timesteps[self.k + 1]

    def step(self, v: Float[Tensor, "B L C"]) -> None:
        """One step along the student's velocity; those at the end begin anew, from new noise and with a new text."""
        x = self.x + (self.t_next - self.t)[:, None, None] * v
        k = self.k + 1
        done = (k == len(self.timesteps) - 1).nonzero()[:, 0]
        self.x, self.k = x.index_copy(0, done, torch.randn_like(x[done])), k.index_fill(0, done, 0)
        if len(done) == 0:  # of fewer pictures than steps
            return
        text = self.texts(self.pool.batch(len(done), empty=0.02)[1])
        self.text = tuple(old.index_copy(0, done, new) for old, new in zip(self.text, text, strict=True))


class ReplayBuffer:
    """The last targets, rows of (x, t, txt, vec, u), and their rollouts: what a run keeps beside the weights."""

    def __init__(self, rollouts: Rollouts, targets: int):
        self.rollouts, self.targets = rollouts, deque[tuple[Tensor, ...]](maxlen=targets)

    def state_dict(self) -> State:
        r = self.rollouts
        rows = {"rollouts": (r.x, r.k, *r.text)} | {f"target{i}": target for i, target in enumerate(self.targets)}
        return {f"{name}.{j}": x for name, row in rows.items() for j, x in enumerate(row)}

    def load_state_dict(self, state: State) -> None:
        r = self.rollouts
        r.x, r.k, *text = (state[f"rollouts.{j}"] for j in range(4))
        r.text = tuple(text)
        self.targets.clear()
        while f"target{(i := len(self.targets))}.0" in state:
            self.targets.append(tuple(state[f"target{i}.{j}"] for j in range(5)))


class Replays(dict[Size, ReplayBuffer]):
    """One for each size."""

    def state_dict(self) -> State:
        states = {f"{w}x{h}.": replay.state_dict() for (w, h), replay in self.items()}
        return {prefix + name: x for prefix, state in states.items() for name, x in state.items()}

    def load_state_dict(self, state: State) -> None:
        for (w, h), replay in self.items():
            replay.load_state_dict(with_prefix(f"{w}x{h}.", state))


def main() -> None:
    parser = arguments(__doc__, out="runs/schnell", seconds=230, rank=24)
    parser.add_argument("--guidance", type=float, default=3.0, help="of the teacher")
    parser.add_argument("--small", type=int, default=6, help="steps of the teacher in one of the student's")
    parser.add_argument("--uses", type=int, default=3, help="how often a target is used; making one costs most")
    parser.add_argument("--asked", type=float, default=0.0, help="share of pictures of train.asked")
    args = parser.parse_args()
    base, spec = configs["tiny"], configs["tiny-schnell"]
    compose = partial(compose_scenes, asked=args.asked)
    stage = Distillation(args, spec, {size: SHARES[size] for size in OFTEN}, compose)
    device, empty, timesteps = stage.device, stage.empty, schedule(spec, spec.num_steps)
    plain = build(base, stage.base)  # the teacher again, not captured, for other sizes of batch
    teacher = stage.captured(build(base, stage.base), 2)
    student = make_trainable(build(spec, stage.base), args.rank)
    replays = Replays()
    for size, pool in stage.pools.pools.items():
        rollouts = Rollouts(pool, stage.texts, schedule(spec, spec.num_steps, *size), batch_of(args.batch, size))
        replays[size] = ReplayBuffer(rollouts, 4 * args.uses)
    sixteen, noise = stage.texts.read(list(SIXTEEN)), one_noise(device)

    @torch.no_grad()
    def make_target(model: nn.Module, rollouts: Rollouts, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """Where the student stands, and the velocity of Eq. (11.1) that it should have there; then it goes on."""
        x, t, t_next, text = rollouts.x, rollouts.t, rollouts.t_next, rollouts.text
        v_theta, w = partial(velocity, teacher, grid=grid), torch.full((len(x),), args.guidance, device=device)
        with autocast(device):
            v_w = lambda x, t: guided_velocity(v_theta, x, t, text, empty, w)  # noqa: E731
            x_next = euler_rollout(v_w, x, t, t_next, args.small)
            rollouts.step(velocity(model, x, t, text, grid=grid))
        return x, t, *text, mean_velocity(x, x_next, t, t_next)

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (11.2) for one of the last targets of this step's size."""
        size, _ = stage.pools.at(step // args.uses)
        rollouts, targets, grid = replays[size].rollouts, replays[size].targets, grid_of(size)
        if step % args.uses == 0:
            targets.append(make_target(model, rollouts, grid))
        x, t, txt, vec, u = targets[int(torch.randint(len(targets), ()))]
        with autocast(device):
            return segment_loss(velocity(model, x, t, (txt, vec), grid=grid), u)

    # where the teacher gets to in its own 28 steps with two passes, on captions that were held out
    n = min(args.measure, 256)
    text, many = tuple(part[:n] for part in stage.held_out[1]), get_noise(n, SIZE, SIZE, device, torch.float32, 1)
    goal = sample(plain, many, text, schedule(base, base.num_steps), args.guidance, empty)

    def distance(flux: nn.Module, *how) -> float:
        x = sample(flux, many, text, *how)
        return float((x - goal).norm() / goal.norm())

    def save_sheet(file: str, flux: nn.Module, *how) -> None:
        sheet(stage.ae, sample(flux, noise, sixteen, *how)).save(args.out / f"{file}.png")

    def evaluate(model: nn.Module, step: int) -> float:
        save_sheet(str(step), model, timesteps)
        return distance(model, timesteps)

    delta, steps = stage.train(student, loss, evaluate, replays)

    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        metadata = stage.metadata(steps)
        schnell = stage.save(delta, "schnell", metadata)
        numbers = {"distance_base_4_steps": distance(plain, timesteps)}
        numbers["distance_base_4_steps_guided"] = distance(plain, timesteps, args.guidance, empty)
        for n in (4, 2, 1):
            numbers[f"distance_{n}_steps"] = distance(schnell, schedule(spec, n))
            save_sheet(f"sixteen_{n}_steps", schnell, schedule(spec, n))
        save_report(args.out / "schnell.json", metadata | numbers)
        save_sheet("teacher", plain, schedule(base, base.num_steps), args.guidance, empty)
        save_sheet("base_4_steps", plain, timesteps)
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
