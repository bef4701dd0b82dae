"""Measured speed, on this machine, in one run: our model beside diffusers', and the floor that its rates allow.

    flux-edu bench                      the 12B model with random weights on a GPU; the tiny one on a CPU
    flux-edu bench --diffusers          the same with diffusers' class beside it (extra: dev)
    flux-edu bench --cache              a first-block cache that computes every second step whole
    flux-edu bench --compile --fp8      more arms, for GPUs

A step is the whole loop of `sampling.denoise` divided by its steps, with everything in it that is computed before the
first step (ours: the modulations of all steps, see `modulation_cache`). The arms take turns, loop by loop, so that a
card that gets warm slows all of them; every number is a median. Random weights take the time of trained ones. Nothing
is downloaded.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, get_spec
from flux_edu.io.device import pick_device
from flux_edu.io.options import check_room
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, token_grid
from flux_edu.schedule import get_schedule
from flux_edu.speed.diffusers_arm import DiffusersFlux, cached_diffusers, denoise_diffusers
from flux_edu.speed.fp8 import to_float8
from flux_edu.speed.group_norm import use_sums
from flux_edu.speed.modulation_cache import denoise_precomputed
from flux_edu.speed.step_cache import FirstBlockCache, cached

KERNELS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
BLOCKS = ("double_blocks", "single_blocks", "transformer_blocks", "single_transformer_blocks")
Loop = Callable[[list[float]], Tensor]  # noise levels → the latent at the end


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
    loops: int = 3
    lasting: float = 4.0  # seconds of the same operation before its lasting rate is read

    @property
    def tokens(self) -> int:
        rows, columns = token_grid(self.height, self.width)
        return rows * columns


# ---------------------------------------------------------------- time


def wait(device: torch.device) -> None:
    """Until a GPU's queue is empty."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, a GPU's queue waited for before and after."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], device: torch.device, loops: int, warm_up: int) -> float:
    """The median of `loops` calls, after some that are not counted."""
    return statistics.median([seconds(call, device) for _ in range(warm_up + loops)][warm_up:])


def burst_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call among eight in a row on a rested machine, as in a model: a GPU does not wait for the next."""
    return median_seconds(lambda: [call() for _ in range(8)], device, loops=5, warm_up=2) / 8


def lasting_seconds(call: Callable[[], object], device: torch.device, span: float) -> float:
    """Seconds of one call after `span` seconds of nothing else, when a GPU has come to its power limit."""
    group = max(1, round(span / 16 / burst_seconds(call, device)))
    start, taken = time.perf_counter(), []
    while time.perf_counter() - start < span or not taken:
        taken.append(seconds(lambda: [call() for _ in range(group)], device) / group)
    return statistics.median(taken[-4:])


# ---------------------------------------------------------------- the floor


def work(case: Case) -> tuple[float, float]:
    """FLOP of one evaluation, in matrices and in attention:  57 · 24 D² L  and  57 · 4 D L²  for FLUX.1."""
    p, L = case.spec.params, case.tokens + case.txt_tokens
    D, blocks = p.hidden_size, p.depth + p.depth_single_blocks
    return blocks * (8 + 4 * p.mlp_ratio) * D**2 * L, blocks * 4 * D * L**2


@dataclass(frozen=True)
class Rates:
    """FLOP a second: of the single block's first matrix product and of attention by its fastest kernel."""

    kernel: str  # a name of `KERNELS`
    product: float
    attention: float
    lasting_product: float
    lasting_attention: float

    def floors(self, case: Case) -> tuple[float, float]:
        """Seconds of a step that does nothing but these, at the burst rates and at the lasting ones."""
        matrices, attention = work(case)
        burst = matrices / self.product + attention / self.attention
        return burst, matrices / self.lasting_product + attention / self.lasting_attention


