"""Chapter 4, the whole block, what it must not be mistaken for, its figures. Eq. (4.11), (4.12)."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear, silu

from flux_edu import attention, double_stream, modulation
from flux_edu.attention import attention_explicit
from flux_edu.configs import DEV
from flux_edu.embeddings import timestep_embedding
from flux_edu.model import Flux, FluxParams
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.rope import EmbedND

B, D, H, L_TXT, ROWS, COLUMNS = 2, 42, 3, 5, 2, 3
L_IMG = ROWS * COLUMNS
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def randomise(module: torch.nn.Module, spread: float) -> torch.nn.Module:
    """Every parameter drawn at random: ones and zeros would hide mix-ups."""
    torch.manual_seed(11)
    module.double().requires_grad_(False)
    for p in module.parameters():
        p.normal_(0, spread)
    return module


@pytest.fixture
def block() -> double_stream.DoubleStreamBlock:
    return randomise(double_stream.DoubleStreamBlock(D, H, mlp_ratio=2.5, qkv_bias=True), 0.2)


@pytest.fixture
def inputs() -> Inputs:
    """img, txt, vec, pe."""
    torch.manual_seed(12)
    img, txt, vec = (torch.randn(*shape, dtype=torch.float64) for shape in ((B, L_IMG, D), (B, L_TXT, D), (B, D)))
    ids = torch.cat([make_txt_ids(B, L_TXT), make_img_ids(B, ROWS, COLUMNS)], dim=1)
    return img, txt, vec, EmbedND(D // H, 10_000, (2, 4, 8))(ids).double()


@pytest.fixture
def flux() -> Flux:
    sizes = dict(in_channels=12, out_channels=20, vec_in_dim=13, context_in_dim=17, hidden_size=D, num_heads=H)
    rest = dict(mlp_ratio=2.0, depth=2, depth_single_blocks=2, axes_dim=(2, 4, 8), theta=10_000, qkv_bias=True)
    return randomise(Flux(FluxParams(**sizes, **rest, guidance_embed=True)), 0.2)


@pytest.fixture
def call(flux) -> dict[str, torch.Tensor]:
    """The arguments of one call of `flux`."""
    img, txt, y = (torch.randn(*s, dtype=torch.float64) for s in ((B, L_IMG, 12), (B, L_TXT, 17), (B, 13)))
    ids = dict(img_ids=make_img_ids(B, ROWS, COLUMNS), txt_ids=make_txt_ids(B, L_TXT))
    numbers = dict(timesteps=torch.tensor([0.3, 0.8]), guidance=torch.tensor([3.5, 1.0]))
    return dict(img=img, txt=txt, y=y) | ids | numbers


Parameters = dict[str, torch.Tensor]


def layer(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    return linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def eq_4_4(p: Parameters, stream: str, vec: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return layer(p, f"{stream}_mod.lin", silu(vec))[:, None].chunk(6, dim=-1)


def eq_4_5(x: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return (1 + s) * layer_norm(x, (D,), eps=1e-6) + b


def eq_4_6_and_4_7(p: Parameters, stream: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = layer(p, f"{stream}_attn.qkv", x).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
    q = q / (q.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * p[f"{stream}_attn.norm.query_norm.scale"]
    k = k / (k.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * p[f"{stream}_attn.norm.key_norm.scale"]
    return q, k, v


def eq_4_11(p: Parameters, stream: str, x: torch.Tensor, A: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return x + g * layer(p, f"{stream}_attn.proj", A)


def eq_4_12(p: Parameters, stream: str, x: torch.Tensor, b: torch.Tensor, s: torch.Tensor, g: torch.Tensor):
    inner = gelu(layer(p, f"{stream}_mlp.0", eq_4_5(x, b, s)), approximate="tanh")
    return x + g * layer(p, f"{stream}_mlp.2", inner)


def by_hand(block: double_stream.DoubleStreamBlock, img, txt, vec, pe) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's parameters in its equations; attention is the explicit one, which has tests of its own."""
    p = block.state_dict()
    txt_b1, txt_s1, txt_g1, *txt_mlp = eq_4_4(p, "txt", vec)
    img_b1, img_s1, img_g1, *img_mlp = eq_4_4(p, "img", vec)
    txt_qkv = eq_4_6_and_4_7(p, "txt", eq_4_5(txt, txt_b1, txt_s1))
    img_qkv = eq_4_6_and_4_7(p, "img", eq_4_5(img, img_b1, img_s1))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(txt_qkv, img_qkv, strict=True))
    A = attention_explicit(q, k, v, pe)
    txt = eq_4_11(p, "txt", txt, A[:, :L_TXT], txt_g1)
    img = eq_4_11(p, "img", img, A[:, L_TXT:], img_g1)
    return eq_4_12(p, "img", img, *img_mlp), eq_4_12(p, "txt", txt, *txt_mlp)


