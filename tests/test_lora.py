"""Low-rank deltas: merged and taken out again to the bit, the published layout, and what does not fit is named."""

import shutil
from dataclasses import replace

import pytest
import torch
from small_models import ONE_BLOCK, random_flux

from flux_edu.configs import configs, get_spec
from flux_edu.io import lora, tiny
from flux_edu.io.checkpoint import CheckpointError, read, save, save_int8
from flux_edu.model import Flux
from flux_edu.pipeline import FluxGenerator


def small(**changes):
    return random_flux(replace(ONE_BLOCK, **changes))


def some_delta(model, rank=3, seed=1):
    """Random pairs for two layers of unequal ranks, one with a bias, and a norm's scale as a whole."""
    torch.manual_seed(seed)
    state = model.state_dict()
    out = {}
    for name, r in (("double_blocks.0.img_attn.qkv", rank), ("single_blocks.0.linear2", rank + 2)):
        rows, columns = state[name + ".weight"].shape
        out |= {f"{name}.lora_A.weight": torch.randn(r, columns), f"{name}.lora_B.weight": torch.randn(rows, r)}
    out["single_blocks.0.linear2.lora_B.bias"] = torch.randn(22)
    out["single_blocks.0.norm.key_norm.scale"] = torch.rand(22)
    return out


def run(model, seed=2):
    torch.manual_seed(seed)
    p = model.params
    guidance = torch.tensor([1.5, 4.0]) if p.guidance_embed else None
    img, txt = torch.randn(2, 6, p.in_channels), torch.randn(2, 5, p.context_in_dim)
    with torch.no_grad():
        ids = torch.zeros(2, 6, 3), torch.zeros(2, 5, 3)
        return model(img, ids[0], txt, ids[1], torch.rand(2), torch.randn(2, p.vec_in_dim), guidance)


# ---------------------------------------------------------------- merging


@pytest.mark.parametrize("scale", [1.0, 0.85, -0.5])
def test_merged_is_weight_plus_scale_times_b_a(scale):
    model = small()
    state, delta = model.state_dict(), some_delta(model)
    before = {key: x.clone() for key, x in state.items()}
    merged = lora.merge(state, delta, scale)
    name = "single_blocks.0.linear2"
    a, b = delta[f"{name}.lora_A.weight"].double(), delta[f"{name}.lora_B.weight"].double()
    expected = before[f"{name}.weight"].double() + scale * torch.einsum("or,ri->oi", b, a)
    torch.testing.assert_close(merged[f"{name}.weight"].double(), expected, atol=1e-5, rtol=1e-5)
    bias = before[f"{name}.bias"] + scale * delta[f"{name}.lora_B.bias"]
    torch.testing.assert_close(merged[f"{name}.bias"], bias)
    scales = "single_blocks.0.norm.key_norm.scale"
    assert torch.equal(merged[scales], delta[scales])  # replaced, whatever the scale
    changed = {key for key in before if not torch.equal(merged[key], before[key])}
    assert changed == {f"{name}.weight", f"{name}.bias", scales, "double_blocks.0.img_attn.qkv.weight"}
    assert all(torch.equal(state[key], x) for key, x in before.items())  # the base is left alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_restores_every_bit(dtype):
    model = small().to(dtype)
    before, first = {key: x.clone() for key, x in model.state_dict().items()}, run_or_none(model, dtype)
    kept = lora.merge_into(model, some_delta(model), 0.7)
    assert {x.dtype for x in model.state_dict().values()} == {dtype}
    if dtype == torch.float32:
        assert (run(model) - first).abs().max() > 0.1
    lora.unmerge(model, kept)
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def run_or_none(model, dtype):
    return run(model) if dtype == torch.float32 else None


def test_ranks_may_differ_and_add_up():
    model, other = small(), small()
    one, two = some_delta(model, seed=1), some_delta(model, seed=5)
    lora.merge_into(other, one)
    lora.merge_into(other, two)
    pairs = [key for key in one if ".lora_" in key]
    stacked = {key: one[key] + two[key] if key.endswith("bias") else None for key in pairs}
    for key in pairs:
        if stacked[key] is None:
            stacked[key] = torch.cat([one[key], two[key]], dim=0 if ".lora_A" in key else 1)
    together = lora.merge(model.state_dict(), stacked | {key: x for key, x in two.items() if key not in pairs})
    for key, x in other.state_dict().items():
        torch.testing.assert_close(x, together[key], atol=1e-5, rtol=1e-5)


