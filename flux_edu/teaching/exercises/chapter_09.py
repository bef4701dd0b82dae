"""Exercises of chapter 9, training."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

NOTHING = "your function returned nothing: did you forget `return`?"


def _same(a: object, b: Tensor, tolerance: float = 1e-4) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=tolerance)


# ---------------------------------------------------------------- 9.1


def training_pair(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    t = t.reshape(-1, 1, 1)
    return (1 - t) * x_0 + t * noise, noise - x_0


def check_training_pair(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 3, 5, generator=generator)  # three samples of three tokens: shapes hide nothing
    t = torch.tensor([0.1, 0.4, 0.8])
    got = answer(x_0, noise, t)
    assert got is not None, NOTHING
    assert isinstance(got, tuple) and len(got) == 2, "return two tensors: x_t and the target"
    (x_t, target), (right_x, right_target) = got, training_pair(x_0, noise, t)
    if _same(x_t, right_x) and _same(target, right_target):
        return
    for told, wrong in [
        ("your x_t has t the other way round: at t = 1 it must be the noise, at t = 0 the picture", (1 - t)),
        ("your x_t uses one noise level for the whole batch; every sample has its own", t[:1].expand(3)),
    ]:
        assert not _same(x_t, training_pair(x_0, noise, wrong)[0]), told
    across_tokens = (1 - t.reshape(-1, 1)) * x_0 + t.reshape(-1, 1) * noise
    across_channels = x_0 + t.reshape(1, -1, 1) * (noise - x_0)
    assert not (_same(x_t, across_tokens) or _same(x_t, across_channels)), (
        "your x_t gives every token its own level: t was broadcast along the wrong axis, make it (B, 1, 1)"
    )
    assert not _same(x_t, right_x + right_x - x_0), "your x_t keeps the whole picture: it is (1 - t) x_0 + t ε"
    for told, wrong in [
        ("your target is x_0 - ε: it points to the picture, and Eq. (6.2) would walk away from it", x_0 - noise),
        ("your target is the noise ε: that is what other diffusion models learn; here it is ε - x_0", noise),
        ("your target is the picture x_0: here it is the direction of the path, ε - x_0", x_0),
        ("your target is ε - x_t, which is only (1 - t) times the velocity: the path starts at x_0", noise - right_x),
        ("your target is x_t - x_0, which is only t times the velocity", right_x - x_0),
    ]:
        assert not _same(target, wrong), told
    which = "x_t" if not _same(x_t, right_x) else "the target"
    raise AssertionError(f"{which} is not right: x_t = (1 - t) x_0 + t ε with one t a sample, target = d x_t / dt")


# ---------------------------------------------------------------- 9.2


def best_guess(x_t: Tensor, t: float, s: float) -> Tensor:
    return (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x_t


def check_best_guess(answer: Callable[[Tensor, float, float], Tensor]) -> None:
    x_t = torch.tensor([-1.7, 0.3, 2.0], dtype=torch.float64)
    for t, s in [(0.3, 1.0), (0.5, 2.0), (0.8, 0.4), (1.0, 0.7), (0.0, 1.3)]:
        got, right = answer(x_t, t, s), best_guess(x_t, t, s)
        assert got is not None, NOTHING
        if _same(got, right, 1e-6):
            continue
        asked = f"at t = {t}, s = {s}"
        V, cov = (1 - t) ** 2 * s**2 + t**2, t - (1 - t) * s**2
        for told, factor in [
            ("the sign is the other way: E[ε | x_t] minus E[x_0 | x_t]", -cov / V),
            (
                "you returned E[x_0 | x_t], the picture to expect; the velocity is E[ε | x_t] minus that",
                (1 - t) * s**2 / V,
            ),
            ("you returned E[ε | x_t], the noise to expect; take E[x_0 | x_t] away from it", t / V),
            ("you returned the covariance with x_t; it must still be divided by the variance of x_t", cov),
            ("you divided by the deviation of x_t; the best linear guess divides by its variance", cov / math.sqrt(V)),
            ("the variance of the picture is s², not s", (t - (1 - t) * s) / ((1 - t) ** 2 * s + t**2)),
            (
                "right for s = 1 only: the picture's share of the variance is (1 - t)² s²",
                (2 * t - 1) / ((1 - t) ** 2 + t**2),
            ),
        ]:
            assert not _same(got, factor * x_t, 1e-6), f"{asked}: {told}"
        raise AssertionError(f"{asked} the best guess is {right[2] / x_t[2]:.4f} · x_t; you gave {got} for x_t = {x_t}")


# ---------------------------------------------------------------- 9.3


def training_levels(normals: Tensor, a: float, c: float, width: int, height: int) -> Tensor:
    mu = 0.5 + (math.ceil(width / 16) * math.ceil(height / 16) - 256) * 0.65 / 3840
    return torch.sigmoid(mu + a + c * normals)


def check_training_levels(answer: Callable[[Tensor, float, float, int, int], Tensor]) -> None:
    normals = torch.tensor([-1.5, -0.2, 0.0, 0.9], dtype=torch.float64)
    line = lambda L: 0.5 + (L - 256) * 0.65 / 3840  # noqa: E731
    for a, c, width, height in [(0.0, 1.0, 128, 128), (0.3, 0.8, 1024, 768), (-0.5, 1.4, 1000, 512)]:
        got, right = answer(normals, a, c, width, height), training_levels(normals, a, c, width, height)
        assert got is not None, NOTHING
        if _same(got, right, 1e-6):
            continue
        asked, L = f"with a = {a}, c = {c}, {width} × {height} pixels", math.ceil(width / 16) * math.ceil(height / 16)
        mu, z = line(L), a + c * normals
        for told, wrong in [
            ("these are logits; a noise level is their sigmoid", mu + z),
            ("the levels are not shifted: μ(L) is missing", torch.sigmoid(z)),
            ("the sign of μ is the other way: larger pictures are trained at higher levels", torch.sigmoid(z - mu)),
            ("you added μ to the level; it is added to the logit of the level", torch.sigmoid(z) + mu),
            ("you took the sigmoid twice: add μ to the logits and take it once", torch.sigmoid(mu + torch.sigmoid(z))),
            (
                "you multiplied the deviation by μ as well; μ only moves the mean",
                torch.sigmoid(mu + a + mu * c * normals),
            ),
            ("c was squared: it is the deviation, not the variance", torch.sigmoid(mu + a + c**2 * normals)),
            ("a is multiplied by c: the mean of the logits is a, whatever c is", torch.sigmoid(mu + c * (a + normals))),
            (
                "you counted pixels; L is the number of tokens, 16 × 16 pixels each",
                torch.sigmoid(line(width * height) + z),
            ),
            ("you counted places of the latent; a token is a 2 × 2 patch of them", torch.sigmoid(line(4 * L) + z)),
        ]:
            assert not _same(got, wrong, 1e-6), f"{asked}: {told}"
        raise AssertionError(f"{asked} expected {[round(x, 4) for x in right.tolist()]}, got {got}")


# ---------------------------------------------------------------- 9.4


def drop_captions(txt: Tensor, vec: Tensor, empty: tuple[Tensor, Tensor], drop: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(drop[:, None, None], empty[0], txt), torch.where(drop[:, None], empty[1], vec)


def check_drop_captions(
    answer: Callable[[Tensor, Tensor, tuple[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]],
) -> None:
    generator = torch.Generator().manual_seed(0)
    txt, vec = torch.randn(4, 4, 6, generator=generator), torch.randn(4, 3, generator=generator)
    empty = torch.randn(1, 4, 6, generator=generator), torch.randn(1, 3, generator=generator)
    drop = torch.tensor([True, False, False, True])
    before = txt.clone(), vec.clone()
    got, right = answer(txt, vec, empty, drop), drop_captions(*before, empty, drop)
    assert got is not None, NOTHING
    assert isinstance(got, tuple) and len(got) == 2, "return both: what T5 says and what CLIP says"
    assert torch.equal(txt, before[0]) and torch.equal(vec, before[1]), (
        "you wrote into the caller's tensors: the next step of the training would find its captions gone. Make new ones"
    )
    if _same(got[0], right[0]) and _same(got[1], right[1]):
        return
    inverse = drop_captions(txt, vec, empty, ~drop)
    assert not (_same(got[0], inverse[0]) and _same(got[1], inverse[1])), (
        "the captions to drop were kept and all others dropped: torch.where takes its second argument where True"
    )
    assert not (_same(got[0], right[0]) and _same(got[1], vec)), (
        "CLIP's vector still tells the caption: drop both, or the 'empty' prompt is none"
    )
    assert not (_same(got[0], txt) and _same(got[1], right[1])), (
        "T5's states still tell the caption: drop both, or the 'empty' prompt is none"
    )
    zeros = drop_captions(txt, vec, (torch.zeros_like(empty[0]), torch.zeros_like(empty[1])), drop)
    assert not (_same(got[0], zeros[0]) and _same(got[1], zeros[1])), (
        "you put zeros there; the sampler will pass the encoded empty text, so training must show that"
    )
    by_token = torch.where(drop[None, :, None], empty[0], txt)
    assert not _same(got[0], by_token), (
        "you dropped tokens 0 and 3 of every caption: `drop` belongs to the samples, give it the shape (B, 1, 1)"
    )
    raise AssertionError("where drop is True both tensors must be those of the empty text, elsewhere as they came")


CHECKS = {"9.1": check_training_pair, "9.2": check_best_guess, "9.3": check_training_levels, "9.4": check_drop_captions}
SOLUTIONS = {"9.1": training_pair, "9.2": best_guess, "9.3": training_levels, "9.4": drop_captions}
