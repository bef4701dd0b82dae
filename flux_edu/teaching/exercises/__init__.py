"""The checks behind the notebooks' exercises, a file a chapter; `flux_edu.teaching.panel.check` finds them.

`CHECKS` maps the number of an exercise to a function that takes the answer and raises AssertionError, with a message
that names the likely mistake, unless it is right. `SOLUTIONS` holds an answer that passes.
"""

import torch
from torch import Tensor


def tensor_of(got: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer, if it is a tensor of this shape; else an error says what it is."""
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor), f"your function returned a {type(got).__name__}, expected a tensor"
    assert tuple(got.shape) == shape, f"{what} has shape {tuple(got.shape)}, expected {shape}"
    return got


def name_mistake(got: Tensor, mistakes: list[tuple[str, Tensor]], tolerance: float = 1e-5) -> None:
    """Raise with what is told of the first mistake that gives the same numbers."""
    for told, wrong in mistakes:
        assert wrong.shape != got.shape or not torch.allclose(got.to(wrong), wrong, atol=tolerance, rtol=1e-4), told
