"""One model spread over several GPUs (FSDP2)."""

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from flux_edu.io.checkpoint import State
from flux_edu.model import Flux


def shard(model: Flux, state: State) -> Flux:
    """A model on the meta device becomes one whose parameters are spread over all processes (FSDP2).

    A block's parameters are gathered when its turn comes and given back after it: N GPUs hold an N-th each. Every
    process brings the same state dict, for example one that stays on disk (`checkpoint.LazyStateDict`), and keeps its
    own slice.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in [*model.double_blocks, *model.single_blocks]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    local = {}
    for name, place in model.state_dict().items():
        whole = state[name].to(device)
        local[name] = nn.Parameter(distribute_tensor(whole, place.device_mesh, place.placements), requires_grad=False)
    model.load_state_dict(local, strict=True, assign=True)
    return model.requires_grad_(False)
