"""The loop that every stage of the training runs in: step, average, log, look, save; and go on where it was killed.

A run lives in its folder --out: log.csv, and state.safetensors with all that the next step depends on. What is random
in a step is drawn from the seed, the process and the step's number. So a run that was killed at any moment and started
again takes the same batches, and ends with the same numbers, as one that was left alone.
"""

import argparse
import csv
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from flux_edu.io.checkpoint import CheckpointError, State, listed, read, read_metadata, save
from flux_edu.train.common import Average, Clock, learning_rate, seed_of, set_rate

# settings that may change from one start of a run to the next
FREE = {"out", "seconds", "steps", "leg", "began", "report", "look", "save", "measure", "no_record"}
COLUMNS = ("step", "seconds", "loss", "gradient", "ms")  # of the log, before the stage's own


def arguments(
    doc: str, out: str, seconds: float, batch: int, rate: float, report: int = 250, look: int = 4, save: int = 1000
) -> argparse.ArgumentParser:
    """What every stage can be told; the stage adds its own."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.set_defaults(began=time.monotonic())  # where a leg begins
    parser.add_argument("--data", type=Path, default=Path("data/emoji"))
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write; a run begun there goes on")
    parser.add_argument("--seconds", type=float, default=seconds, help="time to train, without compiling")
    parser.add_argument("--steps", type=int, default=10**9, help="the schedule ends after so many steps at the latest")
    parser.add_argument("--leg", type=float, default=math.inf, help="stop so many seconds after the start, to go on")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a process and step")
    parser.add_argument("--rate", type=float, default=rate, help="peak of the learning rate, of AdamW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=report, help="steps between two lines of the log")
    parser.add_argument("--look", type=int, default=look, help="lines between two looks at held-out data and samples")
    parser.add_argument("--save", type=int, default=save, help="steps between two states to go on from")
    return parser


@runtime_checkable
class Own(Protocol):
    """What a stage keeps from step to step, if anything: tensors of the same shapes in every process."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Run:
    """A model on its way. Make the average before the model is compiled or recorded, and the run after that.

    optimizers have their peak rates beside them. If --out holds a state, the run goes on from there; the numbers are
    copied into the tensors that are there, as a recorded graph keeps their addresses.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        model: nn.Module,
        average: Average,
        optimizers: dict[Optimizer, float],
        own: Own | None = None,
    ):
        self.args, self.accelerator, self.average, self.own = args, accelerator, average, own
        self.clock = Clock(accelerator, args.seconds, args.steps, args.began)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.model, *prepared = accelerator.prepare(model, *optimizers)
        self.rates = dict(zip(prepared, optimizers.values(), strict=True))
        self.sums = torch.zeros(3, device=accelerator.device)  # of loss, gradient's length and 1, since the last line
        settings = {key: str(value) for key, value in vars(args).items() if key not in FREE}
        self.settings = settings | {"processes": str(accelerator.num_processes)}
        self.state, self.log, self.saved = args.out / "state.safetensors", args.out / "log.csv", 0
        if self.state.exists():
            self.load()
        self.last = self.clock.step, time.monotonic()

    # ------------------------------------------------------------ steps

    def train(
        self,
        loss: Callable[[nn.Module, int], Tensor],
        look: Callable[[int], list[float]] | None = None,
        columns: tuple[str, ...] = (),
        ready: int = 10,
        warm_up: float = 0.02,
    ) -> int:
        """Step until time, steps or leg are over; the number of steps made in all.

        loss is called with the model and the number of steps made before, look with that number now and then, in the
        first process only: what it returns goes into the log under these columns. After `ready` steps everything is
        compiled, and the clock begins.
        """
        args, clock, rank = self.args, self.clock, self.accelerator.process_index
        if self.accelerator.is_main_process:
            args.out.mkdir(parents=True, exist_ok=True)
            keep_lines(self.log, COLUMNS + columns, clock.step)
        ready += clock.step
        while (progress := clock.progress()) < 1 and clock.wall < args.leg:
            torch.manual_seed(seed_of(args.seed, rank, clock.step))
            for optimizer, rate in self.rates.items():
                set_rate(optimizer, learning_rate(progress, rate, warm_up))
            value = loss(self.model, clock.step)
            self.accelerator.backward(value)
            gradient = self.accelerator.clip_grad_norm_(list(self.trained.values()), 1.0)
            for optimizer in self.rates:
                optimizer.step()
                optimizer.zero_grad()
            self.average.update()
            self.sums += torch.stack([value.detach(), gradient, torch.ones_like(gradient)])
            clock.step += 1
            if clock.step == ready:
                clock.begin()
                self.last = clock.step, time.monotonic()
            if clock.step % args.report == 0:
                self.line(look if clock.step % (args.report * args.look) == 0 else None, columns)
            if clock.step % args.save == 0:
                self.save()
        if self.saved != clock.step:
            self.save()
        state = "the training is over" if clock.progress() >= 1 else "the same command goes on from here"
        self.accelerator.print(f"step {clock.step}: {state}", flush=True)
        return clock.step

    def meet(self) -> None:
        """Bring the processes' sums together; an error if a loss or a gradient was no number."""
        self.sums.copy_(self.accelerator.reduce(self.sums, "mean"))
        if not self.sums.isfinite().all():
            raise FloatingPointError(
                f"loss or gradient is not a number any more, by step {self.clock.step}; try a smaller --rate in"
                " another --out"
            )

    def line(self, look: Callable[[int], list[float]] | None, columns: tuple[str, ...]) -> None:
        """One line of the log, on the screen with the time that is left."""
        self.meet()
        loss, gradient, steps = self.sums.tolist()
        self.sums.zero_()
        if not self.accelerator.is_main_process:
            return
        clock, (step, then) = self.clock, self.last
        each = (time.monotonic() - then) / max(1, clock.step - step)
        left = min(clock.seconds - clock.used, (clock.steps - clock.step) * each)
        seen = [float(f"{x:.5g}") for x in look(clock.step)] if look else []
        row = [clock.step, round(clock.used), float(f"{loss / steps:.5g}"), float(f"{gradient / steps:.4g}")]
        row += [round(1000 * each, 1), *seen]
        with self.log.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(row + [""] * (len(columns) - len(seen)))
        told = "  ".join(f"{name} {x}" for name, x in zip(COLUMNS + columns, row, strict=False))
        print(f"{told}  left {timedelta(seconds=round(max(0.0, left)))}", flush=True)
        self.last = clock.step, time.monotonic()  # looking is not stepping

    # ------------------------------------------------------------ state

    def living(self) -> State:
        """The trained parameters and their averages, by name, as they are used."""
        averages = dict(self.average.module.named_parameters())
        state = {f"model.{name}": p.data for name, p in self.trained.items()}
        return state | {f"average.{name}": averages[name].data for name in self.trained}

    def save(self) -> None:
        """Everything that the next step depends on into one file, which is there whole or not at all."""
        self.meet()
        state = self.living() | {"sums": self.sums}
        for i, optimizer in enumerate(self.rates):
            for j, numbers in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{i}.{j}.{key}": x for key, x in numbers.items()}
        if self.own:  # each process has its own
            state |= {f"own.{name}": self.accelerator.gather(x[None]) for name, x in self.own.state_dict().items()}
        noted = {"settings": json.dumps(self.settings), "average": str(self.average.steps)}
        noted |= {"step": str(self.clock.step), "used": repr(self.clock.used)}
        if self.accelerator.is_main_process:
            save(state, self.state, noted)
        self.saved = self.clock.step

    def load(self) -> None:
        """Go on from the state in --out, or say why that cannot be."""
        noted, living = read_metadata(self.state), self.living()
        before = json.loads(noted.get("settings", "{}"))
        if changed := [key for key in sorted(before | self.settings) if before.get(key) != self.settings.get(key)]:
            told = [f"{key} {before.get(key, 'unknown')}, now {self.settings.get(key, 'unknown')}" for key in changed]
            raise CheckpointError(
                f"{self.state} is of a run with other settings: {'; '.join(told)}. Give the same ones to go on, or"
                " choose another --out to begin anew"
            )
        state = read(self.state)
        kept = {name: x.shape for name, x in state.items() if name.startswith(("model.", "average."))}
        if odd := [
            name for name in living | kept if name not in kept or living.get(name, Tensor()).shape != kept[name]
        ]:
            raise CheckpointError(
                f"{self.state} is of another model: {listed(odd)}. Choose another --out to begin anew"
            )
        for name, x in (living | {"sums": self.sums}).items():
            x.copy_(state[name])
        for i, optimizer in enumerate(self.rates):
            numbers: dict[int, State] = defaultdict(dict)
            for name in state:
                if name.startswith(f"optimizer.{i}."):
                    j, key = name.split(".")[2:]
                    numbers[int(j)][key] = state[name]
            optimizer.load_state_dict({"state": numbers, "param_groups": optimizer.state_dict()["param_groups"]})
        if self.own:
            rank, device = self.accelerator.process_index, self.accelerator.device
            mine = {name.removeprefix("own."): x[rank].clone() for name, x in state.items() if name.startswith("own.")}
            self.own.load_state_dict({name: x.to(device) for name, x in mine.items()})
        self.average.steps, self.saved = int(noted["average"]), int(noted["step"])
        self.clock.go_on(self.saved, float(noted["used"]))
        self.accelerator.print(f"{self.state}: going on at step {self.saved}, {self.clock.used:.0f} s", flush=True)


def keep_lines(path: Path, header: tuple[str, ...], step: int) -> None:
    """Leave the log's lines up to this step: those after it are written again, and the last may be half a line."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    part = path.with_name(path.name + ".part")
    part.write_text(",".join(header) + "\n" + "".join(whole), "utf-8", newline="\n")
    part.replace(path)
