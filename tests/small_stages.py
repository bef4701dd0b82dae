"""Small trainings on the shared loop for test_resume.py, which runs this file twice, as others would run a stage:

python tests/small_stages.py killed FOLDER      a toy is killed and started again until it is through
torchrun --nproc-per-node 2 tests/small_stages.py shared FOLDER     text encoders and transformer in two processes
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from flux_edu.io import checkpoint
from flux_edu.train import trainer
from flux_edu.train.muon import Muon


class Walk:
    """A tensor that goes on from step to step, and is another one in every process."""

    def __init__(self, rank: int):
        self.x = torch.arange(5.0) + rank

    def state_dict(self):
        return {"x": self.x}

    def load_state_dict(self, state):
        self.x = state["x"]


def toy(out: Path, *options: str, seen: list | None = None, stop: int = 99, pause: float = 0.0) -> trainer.Trainer:
    """The shared loop with two optimizers, something random in every step, and a walk. Each batch goes into `seen`.

    After `stop` steps the run is broken off.
    """
    args = trainer.arguments("A toy.", "", seconds=1e9, batch=3, rate=0.01).parse_args([f"--out={out}", *options])
    accelerator = trainer.start(args.seed, cpu=True)
    model, walk = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 2)), Walk(accelerator.process_index)
    ema, seen = trainer.make_ema(model, decay=0.9), [] if seen is None else seen
    matrices, biases = ([p for p in model.parameters() if p.ndim == n] for n in (2, 1))
    optimizers = {torch.optim.AdamW(biases, lr=0.0, fused=True): args.rate, Muon(matrices): 0.02}
    run = trainer.Trainer(args, accelerator, model, ema, optimizers, walk)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        x = walk.x + torch.randn(args.batch, 5)
        walk.x = 0.9 * walk.x + torch.randn(5)
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append((step, x))
        time.sleep(pause)
        return (model(x) - x[:, :2]).square().mean()

    def evaluate(step: int) -> list[float]:
        torch.randn(step)  # must not change what the next steps draw
        return [float(ema.module[0].weight.sum())]

    run.train(loss, evaluate, columns=("weights",), ready=2)
    return run


TOY = ("--steps=60", "--save=4", "--report=3", "--evaluate=2")


def slow_save_file(state: dict, path: Path, metadata: dict | None = None) -> None:
    """A disk on which a file takes a while, so that many a kill comes in the middle of it."""
    content = safetensors.torch.save(state, metadata)
    with path.open("wb") as file:
        for start in range(0, len(content), 1 + len(content) // 4):
            file.write(content[start : start + 1 + len(content) // 4])
            file.flush()
            time.sleep(0.004)


def start(folder: Path) -> int:
    """A child that trains the toy."""
    if child := os.fork():
        return child
    checkpoint.save_file = slow_save_file
    with (folder.parent / "output.txt").open("a") as file:
        os.dup2(file.fileno(), 1)
        toy(folder, *TOY, pause=0.002)
    os._exit(0)


def killed(folder: Path) -> None:
    """One run that is left alone, one that is killed again and again; prints how often, and how often while saving."""
    torch.set_num_threads(1)
    toy(folder / "warm", "--steps=2")  # what is imported late is imported before the children are born
    before = time.monotonic()
    assert os.waitpid(start(folder / "alone"), 0)[1] == 0
    took, kills, halves, rng = time.monotonic() - before, 0, 0, random.Random()
    half = folder / "killed" / "state.safetensors.part"
    while kills < 40:
        child = start(folder / "killed")
        time.sleep(took * rng.uniform(0.1, 0.4))
        patience = time.monotonic() + took
        while kills % 2 == 0 and not half.exists() and time.monotonic() < patience:
            time.sleep(0.0005)  # every other kill comes in the middle of saving
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break  # it was through already
        kills += 1
        halves += half.exists()
    else:
        assert os.waitpid(start(folder / "killed"), 0)[1] == 0
    print(json.dumps({"kills": kills, "halves": halves, "seconds": took}))


def shared(folder: Path) -> None:
    """One step of the real networks, small, on four captions that the processes share; rank by rank its gradients.

    Every weight begins away from zero, so that every gradient says something. The optimizer is plain descent: Adam's
    first step is the sign of the gradient and Muon makes all its directions count alike, and signs of what is zero but
    for rounding are anything.
    """
    from flux_edu.configs import configs
    from flux_edu.io.tiny import TINY_FOLDER
    from flux_edu.model import FluxParams
    from flux_edu.train.objectives import flow_loss
    from flux_edu.train.text_to_velocity import TextToVelocity

    params = FluxParams(64, 64, 256, 256, 32, 2.0, 1, 1, 1, (8, 12, 12), 10_000, True, False)
    args = trainer.arguments("Shared.", "", seconds=1e9, batch=4, rate=10.0).parse_args(["--steps=3", "--report=1"])
    accelerator = trainer.start(0, cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    args.out = folder / f"{processes}"
    model = TextToVelocity(replace(configs["tiny"], params=params), TINY_FOLDER / "tokenizer.json")
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    descent = torch.optim.SGD(model.parameters(), lr=0.0)
    run = trainer.Trainer(args, accelerator, model, trainer.make_ema(model, 0.9), {descent: args.rate}, Walk(rank))
    gradients: dict[str, torch.Tensor] = {}

    def note(*_) -> None:
        if not gradients:
            gradients.update({name: p.grad.clone() for name, p in run.trained.items()})

    descent.register_step_pre_hook(note)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)  # the same in all processes, each of which takes its rows
        x_0, noise = (torch.randn(4, 64, 64, generator=generator)[rank::processes] for _ in range(2))
        t = torch.rand(4, generator=generator)[rank::processes]
        tokens = torch.randint(2, 99, (4, configs["tiny"].txt_tokens), generator=generator)[rank::processes]
        return 0.05 * flow_loss(model, x_0, noise, t, tokens)  # small enough not to be clipped

    run.train(loss)
    checkpoint.save(gradients, args.out / f"gradients_{rank}.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    {"killed": killed, "shared": shared}[sys.argv[1]](Path(sys.argv[2]))
