"""The named intermediates of one forward pass, in the order in which they arise."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import attention_weights
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.modulation import ModulationOut
from flux_edu.single_stream import SingleStreamBlock


class Trace(dict):
    """Module name → what the module returned (a tensor or a tuple of them), in order of arising; prints as a table.

    Names are those of the checkpoint's keys: `trace["double_blocks.0.img_attn.norm"]` is (q, k) after QK norm.
    """

    def __str__(self) -> str:
        rows = [(name, "  ".join(str(tuple(x.shape)) for x in tensors(out))) for name, out in self.items()]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {shapes}" for name, shapes in rows)

    def only(self, *words: str) -> "Trace":
        """The entries whose name holds one of the words."""
        return Trace({name: out for name, out in self.items() if any(word in name for word in words)})

    def attention(self, block: str) -> Float[Tensor, "B H L L"]:
        """The attention weights of a block, e.g. "double_blocks.0" or "single_blocks.5"; text tokens first."""
        if f"{block}.norm" in self:
            q, k = self[f"{block}.norm"]
        elif f"{block}.img_attn.norm" in self:
            both = zip(self[f"{block}.txt_attn.norm"], self[f"{block}.img_attn.norm"], strict=True)
            q, k = (torch.cat(pair, dim=2) for pair in both)
        else:
            blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in self if "_blocks." in name)
            raise KeyError(f"no block {block!r} was traced; there are {', '.join(blocks)}")
        return attention_weights(q, k, self["pe_embedder"])


def tensors(out: object) -> Iterable[Tensor]:
    """The tensors inside whatever a module returned."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, ModulationOut):
        yield from (out.shift, out.scale, out.gate)
    elif isinstance(out, tuple):
        for part in out:
            yield from tensors(part)


@torch.no_grad()
def trace(model: nn.Module, *args, **kwargs) -> Trace:
    """Run the model once and keep what every module returned. The model's own output stands under "".

    Without gradients, but not in inference mode: what was traced may go into further computations of any kind.
    """
    traced = Trace()
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: traced.__setitem__(name, out))
        for name, module in model.named_modules()
        if not isinstance(module, nn.ModuleList)
    ]
    try:
        model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return traced


Block = DoubleStreamBlock | SingleStreamBlock


@contextmanager
def ablate(block: Block, part: str | int | Iterable[int] = "block") -> Iterator[None]:
    """Inside the `with`, a part of a block adds nothing; the rest of the block works as ever.

    part is the whole "block", which then hands its tokens on as they came, its "attention", its "MLP", or heads by
    their numbers. A double block leaves its attention or MLP out for text and image, with the bias. Otherwise the
    part's channels are zero before the last linear layer (`proj`, `linear2`), whose bias stays.
    """
    double = isinstance(block, DoubleStreamBlock)
    if part == "block":
        hooks = [block.register_forward_hook(lambda _, inputs, out: inputs[:2] if double else inputs[0])]
    elif double and part in ("attention", "MLP"):
        ends = [block.img_attn.proj, block.txt_attn.proj] if part == "attention" else [block.img_mlp, block.txt_mlp]
        hooks = [end.register_forward_hook(lambda _, inputs, out: torch.zeros_like(out)) for end in ends]
    else:
        ends = [block.txt_attn.proj, block.img_attn.proj] if double else [block.linear2]
        silent = _channels(part, ends[0], (block.img_attn if double else block).num_heads)

        def silence(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            return inputs[0].index_fill(-1, silent.to(inputs[0].device), 0)

        hooks = [end.register_forward_pre_hook(silence) for end in ends]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _channels(part: str | int | Iterable[int], end: nn.Linear, num_heads: int) -> Tensor:
    """The inputs of a block's last layer that belong to a part: the heads side by side, then the MLP."""
    D, width = end.out_features, end.in_features
    if isinstance(part, str):
        if part not in ("attention", "MLP"):
            raise ValueError(f"part = {part!r}: leave out the whole 'block', its 'attention', its 'MLP' or heads")
        return torch.arange(D) if part == "attention" else torch.arange(D, width)
    heads = [part] if isinstance(part, int) else list(part)
    if not set(heads) <= set(range(num_heads)):
        raise ValueError(f"heads = {sorted(heads)}: this block has heads 0 to {num_heads - 1}")
    return torch.cat([torch.arange(D).unflatten(0, (num_heads, -1))[head] for head in heads])
