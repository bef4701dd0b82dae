"""Measured speed, on this machine, in one run: our model beside diffusers', and the floor that its rates allow.

    python -m flux_edu.speed.bench                   the 12B model with random weights on a GPU; the tiny one on a CPU
    python -m flux_edu.speed.bench --diffusers       the same with diffusers' class beside it (extra: dev)
    python -m flux_edu.speed.bench --compile --fp8   more arms, for GPUs
    python -m flux_edu.speed.bench --scaling         one evaluation at many sizes and text lengths, the floor beside

A step is the whole loop of `sampling.denoise` divided by its steps, with everything in it that is computed before the
first step; ours computes the modulations of all steps there, see `ahead`. Every number is the median of several loops
after warm-up loops. Random weights take the time of trained ones. Nothing is downloaded.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, get_spec
from flux_edu.io.device import pick_device
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, token_grid
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed.diffusers_arm import Theirs, blocks, in_fp8, our_loop, start_compiler, their_loop

KERNELS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


@dataclass(frozen=True)
class Case:
    """What is measured: a variant, a size, how many steps, where and in which numbers."""

    spec: ModelSpec
    width: int
    height: int
    txt_tokens: int
    steps: int
    device: torch.device
    dtype: torch.dtype
    loops: int = 5
    warm_up: int = 1

    @property
    def tokens(self) -> int:
        rows, columns = token_grid(self.height, self.width)
        return rows * columns


def seconds(call: Callable[[], object], device: torch.device, loops: int, warm_up: int) -> float:
    """The median of `loops` runs; a GPU's queue is waited for before and after each."""
    taken = []
    for i in range(warm_up + loops):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        if i >= warm_up:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def seconds_in_a_row(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call among several in a row, as in a model: the GPU does not wait for the next one."""
    return seconds(lambda: [call() for _ in range(8)], device, 5, 2) / 8


def wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


# ---------------------------------------------------------------- the floor


def work(case: Case) -> tuple[float, float]:
    """FLOP of one evaluation, in matrices and in attention:  57 · 24 D² L  and  57 · 4 D L²  for FLUX.1."""
    p, L = case.spec.params, case.tokens + case.txt_tokens
    D, blocks = p.hidden_size, p.depth + p.depth_single_blocks
    return blocks * (8 + 4 * p.mlp_ratio) * D**2 * L, blocks * 4 * D * L**2


def rates(case: Case) -> tuple[float, dict[str, float]]:
    """FLOP a second: of the single block's first matrix product, and of attention by each kernel that runs here."""
    p, L = case.spec.params, case.tokens + case.txt_tokens
    D, K = p.hidden_size, p.hidden_size // p.num_heads
    made = dict(device=case.device, dtype=case.dtype)
    x, w = torch.randn(L, D, **made), torch.randn(int(D * (3 + p.mlp_ratio)), D, **made)
    product = 2 * L * w.numel() / seconds_in_a_row(lambda: F.linear(x, w), case.device)
    q, k, v = torch.randn(3, 1, p.num_heads, L, K, **made)
    found = {}
    for name in KERNELS:
        if name == "MATH" and found:  # the formula, with the whole matrix of scores: only where there is nothing else
            break
        with sdpa_kernel(getattr(SDPBackend, name)):
            try:
                taken = seconds_in_a_row(lambda: F.scaled_dot_product_attention(q, k, v), case.device)
            except RuntimeError:  # not on this machine
                continue
        found[name] = 4 * L**2 * D / taken
    return product, found


# ---------------------------------------------------------------- the arms


def inputs(case: Case) -> dict[str, Tensor]:
    """Random tokens of the right shapes, as `patchify.prepare` would make them."""
    p, generator = case.spec.params, torch.Generator().manual_seed(0)
    rows, columns = token_grid(case.height, case.width)
    img = patchify(get_noise(1, case.height, case.width, case.device, torch.float32, 0))
    given = {
        "img": img,
        "img_ids": make_img_ids(1, rows, columns),
        "txt": torch.randn(1, case.txt_tokens, p.context_in_dim, generator=generator).to(case.dtype),
        "txt_ids": make_txt_ids(1, case.txt_tokens),
        "vec": torch.randn(1, p.vec_in_dim, generator=generator).to(case.dtype),
    }
    return {name: x.to(case.device) for name, x in given.items()}


def random_model(case: Case) -> Flux:
    """Our model with random weights that leave activations of ordinary size, made on the device."""
    with torch.device("meta"):
        model = Flux(case.spec.params).to(case.dtype)
    return randomise(model.to_empty(device=case.device))


def randomise(model: nn.Module) -> nn.Module:
    """Matrices that keep the size of what they multiply, norms at 1, biases at 0."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.data.normal_(0, p[0].numel() ** -0.5, generator=generator)
        else:
            p.data.fill_(1.0 if "norm" in name and not name.endswith("bias") else 0.0)
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------- the run


def run(case: Case, arms: list[str], say: Callable[[str], None] = print) -> dict[str, float]:
    """Measure the arms and print; returns seconds a step.

    An arm is "ours" or "diffusers", maybe with "compiled": block by block, torch.compile's default mode, fullgraph.
    """
    device = torch.cuda.get_device_name(case.device) if case.device.type == "cuda" else str(case.device)
    say(f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {str(case.dtype)[6:]}, batch 1")
    say(f"{case.width} × {case.height} pixels = {case.tokens} tokens, {case.txt_tokens} of text, {case.steps} steps")
    matrices, attention = work(case)
    product, kernels = rates(case)
    kernel, rate = max(kernels.items(), key=lambda each: each[1])
    floor = matrices / product + attention / rate
    told = ", ".join(f"{name.lower()} {each / 1e12:.3g}" for name, each in kernels.items())
    say(f"rates in TFLOP/s: matrix product {product / 1e12:.3g}; attention: {told}")
    say(f"work a step in TFLOP: matrices {matrices / 1e12:.3g}, attention {attention / 1e12:.3g}")
    say(f"floor: {1000 * floor:.2f} ms a step; every arm below attends by {kernel.lower()}")
    if any("compiled" in arm for arm in arms):
        say(f"torch.compile starts in {start_compiler(case.device):.1f} s")
    given = inputs(case)
    timesteps = get_schedule(case.steps, case.tokens, shift=case.spec.shift)
    ours, taken, first = random_model(case), {}, None
    with sdpa_kernel(getattr(SDPBackend, kernel)):
        for arm in arms:
            model: nn.Module = Theirs(ours) if arm.startswith("diffusers") else ours
            if "fp8" in arm:
                in_fp8(model)
            if "compiled" in arm:
                for block in blocks(model):
                    block.compile(fullgraph=True)

            def loop(levels: list[float] = timesteps, model: nn.Module = model) -> Tensor:
                loop_of = their_loop if isinstance(model, Theirs) else our_loop
                return loop_of(model, given, levels, case.spec.guidance)

            start = time.perf_counter()
            loop(timesteps[:2])
            wait(case.device)
            cold = time.perf_counter() - start
            out = loop()
            first = out if first is None else first
            taken[arm] = seconds(loop, case.device, case.loops, case.warm_up) / case.steps
            apart = ((out - first).norm() / first.norm()).item()
            say(
                f"{arm:<20} {1000 * taken[arm]:8.2f} ms a step, {taken[arm] / floor:.2f} of the floor; first evaluation"
                f" {cold:.1f} s; its latent is {apart:.1e} from that of {arms[0]}"
            )
            for block in blocks(model):
                block._compiled_call_impl = None
    for arm in ("decode", *["decode compiled"] * any("compiled" in arm for arm in arms)):
        taken[arm] = decode(case, compiled=arm != "decode")
        say(f"{arm:<20} {1000 * taken[arm]:8.2f} ms a picture, channels last")
    return taken


def scaling(case: Case, sides: list[int], texts: list[int], say: Callable[[str], None] = print) -> list[float]:
    """Seconds of one step at each size with the case's text, and for each text at its size, with the floor beside."""
    cases = [replace(case, width=side, height=side, steps=1) for side in sides]
    cases += [replace(case, txt_tokens=text, steps=1) for text in texts]
    model, taken = random_model(case), []
    say("  side   text   TFLOP        ms   floor, ms")
    for each in cases:
        given, (product, kernels) = inputs(each), rates(each)
        (matrices, attention), steps = work(each), get_schedule(1, each.tokens)
        floor = matrices / product + attention / max(kernels.values())
        taken.append(seconds(lambda g=given, s=steps: denoise(model, **g, timesteps=s), case.device, each.loops, 2))
        tflop = (matrices + attention) / 1e12
        say(f"{each.width:>6} {each.txt_tokens:>6} {tflop:>7.4g} {1e3 * taken[-1]:>9.2f} {1e3 * floor:>11.2f}")
    return taken


def decode(case: Case, compiled: bool = False) -> float:
    """Seconds in which the autoencoder turns one latent into a picture."""
    ae = randomise(AutoEncoder(case.spec.ae_params).to(case.device, case.dtype)).to(memory_format=torch.channels_last)
    if compiled:
        ae.decoder.compile()
    z = torch.randn(1, 16, case.height // 8, case.width // 8, device=case.device, dtype=case.dtype)
    with torch.inference_mode():
        return seconds(lambda: ae.decode(z), case.device, case.loops, case.warm_up)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    top = argparse.ArgumentParser(prog="python -m flux_edu.speed.bench", description=__doc__.splitlines()[0])
    top.add_argument("--model", help="a name of flux_edu.configs; default flux-dev on a GPU, tiny on a CPU")
    top.add_argument("--device", help="default: the fastest there is")
    top.add_argument("--size", type=int, help="pixels of both sides; default 1024, tiny 128")
    top.add_argument("--text", type=int, help="tokens of text; default the model's own")
    top.add_argument("--steps", type=int, default=28)
    top.add_argument("--loops", type=int, default=5, help="of which the median is taken")
    top.add_argument("--diffusers", action="store_true", help="diffusers' class beside ours")
    top.add_argument("--compile", action="store_true", help="each kind of block compiled as well")
    top.add_argument("--fp8", action="store_true", help="8-bit linear layers, compiled, as a last arm")
    top.add_argument("--scaling", action="store_true", help="many sizes and text lengths instead of arms")
    options = top.parse_args(arguments)
    device = pick_device(options.device)
    spec = get_spec(options.model or ("flux-dev" if device.type == "cuda" else "tiny"))
    size = options.size or (1024 if spec.repo_id else 128)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    text = options.text or spec.txt_tokens
    arms = ["ours", *["diffusers"] * options.diffusers]
    arms += [f"{arm} compiled" for arm in arms] * options.compile + ["ours fp8 compiled"] * options.fp8
    case = Case(spec, size, size, text, options.steps, device, dtype, options.loops)
    if options.scaling:
        scaling(case, [size * i // 4 for i in (1, 2, 3, 4, 6, 8)], [text // i for i in (8, 4, 2)])
    else:
        run(case, arms)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
