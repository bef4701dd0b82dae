"""Low-rank deltas (LoRA): a model said as a small change of another one.  W' = W + scale · B A

A is r × in and B is out × r, so that a matrix of out × in changes by r (in + out) numbers. Hu et al., "LoRA", 2021. The
published layout is `NAME.lora_A.weight`, `NAME.lora_B.weight` and maybe `NAME.lora_B.bias` for the linear layer NAME
(`lora_layouts` reads others), and beside them whole tensors under their own names, which replace those of the model or
come new. The control LoRAs of FLUX.1 replace the scales of the norms that way; tiny-dev brings its `guidance_in`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import ModelSpec
from flux_edu.io.checkpoint import CheckpointError, State, check_finite, listed, load_strict
from flux_edu.io.lora_layouts import A, read_layout
from flux_edu.model import Flux
from flux_edu.tools import Redux


def layers(delta: State) -> list[str]:
    """The linear layers that a delta changes."""
    return [key.removesuffix(A) for key in delta if key.endswith(A)]


def whole(delta: State) -> State:
    """The tensors that travel whole."""
    return {key: x for key, x in delta.items() if ".lora_" not in key}


# ---------------------------------------------------------------- merging


def merge(state: State, delta: State, scale: float = 1.0, source: str = "the delta") -> State:
    """The state dict with the delta in it:  W' = W + scale · B A,  c' = c + scale · (B's bias).

    The delta may come in any layout of `lora_layouts`, with `alpha` or without. `state` itself is left as it is, so
    the way back needs no subtraction and loses no bit. Sums are float32, then rounded to the dtype that W has. Whole
    tensors replace theirs whatever the scale is, as in the reference.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale = {scale}: it must be a finite number; 1 puts the LoRA on as it was trained")
    check_finite(delta, source)
    updates, replaced = read_layout(delta, state, source)
    out = state | replaced
    for update in updates:
        change = scale * update.factor * (update.B.float() @ update.A.float())
        add(out, update.module + ".weight", update.rows, change)
        if update.bias is not None:
            add(out, update.module + ".bias", update.rows, scale * update.factor * update.bias.float())
    check_finite({key: x for key, x in out.items() if x is not state.get(key)}, f"the model with {scale:g} × {source}")
    return out


def add(state: State, key: str, rows: slice, change: Tensor) -> None:
    """Some rows of a tensor changed in a copy of it, which takes its place; the sum is float32."""
    x = state[key].to(torch.float32, copy=True)
    x[rows] += change
    state[key] = x.to(state[key].dtype)


@torch.no_grad()
def merge_into(model: nn.Module, delta: State, scale: float = 1.0, source: str = "the delta") -> State:
    """Change a model in place; returns its tensors from before, to be given to `unmerge`."""
    state = model.state_dict()
    merged = merge(state, delta, scale, source)
    if strange := [key for key in merged if key not in state]:
        raise CheckpointError(
            f"{source} brings tensors that {type(model).__name__} has no place for: {listed(strange)}"
        )
    changed = {key: x for key, x in merged.items() if x is not state[key]}
    before = {key: state[key].clone() for key in changed}
    model.load_state_dict(changed, strict=False)
    return before


def unmerge(model: nn.Module, before: State) -> None:
    """Put back what `merge_into` returned, bit for bit."""
    model.load_state_dict(before, strict=False)


def widen_img_in(state: State, in_channels: int) -> State:
    """The same network for wider tokens: new columns of img_in are zero, so at first what they bring changes nothing.

    That is how the control LoRAs of FLUX.1 are put onto dev: widen 64 to 128, then `merge`.
    """
    W = state["img_in.weight"]
    if in_channels < W.shape[1]:
        raise CheckpointError(
            f"img_in takes {W.shape[1]} channels already; it can be widened, not narrowed to {in_channels}"
        )
    return state | {"img_in.weight": F.pad(W, (0, in_channels - W.shape[1]))}


def with_delta(spec: ModelSpec, base: State, delta: State, source: str) -> Flux:
    """The transformer of a distilled model or a tool: the base's weights, its entrance widened, the delta in them.

    Redux brings a small network of its own; it becomes `redux`, a part of the transformer.
    """
    state = merge(widen_img_in(base, spec.params.in_channels), delta, source=source)
    with torch.device("meta"):
        model = Flux(spec.params)
        if (up := delta.get("redux.redux_up.weight")) is not None:
            model.redux = Redux(up.shape[1], spec.params.context_in_dim)
    load_strict(model, state, source=source)
    return model


# ---------------------------------------------------------------- training


class LowRankLinear(nn.Linear):
    """A linear layer with frozen W and c, and a trained delta of rank r:  y = (W + B A) x + c.

    The parameters have the names of the published layout. A starts at random and B at zero, so at first nothing is
    changed. B A is added to W before the product with x: r is small, and x holds many tokens.
    """

    def __init__(self, linear: nn.Linear, rank: int):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        where = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.Linear(self.in_features, rank, bias=False, **where)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False, **where)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... out"]:
        return F.linear(x, self.weight + self.lora_B.weight @ self.lora_A.weight, self.bias)


def make_trainable(
    model: nn.Module,
    rank: int,
    train_whole: tuple[str, ...] = (),
    leave: tuple[str, ...] = (),
    ranks: dict[str, int] | None = None,
) -> nn.Module:
    """Freeze a model and give every linear layer a delta of this rank to train, in place.

    Modules named in train_whole are trained as they are, layers with one of `leave` in their name stay as they are, and
    those in `ranks` have a rank of their own. A matrix with a side shorter than the rank gets that as its rank.
    """
    model.requires_grad_(False)
    for name in train_whole:
        model.get_submodule(name).requires_grad_(True)
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and not name.startswith(train_whole) and not any(x in name for x in leave):
            parent, _, leaf = name.rpartition(".")
            own = min((ranks or {}).get(name, rank), *linear.weight.shape)
            setattr(model.get_submodule(parent), leaf, LowRankLinear(linear, own))
    return model


def go_on(model: nn.Module, delta: State, source: str) -> None:
    """Begin the training where another has ended: the delta becomes the trainable part, which has its shapes."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: tuple(x.shape) for name, x in delta.items()}
    if odd := sorted(name for name in expected | shapes if expected.get(name) != shapes.get(name)):
        raise CheckpointError(f"{source} is of another tool or rank: {listed(odd)}. Give --rank as it was then")
    model.load_state_dict(delta, strict=False)


def trained_delta(model: nn.Module, numbers: nn.Module | None = None) -> State:
    """What `make_trainable` has left to train, by its published name: what is trained is what is kept.

    numbers is a module of the same build to take the values from, for example a running mean of the weights.
    """
    state = (numbers or model).state_dict()
    return {name: state[name].detach() for name, p in model.named_parameters() if p.requires_grad}
