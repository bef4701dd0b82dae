"""Few-step distillation, makes a schnell of the tiny FLUX: `python -m flux_edu.train.few_steps`. Eq. (11.1) to (11.2).

The student has four steps. From where it stands the teacher walks to the end of the step in many small, guided ones;
the student learns the mean velocity of that walk, which is the one velocity that leads there at once. Then it makes its
own step, right or wrong, and the teacher shows the way on from there: so the student is corrected where it really goes.

This is distillation by segments, of the family of progressive distillation (Salimans & Ho, 2022, arXiv 2202.00512;
piecewise as in Yan et al., "PeRFlow", 2024, arXiv 2405.07510). FLUX.1 schnell was made otherwise, by latent adversarial
diffusion distillation (Sauer et al., 2024, arXiv 2403.12015), as its model card says: a discriminator judges the
pictures. Four steps of simple drawings do without.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.io.checkpoint import State
from flux_edu.io.lora import make_trainable
from flux_edu.patchify import get_noise
from flux_edu.schedule import interpolate
from flux_edu.train.data import SIXTEEN, SIZE
from flux_edu.train.distillation import Stage, Texts, arguments, build, half, one_noise, sample, schedule
from flux_edu.train.flow import sheet
from flux_edu.train.latent_pool import Pool
from flux_edu.train.objectives import Text, guided_velocity, mean_velocity, segment_loss, velocity

Velocity = Callable[[Tensor, Tensor], Tensor]  # of x and t


# ---------------------------------------------------------------- the objective


def walk(
    v: Velocity, x: Float[Tensor, "B L C"], t: Float[Tensor, "B"], t_next: Float[Tensor, "B"], steps: int
) -> Float[Tensor, "B L C"]:
    """Where the teacher gets to: so many equal Euler steps, Eq. (6.2), from t to t_next. Each picture has its own."""
    h = (t_next - t) / steps
    for j in range(steps):
        x = x + h[:, None, None] * v(x, t + j * h)
    return x


# ---------------------------------------------------------------- where the student goes


@dataclass
class Lesson:
    """A batch of places that the student has reached, and the velocities that it should have had there."""

    x: Float[Tensor, "B L C"]
    t: Float[Tensor, "B"]
    text: Text
    u: Float[Tensor, "B L C"]


class Walkers:
    """Latents on their way from noise to picture, as many at each of the student's steps."""

    def __init__(self, pool: Pool, texts: Texts, times: list[float], n: int):
        self.pool, self.texts = pool, texts
        self.times = torch.tensor(times, device=pool.x.device)
        self.k = torch.arange(n, device=pool.x.device) % (len(times) - 1)
        x_0, tokens = pool.batch(n)
        self.x = interpolate(x_0, torch.randn_like(x_0), self.t)  # to begin with, as nobody has gone anywhere yet
        self.text = texts(tokens)

    @property
    def t(self) -> Float[Tensor, "B"]:
        return self.times[self.k]

    @property
    def t_next(self) -> Float[Tensor, "B"]:
        return self.times[self.k + 1]

    def step(self, v: Float[Tensor, "B L C"]) -> None:
        """One step along the student's velocity; who has arrived begins anew, from new noise and with a new text."""
        x = self.x + (self.t_next - self.t)[:, None, None] * v
        k = self.k + 1
        done = (k == len(self.times) - 1).nonzero()[:, 0]
        text = self.texts(self.pool.batch(len(done), empty=0.02)[1])
        self.x = x.index_copy(0, done, torch.randn_like(x[done]))
        self.k = k.index_fill(0, done, 0)
        self.text = tuple(old.index_copy(0, done, new) for old, new in zip(self.text, text, strict=True))


class Course:
    """The walkers and the last lessons they gave: what a run keeps from step to step beside the weights."""

    def __init__(self, walkers: Walkers, lessons: int):
        self.walkers, self.lessons = walkers, deque[Lesson](maxlen=lessons)

    def state_dict(self) -> State:
        w = self.walkers
        rows = {"walkers": (w.x, w.k, *w.text)}
        rows |= {f"lesson{i}": (one.x, one.t, *one.text, one.u) for i, one in enumerate(self.lessons)}
        return {f"{name}.{j}": x for name, row in rows.items() for j, x in enumerate(row)}

    def load_state_dict(self, state: State) -> None:
        w = self.walkers
        w.x, w.k, *text = (state[f"walkers.{j}"] for j in range(4))
        w.text = tuple(text)
        self.lessons.clear()
        while f"lesson{(i := len(self.lessons))}.0" in state:
            x, t, txt, vec, u = (state[f"lesson{i}.{j}"] for j in range(5))
            self.lessons.append(Lesson(x, t, (txt, vec), u))


