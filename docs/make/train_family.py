"""Train the whole tiny family from one base, measure and pack it: `python docs/make/train_family.py --out runs/family`.

The base comes first, on all GPUs. Then the deltas are trained on it, --beside of them at a time on each GPU (one waits
for the processor, or compiles, while another computes), each going on from the one that --begin holds or, failing that,
from the shipped one; a measure runs when the models that it needs are there. The same command goes on where an earlier
one ended: what has trained its seconds is not trained again, what was interrupted resumes. --limit ends a command in
time. On another machine --begin names the folder that `parts` made, and a stage of 0 seconds is taken from there as it
is.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from flux_edu.io.checkpoint import read_metadata
from flux_edu.io.tiny import TINY_FOLDER

HERE, SHIPPED = Path(__file__).parent, Path(str(TINY_FOLDER))
MODULES = {"base": ["flow"], "dev": ["guidance"], "schnell": ["few_steps"]}
MODULES |= {name: ["tools", name] for name in ("kontext", "fill", "canny", "redux")}
SECONDS = {"base": 400, "dev": 230, "schnell": 300, "kontext": 200, "fill": 200, "canny": 150, "redux": 150}
SIZES = ["96x96", "128x128", "160x160", "192x192", "224x224", "256x256", "256x128", "128x256"]
TOOLS = tuple(MODULES)[3:]
NEEDS = {"evaluate": ("dev", "schnell"), "evaluate_sizes": ("schnell",), "evaluate_tools": TOOLS}
SPARE = 40  # seconds that a stage takes after its last step, to save and to paint sheets
TOY = "--steps 2 --pool 4 --batch 2 --report 1 --evaluate 9 --save 9 --renew 9".split()
PART = 15 * 2**20  # bytes of a part of the parcel


def files(name: str) -> list[str]:
    """What a stage leaves for the family."""
    return [f"{file}.safetensors" for file in (("t5", "clip", "flux") if name == "base" else (name,))]


def run_folder(args: argparse.Namespace, name: str) -> Path:
    return args.out / ("tools" if "tools" in MODULES[name] else "") / name


def before(args: argparse.Namespace, file: str) -> Path:
    """Where a stage begins: the earlier leg's file, or the shipped one."""
    return next(folder / file for folder in (args.begin, SHIPPED) if (folder / file).is_file())


def stage_command(args: argparse.Namespace, name: str) -> list:
    """All but --time-limit, which may differ from one start to the next."""
    out = run_folder(args, name)
    command = ["-m", f"flux_edu.train.{MODULES[name][0]}", *MODULES[name][1:], "--seconds", args.seconds[name]]
    command += ["--out", out if name in ("base", "dev", "schnell") else out.parent, "--seed", args.seed]
    command += ["--data", args.data, "--ae", SHIPPED / "ae.safetensors"] + ["--speed", args.speed]
    command += TOY if args.toy else []
    if name == "base":
        command += ["--begin", before(args, "flux.safetensors").parent, "--hide", args.hide, "--renew", 400]
        command += ["--muon", args.muon, "--rate", 0.4 * args.muon]
        command += [] if args.toy else ["--batch", args.batch, "--evaluate", 8]
        command += ["--keep", args.keep] if args.keep else []
    else:
        begin = before(args, files(name)[0])
        command += ["--begin", begin, "--rank", read_metadata(begin)["rank"], "--weights", args.out / "family"]
        command += ["--muon", 2 * args.muon, "--rate", args.muon / 2] + ["--measure", "4"] * args.toy
        command += ["--taught"] * (name == "redux")
    if name in ("base", "dev", "schnell"):
        command += ["--asked", args.asked]
    return command


def is_trained(args: argparse.Namespace, name: str) -> bool:
    """Whether a stage has trained all of its time and left what it should, or is not to be trained."""
    if not args.seconds[name]:
        return True
    folder = run_folder(args, name)
    if not all((folder / file).is_file() for file in [*files(name), "state.safetensors"]):
        return False
    metadata = read_metadata(folder / "state.safetensors")
    return float(metadata["used"]) >= 0.99 * args.seconds[name] or args.toy and int(metadata["step"]) >= 2


def keep(args: argparse.Namespace, name: str) -> None:
    """Put what a stage has made into the family; what is not to be trained is taken from where it would begin."""
    for file in files(name):
        source = run_folder(args, name) / file if args.seconds[name] > 0 else before(args, file)
        if source.is_file():
            shutil.copyfile(source, args.out / "family" / file)


def run_all(args: argparse.Namespace, commands: dict[str, list], gpus: list[str]) -> None:
    """Run commands, each on one entry of gpus and after what it needs; the end if some could not run to their end."""
    waiting, running, free = list(commands), {}, list(gpus)

    def next_one() -> str | None:
        ready = (name for name in waiting if all(is_trained(args, other) for other in NEEDS.get(name, ())))
        return next(ready, None) if free and args.deadline - time.monotonic() > 2 * SPARE else None

    while (name := next_one()) or running:
        if name:
            waiting.remove(name)
            running[name] = start(args, name, commands[name], where := free.pop(0)), where
            continue
        time.sleep(0.2)
        for name, (process, where) in list(running.items()):
            if time.monotonic() > args.deadline:
                process.kill()  # so that there is time to bring home what the others have made
                process.wait()
            if process.poll() is not None:
                del running[name]
                free.append(where)
                print(f"{name} ended with {process.returncode}", flush=True)
                if process.returncode:
                    print((args.out / f"{name}.txt").read_text("utf-8")[-3000:], flush=True)
                if name in MODULES:
                    keep(args, name)
    unfinished = [name for name in commands if name in MODULES and not is_trained(args, name)]
    if left_over := waiting + [name for name in unfinished if name not in waiting]:
        raise SystemExit(f"not run to the end: {', '.join(left_over)}; the same command goes on from here")


