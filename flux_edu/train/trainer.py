"""The loop that every stage of the training runs in: step, log, evaluate, save; and resume where it was killed.

A run lives in its folder --out: log.csv, and state.safetensors with all that the next step depends on. What is random
in a step is drawn from the seed, the process and the step's number. So a run that was killed at any moment and started
again takes the same batches, and ends with the same numbers, as one that was left alone.
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from flux_edu.io.checkpoint import CheckpointError, State, listed, read, read_metadata, save
from flux_edu.io.files import whole

if TYPE_CHECKING:
    import accelerate  # `start` imports it: whoever only reads or evaluates does without

# settings that may change from one start of a run to the next
FREE = {"out", "seconds", "steps", "time_limit", "started", "report", "evaluate", "save", "measure", "speed"}
COLUMNS = ("step", "seconds", "loss", "gradient", "ms")  # of the log, before the stage's own

Loss = Callable[[nn.Module, int], Tensor]  # of the model and the number of steps made before
Evaluate = Callable[[int], list[float]]  # of that number; what it returns goes into the log


def arguments(
    doc: str, out: str, seconds: float, batch: int, rate: float, report: int = 250, evaluate: int = 4
) -> argparse.ArgumentParser:
    """The options of every stage; the stage adds its own."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.set_defaults(started=time.monotonic())  # from where the time limit counts
    parser.add_argument("--data", type=Path, default=Path("data/emoji"))
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write; a run begun there is resumed")
    parser.add_argument("--seconds", type=float, default=seconds, help="time to train, without compiling")
    parser.add_argument("--steps", type=int, default=10**9, help="the schedule ends after so many steps at the latest")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="stop after so many seconds, to be resumed")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a process and step")
    parser.add_argument("--rate", type=float, default=rate, help="peak of the learning rate, of AdamW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=report, help="steps between two lines of the log")
    parser.add_argument("--evaluate", type=int, default=evaluate, help="lines between two evaluations")
    parser.add_argument("--save", type=int, default=1000, help="steps between two states to resume from")
    parser.add_argument(
        "--speed",
        choices=("plain", "graph", "compile"),
        default="graph",
        help="on a GPU: start kernels one by one, replay them as CUDA graphs, or compile the blocks before that",
    )
    return parser


def start(seed: int, cpu: bool = False) -> "accelerate.Accelerator":
    """What a run begins with: Hugging Face Accelerate, for one process or several, and a seed."""
    from accelerate import Accelerator

    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    return Accelerator(cpu=cpu)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, as of a run, a process and a step; neighbours are as unlike as any two."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


# ---------------------------------------------------------------- optimizers and rates


def make_adamw(parameters: Iterable[nn.Parameter], weight_decay: float, betas: tuple[float, float]) -> AdamW:
    """AdamW for these parameters: matrices and convolutions decay, biases and scales do not."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def learning_rate(progress: float, warm_up: float = 0.02) -> float:
    """In parts of the peak: up in a straight line, constant, and down to zero over the last 40 % of the time."""
    return max(0.0, min(progress / warm_up, 1.0, (1 - progress) / 0.4))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a model's weights, which paint better than the last ones: ā ← β ā + (1 - β) a.

    β grows to `decay`: the first steps count less of the past, as there is little of it.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], _: Tensor) -> None:
        n = int(ema.n_averaged) + 1  # which is on the CPU; the third argument, its copy on the GPU, would have to wait
        torch._foreach_lerp_(averages, weights, 1 - min(decay, n / (n + 10)))

    ema = AveragedModel(model, multi_avg_fn=update).requires_grad_(False).eval()
    return ema


# ---------------------------------------------------------------- on a GPU


def compile_blocks(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Compile block by block, not the whole: blocks of one kind share what is compiled."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.optimize_ddp = False  # blocks are small: nothing to cut up for the exchange of gradients
    for part in module.modules():
        if isinstance(part, kinds):
            part.compile(dynamic=True)


class Alias(nn.Module):
    """Another name of a module's forward pass and parameters, so that a module can have several graphs."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.run = module, module.forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(*inputs)


def capture_cuda_graphs(module: nn.Module, *samples: tuple[Tensor, ...]) -> nn.Module:
    """Capture forward and backward pass as CUDA graphs, one a sample, and replay them from then on, in their place.

    A step of the tiny models starts over a thousand small kernels; a processor takes longer to start them than the GPU
    takes to run them. A graph starts all at once. It is for inputs of its sample's shapes; others run as before. The
    graphs share their memory: one's backward pass must follow its forward pass before another is replayed.
    """
    forward, pool, graphs = module.forward, torch.cuda.graph_pool_handle(), {}
    for sample in samples:
        options = dict(num_warmup_iters=4, allow_unused_input=True, pool=pool)
        graphs[sample[0].shape] = torch.cuda.make_graphed_callables(Alias(module), sample, **options)
    module.forward = lambda *inputs: graphs.get(inputs[0].shape, forward)(*inputs)
    return module


# ---------------------------------------------------------------- the loop


class Clock:
    """How much of the training is over, the same number in every process: the larger share of its time or its steps.

    The schedule follows seconds, not steps alone, so that whatever the machine a run ends with its learning rate at
    zero. Processes ask the first one now and then; own clocks would give them different rates, and weights that drift
    apart. A run that only its steps limit has rates that depend on no clock.
    """

    def __init__(self, accelerator: "accelerate.Accelerator", seconds: float, steps: int = 10**9, started: float = 0.0):
        self.accelerator, self.seconds, self.steps, self.started = accelerator, seconds, steps, started
        self.every = 25 if accelerator.num_processes > 1 else 1
        self.step, self.used, self.used_before, self.since_start = 0, 0.0, 0.0, 0.0
        self.begun = math.inf

    def progress(self) -> float:
        """From 0 to 1 and beyond; call once before each step."""
        if self.step % self.every == 0:
            now = time.monotonic()
            seconds = [self.used_before + max(0.0, now - self.begun), now - self.started]
            if self.every > 1:  # the first process's
                seconds = self.accelerator.gather(torch.tensor(seconds, device=self.accelerator.device))[:2].tolist()
            self.used, self.since_start = seconds
        return max(self.used / self.seconds, self.step / self.steps)

    def resume(self, step: int, used: float) -> None:
        """From where an earlier start of the run has left off."""
        self.step, self.used, self.used_before = step, used, used


class Trainer:
    """A model, its EMA and the optimizers with their peak rates. Make the EMA before the model is compiled or captured.

    stage is what a stage keeps from step to step, if anything: tensors of the same shapes in every process.
    If --out holds a state, the run goes on from there; the numbers are copied into the tensors that are there, as a
    captured graph keeps their addresses.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: "accelerate.Accelerator",
        model: nn.Module,
        ema: AveragedModel,
        optimizers: dict[Optimizer, float],
        stage: "torch.distributed.checkpoint.stateful.Stateful | None" = None,
    ):
        self.args, self.accelerator, self.ema, self.stage = args, accelerator, ema, stage
        self.clock = Clock(accelerator, args.seconds, args.steps, args.started)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.model, *prepared = accelerator.prepare(model, *optimizers)
        self.optimizers = dict(zip(prepared, optimizers.values(), strict=True))
        self.sums = torch.zeros(3, device=accelerator.device)  # of loss, gradient's length and 1, since the last line
        settings = {key: str(value) for key, value in vars(args).items() if key not in FREE}
        self.settings = settings | {"processes": str(accelerator.num_processes)}
        self.path, self.log, self.saved = args.out / "state.safetensors", args.out / "log.csv", 0
        if self.path.exists():
            self.load()
        self.last_line = self.clock.step, time.monotonic()

    # ------------------------------------------------------------ steps

    def step(self, loss: Loss, rate: float) -> None:
        """One step down the gradient of Eq. (9.1), or of another stage's loss; rate is in parts of the peak.

        θ ← θ - η ∇_θ L(θ),  θ̄ ← β θ̄ + (1 - β) θ
        """
        torch.manual_seed(seed_of(self.args.seed, self.accelerator.process_index, self.clock.step))
        L = loss(self.model, self.clock.step)
        self.accelerator.backward(L)
        length = self.accelerator.clip_grad_norm_(list(self.trained.values()), 1.0)
        for optimizer, peak in self.optimizers.items():
            set_rate(optimizer, rate * peak)
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update_parameters(self.model)
        self.sums += torch.stack([L.detach(), length, torch.ones_like(length)])

    def train(
        self,
        loss: Loss,
        evaluate: Evaluate | None = None,
        columns: tuple[str, ...] = (),
        ready: int = 10,
        warm_up: float = 0.02,
    ) -> int:
        """Step until time, steps or the time limit are over; the number of steps made in all.

        evaluate is called now and then, in the first process only; its numbers stand in the log under these columns.
        After `ready` steps everything is compiled, and the clock begins.
        """
        args, clock = self.args, self.clock
        if self.accelerator.is_main_process:
            args.out.mkdir(parents=True, exist_ok=True)
            cut_log(self.log, COLUMNS + columns, clock.step)
        ready += clock.step
        while (progress := clock.progress()) < 1 and clock.since_start < args.time_limit:
            self.step(loss, learning_rate(progress, warm_up))
            clock.step += 1
            if clock.step == ready:
                clock.begun = time.monotonic()  # getting ready and compiling do not count
                self.last_line = clock.step, clock.begun
            if clock.step % args.report == 0:
                self.report(evaluate if clock.step % (args.report * args.evaluate) == 0 else None, columns)
            if clock.step % args.save == 0:
                self.save()
        if self.saved != clock.step:
            self.save()
        outcome = "the training is over" if clock.progress() >= 1 else "the same command goes on from here"
        self.accelerator.print(f"step {clock.step}: {outcome}", flush=True)
        return clock.step

    def all_reduce(self) -> None:
        """Bring the processes' sums together; an error if a loss or a gradient was no number."""
        self.sums.copy_(self.accelerator.reduce(self.sums, "mean"))
        if not self.sums.isfinite().all():
            raise FloatingPointError(
                f"loss or gradient is not a number any more, by step {self.clock.step}; try a smaller --rate in"
                " another --out"
            )

    def report(self, evaluate: Evaluate | None, columns: tuple[str, ...]) -> None:
        """One line of the log, on the screen with the time that is left."""
        self.all_reduce()
        loss, gradient, steps = self.sums.tolist()
        self.sums.zero_()
        if not self.accelerator.is_main_process:
            return
        clock, (step, then) = self.clock, self.last_line
        seconds = (time.monotonic() - then) / max(1, clock.step - step)
        left = min(clock.seconds - clock.used, (clock.steps - clock.step) * seconds)
        measured = [float(f"{x:.5g}") for x in evaluate(clock.step)] if evaluate else [""] * len(columns)
        row = [clock.step, round(clock.used), float(f"{loss / steps:.5g}"), float(f"{gradient / steps:.4g}")]
        row += [round(1000 * seconds, 1), *measured]
        with self.log.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        line = "  ".join(f"{name} {x}" for name, x in zip(COLUMNS + columns, row, strict=True) if x != "")
        print(f"{line}  left {timedelta(seconds=round(max(0.0, left)))}", flush=True)
        self.last_line = clock.step, time.monotonic()  # evaluating is not stepping

    # ------------------------------------------------------------ state

    def state(self) -> State:
        """The sums, the trained parameters and their averages, by name: the very tensors that are used."""
        averages = dict(self.ema.module.named_parameters())
        state = {f"model.{name}": p.data for name, p in self.trained.items()}
        return state | {f"ema.{name}": averages[name].data for name in self.trained} | {"sums": self.sums}

    def save(self) -> None:
        """Everything that the next step depends on into one file, which is there whole or not at all."""
        self.all_reduce()
        state = self.state()
        for i, optimizer in enumerate(self.optimizers):
            for j, tensors in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{i}.{j}.{key}": x for key, x in tensors.items()}
        if self.stage:  # a row for each process
            state |= {f"stage.{name}": self.accelerator.gather(x[None]) for name, x in self.stage.state_dict().items()}
        step, used = str(self.clock.step), repr(self.clock.used)
        if self.accelerator.is_main_process:
            save(state, self.path, {"settings": json.dumps(self.settings), "step": step, "used": used})
        self.saved = self.clock.step

    def load(self) -> None:
        """Go on from the state in --out, or say why that cannot be."""
        metadata, state, own = read_metadata(self.path), read(self.path), self.state()
        before, now = json.loads(metadata.get("settings", "{}")), self.settings
        if changed := sorted({key for key, _ in before.items() ^ now.items()}):
            changes = [f"{key} {before.get(key, 'unknown')}, now {now.get(key, 'unknown')}" for key in changed]
            raise CheckpointError(
                f"{self.path} is of a run with other settings: {'; '.join(changes)}. Give the same ones to go on, or"
                " choose another --out to begin anew"
            )
        shapes = {name: x.shape for name, x in state.items() if not name.startswith(("optimizer.", "stage."))}
        if odd := sorted({name for name, _ in shapes.items() ^ {name: x.shape for name, x in own.items()}.items()}):
            raise CheckpointError(f"{self.path} is of another model: {listed(odd)}. Choose another --out to begin anew")
        for name, x in own.items():
            x.copy_(state[name])
        for i, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            for j in (j for group in saved["param_groups"] for j in group["params"]):
                saved["state"][j] = with_prefix(f"optimizer.{i}.{j}.", state)
            optimizer.load_state_dict(saved)
        if self.stage:
            rank, device = self.accelerator.process_index, self.accelerator.device
            rows = {name: x[rank].clone().to(device) for name, x in with_prefix("stage.", state).items()}
            self.stage.load_state_dict(rows)
        self.saved = int(metadata["step"])
        self.ema.n_averaged.fill_(self.saved)
        self.clock.resume(self.saved, float(metadata["used"]))
        self.accelerator.print(f"{self.path}: going on at step {self.saved}, {self.clock.used:.0f} s", flush=True)


def save_report(path: Path, numbers: dict) -> None:
    """What was measured at the end, into a JSON file and on the screen."""
    path.write_text(json.dumps(numbers, indent=1))
    print(f"{path}: {json.dumps(numbers)}", flush=True)


def with_prefix(prefix: str, state: State) -> State:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def cut_log(path: Path, header: tuple[str, ...], step: int) -> None:
    """Leave the log's lines up to this step: those after it are written again, and the last may be half a line."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    with whole(path) as part:
        part.write_text(",".join(header) + "\n" + "".join(kept), "utf-8", newline="\n")
