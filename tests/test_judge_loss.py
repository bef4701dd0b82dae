"""The loss that the judge is trained with. Eq. (9.4)."""

import math

import pytest
import torch
import torch.nn.functional as F

from flux_edu.train.objectives import contrastive_loss


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