def measure_rates(case: Case) -> Rates:
    """Both rates on this machine, for the case's width, heads and number of tokens."""
    p, L = case.spec.params, case.tokens + case.txt_tokens
    D, K = p.hidden_size, p.hidden_size // p.num_heads
    like = dict(device=case.device, dtype=case.dtype)
    x, w = torch.randn(L, D, **like), torch.randn(int(D * (3 + p.mlp_ratio)), D, **like)
    q, k, v = torch.randn(3, 1, p.num_heads, L, K, **like)

    def multiply() -> Tensor:
        return F.linear(x, w)

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    product_flop, attention_flop = 2 * L * w.numel(), 4 * L**2 * D
    taken = {}
    for name in KERNELS:
        if name == "MATH" and taken:  # the formula with all scores in memory: only where there is nothing else
            break
        with sdpa_kernel(getattr(SDPBackend, name)):
            try:
                taken[name] = burst_seconds(attend, case.device)
            except RuntimeError:  # not on this machine
                continue
    kernel = min(taken, key=taken.get)
    with sdpa_kernel(getattr(SDPBackend, kernel)):
        lasting_attention = attention_flop / lasting_seconds(attend, case.device, case.lasting)
    return Rates(
        kernel=kernel,
        product=product_flop / burst_seconds(multiply, case.device),
        attention=attention_flop / taken[kernel],
        lasting_product=product_flop / lasting_seconds(multiply, case.device, case.lasting),
        lasting_attention=lasting_attention,
    )


# ---------------------------------------------------------------- the arms


def random_inputs(case: Case) -> dict[str, Tensor]:
    """Random tokens of the right shapes, as `patchify.prepare` would make them."""
    p, generator = case.spec.params, torch.Generator().manual_seed(0)
    rows, columns = token_grid(case.height, case.width)
    inputs = {
        "img": patchify(get_noise(1, case.height, case.width, case.device, torch.float32, 0)),
        "img_ids": make_img_ids(1, rows, columns),
        "txt": torch.randn(1, case.txt_tokens, p.context_in_dim, generator=generator).to(case.dtype),
        "txt_ids": make_txt_ids(1, case.txt_tokens),
        "vec": torch.randn(1, p.vec_in_dim, generator=generator).to(case.dtype),
    }
    return {name: x.to(case.device) for name, x in inputs.items()}


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


def same_weights(model: Flux) -> Flux:
    """Another module on the same tensors, to be compiled or quantised by itself."""
    with torch.device("meta"):
        copy = Flux(model.params)
    copy.load_state_dict(model.state_dict(), assign=True)
    return copy.eval().requires_grad_(False)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of either class."""
    inner = model.inner if isinstance(model, DiffusersFlux) else model
    return [block for name in BLOCKS for block in getattr(inner, name, ())]


class EverySecondStep(float):
    """A threshold for a cache: measured changes are compared with it, and every second one is large enough.

    With random weights no threshold would mean anything, and both arms must leave out the same steps.
    """

    def __init__(self):
        self.whole = cycle([False, True])  # nothing is compared in the first step

    def __lt__(self, change: float) -> bool:
        """What Python asks for `change > threshold`."""
        return next(self.whole)


def caching(name: str, model: Flux | DiffusersFlux) -> AbstractContextManager:
    """What an arm paints inside: a first-block cache, ours or diffusers', or nothing."""
    if "cache" not in name:
        return nullcontext()
    if "diffusers" in name:
        return cached_diffusers(model, EverySecondStep())
    return cached(model, FirstBlockCache(model, EverySecondStep()))


def make_arm(name: str, weights: Flux, inputs: dict[str, Tensor], guidance: float) -> Loop:
    """The sampler's loop of an arm: "ours" or "diffusers", maybe "cache", "fp8", and compiled: "blocks" or "whole".

    Blocks of one kind are compiled once, in seconds; the whole network takes minutes. Both have no graph breaks: of a
    block of diffusers its forward is compiled, and the cache's hooks stay outside.
    """
    model = DiffusersFlux(weights) if "diffusers" in name else same_weights(weights)
    loop = denoise_diffusers if "diffusers" in name else denoise_precomputed
    for block in blocks(model):
        if "fp8" in name:
            to_float8(block)
        if "blocks" in name:
            block.forward = torch.compile(block.forward, fullgraph=True)
    if "whole" in name:
        model.forward = torch.compile(model.forward, fullgraph=True)

    def paint(timesteps: list[float]) -> Tensor:
        with caching(name, model):
            return loop(model, inputs, timesteps, guidance)

    return paint


# ---------------------------------------------------------------- the run


