"""Exercises and questions of chapter 16, from FLUX.1 to FLUX.2."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.flux2.model import Flux2, Flux2Params, make_ids
from flux_edu.model import Flux
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.exercises.experiments import apart
from flux_edu.teaching.exercises.question import Question

# ---------------------------------------------------------------- 16.1


def my_saving(width: int, double_blocks: int, single_blocks: int) -> int:
    D = width
    return (double_blocks - 1) * (D + 1) * 12 * D + (single_blocks - 1) * (D + 1) * 3 * D


MY_SAVING = Exercise(
    "16.1",
    my_saving,
    inputs=[(3072, 19, 38), (10, 2, 3), (320, 3, 7)],
    mistakes={
        "that is all modulation there is; three modules stay, two for double and one for single blocks":
            lambda D, M, N: my_saving(D, M + 1, N + 1),
        "the biases are missing: FLUX.1's linear layers have one number more for every output":
            lambda D, M, N: my_saving(D, M, N) // (D + 1) * D,
        "a double block has two streams of two branches each: twelve vectors, you counted six":
            lambda D, M, N: (D + 1) * D * (6 * (M - 1) + 3 * (N - 1)),
        "a single block has one branch: three vectors, not six":
            lambda D, M, N: (D + 1) * D * (12 * (M - 1) + 6 * (N - 1)),
    },
    advice="(blocks - 1) times the modulation of one block, for each kind.",
)  # fmt: skip

# ---------------------------------------------------------------- 16.2


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.chunk(2, dim=-1)


def my_swiglu(x: Tensor) -> Tensor:
    gate, value = halves(x)
    return F.silu(gate) * value


MY_SWIGLU = Exercise(
    "16.2",
    my_swiglu,
    inputs=[(normal(2, 3, 10),), (normal(1, 5, 14),)],
    mistakes={
        "the halves are exchanged: the first half is the gate, the second the value":
            lambda x: halves(x)[0] * F.silu(halves(x)[1]),
        "that gate is a sigmoid; SiLU(a) is a · sigmoid(a)": lambda x: torch.sigmoid(halves(x)[0]) * halves(x)[1],
        "that gate is a GELU (GEGLU); FLUX.2 has SiLU": lambda x: F.gelu(halves(x)[0]) * halves(x)[1],
    },
    advice="SiLU of the first half, times the second half.",
)  # fmt: skip

EXERCISES = [MY_SAVING, MY_SWIGLU]

# ---------------------------------------------------------------- questions


def parameters_of_modulations() -> float:
    with torch.device("meta"):
        model = Flux(configs["flux-dev"].params)
    sizes = [(name, p.numel()) for name, p in model.named_parameters()]
    return sum(n for name, n in sizes if "_mod." in name or ".modulation." in name) / sum(n for _, n in sizes)


def shuffled_text_of_flux2() -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Flux2(Flux2Params(12, 48, 2, 1, 1, False, in_channels=8, axes_dim=(6, 6, 6, 6))).requires_grad_(False)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
    txt_ids, img_ids = make_ids(1, (2, 3), 5)
    txt, img, t = normal(1, 5, 12), normal(1, 6, 8, seed=1), torch.tensor([0.5])
    return apart(model(img, img_ids, txt.flip(1), txt_ids, t), model(img, img_ids, txt, txt_ids, t))


QUESTIONS = [
    Question(
        section="Shared modulation",
        text="FLUX.2 shares one modulation among all blocks of a kind. In FLUX.1 every block has its own. How much of"
        " FLUX.1's 12 billion parameters stands in them?",
        choices={
            "about a hundredth": lambda share: share < 0.05,
            "more than a quarter": lambda share: 0.25 < share < 0.5,
            "more than half": lambda share: share >= 0.5,
        },
        measure=parameters_of_modulations,
        result="The modulations of the blocks hold {:.0%}.",
        why="Six vectors a stream and block, each from a matrix of D × D. That is why sharing them pays.",
    ),
    Question(
        section="Four axes, and text with places",
        text="In FLUX.1 the vectors of the text may be shuffled and the velocity stays. And in FLUX.2, if ids stay"
        " where they are?",
        choices={
            "nothing but rounding": lambda moved: moved < 1e-4,
            "it changes": lambda moved: moved > 1e-3,
        },
        measure=shuffled_text_of_flux2,
        result="In a small random FLUX.2 the velocity moves by {:.1%} of its length.",
        why="A text token of FLUX.2 has a place, (0, 0, 0, l). Another vector at this place is another text.",
    ),
]
