"""The notes on the model as a whole: their list of its parts, and their closing words."""

import torch
import torch.nn.functional as F
from torch import nn

from flux_edu.attention import split_streams
from flux_edu.configs import DEV
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.model import Flux
from flux_edu.modulation import ModulationOut, modulate
from flux_edu.rope import EmbedND
from flux_edu.teaching.errata.arguments import small_flux, small_inputs
from flux_edu.teaching.errata.entry import Check, Erratum

MODEL, END = "the parts of the Flux Model", "their own completeness (总结)"


def count(*modules: torch.nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


def parts_notes():
    with torch.device("meta"):
        model = Flux(DEV)
    return count(
        model.guidance_in, model.time_in, model.pe_embedder, model.double_blocks, model.single_blocks, model.final_layer
    )


def parts_right():
    with torch.device("meta"):
        return count(Flux(DEV))


def dropped_notes():
    return "before the single blocks"  # to follow the notes, where text is met in the double block only


def dropped_right():
    seen, model, inputs = [], small_flux(), small_inputs()
    model.single_blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out))
    model.final_layer.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    model(inputs["img"], inputs["img_ids"], inputs["txt"], inputs["txt_ids"], torch.ones(1), inputs["vec"])
    _, img = split_streams(seen[0], 3)
    return "after the last single block" if torch.equal(img, seen[1]) else "somewhere else"


def silenced_block() -> DoubleStreamBlock:
    """A block whose attention adds nothing, so that its second residual stands alone."""
    block = DoubleStreamBlock(24, 2, 4.0, qkv_bias=True)
    for stream in (block.img_attn, block.txt_attn):
        nn.init.zeros_(stream.proj.weight)
        nn.init.zeros_(stream.proj.bias)
    return block


def through_block(block: DoubleStreamBlock, img: torch.Tensor, vec: torch.Tensor) -> torch.Tensor:
    """The block's own answer for the image tokens."""
    pe = EmbedND(12, 100, (4, 4, 4))(torch.zeros(1, 9, 3))
    return block(img, torch.randn(1, 3, 24), vec, pe)[0]


def whole_notes():
    block, img, vec = silenced_block(), torch.randn(1, 6, 24), torch.randn(1, 24)
    *_, s, b, g = (vec @ block.img_mod.lin.weight.T)[:, None].chunk(6, dim=-1)  # "img_mod(v)"
    W_1, W_2 = block.img_mlp[0].weight, block.img_mlp[2].weight
    hidden = F.gelu(((1 + s) * F.layer_norm(img, (24,)) + b) @ W_1.T, approximate="tanh")
    return torch.allclose(img + g * (hidden @ W_2.T), through_block(block, img, vec), atol=1e-6)


def whole_right():
    block, img, vec = silenced_block(), torch.randn(1, 6, 24), torch.randn(1, 24)
    _, mod = block.img_mod(vec)
    by_hand = img + mod.gate * block.img_mlp(modulate(img, mod))
    return torch.allclose(by_hand, through_block(block, img, vec), atol=1e-6)


TOKEN = torch.tensor([[[-5.0, -5.0, 5.0, 5.0]]])


def spread_notes():
    s = b = torch.zeros(1, 1, 4)
    return ((1 + s) * TOKEN + b).std(unbiased=False)  # nothing to normalise with: s and b are 0


def spread_right():
    nothing = ModulationOut(shift=torch.zeros(1, 1, 4), scale=torch.zeros(1, 1, 4))
    return modulate(TOKEN, nothing).std(unbiased=False)


PARTS = [
    Erratum(
        40, MODEL, "the list of parts", "它主要的结构包括", "missing",
        "Three are left out: the matrices that bring picture and text to the network's width (`img_in`, `txt_in`),"
        " and the pooled text's way into `vec` (`vector_in`). Guidance has an embedding in dev only, not in schnell.",
        ("4.3",), ("05_single_stream", "The whole network in five stages"),
        Check("parameters of dev", parts_notes, parts_right, 11_901_408_320),
    ),
    Erratum(
        41, MODEL, "named, not explained", "- single stream block", "missing",
        "Nor are the time and guidance embedding (4.1 to 4.3), RoPE (3.1 to 3.5) and the output layer (5.5). The"
        " single block runs attention and MLP side by side over text *and* image, under one gate; text is dropped"
        " after the last of them.",
        ("5.1", "5.2", "5.3", "5.4", "5.5"), ("05_single_stream", "Two leftovers of the reference"),
        Check("where text tokens are dropped", dropped_notes, dropped_right, "after the last single block",
              speaker="a guess"),
        "Dehghani et al., arXiv 2302.05442, for the parallel form",
    ),
]  # fmt: skip

NORMALISES = r"利用**动态调制参数**（由向量 \(\mathbf{v}\) 生成）对特征进行归一化和仿射变换"

CLOSING = [
    Erratum(
        48, END, "what modulation does", NORMALISES, "imprecise",
        "It transforms only. A layer norm without parameters normalises each token by the token's own mean and"
        " variance, whatever the modulation says; scale and shift come after it, the gate later still.",
        ("4.5",), ("04_double_stream", "Eq. 4.5 · Modulate: a norm with borrowed numbers"),
        Check("spread of a token (−5, −5, 5, 5) when shift and scale are 0", spread_notes, spread_right, 1.0),
    ),
    Erratum(
        45, END, "complete?", "数学公式完整描述了代码中的张量操作与信息流动。", "wrong",
        "The formulas leave out the SiLU before the modulation, the biases, the kind of activation, the order of"
        " chunks and heads, and RoPE. Even the second residual alone, with the activation put right and nothing else,"
        " is another one.",
        ("4.4", "4.12"), ("04_double_stream", "The whole block by hand"),
        Check("the second residual is the block's own", whole_notes, whole_right, True),
    ),
]  # fmt: skip
