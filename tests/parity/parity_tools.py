"""What the parity tests share: parameters drawn at random, the error that is measured, and sizes that differ.

An error is ||a - b|| / ||b||. Every parameter is random, the norms' scales and all biases too, since ones and zeros
hide mix-ups; the sizes are odd or prime and no two are equal, so that no two axes can be swapped unseen.
"""

import torch
from torch import Tensor, nn

FLOAT32_BAR = 2e-6
FLOAT64_BAR = 1e-12  # where both sides compute in float64
FLOAT64_WHOLE_BAR = 1e-6  # where diffusers keeps a spot in float32 (test_flux_parity lists them)

HEADS, AXES = 3, (4, 6, 10)
K = sum(AXES)
D = HEADS * K
BATCH, L_TXT, ROWS, COLUMNS = 2, 7, 5, 3
L_IMG = ROWS * COLUMNS


def draw(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter with random numbers of a size that leaves activations around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            x = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(x / p[0].numel() ** 0.5)
            else:  # a bias or the scale of a norm
                p.copy_(0.3 * x if name.endswith("bias") else 1 + 0.3 * x)
    return module.eval().requires_grad_(False)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05, "the values compared are (almost) constant: nothing would be shown"
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def hold(part: str, measured: float, bar: float, above: float = 0.0) -> None:
    """Print what was measured (`pytest tests/parity -rP` shows it) and hold it to the bar."""
    print(f"{part:<60} {measured:.1e}, may be {bar:.0e}")
    assert above <= measured <= bar, f"{part}: {measured:.2e}, should lie in [{above:.0e}, {bar:.0e}]"


def img_ids() -> Tensor:
    """Rows and columns far from the origin, and the axis that Kontext uses, "L 3"."""
    row, column = torch.meshgrid(torch.arange(ROWS) * 11 + 3, torch.arange(COLUMNS) * 17 + 29, indexing="ij")
    return torch.stack([row * 0 + 1, row, column], dim=-1).reshape(-1, 3).float()


def txt_ids() -> Tensor:
    """Not zero as in FLUX: that would leave the text's rotations untested."""
    return torch.arange(L_TXT * 3).reshape(L_TXT, 3).float() * 5 % 23


def batched(ids: Tensor) -> Tensor:
    """diffusers has one table of ids for the batch, the published code one a sample."""
    return ids.expand(BATCH, *ids.shape)
