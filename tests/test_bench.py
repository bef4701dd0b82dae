"""The bench, on a small model: what it counts, that its arms compute the same, and what it says."""

import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flux_edu.__main__ import main
from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.io import memory
from flux_edu.model import Flux
from flux_edu.sampling import denoise
from flux_edu.schedule import get_schedule
from flux_edu.speed import bench, fp8
from flux_edu.speed.diffusers_arm import DiffusersFlux, denoise_diffusers
from flux_edu.speed.group_norm import SumsGroupNorm, use_sums
from flux_edu.speed.modulation_cache import denoise_precomputed

SMALL = replace(
    configs["tiny-dev"],
    params=replace(configs["tiny-dev"].params, depth=1, depth_single_blocks=2),
    ae_params=replace(configs["tiny"].ae_params, ch=16),
)


def case(spec=SMALL, **changes):
    small = dict(width=48, height=32, txt_tokens=7, steps=3, device=torch.device("cpu"), dtype=torch.float32)
    return bench.Case(spec, **small | dict(loops=1, lasting=0.01) | changes)


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
    taken = bench.median_seconds(lambda: time.sleep(next(waits)), torch.device("cpu"), loops=5, warm_up=1)
    assert taken < 0.04


def test_the_lasting_rate_is_read_at_the_end():
    """A machine that takes twice as long once it is warm: the lasting time is the warm one."""
    start = time.perf_counter()

    def call():
        time.sleep(0.002 if time.perf_counter() - start < 0.15 else 0.004)

    assert bench.lasting_seconds(call, torch.device("cpu"), span=0.4) == pytest.approx(0.004, rel=0.3)


def test_floors_are_work_over_rates():
    rates = bench.Rates("MATH", product=2.0, attention=4.0, lasting_product=1.0, lasting_attention=2.0)
    matrices, attention = bench.work(case())
    burst, lasting = rates.floors(case())
    assert burst == pytest.approx(matrices / 2 + attention / 4) and lasting == pytest.approx(2 * burst)


@pytest.fixture(scope="module")
def small_model():
    """A case, its random model and inputs, three noise levels and what `denoise` makes of them."""
    one = case()
    model, inputs, timesteps = bench.random_model(one), bench.random_inputs(one), get_schedule(3, one.tokens)
    expected = denoise(model, **inputs, timesteps=timesteps, guidance=2.5)
    assert (expected - inputs["img"]).std() > 0.1, "the model does nothing"
    return model, inputs, timesteps, expected