def start(args: argparse.Namespace, name: str, command: list, where: str) -> subprocess.Popen:
    left = args.deadline - time.monotonic()
    command = command + (["--time-limit", int(left - SPARE)] if name in MODULES else [])
    many = where.count(",") + 1
    runner = ["-m", "torch.distributed.run", "--nproc-per-node", many] if many > 1 else []
    words = [sys.executable, *map(str, runner + command)]
    print(f"{left:.0f} s left, on {where or 'the CPU'}: {' '.join(words[1:])}", flush=True)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": where, "PYTHONUNBUFFERED": "1"}
    with (args.out / f"{name}.txt").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)


def train(args: argparse.Namespace, names: list[str], gpus: list[str], then: dict[str, list] | None = None) -> None:
    """Train what is not trained yet, and put it into the family; then run the commands of `then`."""
    untrained = [name for name in names if not is_trained(args, name)]
    for name in names:
        keep(args, name)
    run_all(args, {name: stage_command(args, name) for name in untrained} | (then or {}), gpus)


def measures(args: argparse.Namespace) -> dict[str, list]:
    """The commands of both measures, of the models that are there."""
    family = args.out / "family"
    few = ["--quick", "--device", "cpu"] if args.toy else []
    evaluate = [HERE / "evaluate.py", "--data", args.data, "--weights", family, *few]
    tools = [HERE / "evaluate_tools.py", "--data", args.data, "--weights", family, "--base", family]
    large = ["--models", "tiny", "tiny-schnell", "--sizes", *(SIZES[:1] if args.toy else SIZES)]
    return {
        "evaluate": [*evaluate, "--out", args.out / "evaluate", "--prompts", args.prompts],
        "evaluate_sizes": [*evaluate, *large, "--out", args.out / "evaluate_sizes", "--prompts", args.prompts // 4],
        "evaluate_tools": [*tools, "--out", args.out / "evaluate_tools", "--pictures", max(2, args.prompts // 8)],
    }


def parts(args: argparse.Namespace) -> None:
    """Weights, logs, tables and sheets as one archive in parts of at most 15 MiB: `cat family.tar.* | tar x`."""
    runs = {}
    for name in MODULES:
        folder = run_folder(args, name)
        if (folder / "log.csv").is_file():
            with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
                runs[name] = {"log": list(csv.DictReader(file))}
            runs[name] |= {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    (args.out / "family.json").write_text(json.dumps(runs, indent=1), "utf-8")
    args.parcel.mkdir(parents=True, exist_ok=True)
    archive = args.out / "family.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(args.out.rglob("*")):
            kept = path.suffix in {".json", ".md", ".csv", ".txt", ".png"} or path.parent.name == "family"
            if path.is_file() and kept:
                tar.add(path, path.relative_to(args.out))
    content = archive.read_bytes()
    for i in range(0, len(content), PART):
        (args.parcel / f"family.tar.{i // PART}").write_bytes(content[i : i + PART])
    print(f"{len(content) / 2**20:.1f} MiB in {-(-len(content) // PART)} parts in {args.parcel}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/family"))
    parser.add_argument("--begin", type=Path, default=SHIPPED, help="folder of an earlier leg's weights to go on from")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"))
    parser.add_argument("--gpus", type=int, default=1, help="0: the CPU")
    parser.add_argument("--beside", type=int, default=1, help="deltas or measures that share a GPU at a time")
    parser.add_argument("--limit", type=float, default=570, help="seconds this command may take")
    parser.add_argument("--parcel", type=Path, help="where to put the parts of what was made")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*MODULES, *NEEDS],
        help="of the stages and measures only these; what is missing is taken over",
    )
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument(
        "--muon", type=float, default=1.5e-3, help="peak of Muon's rate, of the base; deltas take twice"
    )
    parser.add_argument("--asked", type=float, default=0.3, help="share of pictures of `train.asked`")
    parser.add_argument("--batch", type=int, default=427, help="pictures of 128 × 128 in a step of the base, a GPU")
    parser.add_argument("--keep", type=Path, help="folder of a base to learn from at 128 × 128")
    parser.add_argument("--hide", type=float, default=0.0, help="share of captions that T5 alone gets to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", default="graph", help="how a GPU runs a step: plain, graph or compile")
    parser.add_argument("--toy", action="store_true", help="two steps a stage, few prompts: a rehearsal on the CPU")
    for name, seconds in SECONDS.items():
        parser.add_argument(f"--{name}", type=float, default=seconds, help="seconds to train; 0: as it is in --begin")
    args = parser.parse_args()
    args.deadline = time.monotonic() + args.limit
    args.seconds = {name: getattr(args, name) for name in SECONDS}
    then = measures(args)
    if args.only:
        args.seconds = {name: seconds * (name in args.only) for name, seconds in args.seconds.items()}
        then = {name: command for name, command in then.items() if name in args.only}
    args.parcel = args.parcel or args.out / "parcel"
    (args.out / "family").mkdir(parents=True, exist_ok=True)
    single = [str(i) for i in range(args.gpus)] or [""]
    try:
        train(args, ["base"], [",".join(single)])
        train(args, [name for name in MODULES if name != "base"], single * args.beside, then)
    finally:
        parts(args)


if __name__ == "__main__":
    main()