def describe(case: Case, rates: Rates) -> list[str]:
    """Machine, size, rates and floors, a line each."""
    device = torch.cuda.get_device_name(case.device) if case.device.type == "cuda" else str(case.device)
    (matrices, attention), (burst, lasting) = work(case), rates.floors(case)
    tera = [f"{x / 1e12:.3g}" for x in (rates.product, rates.lasting_product, rates.attention, rates.lasting_attention)]
    return [
        f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {str(case.dtype)[6:]}, batch 1",
        f"{case.width} × {case.height} pixels = {case.tokens} tokens, {case.txt_tokens} of text, {case.steps} steps",
        f"work a step in TFLOP: matrices {matrices / 1e12:.3g}, attention {attention / 1e12:.3g}",
        f"TFLOP/s, a burst and after {case.lasting:g} s: matrix product {tera[0]} and {tera[1]}, attention"
        f" ({rates.kernel.lower()}) {tera[2]} and {tera[3]}",
        f"floor of a step: {1000 * burst:.2f} ms in a burst, {1000 * lasting:.2f} ms lasting",
    ]


def run(case: Case, arms: list[str], say: Callable[[str], None] = print) -> dict[str, float]:
    """Measure the arms and print; returns seconds a step by arm, and a picture for the arms that decode."""
    rates = measure_rates(case)
    for line in describe(case, rates):
        say(line)
    if any("blocks" in arm or "whole" in arm for arm in arms):
        start = seconds(lambda: torch.compile(lambda x: x + 1)(torch.ones(3, device=case.device)), case.device)
        say(f"torch.compile starts in {start:.1f} s")  # once a process, whatever is compiled
    timesteps = get_schedule(case.steps, case.tokens, shift=case.spec.shift)
    weights, inputs = random_model(case), random_inputs(case)
    loops, latents, taken = {}, {}, {arm: [] for arm in arms}
    with sdpa_kernel(getattr(SDPBackend, rates.kernel)):
        for arm in arms:
            loops[arm] = make_arm(arm, weights, inputs, case.spec.guidance)
            cold = seconds(lambda loop=loops[arm]: loop(timesteps[:2]), case.device)
            latents[arm] = loops[arm](timesteps)
            apart = ((latents[arm] - latents[arms[0]]).norm() / latents[arms[0]].norm()).item()
            say(f"{arm:<20} first evaluation {cold:5.1f} s; latent {apart:.1e} from that of {arms[0]}")
        for _ in range(case.loops):
            for arm, loop in loops.items():
                taken[arm].append(seconds(lambda loop=loop: loop(timesteps), case.device) / case.steps)
    results = {arm: statistics.median(times) for arm, times in taken.items()}
    lasting = rates.floors(case)[1]
    for arm, step in results.items():
        say(f"{arm:<20} {1000 * step:8.2f} ms a step, {step / lasting:.2f} of the lasting floor")
    compiled = any("blocks" in arm for arm in arms)
    for arm in ("decode", *["decode compiled"] * compiled):
        results[arm] = decode(case, compiled="compiled" in arm)
        say(f"{arm:<20} {1000 * results[arm]:8.2f} ms a picture, channels last")
    return results


def decode(case: Case, compiled: bool = False) -> float:
    """Seconds in which the autoencoder turns one latent into a picture; compiled: with group norms by sums."""
    ae = randomise(AutoEncoder(case.spec.ae_params).to(case.device, case.dtype)).to(memory_format=torch.channels_last)
    if compiled:
        use_sums(ae.decoder).compile()
    z = torch.randn(1, 16, case.height // 8, case.width // 8, device=case.device, dtype=case.dtype)
    with torch.inference_mode():
        return median_seconds(lambda: ae.decode(z), case.device, 5, 2)


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    device = pick_device(options.device)
    spec = get_spec(options.model or ("flux-dev" if device.type == "cuda" else "tiny"))
    size = options.size or (1024 if spec.repo_id else 128)
    check_room(spec, size, size, device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    case = Case(spec, size, size, options.text or spec.txt_tokens, options.steps, device, dtype, options.loops)
    makers = ["ours", *["diffusers"] * options.diffusers]
    arms = makers + [f"{maker} cache" for maker in makers] * options.cache
    compiled = [f"{arm} blocks" for arm in arms] + [f"{maker} whole" for maker in makers]
    run(case, arms + compiled * options.compile + ["ours fp8 blocks"] * options.fp8)
    return 0
