"""Many pictures on many GPUs.

    torchrun --nproc-per-node 8 -m flux_edu batch prompts.txt --model flux-schnell --out sheets

A line of the file is a prompt. Each process paints its share; the seed belongs to the line, not to the process, so that
one GPU and eight paint the same pictures. Without torchrun one process paints them all.
"""

import argparse
import codecs
import os
from pathlib import Path

import torch

from flux_edu.apps.sample import check_writable, file_name, free_path, save_beside, spec_for_prompts, value_or
from flux_edu.io.device import pick_device
from flux_edu.io.images import save_image
from flux_edu.pipeline import FluxGenerator


def share(count: int, process: int, processes: int) -> range:
    """The numbers of the lines that a process paints: every processes-th, so that loads are alike."""
    return range(process, count, processes)


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that hold something; UTF-8, or UTF-16 as PowerShell writes it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: name a text file with a prompt on each line")
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} is no UTF-8 text, see line {line}: save it as UTF-8 and try again") from None
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes, as UTF-16 without a mark does: save it as UTF-8 and try again")
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one on each line")
    return prompts


def main(options: argparse.Namespace) -> int:
    """Paint this process's share of the file; line i has seed `seed + i` and a file name that begins with i."""
    spec, prompts = spec_for_prompts(options.model), read_prompts(options.prompts)
    process, processes = (int(os.environ.get(name, one)) for name, one in (("RANK", "0"), ("WORLD_SIZE", "1")))
    local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun counts the processes of a machine
    device = "cpu" if options.cpu else local if torch.cuda.is_available() else pick_device()
    paths = {
        i: free_path(options.out / f"{i:05}-{file_name(prompts[i])}.png", options.overwrite)
        for i in share(len(prompts), process, processes)
    }
    check_writable(options.out)
    side, steps = value_or(options.size, 1024 if spec.repo_id else 128), value_or(options.steps, spec.num_steps)
    generator = FluxGenerator(options.model, device)
    save = save_image if options.overwrite else save_beside
    for i, path in paths.items():
        save(generator.generate_image(side, side, steps, spec.guidance, options.seed + i, prompts[i]), path)
    print(f"process {process} of {processes}: {len(paths)} pictures in {options.out}", flush=True)
    return 0
