"""trace: the network's intermediates by name, in order, and attention maps that equal a computation by hand."""

import pytest
import torch
from parity.parity_tools import draw
from small_models import FLUX as PARAMS

from flux_edu.model import Flux
from flux_edu.modulation import ModulationOut
from flux_edu.teaching.labs.activations import Trace, ablate, tensors, trace

B, L_IMG, L_TXT, D, H = 2, 15, 4, 36, 2


@pytest.fixture
def model():
    return draw(Flux(PARAMS), seed=8).requires_grad_()


@pytest.fixture
def inputs():
    torch.manual_seed(9)
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(5.0)).expand(B, -1, -1)
    img, txt, y = torch.randn(B, L_IMG, 5), torch.randn(B, L_TXT, 13), torch.randn(B, 11)
    return img, ids, txt, torch.zeros(B, L_TXT, 3), torch.rand(B), y, torch.full((B,), 3.5)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_names_are_those_of_the_checkpoint_in_the_order_of_arising(model, inputs):
    seen = trace(model, *inputs)
    modules = {name for name, _ in model.named_modules()}
    assert set(seen) <= modules
    for key in model.state_dict():
        name = key.rpartition(".")[0]
        if name.endswith("_norm"):  # RMSNorm
            assert name in seen
    for layer in ("img_in", "txt_in", "time_in.out_layer", "guidance_in", "vector_in", "pe_embedder", "final_layer"):
        assert layer in seen
    order = list(seen)
    blocks = [n for n in order if n.count(".") == 1 and "_blocks." in n]
    assert blocks == [f"double_blocks.{i}" for i in range(2)] + [f"single_blocks.{i}" for i in range(3)]
    assert order.index("img_in") < order.index("pe_embedder") < order.index("double_blocks.0.img_mod.lin")
    assert order.index("single_blocks.2.linear1") < order.index("single_blocks.2.linear2") < order.index("final_layer")
    assert order[-1] == ""


