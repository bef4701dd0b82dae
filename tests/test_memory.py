"""What fits where: weights, activations and offload by memory; names and work of the 12B model, on meta."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from flux_edu.configs import configs
from flux_edu.flux2.architectures import DESIGNS, flops
from flux_edu.io import diffusers_layout, memory, published
from flux_edu.io.memory import CARDS, Offload
from flux_edu.model import Flux

DEV = configs["flux-dev"]


# ---------------------------------------------------------------- the budget


def test_weights_are_counted_on_meta():
    n = memory.weights(DEV)
    assert n["transformer"] == 11_901_408_320 and n["autoencoder"] == 83_819_683
    sizes = memory.block_sizes(DEV)
    assert sum(sizes) == 6_456_794_624 + 5_380_488_704 and sizes[0] == max(sizes) == 339_831_296
    with torch.device("meta"):
        config = T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
        config.feed_forward_proj, config.is_gated_act, config.dense_act_fn = "gated-gelu", True, "gelu_new"
        t5 = T5EncoderModel(config)
    assert memory.count(t5) == memory.T5_XXL and len(t5.encoder.block) == memory.T5_XXL_BLOCKS
    assert memory.count(t5.encoder.block[1]) == memory.T5_XXL_BLOCK


def test_peak_memory_counts_what_is_held():
    with memory.PeakMemory() as counter:
        a = torch.empty(1000, device="meta")
        b = a + 1  # 8000 bytes are held now
        del a
        c = b.reshape(10, 100) + 1  # a view is nothing new
        d = c * 2
    assert (counter.peak, counter.now) == (12_000, 12_000) and d is not None


def test_more_pixels_take_more_activations():
    small, large = memory.activations(DEV, 512, 512), memory.activations(DEV, 1024, 1024)
    assert 2.5 < large[0] / small[0] < 4 and 3.9 < large[1] / small[1] < 4.1
    assert 0.3e9 < large[0] < 1.0e9, "a few dozen copies of 4608 tokens of 3072 numbers"


def test_what_waits_follows_from_the_memory():
    chosen = {card: str(memory.choose_offload(DEV, memory.usable(card))) for card in CARDS}
    assert list(chosen.values()) == [
        *(f"model offload, {blocks} blocks sequentially" for blocks in (36, 21, 14, 2)),
        *["model offload"],
        *["all on the GPU"] * 3,
    ]
    assert memory.choose_offload(DEV, None) == Offload()
    assert memory.choose_offload(DEV, 10**9) == Offload(True, 57)
    assert memory.memory_of(torch.device("cpu")) is None
    choices = [Offload(), *(Offload(True, blocks) for blocks in range(2, 58))]
    peaks = [memory.peak(DEV, offload) for offload in choices]
    assert peaks == sorted(peaks, reverse=True)
    table = memory.table(DEV)
    assert all(
        f"| {card} GiB | {memory.usable(card) / 1e9:.1f} GB | {mode} |" in table for card, mode in chosen.items()
    )


@pytest.mark.parametrize("shown", [23.5, 23.6, 23.7])
def test_a_card_of_24_gib_gets_model_offload(monkeypatch, shown):
    """What such cards show before the context is taken off, which is counted once; hardly a block has to wait."""
    free = int(shown * memory.GIB - memory.CONTEXT)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, int(shown * memory.GIB)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    offload = memory.choose_offload(DEV, memory.memory_of(torch.device("cuda")))
    assert offload.parts and offload.blocks <= 2
    said = memory.on_this_machine(DEV, torch.device("cuda"))
    assert said.startswith(f"Here: a card, {free / memory.GIB:.1f} GiB free: model offload")


def test_activations_are_those_measured_on_an_h200():
    """torch 2.11, bfloat16, random weights: what PyTorch's allocator counted beside the weights, in bytes."""
    evaluation, decoding = memory.activations(DEV, 1024, 1024)
    assert evaluation == pytest.approx(604_528_640, rel=0.002)
    assert decoding == pytest.approx(1_879_572_992, rel=0.002)


# ---------------------------------------------------------------- the model itself, on meta


def test_the_work_of_an_evaluation_is_what_the_formula_says():
    """74.4 TFLOP at 1024 × 1024 and 512 words: 59.5 in matrices, 14.9 in attention, nobody's memory used."""
    with torch.device("meta"):
        model = Flux(DEV.params)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**memory.transformer_inputs(model, 4096, 512))
    work = flops(DESIGNS["FLUX.1 dev"], 4096)
    assert counter.get_total_flops() == pytest.approx(74.384653e12, rel=1e-3)
    assert sum(work.values()) == pytest.approx(counter.get_total_flops(), rel=2e-3)


# torchtitan/models/flux/model/{layers,model}.py: its modules are the published ones, with two differences
TORCHTITAN_DOUBLE = [
    f"{stream}_{part}"
    for stream in ("img", "txt")
    for part in (
        *("mod.lin.weight", "mod.lin.bias", "attn.qkv.weight", "attn.qkv.bias"),
        *("attn.norm.query_norm.weight", "attn.norm.key_norm.weight", "attn.proj.weight", "attn.proj.bias"),
        *("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"),
    )
]
TORCHTITAN_SINGLE = [
    *("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"),
    *("norm.query_norm.weight", "norm.key_norm.weight", "modulation.lin.weight", "modulation.lin.bias"),
]
TORCHTITAN_TOP = [
    f"{module}.{leaf}"
    for module in (
        *("img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer"),
        *("final_layer.linear", "final_layer.adaLN_modulation.1"),
    )
    for leaf in ("weight", "bias")
]


def test_the_names_are_torchtitans():
    """It trains a model without guidance_in, and calls the scale of a QK norm weight."""
    with torch.device("meta"):
        ours = {
            name.replace("_norm.scale", "_norm.weight") for name in Flux(configs["flux-schnell"].params).state_dict()
        }
    theirs = {f"double_blocks.{i}.{name}" for i in range(19) for name in TORCHTITAN_DOUBLE}
    theirs |= {f"single_blocks.{i}.{name}" for i in range(38) for name in TORCHTITAN_SINGLE}
    assert ours == theirs | set(TORCHTITAN_TOP) and len(ours) == 776


def test_the_whole_state_dict_loads_strictly_in_diffusers():
    """All 780 tensors of dev, with shapes and no numbers; tests/parity compares numbers on small models."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        state = diffusers_layout.flux_to_diffusers(Flux(DEV.params).state_dict())
        theirs = FluxTransformer2DModel(guidance_embeds=True)
    assert len(state) == 1160
    theirs.load_state_dict(state, strict=True, assign=True)


def test_paths_are_paths():
    assert all(isinstance(path, Path) for path in published.find("flux-dev").paths.values())
