"""Exercises of chapter 14, the errata: predict what the wrong forms do."""

from collections.abc import Callable

import torch
from torch import Tensor

# ---------------------------------------------------------------- 14.1


def where_it_ends(x_0: Tensor, noise: Tensor) -> Tensor:
    return 2 * noise - x_0


def check_where_it_ends(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    x_0, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(14))
    got = answer(x_0.clone(), noise.clone())
    assert got is not None, "your function returned nothing: did you forget `return`?"
    assert isinstance(got, Tensor) and got.shape == x_0.shape, "the end is a state, of the shape of x_0 and noise"
    for told, wrong in [
        ("that is where the right sign ends, at the picture; the notes' factor t_n - t_next is positive", x_0),
        ("that is where the walk begins; over all steps the factors add up to 1, not to 0", noise),
        ("that is v itself, how far it walks; add where it begins", noise - x_0),
        ("you walked from the picture; it begins at the noise", 2 * x_0 - noise),
        ("this walks from the noise to the other side by v taken as picture plus noise; v = ε - x_0", 2 * noise + x_0),
    ]:
        assert not torch.allclose(got, wrong, atol=1e-5), told
    assert torch.allclose(got, where_it_ends(x_0, noise), atol=1e-5), (
        "not where it ends. From ε it walks along v = ε - x_0, and the factors t_n - t_next of all steps add up to 1"
    )


# ---------------------------------------------------------------- 14.2


def float_traps(num_steps: int) -> list[int]:
    whole = [p for p in range(101) if (100 - p) * num_steps % 100 == 0]
    return [p for p in whole if int((1 - p / 100) * num_steps) != (100 - p) * num_steps // 100]


def check_float_traps(answer: Callable[[int], list[int]]) -> None:
    for num_steps in (50, 20, 28, 25):
        got = answer(num_steps)
        assert got is not None, "your function returned nothing: did you forget `return`?"
        got, right, asked = sorted(got), float_traps(num_steps), f"float_traps({num_steps})"
        if got == right:
            continue
        truncated = [p for p in range(101) if int((1 - p / 100) * num_steps) != round((100 - p) * num_steps / 100)]
        assert got != truncated, (
            f"{asked} holds strengths like {truncated[0]} %, where (1 - ς) N is no whole number. There rounding and"
            " cutting differ by intent; keep those where (100 - p) N is a multiple of 100"
        )
        assert got != [p / 100 for p in right], f"{asked}: right strengths; give them in per cent, as whole numbers"
        fine = [p for p in range(101) if (100 - p) * num_steps % 100 == 0 and p not in right]
        assert got != fine, f"{asked} gave the strengths where int() is right; asked are those where it is not"
        assert got or not right, (
            f"{asked} found none. Compute (1 - p / 100) * N in floating point, as the reference does; in whole numbers"
            " nothing goes wrong"
        )
        missing, extra = sorted(set(right) - set(got)), sorted(set(got) - set(right))
        raise AssertionError(f"{asked}: missing {missing[:5]}, too many {extra[:5]}")


CHECKS = {"14.1": check_where_it_ends, "14.2": check_float_traps}
SOLUTIONS = {"14.1": where_it_ends, "14.2": float_traps}