def test_shapes(model, inputs):
    seen = trace(model, *inputs)
    L = L_TXT + L_IMG
    assert seen[""].shape == (B, L_IMG, 7)
    img, txt = seen["double_blocks.1"]
    assert img.shape == (B, L_IMG, D) and txt.shape == (B, L_TXT, D)
    assert seen["single_blocks.0.linear1"].shape == (B, L, 3 * D + 90)
    assert seen["single_blocks.2"].shape == (B, L, D)
    q, k = seen["single_blocks.1.norm"]
    assert q.shape == k.shape == (B, H, L, D // H)
    mod, none = seen["single_blocks.1.modulation"]
    assert isinstance(mod, ModulationOut) and none is None and mod.gate.shape == (B, 1, D)
    first, second = seen["double_blocks.0.txt_mod"]
    assert first.gate.shape == second.shift.shape == (B, 1, D)


def test_what_was_traced_is_what_the_model_computes(model, inputs):
    seen = trace(model, *inputs)
    torch.testing.assert_close(seen[""], model(*inputs))
    torch.testing.assert_close(seen["final_layer"], seen[""])
    x = torch.cat(seen["double_blocks.1"][::-1], dim=1)
    vec = model.conditioning(inputs[4], inputs[5], inputs[6])
    torch.testing.assert_close(seen["single_blocks.0"], model.single_blocks[0](x, vec, seen["pe_embedder"]))
    assert not seen[""].requires_grad and not seen[""].is_inference()


def attention_by_hand(q, k, pe):
    """One row at a time, one head at a time; RoPE by 2 × 2 matrices."""
    out = torch.zeros(B, H, q.shape[2], q.shape[2])
    turn = lambda z, b, i: torch.cat([pe[b, 0, i, j] @ z[2 * j : 2 * j + 2] for j in range(len(z) // 2)])  # noqa: E731
    for b in range(B):
        for h in range(H):
            qs = torch.stack([turn(q[b, h, i], b, i) for i in range(q.shape[2])])
            ks = torch.stack([turn(k[b, h, i], b, i) for i in range(k.shape[2])])
            scores = torch.exp(qs @ ks.T / (D // H) ** 0.5)
            out[b, h] = scores / scores.sum(-1, keepdim=True)
    return out


@pytest.mark.parametrize("block", ["double_blocks.0", "double_blocks.1", "single_blocks.0", "single_blocks.2"])
def test_attention_rows_sum_to_one_and_equal_a_computation_by_hand(model, inputs, block):
    seen = trace(model, *inputs)
    weights = seen.attention(block)
    L = L_TXT + L_IMG
    assert weights.shape == (B, H, L, L)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, L))
    # q and k once more, from the fused projections, with the norms' own scales
    if block.startswith("single"):
        parts = [(seen[f"{block}.linear1"][..., : 3 * D], model.get_submodule(f"{block}.norm"))]
    else:
        parts = [(seen[f"{block}.{s}_attn.qkv"], model.get_submodule(f"{block}.{s}_attn.norm")) for s in ("txt", "img")]
    q, k = [], []
    for qkv, norm in parts:
        for which, scale, out in ((0, norm.query_norm.scale, q), (1, norm.key_norm.scale, k)):
            z = qkv[..., which * D : (which + 1) * D].reshape(B, -1, H, D // H).transpose(1, 2)
            out.append(z / (z.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * scale)
    with torch.no_grad():
        want = attention_by_hand(torch.cat(q, 2), torch.cat(k, 2), seen["pe_embedder"])
    torch.testing.assert_close(weights, want, rtol=1e-4, atol=1e-6)


def test_an_unknown_block_is_answered_with_those_there_are(model, inputs):
    seen = trace(model, *inputs)
    with pytest.raises(KeyError, match=r"no block 'single_blocks.7'.*double_blocks.0.*single_blocks.2"):
        seen.attention("single_blocks.7")


def test_only_and_the_table(model, inputs):
    seen = trace(model, *inputs)
    some = seen.only("double_blocks.0", "img_in")
    assert isinstance(some, Trace) and 0 < len(some) < len(seen)
    assert all("double_blocks.0" in name or "img_in" in name for name in some)
    lines = str(seen.only("single_blocks.1.linear")).splitlines()
    assert lines == ["single_blocks.1.linear1  (2, 19, 198)", "single_blocks.1.linear2  (2, 19, 36)"]
    assert str(seen.only("img_mod", "img_in")).splitlines()[0].split() == ["img_in", "(2,", "15,", "36)"]
    assert str(seen.only("nothing of this name")) == ""


def test_tensors_looks_into_tuples_and_modulations():
    a, b, c = (torch.zeros(1, 1, i) for i in (1, 1, 1))
    assert list(tensors((ModulationOut(a, b, c), None))) == [a, b, c]


def test_hooks_are_removed_and_the_mode_is_left_as_it_was(model, inputs):
    before = hooks(model)
    trace(model, *inputs)
    assert hooks(model) == before == 0
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_hooks_are_removed_even_when_the_model_stops(model, inputs):
    with pytest.raises(AssertionError, match="guidance"):
        trace(model, *inputs[:-1])
    assert hooks(model) == 0
    assert model(*inputs).requires_grad


def test_another_hook_stays(model, inputs):
    calls = []
    model.img_in.register_forward_hook(lambda *_: calls.append(1))
    trace(model, *inputs)
    model(*inputs)
    assert len(calls) == 2 and hooks(model) == 1


# ---------------------------------------------------------------- a block without one of its parts


def test_a_single_block_without_a_part_is_one_with_zeros_in_linear2(model, inputs):
    block, x = model.single_blocks[0].requires_grad_(False), torch.randn(B, 5, D)
    vec, pe = torch.randn(B, D), model.pe_embedder(torch.zeros(B, 5, 3))
    whole = block(x, vec, pe)
    parts = {}
    for part in ("attention", "MLP"):
        with ablate(block, part):
            parts[part] = block(x, vec, pe)
    # the two parts, and the bias that both have kept, add up to the whole
    gate = block.modulation(vec)[0].gate
    together = parts["attention"] + parts["MLP"] - x - gate * block.linear2.bias
    torch.testing.assert_close(together, whole)
    weight = block.linear2.weight.clone()
    block.linear2.weight[:, :D] = 0
    torch.testing.assert_close(block(x, vec, pe), parts["attention"])
    block.linear2.weight.copy_(weight)
    assert torch.equal(block(x, vec, pe), whole)  # the hooks are gone


def test_a_double_block_without_a_part(model, inputs):
    block = model.double_blocks[0].requires_grad_(False)
    img, txt, vec = torch.randn(B, 3, D), torch.randn(B, 2, D), torch.randn(B, D)
    pe = model.pe_embedder(torch.zeros(B, 5, 3))
    whole = block(img, txt, vec, pe)
    with ablate(block, "attention"):
        alone = block(img, txt, vec, pe)
        other = block(img, -txt, vec, pe)
        assert torch.equal(alone[0], other[0])  # without attention the streams do not meet
    with ablate(block, "attention"), ablate(block, "MLP"):
        assert all(torch.equal(a, b) for a, b in zip(block(img, txt, vec, pe), (img, txt), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(block(img, txt, vec, pe), whole, strict=True))
