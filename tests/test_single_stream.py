"""Chapter 5: the single-stream block, the last layer, and what goes wrong without a word. Eq. (5.1) to (5.5)."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import single_stream
from flux_edu.configs import configs
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.flux2.architectures import FLUX1_DEV, flops
from flux_edu.io.checkpoint import load_strict
from flux_edu.model import Flux, FluxParams
from flux_edu.rope import EmbedND

B, L, H, K, RATIO = 2, 7, 3, 10, 2.2  # D = 30, MLP width 66: no two axes of one length
D, M = H * K, 66


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def random_block(hidden=D, heads=H, ratio=RATIO) -> single_stream.SingleStreamBlock:
    """Every parameter drawn at random, the norms' scales too, so that no mix-up hides behind ones and zeros."""
    block = single_stream.SingleStreamBlock(hidden, heads, ratio).double()
    for p in block.parameters():
        p.data = torch.randn_like(p) / p.shape[-1] ** 0.5 + (p.ndim == 1)
    return block.requires_grad_(False)


def random_inputs(tokens=L):
    ids = torch.randint(0, 9, (B, tokens, 2)).float()
    pe = EmbedND(K, 100.0, (4, 6))(ids)
    return torch.randn(B, tokens, D).double(), torch.randn(B, D).double(), pe


def by_hand(block, x, vec, pe):
    """The four equations in plain tensor arithmetic: nothing of the package but the numbers of the parameters."""
    p = dict(block.named_parameters())

    def linear(name, z):
        return z @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def rms(z, scale):
        return z / torch.sqrt((z * z).mean(-1, keepdim=True) + 1e-6) * scale

    def turn(z):  # RoPE as multiplication of complex numbers
        angle = torch.complex(pe[..., 0, 0].double(), pe[..., 1, 0].double())
        return torch.view_as_real(torch.view_as_complex(z.reshape(*z.shape[:-1], -1, 2)) * angle).flatten(-2)

    # (5.1)
    b, s, g = linear("modulation.lin", vec / (1 + torch.exp(-vec))).split(D, dim=-1)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
    tilde = (1 + s[:, None]) * normed + b[:, None]
    # (5.2)
    q, k, v, m = linear("linear1", tilde).split([D, D, D, M], dim=-1)
    # (5.3)
    q, k, v = (z.reshape(B, -1, H, K).transpose(1, 2) for z in (q, k, v))
    q, k = turn(rms(q, p["norm.query_norm.scale"])), turn(rms(k, p["norm.key_norm.scale"]))
    weights = torch.exp(q @ k.transpose(2, 3) / math.sqrt(K))
    attn = (weights / weights.sum(-1, keepdim=True)) @ v
    gelu = 0.5 * m * (1 + torch.tanh(math.sqrt(2 / math.pi) * (m + 0.044715 * m**3)))
    o = linear("linear2", torch.cat([attn.transpose(1, 2).reshape(B, -1, D), gelu], dim=-1))
    # (5.4)
    return {"tilde": tilde, "attn": attn, "gelu": gelu, "o": o, "g": g[:, None], "x": x + g[:, None] * o}


# ---------------------------------------------------------------- the block


@pytest.mark.equation("5.1")
@pytest.mark.equation("5.2")
@pytest.mark.equation("5.3")
@pytest.mark.equation("5.4")
def test_the_block_is_its_four_equations():
    block, inputs = random_block(), random_inputs()
    torch.testing.assert_close(block(*inputs), by_hand(block, *inputs)["x"], rtol=1e-11, atol=1e-11)


