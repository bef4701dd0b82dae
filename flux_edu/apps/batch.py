"""Many pictures on many GPUs, and one model spread over several.

    torchrun --nproc-per-node 8 -m flux_edu.apps.batch prompts.txt --model flux-schnell --out sheets

A line of the file is a prompt. Each process paints its share; the seed belongs to the line, not to the process, so that
one GPU and eight paint the same pictures. Without torchrun one process paints them all.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist

from flux_edu.apps.sample import file_name, given
from flux_edu.configs import get_spec
from flux_edu.io.images import save_image
from flux_edu.pipeline import FluxGenerator


def share(count: int, process: int, processes: int) -> range:
    """The numbers of the lines that a process paints: every processes-th, so that loads are alike."""
    return range(process, count, processes)


def paint_all(
    prompts: list[str], out: Path, mine: Iterable[int], seed: int, paint: Callable[[str, int], object]
) -> list[Path]:
    """Paint the lines of these numbers; line i has seed `seed + i` and a file name that begins with i."""
    paths = []
    for i in mine:
        paths.append(save_image(paint(prompts[i], seed + i), out / f"{i:05}-{file_name(prompts[i])}.png"))
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Paint this process's share of the file."""
    top = argparse.ArgumentParser(prog="python -m flux_edu.apps.batch", description="Paint every line of a file.")
    top.add_argument("prompts", type=Path, help="a text file, a prompt a line; empty lines are left out")
    top.add_argument("--model", default="tiny", help="a name of flux_edu.configs; default tiny")
    top.add_argument("--out", type=Path, default=Path("output"), help="folder; default output")
    top.add_argument("--seed", type=int, default=0, help="of the first line; each next one has one more")
    top.add_argument("--steps", type=int, help="default: the model's own")
    top.add_argument("--size", type=int, help="pixels of both sides; default 128 for tiny, 1024 for the others")
    top.add_argument("--cpu", action="store_true", help="leave the GPUs alone")
    options = top.parse_args(arguments)
    from accelerate import PartialState  # extra: real

    state, spec = PartialState(cpu=options.cpu), get_spec(options.model)
    prompts = [line.strip() for line in options.prompts.read_text("utf-8").splitlines() if line.strip()]
    side = given(options.size, 1024 if spec.repo_id else 128)
    generator = FluxGenerator(options.model, state.device)
    mine = share(len(prompts), state.process_index, state.num_processes)
    paths = paint_all(
        prompts,
        options.out,
        mine,
        options.seed,
        lambda prompt, seed: generator.generate_image(
            side, side, given(options.steps, spec.num_steps), spec.guidance, seed, prompt
        ),
    )
    state.wait_for_everyone()
    print(f"process {state.process_index} of {state.num_processes}: {len(paths)} pictures in {options.out}", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    raise SystemExit(main())