def test_diffusers_computes_the_same(small_model):
    model, inputs, timesteps, expected = small_model
    theirs = DiffusersFlux(model)
    out = denoise_diffusers(theirs, inputs, timesteps, 2.5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert (denoise_diffusers(theirs, inputs, timesteps, 3.5) - expected).abs().max() > 1e-3
    assert len(bench.blocks(model)) == len(bench.blocks(theirs)) == 3


@pytest.mark.parametrize("arm", ["ours", "diffusers", "ours blocks", "ours whole"])
def test_an_arm_is_the_loop_of_denoise(small_model, arm, monkeypatch):
    model, inputs, timesteps, expected = small_model
    monkeypatch.setattr(torch, "compile", lambda call, fullgraph: call)  # compiled on a GPU; here its wiring counts
    out = bench.make_arm(arm, model, inputs, 2.5)(timesteps)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_both_caches_leave_out_the_same_steps_and_compute_the_same(small_model):
    model, inputs = small_model[:2]
    timesteps = get_schedule(5, 6)
    ours, theirs = (bench.make_arm(f"{maker} cache", model, inputs, 2.5) for maker in ("ours", "diffusers"))
    expected, whole = ours(timesteps), denoise(model, **inputs, timesteps=timesteps, guidance=2.5)
    for arm in (ours, theirs, ours, theirs):  # each painting begins anew
        torch.testing.assert_close(arm(timesteps), expected, rtol=1e-4, atol=1e-4)
    assert (expected - whole).abs().max() > 1e-2
    cache = bench.FirstBlockCache(model, bench.EverySecondStep())
    with bench.cached(model, cache):
        denoise_precomputed(model, inputs, timesteps, 2.5)
    assert cache.computed == [True, False, True, False, True]


def test_arms_share_their_weights(small_model):
    model = small_model[0]
    copy = bench.same_weights(model)
    assert copy is not model and copy.img_in.weight.data_ptr() == model.img_in.weight.data_ptr()


def test_in_bfloat16_both_arms_are_asked_about_the_same_noise_level():
    one = case(dtype=torch.bfloat16)
    model, inputs, timesteps = bench.random_model(one), bench.random_inputs(one), get_schedule(3, one.tokens)
    out, theirs = denoise(model, **inputs, timesteps=timesteps, guidance=2.5), DiffusersFlux(model)
    exact = (denoise_diffusers(theirs, inputs, timesteps, 2.5) - out).norm() / out.norm()
    theirs.inner.time_text_embed = theirs.inner.time_text_embed.embedder  # as diffusers rounds them
    rounded = (denoise_diffusers(theirs, inputs, timesteps, 2.5) - out).norm() / out.norm()
    assert exact < 0.02 < 0.05 < rounded


def test_the_precomputed_loop_is_that_of_denoise(small_model):
    model, inputs, timesteps, expected = small_model
    torch.testing.assert_close(denoise_precomputed(model, inputs, timesteps, 2.5), expected, rtol=1e-4, atol=1e-5)


def test_a_run_says_device_rates_floor_and_arms():
    lines = []
    results = bench.run(case(), ["ours", "diffusers"], lines.append)
    assert set(results) == {"ours", "diffusers", "decode"} and all(time > 0 for time in results.values())
    text = "\n".join(lines)
    for part in ("cpu, torch", "48 × 32 pixels = 6 tokens, 7 of text, 3 steps", "matrix product", "floor of a step: "):
        assert part in text
    assert [line.split()[0] for line in lines[-3:]] == ["ours", "diffusers", "decode"]


def test_group_norm_by_sums_is_pytorchs():
    torch.manual_seed(0)
    ae = bench.randomise(AutoEncoder(SMALL.ae_params))
    z = torch.randn(2, 16, 5, 3)
    with torch.inference_mode():
        expected = ae.decode(z)
        use_sums(ae.decoder)
        assert not any(type(module) is torch.nn.GroupNorm for module in ae.decoder.modules())
        torch.testing.assert_close(ae.decode(z), expected, rtol=1e-4, atol=1e-5)
    norm, x = torch.nn.GroupNorm(3, 12, eps=1e-6), torch.randn(2, 12, 7, 5) * 3 + 1
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    sums = SumsGroupNorm(3, 12, 1e-6)
    sums.load_state_dict(norm.state_dict())
    torch.testing.assert_close(sums(x), norm(x), rtol=1e-5, atol=1e-5)


def test_a_linear_layer_in_eight_bits_is_a_few_per_cent_off():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 48).to(torch.bfloat16), torch.randn(2, 7, 64, dtype=torch.bfloat16)
    x[1, 3] *= 1000  # a token that is longer than others does not cost these their digits
    small = fp8.Float8Linear(layer)
    assert small.weight.dtype == torch.float8_e4m3fn and small.weight.abs().float().amax(1).eq(448).all()
    with torch.inference_mode():
        error = (small(x) - layer(x)).float().norm(dim=-1) / layer(x).float().norm(dim=-1)
    assert 0.005 < error.mean() and error.max() < 0.06
    (tokens, scale), bias = fp8.quantize_rowwise(x.flatten(end_dim=-2)), layer.bias.detach()
    arguments = tokens, small.weight, scale, small.scale, bias
    torch.library.opcheck(fp8.float8_product, arguments, test_utils="test_faketensor")  # what a compiler is told of it


def test_the_blocks_in_eight_bits_paint_nearly_the_same():
    lines, one = [], case(dtype=torch.bfloat16)
    bench.run(one, ["ours", "ours fp8"], lines.append)
    apart = next(line for line in lines if line.startswith("ours fp8")).split("latent ")[1].split()[0]
    assert 0 < float(apart) < 0.1
    layers = [type(m) for b in bench.blocks(bench.random_model(one)) for m in fp8.to_float8(b).modules()]
    assert layers.count(fp8.Float8Linear) == 8 + 2 * 2 and layers.count(torch.nn.Linear) == 2 + 2  # the modulations


def test_the_command_line_measures_the_tiny_model_on_a_cpu(monkeypatch):
    calls = []
    monkeypatch.setattr(bench, "run", lambda case, arms: calls.append((case, arms)))
    assert main(["bench", "--device", "cpu", "--compile", "--diffusers", "--cache", "--fp8"]) == 0
    [(one, arms)] = calls
    assert one.spec is configs["tiny"] and (one.width, one.dtype, one.txt_tokens) == (128, torch.float32, 32)
    eager = ["ours", "diffusers", "ours cache", "diffusers cache"]
    compiled = [*(f"{arm} blocks" for arm in eager), "ours whole", "diffusers whole"]
    assert arms == [*eager, *compiled, "ours fp8 blocks"]