# ---------------------------------------------------------------- training


def main() -> None:
    parser = arguments(__doc__, out="runs/schnell", seconds=230, rank=24)
    parser.add_argument("--guidance", type=float, default=3.0, help="of the teacher")
    parser.add_argument("--small", type=int, default=6, help="steps of the teacher in one of the student's")
    parser.add_argument("--uses", type=int, default=3, help="how often a lesson is learned; making one costs most")
    args = parser.parse_args()
    base_spec, spec = configs["tiny"], configs["tiny-schnell"]
    stage = Stage(args, spec)
    device, empty, times = stage.device, stage.empty, schedule(spec, spec.num_steps)
    plain = build(base_spec, stage.base)  # the teacher again, not recorded, for other sizes of batch
    teacher = stage.recorded(build(base_spec, stage.base), 2 * args.batch)
    student = make_trainable(build(spec, stage.base), args.rank)
    course = Course(Walkers(stage.pool, stage.texts, times, args.batch), lessons=4 * args.uses)
    walkers, w = course.walkers, torch.full((args.batch,), args.guidance, device=device)
    sixteen, first = stage.texts.read(list(SIXTEEN)), one_noise(device)

    @torch.no_grad()
    def teach(model: nn.Module) -> Lesson:
        x, t, t_next, text = walkers.x, walkers.t, walkers.t_next, walkers.text
        with half(device):
            x_next = walk(lambda x, t: guided_velocity(teacher, x, t, text, empty, w), x, t, t_next, args.small)
            walkers.step(velocity(model, x, t, text))
        return Lesson(x, t, text, mean_velocity(x, x_next, t, t_next))

    def loss(model: nn.Module, step: int) -> Tensor:
        """Eq. (11.2) for one of the last lessons."""
        if step % args.uses == 0:
            course.lessons.append(teach(model))
        one = course.lessons[int(torch.randint(len(course.lessons), ()))]
        with half(device):
            return segment_loss(velocity(model, one.x, one.t, one.text), one.u)

    # where the teacher gets to in its own 28 steps with two passes, on captions that were held out
    n = min(args.measure, 256)
    text, noise = tuple(a[:n] for a in stage.held[1]), get_noise(n, SIZE, SIZE, device, torch.float32, 1)
    goal = sample(plain, noise, text, schedule(base_spec, base_spec.num_steps), args.guidance, empty)

    def distance(x: Tensor) -> float:
        return float((x - goal).norm() / goal.norm())

    def look(model: nn.Module, step: int) -> float:
        sheet(stage.ae, sample(model, first, sixteen, times)).save(args.out / f"{step}.png")
        return distance(sample(model, noise, text, times))

    delta, steps = stage.train(student, loss, look, course)

    if stage.accelerator.is_main_process:  # what is measured and looked at is what was saved
        noted = {"steps": steps, "seconds": round(args.seconds), "rank": args.rank, "batch": args.batch}
        schnell = build(spec, stage.save(delta, "schnell.safetensors", noted))
        report = noted | {"distance_base_4_steps": distance(sample(plain, noise, text, times))}
        report["distance_base_4_steps_guided"] = distance(sample(plain, noise, text, times, args.guidance, empty))
        for n in (4, 2, 1):
            report[f"distance_{n}_steps"] = distance(sample(schnell, noise, text, schedule(spec, n)))
            x = sample(schnell, first, sixteen, schedule(spec, n))
            sheet(stage.ae, x).save(args.out / f"sixteen_{n}_steps.png")
        (args.out / "schnell.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
        x = sample(plain, first, sixteen, schedule(base_spec, base_spec.num_steps), args.guidance, empty)
        sheet(stage.ae, x).save(args.out / "teacher.png")
        sheet(stage.ae, sample(plain, first, sixteen, times)).save(args.out / "base_4_steps.png")
    stage.accelerator.end_training()


if __name__ == "__main__":
    main()
