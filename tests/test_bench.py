"""The bench, on a small model: what it counts, that its arms compute the same, and what it says."""

import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flux_edu.configs import configs
from flux_edu.io import memory
from flux_edu.model import Flux
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed import bench, diffusers_arm

SMALL = replace(
    configs["tiny-dev"],
    params=replace(configs["tiny-dev"].params, depth=1, depth_single_blocks=2),
    ae_params=replace(configs["tiny"].ae_params, ch=16),
)


def case(spec=SMALL, **changes):
    given = dict(width=48, height=32, txt_tokens=7, steps=3, device=torch.device("cpu"), dtype=torch.float32)
    return bench.Case(spec, **given | dict(loops=1, warm_up=0) | changes)


def test_the_work_is_that_of_the_counter():
    matrices, attention = bench.work(case(configs["flux-dev"], width=1024, height=1024, txt_tokens=512))
    assert matrices == pytest.approx(59.5e12, rel=1e-3) and attention == pytest.approx(14.87e12, rel=1e-3)
    with torch.device("meta"):
        model = Flux(SMALL.params)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**memory.transformer_inputs(model, 64 * 6, 512))
    small = sum(bench.work(case(width=1024, height=96, txt_tokens=512)))
    assert small == pytest.approx(counter.get_total_flops(), rel=0.05)  # modulation and ends are left out


def test_the_median_of_loops_after_warm_up():
    waits = iter([0.2, 0.0, 0.0, 0.05, 0.0, 0.0])
    taken = bench.seconds(lambda: time.sleep(next(waits)), torch.device("cpu"), loops=5, warm_up=1)
    assert taken < 0.04


def test_both_arms_compute_the_same():
    one = case()
    ours, given, timesteps = bench.random_model(one), bench.inputs(one), get_schedule(3, one.tokens)
    out = denoise(ours, **given, timesteps=timesteps, guidance=2.5)
    theirs = diffusers_arm.Theirs(ours)
    expected = diffusers_arm.their_loop(theirs, given, timesteps, 2.5)
    assert (expected - given["img"]).std() > 0.1, "the model does nothing"
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert (diffusers_arm.their_loop(theirs, given, timesteps, 3.5) - expected).abs().max() > 1e-3
    assert len(bench.blocks(ours)) == len(bench.blocks(theirs)) == 3


def test_in_bfloat16_both_arms_are_asked_about_the_same_noise_level():
    one = case(dtype=torch.bfloat16)
    ours, given, timesteps = bench.random_model(one), bench.inputs(one), get_schedule(3, one.tokens)
    out, theirs = denoise(ours, **given, timesteps=timesteps, guidance=2.5), diffusers_arm.Theirs(ours)
    apart = [(diffusers_arm.their_loop(theirs, given, timesteps, 2.5) - out).norm() / out.norm()]
    theirs.inner.time_text_embed = theirs.inner.time_text_embed.inner  # as diffusers rounds them
    apart.append((diffusers_arm.their_loop(theirs, given, timesteps, 2.5) - out).norm() / out.norm())
    assert apart[0] < 0.02 < 0.05 < apart[1]


def test_our_loop_is_that_of_denoise():
    one = case()
    ours, given, timesteps = bench.random_model(one), bench.inputs(one), get_schedule(3, one.tokens)
    expected = denoise(ours, **given, timesteps=timesteps, guidance=2.5)
    torch.testing.assert_close(diffusers_arm.our_loop(ours, given, timesteps, 2.5), expected, rtol=1e-4, atol=1e-5)


def test_a_run_says_device_rates_floor_kernel_and_arms():
    said = []
    taken = bench.run(case(), ["ours", "diffusers"], said.append)
    assert set(taken) == {"ours", "diffusers", "decode"} and all(each > 0 for each in taken.values())
    text = "\n".join(said)
    for told in (
        "cpu, torch",
        "48 × 32 pixels = 6 tokens, 7 of text, 3 steps",
        "matrix product",
        "floor: ",
        "attends by",
    ):
        assert told in text
    assert [line.split()[0] for line in said[-3:]] == ["ours", "diffusers", "decode"]


def test_scaling_goes_over_sizes_and_texts():
    said = []
    assert len(bench.scaling(case(), [32, 64], [3], said.append)) == 3
    assert [line.split()[:2] for line in said] == [["side", "text"], ["32", "7"], ["64", "7"], ["48", "3"]]


def test_a_linear_layer_in_eight_bits_is_a_few_per_cent_off():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 48).to(torch.bfloat16), torch.randn(2, 7, 64, dtype=torch.bfloat16)
    x[1, 3] *= 1000  # a token that is longer than others does not cost these their digits
    small = diffusers_arm.Linear8(layer)
    assert small.rows.dtype == torch.float8_e4m3fn and small.rows.abs().float().amax(1).eq(448).all()
    with torch.inference_mode():
        off = (small(x) - layer(x)).float().norm(dim=-1) / layer(x).float().norm(dim=-1)
    assert 0.005 < off.mean() and off.max() < 0.06


def test_the_blocks_in_eight_bits_paint_nearly_the_same():
    said, one = [], case(dtype=torch.bfloat16)
    bench.run(one, ["ours", "ours fp8"], said.append)
    apart = float(next(line for line in said if line.startswith("ours fp8")).split("latent is ")[1].split()[0])
    assert 0 < apart < 0.1
    layers = [type(m) for block in bench.blocks(diffusers_arm.in_fp8(bench.random_model(one))) for m in block.modules()]
    assert (
        layers.count(diffusers_arm.Linear8) == 8 + 2 * 2 and layers.count(torch.nn.Linear) == 2 + 2
    )  # the modulations


def test_the_command_line_measures_the_tiny_model_on_a_cpu(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "run", lambda case, arms: seen.append((case, arms)))
    assert bench.main(["--device", "cpu", "--compile", "--diffusers", "--fp8"]) == 0
    [(one, arms)] = seen
    assert one.spec is configs["tiny"] and (one.width, one.dtype, one.txt_tokens) == (128, torch.float32, 32)
    asked = []
    monkeypatch.setattr(bench, "scaling", lambda case, sides, texts: asked.append((sides, texts)))
    assert bench.main(["--device", "cpu", "--scaling"]) == 0
    assert asked == [([32, 64, 96, 128, 192, 256], [4, 8, 16])]
    assert arms == ["ours", "diffusers", "ours compiled", "diffusers compiled", "ours fp8 compiled"]
