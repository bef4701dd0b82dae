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
from flux_edu.teaching.errata.entry import Check


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


CHECKS = [
    Check(40, "missing", "parameters of dev", parts_notes, parts_right, 11_901_408_320),
    Check(
        41,
        "missing",
        "where text tokens are dropped",
        dropped_notes,
        dropped_right,
        "after the last single block",
        speaker="a guess",
    ),
    Check(
        48, "imprecise", "spread of a token (−5, −5, 5, 5) when shift and scale are 0", spread_notes, spread_right, 1.0
    ),
    Check(45, "wrong", "the second residual is the block's own", whole_notes, whole_right, True),
]
