"""The symmetry laboratory of notebooks 03 and 04: what holds for any weights, what breaks it, and its figures."""

from dataclasses import replace

import pytest
import torch

from flux_edu.configs import TINY
from flux_edu.model import Flux
from flux_edu.patchify import make_img_ids, make_txt_ids
from flux_edu.teaching.plots import chapter_03 as plots

H, W, L_TXT = 5, 7, 11


@pytest.fixture(scope="module")
def ask():
    torch.manual_seed(0)
    shape = dict(hidden_size=64, num_heads=2, depth=2, depth_single_blocks=2, axes_dim=(4, 12, 16), in_channels=13)
    model = Flux(replace(TINY, **shape, out_channels=13, context_in_dim=17, vec_in_dim=19)).double()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    inputs = dict(
        img=torch.randn(1, H * W, 13, dtype=torch.float64),
        img_ids=make_img_ids(1, H, W),
        txt=torch.randn(1, L_TXT, 17, dtype=torch.float64),
        txt_ids=make_txt_ids(1, L_TXT),
        timesteps=torch.tensor([0.7]),
        y=torch.randn(1, 19, dtype=torch.float64),
    )

    @torch.no_grad()
    def answer(**changed):
        return model(**(inputs | changed))

    answer.inputs = inputs
    return answer


def change(new, old):
    return ((new - old).norm() / old.norm()).item()


def test_three_symmetries_hold_for_any_weights(ask):
    g, v = ask.inputs, ask()
    text, image = torch.randperm(L_TXT), torch.randperm(H * W)
    assert change(ask(txt=g["txt"][:, text]), v) < 1e-12
    shuffled = ask(img=g["img"][:, image], img_ids=g["img_ids"][:, image])
    assert change(shuffled[:, image.argsort()], v) < 1e-12
    away = torch.tensor([1.0, 20.0, 3.0])
    moved = ask(img_ids=g["img_ids"] + away, txt_ids=g["txt_ids"] + away)
    assert change(moved, v) < 1e-6  # the table of rotations is float32


def test_what_breaks_them(ask):
    g, v = ask.inputs, ask()
    text, image = torch.randperm(L_TXT), torch.randperm(H * W)
    places = torch.arange(float(L_TXT))[None, :, None] * torch.tensor([0.0, 0, 1])
    mirrored = torch.cat([g["img_ids"][..., :2], W - 1 - g["img_ids"][..., 2:]], dim=-1)
    broken = {
        "text with places": change(ask(txt=g["txt"][:, text], txt_ids=places), ask(txt_ids=places)),
        "image ids moved alone": change(ask(img_ids=g["img_ids"] + torch.tensor([0.0, 20, 3])), v),
        "image shuffled, ids stay": change(ask(img=g["img"][:, image])[:, image.argsort()], v),
        "doubled": change(ask(img_ids=2 * g["img_ids"]), v),
        "mirrored": change(ask(img_ids=mirrored), v),
    }
    assert min(broken.values()) > 1e-3, broken


def test_lag_correlation_finds_a_period():
    tile = torch.randn(1, 3, 4, 6)  # channels, rows, columns
    tokens = tile.repeat(1, 1, 3, 2)[0].flatten(1).T[None]  # 12 × 12 tokens, period 4 down and 6 to the right
    down, right = plots.lag_correlation(tokens, 12)
    assert down[4] == pytest.approx(1) == right[6]
    assert down[1:4].max() < 0.9 and right[1:6].max() < 0.9 and down[0] == pytest.approx(1)


def test_of_the_tiny_models_pairs_one_has_been_round():
    assert "0 meet angles" in plots.angles_beyond(factor=1).axes[0].get_title()
    assert plots.angles_beyond(factor=2).axes[0].get_title() == "3 of 14 pairs come round; 12 meet angles never seen"