def test_a_new_module_travels_whole():
    base, guided = small(), small(guidance_embed=True)
    new = {key: x for key, x in guided.state_dict().items() if key.startswith("guidance_in")}
    guided.load_state_dict(lora.merge(base.state_dict(), some_delta(base) | new))
    assert torch.equal(guided.guidance_in.in_layer.weight, new["guidance_in.in_layer.weight"])
    with pytest.raises(CheckpointError, match="brings tensors that Flux has no place for: guidance_in.in_layer"):
        lora.merge_into(base, new)


# ---------------------------------------------------------------- what does not fit

Q = "double_blocks.0.img_attn.qkv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{Q}.lora_A.weight": None}, f"{Q} has no A"),
        ({f"{Q}.lora_B.weight": None}, f"{Q} has no B"),
        ({f"{Q}.lora_A.weight": torch.zeros(4, 22)}, rf"{Q} is \(66, 22\), B \(66, 3\) times A \(4, 22\)"),
        ({f"{Q}.lora_A.weight": torch.zeros(3, 21)}, rf"{Q} is \(66, 22\), B \(66, 3\) times A \(3, 21\)"),
        ({f"{Q}.lora_A.weight": torch.zeros(3)}, rf"{Q} is \(66, 22\), B \(66, 3\) times A \(3,\)"),
        ({f"{Q}.lora_A.weight": torch.zeros(0, 22), f"{Q}.lora_B.weight": torch.zeros(66, 0)}, r"A \(0, 22\)"),
        ({"img_inn.lora_A.weight": torch.zeros(3, 12)}, "img_inn.lora_A.weight belongs to no layer of the model"),
        ({f"{Q}.lora_alpha": torch.tensor(1.0)}, f"{Q}.lora_alpha belongs to no layer of the model"),
        ({f"{Q}.lora_down.weight": torch.zeros(3, 22)}, f"{Q}.lora_down.weight comes twice"),
        ({"img_in.lora_A.weight": torch.ones(2, 24), "img_in.lora_B.weight": torch.ones(22, 2)}, "for a control model"),
        ({f"{Q}.lora_B.bias": torch.zeros(65)}, rf"{Q}.bias is \(65,\), should be \(66,\)"),
        ({f"{Q}.lora_B.weight": torch.full((66, 3), torch.nan)}, f"holds NaN or infinite numbers .*{Q}.lora_B.weight"),
        (
            {f"{Q}.lora_B.weight": torch.ones(66, 3).long()},
            f"{Q}.lora_B.weight holds torch.int64, should hold floating",
        ),
        ({f"{Q}.lora_B.weight": torch.full((66, 3), 3e38)}, "the model with 1 × my.safetensors holds NaN or infinite"),
        ({"final_layer.linear.bias": torch.zeros(7)}, r"final_layer.linear.bias is \(7,\), should be \(12,\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(change, message):
    model = small()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    delta = {key: x for key, x in (some_delta(model) | change).items() if x is not None}
    with pytest.raises(CheckpointError, match=message):
        lora.merge_into(model, delta, source="my.safetensors")
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def test_an_empty_file_is_no_delta():
    with pytest.raises(CheckpointError, match="my.safetensors holds nothing for the transformer"):
        lora.merge(small().state_dict(), {}, source="my.safetensors")


def test_a_whole_model_is_no_delta():
    with pytest.raises(CheckpointError, match="my.safetensors is a whole model, not a LoRA"):
        lora.merge(small().state_dict(), small(guidance_embed=True).state_dict(), source="my.safetensors")


# ---------------------------------------------------------------- training


def trained(model, rank=4, whole=()):
    lora.make_trainable(model, rank, whole)
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if name.endswith("lora_B.weight"):
            torch.nn.init.normal_(p, std=0.1)
    return model


def test_the_trainable_form_starts_as_the_model_and_equals_the_merged_one():
    base, model = small(), small()
    first = run(base)
    lora.make_trainable(model, 4)
    torch.testing.assert_close(run(model), first, atol=0, rtol=0)
    delta = lora.trained_delta(trained(model := small()))
    lora.merge_into(base, delta)
    torch.testing.assert_close(run(model), run(base), atol=1e-6, rtol=1e-5)
    assert (run(model) - first).abs().max() > 0.1


def test_only_the_delta_is_trained_and_kept():
    model = lora.make_trainable(small(guidance_embed=True), 4, train_whole=("guidance_in",))
    p = model.params
    ids, txt_ids = torch.zeros(2, 6, 3), torch.zeros(2, 5, 3)
    img, txt, y = torch.randn(2, 6, 12), torch.randn(2, 5, p.context_in_dim), torch.randn(2, p.vec_in_dim)
    model(img, ids, txt, txt_ids, torch.rand(2), y, torch.ones(2)).square().mean().backward()
    reached = {name for name, x in model.named_parameters() if x.grad is not None}
    delta = lora.trained_delta(model)
    assert reached == set(delta)
    assert lora.whole(delta).keys() == {f"guidance_in.{a}_layer.{b}" for a in ("in", "out") for b in ("weight", "bias")}
    linear = [key.removesuffix(".weight") for key, x in small().state_dict().items() if key.endswith("weight")]
    assert sorted(lora.layers(delta)) == sorted(linear)  # every one of them, modulations too
    assert {delta[f"{name}.lora_A.weight"].shape[0] for name in linear} == {4}


def test_no_rank_is_larger_than_the_matrix():
    model = lora.make_trainable(small(), 50)
    assert model.img_in.lora_A.weight.shape == (12, 12) and model.img_in.lora_B.weight.shape == (22, 12)


def test_a_file_in_8_bits_changes_the_model_almost_alike(tmp_path):
    model, base, again = trained(small(), rank=17), small(), small()
    delta = lora.trained_delta(model)
    save_int8(delta, tmp_path / "small.safetensors")
    lora.merge_into(again, read(tmp_path / "small.safetensors"))
    lora.merge_into(base, delta)
    for name in lora.layers(delta):
        change = (base.get_submodule(name).weight - small().get_submodule(name).weight).norm()
        off = (again.get_submodule(name).weight - base.get_submodule(name).weight).norm()
        assert off < 0.01 * change, name


# ---------------------------------------------------------------- the distilled tiny models


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the shipped base, as the generator reads it, to put deltas in."""
    for path in tiny.TINY_FOLDER.iterdir():
        if path.name not in ("dev.safetensors", "schnell.safetensors"):
            shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.setattr(tiny, "TINY_FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "steps"), [("tiny-dev", 2), ("tiny-schnell", 4)])
def test_the_generator_adds_the_delta_to_the_tiny_model(name, steps, folder):
    spec, tiny = get_spec(name), FluxGenerator("tiny", "cpu")
    torch.manual_seed(0)
    whole = ("guidance_in",) if spec.params.guidance_embed else ()
    model = trained(Flux(spec.params), rank=2, whole=whole)
    save_int8(lora.trained_delta(model), folder / spec.lora)
    generator = FluxGenerator(name, "cpu")
    merged = lora.merge(tiny.model.state_dict(), read(folder / spec.lora))
    assert all(torch.equal(x, merged[key]) for key, x in generator.model.state_dict().items())
    seen = []
    picture = generator.generate_image(
        32, 32, steps, spec.guidance, 0, "a 3d fox", callback=lambda i, t, x, v: seen.append((t, len(v)))
    )
    assert len(seen) == steps and picture.info["model"] == name
    assert [t for t, _ in seen] == [1, 0.75, 0.5, 0.25] or spec.shift
    assert spec.shift == (name == "tiny-dev") and not spec.two_passes


def test_a_distilled_model_without_its_file_says_how_to_get_it(folder):
    with pytest.raises(
        FileNotFoundError, match="dev.safetensors is not there: .* python -m flux_edu.train.guidance, or"
    ):
        FluxGenerator("tiny-dev", "cpu")
    with pytest.raises(FileNotFoundError, match="schnell.safetensors is not there: .*flux_edu.train.few_steps"):
        FluxGenerator("tiny-schnell", "cpu")


def test_a_delta_of_another_model_is_refused(folder):
    save(
        {"img_in.lora_A.weight": torch.zeros(2, 64), "img_in.lora_B.weight": torch.zeros(3072, 2)},
        folder / "schnell.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"schnell.safetensors does not .* is \(320, 64\), B \(3072, 2\)"):
        FluxGenerator("tiny-schnell", "cpu")


def test_the_tiny_family_is_sampled_as_its_large_models_are():
    dev, schnell = configs["tiny-dev"], configs["tiny-schnell"]
    assert dev.params == replace(configs["tiny"].params, guidance_embed=True) and dev.num_steps == 28
    assert schnell.params == configs["tiny"].params
    for small, large in ((dev, configs["flux-dev"]), (schnell, configs["flux-schnell"])):
        assert (small.shift, small.two_passes) == (large.shift, large.two_passes)
        assert small.params.guidance_embed == large.params.guidance_embed
    assert (schnell.num_steps, schnell.guidance) == (4, 0.0)