@pytest.mark.equation("5.1")
def test_the_modulation_is_shift_scale_gate():
    """With zero weights in its linear layer the modulation is its bias, whatever the conditioning."""
    block, (x, vec, pe) = random_block(), random_inputs()
    block.modulation.lin.weight.zero_()
    shift, scale, gate = block.modulation.lin.bias.split(D)
    block.linear1.weight[: 3 * D] = 0  # attention sees nothing but its biases
    block.linear2.weight[:, :D] = 0
    tilde = (1 + scale) * F.layer_norm(x, (D,), eps=1e-6) + shift
    o = F.gelu(tilde @ block.linear1.weight[3 * D :].T + block.linear1.bias[3 * D :], approximate="tanh")
    want = x + gate * (o @ block.linear2.weight[:, D:].T + block.linear2.bias)
    torch.testing.assert_close(block(x, vec, pe), want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(block(x, 7 * vec, pe), want, rtol=1e-11, atol=1e-11)


@pytest.mark.equation("5.2")
def test_one_matrix_does_the_work_of_four():
    """linear1's rows are those of q, k, v and the MLP's first layer, in this order."""
    block, (x, vec, pe) = random_block(), random_inputs()
    four = [
        F.linear(by_hand(block, x, vec, pe)["tilde"], w, c)
        for w, c in zip(block.linear1.weight.split([D, D, D, M]), block.linear1.bias.split([D, D, D, M]), strict=True)
    ]
    seen = []
    hook = block.linear1.register_forward_hook(lambda _, __, out: seen.append(out))
    out = block(x, vec, pe)
    hook.remove()
    torch.testing.assert_close(seen[0], torch.cat(four, dim=-1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out, by_hand(block, x, vec, pe)["x"], rtol=1e-11, atol=1e-11)
    assert block.linear1.weight.shape == (3 * D + M, D) and block.linear2.weight.shape == (D, D + M)


@pytest.mark.equation("5.3")
def test_concatenation_before_a_linear_layer_is_a_sum_of_two():
    block, (x, vec, pe) = random_block(), random_inputs()
    hand = by_hand(block, x, vec, pe)
    attn = hand["attn"].transpose(1, 2).reshape(B, L, D)
    two = attn @ block.linear2.weight[:, :D].T + hand["gelu"] @ block.linear2.weight[:, D:].T + block.linear2.bias
    want = x + hand["g"] * two
    torch.testing.assert_close(block(x, vec, pe), want, rtol=1e-11, atol=1e-11)


@pytest.mark.equation("5.4")
@settings(max_examples=5, deadline=None)
@given(factor=st.floats(-3, 3))
def test_the_update_is_proportional_to_the_gate(factor):
    block, (x, vec, pe) = random_block(), random_inputs()
    once = block(x, vec, pe) - x
    block.modulation.lin.weight[2 * D :] *= factor
    block.modulation.lin.bias[2 * D :] *= factor
    torch.testing.assert_close(block(x, vec, pe), x + factor * once, rtol=1e-9, atol=1e-9)


def test_zeros_in_the_modulation_make_the_block_the_identity():
    block, inputs = random_block(), random_inputs()
    for p in block.modulation.parameters():
        p.zero_()
    assert torch.equal(block(*inputs), inputs[0])


def test_text_is_updated_and_matters():
    """Every row changes, and the image rows depend on the text rows: the block cannot run without them."""
    block, (x, vec, pe) = random_block(), random_inputs()
    out = block(x, vec, pe)
    assert (out - x).abs().amax(-1).min() > 1e-3
    alone = block(x[:, 3:], vec, pe[:, :, 3:])
    assert (alone - out[:, 3:]).abs().max() > 1e-3


def test_float32_and_bfloat16_stay_near_float64():
    block, (x, vec, pe) = random_block(), random_inputs()
    exact = block(x, vec, pe)
    for dtype, bar in ((torch.float32, 1e-6), (torch.bfloat16, 3e-2)):
        out = copy.deepcopy(block).to(dtype)(x.to(dtype), vec.to(dtype), pe)
        assert out.dtype == dtype
        assert (out.double() - exact).norm() / exact.norm() < bar


# ---------------------------------------------------------------- the last layer


def random_last_layer(channels=5):
    last = single_stream.LastLayer(D, 1, channels).double()
    for p in last.parameters():
        p.data = torch.randn_like(p)
    return last.requires_grad_(False)


@pytest.mark.equation("5.5")
def test_the_last_layer_is_its_equation():
    last, (x, vec, _) = random_last_layer(), random_inputs()
    p = dict(last.named_parameters())
    silu = vec / (1 + torch.exp(-vec))
    b, s = (silu @ p["adaLN_modulation.1.weight"].T + p["adaLN_modulation.1.bias"]).split(D, dim=-1)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
    y = ((1 + s[:, None]) * normed + b[:, None]) @ p["linear.weight"].T + p["linear.bias"]
    torch.testing.assert_close(last(x, vec), y, rtol=1e-11, atol=1e-11)


def test_the_last_layer_has_no_gate_and_no_residual():
    last, (x, vec, _) = random_last_layer(), random_inputs()
    assert last.adaLN_modulation[1].weight.shape == (2 * D, D)
    torch.testing.assert_close(last(3 * x + 8, vec), last(x, vec), rtol=1e-5, atol=1e-5)  # the norm forgets both
    torch.testing.assert_close(last(x, vec)[:, 2:5], last(x[:, 2:5], vec))  # tokens do not see each other


# ---------------------------------------------------------------- costs


ONE_BLOCK = replace(FLUX1_DEV, double_blocks=0, single_blocks=1)


def test_a_single_block_costs_what_a_double_block_costs_with_fewer_parameters():
    p = configs["flux-dev"].params
    with torch.device("meta"):
        single = single_stream.SingleStreamBlock(p.hidden_size, p.num_heads, p.mlp_ratio)
        double = DoubleStreamBlock(p.hidden_size, p.num_heads, p.mlp_ratio, p.qkv_bias)
    count = {name: sum(q.numel() for q in m.parameters()) for name, m in (("single", single), ("double", double))}
    assert count == {"single": 141_591_808, "double": 339_831_296}
    assert flops(ONE_BLOCK, 4096)["matrices"] == 24 * p.hidden_size**2 * 4608


def test_the_formula_for_flops_is_what_a_counter_finds():
    from torch.utils.flop_counter import FlopCounterMode

    p = configs["flux-dev"].params
    with torch.device("meta"):
        block = single_stream.SingleStreamBlock(p.hidden_size, p.num_heads, p.mlp_ratio)
        inputs = (torch.empty(1, 11, p.hidden_size), torch.empty(1, p.hidden_size), torch.empty(1, 1, 11, 64, 2, 2))
        with FlopCounterMode(display=False) as counter:
            block(*inputs)
    assert counter.get_total_flops() == sum(flops(ONE_BLOCK, image_tokens=7, text_tokens=4).values())


# ---------------------------------------------------------------- mistakes that load silently

SMALL = FluxParams(
    in_channels=5, out_channels=7, vec_in_dim=11, context_in_dim=13, hidden_size=48, mlp_ratio=4.0, num_heads=2,
    depth=2, depth_single_blocks=3, axes_dim=(4, 8, 12), theta=10_000, qkv_bias=True, guidance_embed=True,
)  # fmt: skip


def small_model_and_inputs():
    model = Flux(SMALL).double().requires_grad_(False)
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(4.0))[None]
    img, txt = torch.randn(1, 12, 5).double(), torch.randn(1, 6, 13).double()
    t, w = torch.tensor([0.6]), torch.tensor([3.5])
    return model, (img, ids, txt, torch.zeros(1, 6, 3), t, torch.randn(1, 11).double(), w)


def change(model, state, inputs):
    wrong = copy.deepcopy(model)
    load_strict(wrong, state)  # every key fits: no error
    right = model(*inputs)
    return float((wrong(*inputs) - right).norm() / right.norm())


@pytest.mark.parametrize("order", ["kqvm", "qvkm", "vqkm"])
def test_another_order_in_linear1_loads_silently(order):
    model, inputs = small_model_and_inputs()
    state = dict(model.state_dict())
    for name in [n for n in state if ".linear1." in n]:
        parts = dict(zip("qkvm", state[name].split([48, 48, 48, 192]), strict=True))
        state[name] = torch.cat([parts[part] for part in order])
    # q and k swapped hardly shows on untrained weights, but it shows
    assert change(model, state, inputs) > 1e-4


# ---------------------------------------------------------------- figures
