"""What every stage of the training needs: seeds, a clock that all processes read alike, a learning rate, an average."""

import copy
import math
import time

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, as of a run, a process and a step; neighbours are as unlike as any two."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Clock:
    """How much of the training is over, the same number in every process: the larger share of its time or its steps.

    The schedule follows seconds, not steps alone, so that whatever the machine a run ends with its learning rate at
    zero. Processes ask the first one now and then; own clocks would give them different rates, and weights that drift
    apart. A run that only its steps limit has rates that depend on no clock.
    """

    def __init__(self, accelerator: Accelerator, seconds: float, steps: int = 10**9, born: float = 0.0):
        self.accelerator, self.seconds, self.steps = accelerator, seconds, steps
        self.every = 25 if accelerator.num_processes > 1 else 1
        self.step, self.before, self.used, self.wall = 0, 0.0, 0.0, 0.0
        self.born, self.start = born, math.inf

    def progress(self) -> float:
        """From 0 to 1 and beyond; call once before each step."""
        if self.step % self.every == 0:
            now = time.monotonic()
            times = [self.before + max(0.0, now - self.start), now - self.born]
            times = torch.tensor(times, device=self.accelerator.device) if self.every > 1 else times
            self.used, self.wall = times if self.every == 1 else broadcast(times).tolist()
        return max(self.used / self.seconds, self.step / self.steps)

    def begin(self) -> None:
        """Count from now on: getting ready and compiling do not count."""
        self.start = time.monotonic()

    def go_on(self, step: int, used: float) -> None:
        """From where an earlier start of the run has left off."""
        self.step, self.used, self.before = step, used, used


def learning_rate(progress: float, peak: float, warm_up: float = 0.02, decay_from: float = 0.6) -> float:
    """Up in a straight line, constant, and down in a straight line to zero over the last 40 % of the time."""
    return peak * max(0.0, min(progress / warm_up, 1.0, (1 - progress) / (1 - decay_from)))


class Average:
    """Running mean of a module's weights, which paint better than the last ones: ā ← ā + (1 - β)(a - ā)."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.source = list(module.parameters())
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.target = list(self.module.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """One fused operation over all weights; the first steps count less of the past, as there is little of it."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.target, self.source, 1 - decay)


def compile_blocks(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Compile block by block, not the whole: blocks of one kind share what is compiled."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.optimize_ddp = False  # blocks are small: nothing to cut up for the exchange of gradients
    for part in module.modules():
        if isinstance(part, kinds):
            part.compile(dynamic=False)


def record(module: nn.Module, *sample: torch.Tensor) -> nn.Module:
    """Record the module's forward and backward pass as CUDA graphs and replay them from then on, in its place.

    A step of the tiny models starts over a thousand small kernels; a processor takes longer to start them than the GPU
    takes to run them. A graph starts all at once. Inputs must keep the shapes of the sample.
    """
    return torch.cuda.make_graphed_callables(module, sample, num_warmup_iters=4, allow_unused_input=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def decayed(module: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups: matrices and convolutions decay, biases and scales do not."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