def without_gate(block: double_stream.DoubleStreamBlock, branch: int) -> None:
    """Set the gate of the attention (1) or MLP (2) branch to zero in both streams."""
    for m in (block.img_mod, block.txt_mod):
        for p in (m.lin.weight, m.lin.bias):
            p.view(6, D, -1)[3 * branch - 1] = 0


# ---------------------------------------------------------------- Eq. (4.11), (4.12)


@pytest.mark.equation("4.11")
@pytest.mark.equation("4.12")
def test_the_block_is_its_equations(block, inputs):
    for mine, its in zip(by_hand(block, *inputs), block(*inputs), strict=True):
        assert (mine - its).abs().max() < 1e-11


@pytest.mark.equation("4.11")
def test_attention_branch_alone(block, inputs):
    without_gate(block, 2)
    img, txt, *_ = inputs
    for x, mine, its in zip((img, txt), by_hand(block, *inputs), block(*inputs), strict=True):
        assert (mine - its).abs().max() < 1e-11 and (its - x).abs().max() > 0.1


@pytest.mark.equation("4.12")
def test_mlp_branch_alone_keeps_tokens_apart(block, inputs):
    without_gate(block, 1)
    img, txt, vec, pe = inputs
    out = block(img, txt, vec, pe)
    for x, mine, its in zip((img, txt), by_hand(block, *inputs), out, strict=True):
        assert (mine - its).abs().max() < 1e-11 and (its - x).abs().max() > 0.1
    changed = txt.clone()
    changed[:, 3] += 1
    img_2, txt_2 = block(img, changed, vec, pe)
    assert torch.equal(out[0], img_2), "without the attention branch no token hears of another"
    assert torch.equal(out[1][:, :3], txt_2[:, :3]) and not torch.equal(out[1][:, 3], txt_2[:, 3])


def test_gates_of_zero_leave_both_streams_alone(block, inputs):
    without_gate(block, 1)
    without_gate(block, 2)
    img, txt = block(*inputs)
    assert torch.equal(img, inputs[0]) and torch.equal(txt, inputs[1])


def test_text_reaches_the_image_and_the_image_the_text(block, inputs):
    img, txt, vec, pe = inputs
    img_1, txt_1 = block(img, txt, vec, pe)
    assert (block(img, txt + torch.randn_like(txt), vec, pe)[0] - img_1).norm() / img_1.norm() > 0.01
    assert (block(img + torch.randn_like(img), txt, vec, pe)[1] - txt_1).norm() / txt_1.norm() > 0.01


# ---------------------------------------------------------------- every token counts


def test_other_text_tokens_do_not(flux, call):
    v = flux(**call)
    last_dropped = {"txt": call["txt"][:, :-1], "txt_ids": call["txt_ids"][:, :-1]}
    assert (flux(**call | last_dropped) - v).norm() / v.norm() > 1e-3, "no token is masked, padding included"


# ---------------------------------------------------------------- mistakes that load silently


