"""Losses beside Eq. (9.1): what the judge is trained with, Eq. (9.4), and what the flow learns from a teacher."""

import math

import pytest
import torch
import torch.nn.functional as F

from flux_edu.train.flow import kept_loss
from flux_edu.train.objectives import contrastive_loss, flow_loss


@pytest.mark.equation("9.4")
def test_the_contrastive_loss_against_loops():
    generator = torch.Generator().manual_seed(0)
    u, v = F.normalize(torch.randn(2, 7, 5, generator=generator, dtype=torch.float64), dim=-1)
    label, scale = torch.tensor([3, 8, 3, 1, 8, 3, 5]), 4.7
    total = 0.0
    for i in range(7):
        same = [j for j in range(7) if label[j] == label[i]]
        for crop_first in (True, False):
            score = [scale * float(u[i] @ v[j]) if crop_first else scale * float(u[j] @ v[i]) for j in range(7)]
            bottom = math.log(sum(math.exp(s) for s in score))
            total -= sum(score[j] - bottom for j in same) / len(same) / (2 * 7)
    loss = contrastive_loss(u, v, label, torch.tensor(scale, dtype=torch.float64))
    assert loss.item() == pytest.approx(total, rel=1e-6)


def test_two_foxes_do_not_push_each_other_away():
    u = F.normalize(torch.randn(3, 4), dim=-1)
    u[1] = u[0]
    label, scale = torch.tensor([4, 4, 9]), torch.tensor(100.0)
    v = u.clone().requires_grad_()
    contrastive_loss(u, v, label, scale).backward()
    assert v.grad[:2].abs().max() < 0.01 * scale  # right as it is
    torch.testing.assert_close(contrastive_loss(u, v, label, scale).item(), math.log(2) * 2 / 3, atol=1e-2, rtol=0)


def test_what_a_teacher_knows_is_learned_from_it_and_new_pictures_from_themselves():
    x_0, noise, t = torch.randn(4, 64, 8), torch.randn(4, 64, 8), torch.rand(4)
    read = []

    def model(x, t, tokens, grid=None, to_clip=None):
        read.append(to_clip)
        return 0.5 * x

    new = torch.tensor([False, True, False, True])
    loss = kept_loss(model, model, x_0, noise, t, new, torch.zeros(4, 3), (8, 8), "hidden")
    alone = flow_loss(model, x_0[new], noise[new], t[new], torch.zeros(2, 3))
    assert loss.item() == pytest.approx(alone.item() / 2)  # the other half is what the teacher says
    assert read[:2] == [None, "hidden"]  # the teacher reads all of the caption
