"""Chapter 10: its exercises name the usual mistakes and are the package's functions, its figures draw everywhere."""

import torch

from flux_edu.configs import configs
from flux_edu.model import Flux
from flux_edu.sampling import guide
from flux_edu.teaching.exercises.chapter_10 import relative_loss, student_target
from flux_edu.teaching.plots import chapter_10 as plots
from flux_edu.train.guidance import make_student
from flux_edu.train.objectives import guidance_loss


def test_the_answers_are_the_packages_functions():
    a, b, w = torch.randn(3, 5, 7), torch.randn(3, 5, 7), torch.tensor([1.5, 3.0, 5.0])
    torch.testing.assert_close(student_target(a, b, w), guide(a, b, w[:, None, None]))
    torch.testing.assert_close(relative_loss(a, b), guidance_loss(a, b))


# ---------------------------------------------------------------- sizes and figures


def test_the_count_is_that_of_the_student():
    with torch.device("meta"):
        base = Flux(configs["tiny"].params)
    size = sum(p.numel() for p in base.parameters())
    student = make_student({name: torch.zeros(p.shape) for name, p in base.state_dict().items()}, 7)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    model, low_rank, whole = plots.count_delta(7)
    assert (model, low_rank + whole) == (size, trained)
    assert plots.count_delta(7, "tiny") == (size, low_rank, 0)