def swap_shift_and_scale(block):
    for m in (block.img_mod, block.txt_mod):
        for p in (m.lin.weight, m.lin.bias):
            p.copy_(p.view(6, D, -1)[[1, 0, 2, 4, 3, 5]].reshape(p.shape))


def swap_heads_and_channels(block):
    for a in (block.img_attn, block.txt_attn):
        for p in (a.qkv.weight, a.qkv.bias):
            p.copy_(p.view(3, H, D // H, -1).transpose(1, 2).reshape(p.shape))


def heads_outermost(block):
    for a in (block.img_attn, block.txt_attn):
        for p in (a.qkv.weight, a.qkv.bias):
            p.copy_(p.view(3, H, D // H, -1).transpose(0, 1).reshape(p.shape))


def sigmoid_on_the_gates(block):
    def squash(module, args, out):
        return tuple(replace(each, gate=each.gate.sigmoid()) for each in out)

    block.img_mod.register_forward_hook(squash)
    block.txt_mod.register_forward_hook(squash)


@pytest.mark.parametrize(
    ("mistake", "at_least"),
    [
        (swap_shift_and_scale, 0.2),
        (swap_heads_and_channels, 0.02),
        (heads_outermost, 0.02),
        (sigmoid_on_the_gates, 0.2),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_mistakes_in_the_weights_load_silently(block, inputs, mistake, at_least):
    right, _ = block(*inputs)
    mistake(block)
    block.load_state_dict(block.state_dict(), strict=True)  # nothing to see in names and shapes
    wrong, _ = block(*inputs)
    assert wrong.shape == right.shape
    assert (wrong - right).norm() / right.norm() > at_least


def test_mistakes_in_the_code_run_silently(block, inputs, monkeypatch):
    right, _ = block(*inputs)

    def change() -> float:
        wrong, _ = block(*inputs)
        return ((wrong - right).norm() / right.norm()).item()

    assert change() == 0
    with monkeypatch.context() as m:
        m.setattr(modulation.F, "silu", lambda x: x)
        assert change() > 0.2, "SiLU forgotten before the modulation's linear layer"
    with monkeypatch.context() as m:
        affine = 1 + 0.3 * torch.randn(D, dtype=torch.float64), 0.3 * torch.randn(D, dtype=torch.float64)

        def modulate_with_affine(x, mod):
            return (1 + mod.scale) * layer_norm(x, (D,), *affine, eps=1e-6) + mod.shift

        m.setattr(double_stream, "modulate", modulate_with_affine)
        assert change() > 0.05, "a layer norm with parameters of its own"
    with monkeypatch.context() as m:
        m.setattr(attention, "join_streams", lambda txt, img: torch.cat([img, txt], dim=2))
        m.setattr(attention, "split_streams", lambda x, L_txt: (x[:, -L_txt:], x[:, :-L_txt]))
        assert change() > 0.005, "image before text under rotations that have text first"
    assert change() == 0


def test_a_fresh_affine_changes_nothing_at_first_but_not_the_keys():
    """Why the mistake goes unseen before training: a new layer norm's parameters are one and zero."""
    x = torch.randn(2, 3, 7)
    assert torch.equal(torch.nn.LayerNorm(7, eps=1e-6)(x), layer_norm(x, (7,), eps=1e-6))
    assert not any("norm1" in key or "norm2" in key for key in double_stream.DoubleStreamBlock(8, 2, 2.0).state_dict())


def test_guidance_reaches_only_the_vector_of_a_distilled_model(flux, call):
    v = flux(**call)
    assert (flux(**call | {"guidance": torch.tensor([3.5, 4.0])}) - v)[0].abs().max() < 1e-12 * v.abs().max()
    assert (flux(**call | {"guidance": torch.tensor([3.5, 4.0])}) - v)[1].norm() > 1e-3 * v[1].norm()
    assert DEV.guidance_embed and timestep_embedding(torch.tensor([3.5]), 256).shape == (1, 256)
