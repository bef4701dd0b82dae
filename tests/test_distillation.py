"""Distillation: what is aimed at, and that a few steps come nearer to it. Eq. (10.1), (10.2), (11.1), (11.2)."""

import csv
import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_models import ONE_BLOCK, random_flux

from flux_edu import sampling
from flux_edu.configs import configs
from flux_edu.embeddings import timestep_embedding
from flux_edu.io import lora
from flux_edu.io.checkpoint import read, read_metadata
from flux_edu.train import few_steps, guidance, trainer
from flux_edu.train.data import SIZE
from flux_edu.train.distillation import Distillation
from flux_edu.train.latent_pool import Pool, Pools
from flux_edu.train.objectives import (
    euler_rollout,
    guidance_loss,
    guided_velocity,
    mean_velocity,
    segment_loss,
    velocity,
)
from flux_edu.train.text_to_velocity import TextEncoders

B, L, L_TXT = 3, 4, 5


def small(**changes):
    return random_flux(replace(ONE_BLOCK, **changes), std=0.2)


def batch(seed=1):
    """x, t, text, the empty text, w."""
    torch.manual_seed(seed)
    text, empty = ((torch.randn(n, L_TXT, 14), torch.randn(n, 10)) for n in (B, 1))
    return torch.randn(B, L, 12), torch.rand(B), text, empty, 1 + 5 * torch.rand(B)


def alone(model, x, t, txt, vec, i):
    """The velocity of one picture, evaluated by itself."""
    ids = torch.tensor([[0, i // 2, i % 2] for i in range(L)]).float()[None]
    return model(x[i : i + 1], ids, txt, torch.zeros(1, L_TXT, 3), t[i : i + 1], vec)[0]


# ---------------------------------------------------------------- guidance


@pytest.mark.equation("10.1")
def test_the_guided_velocity_is_made_of_two_passes():
    model, (x, t, text, empty, w) = small(), batch()
    v_w = guided_velocity(partial(velocity, model), x, t, text, empty, w)
    for i in range(B):
        v_c = alone(model, x, t, text[0][i : i + 1], text[1][i : i + 1], i)
        v_0 = alone(model, x, t, *empty, i)
        torch.testing.assert_close(v_w[i], (1 - w[i]) * v_0 + w[i] * v_c, atol=1e-4, rtol=1e-4)
        assert (v_c - v_0).abs().max() > 0.01


@pytest.mark.equation("10.1")
def test_without_a_caption_guidance_changes_nothing():
    model, (x, t, _, empty, w) = small(), batch()
    nothing = tuple(e.expand(B, *e.shape[1:]) for e in empty)
    v_w = guided_velocity(partial(velocity, model), x, t, nothing, empty, w)
    plain = torch.stack([alone(model, x, t, *empty, i) for i in range(B)])
    torch.testing.assert_close(v_w, plain, atol=1e-5, rtol=1e-4)


def test_the_guided_velocity_is_the_one_the_sampler_follows():
    model, (x, _, text, empty, _) = small(), batch()
    ids, txt_ids, seen = torch.zeros(B, L, 3), torch.zeros(B, L_TXT, 3), []
    ids[:, :, 1:] = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    note = lambda i, t, x, v: seen.append(v)  # noqa: E731
    sampling.denoise(model, x, ids, text[0], txt_ids, text[1], [0.7, 0.2], 2.5, uncond=empty, callback=note)
    v_w = guided_velocity(partial(velocity, model), x, torch.full((B,), 0.7), text, empty, torch.full((B,), 2.5))
    torch.testing.assert_close(seen[0], v_w, atol=1e-5, rtol=1e-4)


@pytest.mark.equation("10.2")
def test_the_loss_counts_every_sample_in_parts_of_its_own_velocity():
    torch.manual_seed(0)
    v_w = torch.randn(B, 7, 5, dtype=torch.float64)
    assert guidance_loss(v_w, v_w) == 0
    parts = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)[:, None, None]
    longer = v_w * torch.tensor([1.0, 30.0, 1e-3], dtype=torch.float64)[:, None, None]
    for target in (v_w, longer):  # a sample's length does not matter
        loss = guidance_loss(target * (1 + parts), target).item()
        assert loss == pytest.approx((0.01 + 0.04 + 0.16) / 3, rel=1e-6)


def test_noise_levels_reach_the_beginning_of_sampling():
    torch.manual_seed(0)
    t = guidance.training_levels(20_000, 64, "cpu")
    assert 0 <= t.min() and t.max() <= 1
    assert (t > 0.98).float().mean() > 0.004  # the logit-normal alone has 0.0003 there
    assert t.median().item() == pytest.approx(0.59, abs=0.02)  # most of it where the teacher was trained


def test_at_first_w_changes_nothing_and_fast_sinusoids_stay_silent():
    base = small()
    student = small(guidance_embed=True)
    student.load_state_dict(base.state_dict(), strict=False)
    guidance.start_guidance(student.guidance_in.requires_grad_(True))
    x, t, text, _, w = batch()
    v = velocity(student, x, t, text, w)
    assert torch.equal(v, velocity(base, x, t, text))
    torch.nn.init.normal_(student.guidance_in.out_layer.weight)
    optimizer = torch.optim.AdamW(student.guidance_in.parameters(), lr=0.1, weight_decay=0.0)
    (velocity(student, x, t, text, w) - 1).square().mean().backward()
    optimizer.step()
    weight = student.guidance_in.in_layer.weight
    silent = (weight == 0).all(0)
    assert torch.equal(silent[:128], silent[128:]) and silent.sum() == 142
    near = timestep_embedding(torch.tensor([3.0, 3.01]), 256)
    assert ((near[0] - near[1])[~silent].abs() < 0.07).all() and ((near[0] - near[1])[silent].abs() > 0.5).any()


# ---------------------------------------------------------------- few steps


@pytest.mark.equation("11.1")
def test_one_step_with_the_mean_velocity_leads_where_the_small_steps_lead():
    torch.manual_seed(0)
    x = torch.randn(B, 7, 5, dtype=torch.float64)
    t, t_next = torch.tensor([1, 0.75, 0.25]).double(), torch.tensor([0.75, 0.5, 0.0]).double()
    v = lambda x, t: torch.sin(3 * x) + t[:, None, None] ** 2  # noqa: E731
    met, place = [], x
    for j in range(5):
        met.append(v(place, t + (t_next - t) * j / 5))
        place = place - 0.05 * met[-1]
    x_next = euler_rollout(v, x, t, t_next, 5)
    torch.testing.assert_close(x_next, place)
    u = mean_velocity(x, x_next, t, t_next)
    torch.testing.assert_close(u, torch.stack(met).mean(0))
    torch.testing.assert_close(x - 0.25 * u, place)


@pytest.mark.equation("11.2")
def test_the_segment_loss_is_a_mean_over_all_numbers():
    torch.manual_seed(0)
    u = torch.randn(B, 7, 5)
    assert segment_loss(u, u) == 0
    assert segment_loss(u + 0.3, u).item() == pytest.approx(0.09, rel=1e-4)


class FakePool(Pool):
    """Latents of one number, captions of another."""

    def __init__(self):
        self.drawn = 0

    def batch(self, n, empty=0.1):
        self.drawn += 1
        return torch.full((n, L, 12), 5.0), torch.full((n, L_TXT), self.drawn)


class FakeTexts(TextEncoders):
    """Every number that it says is that of the token."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, tokens):
        return tokens[:, :, None].expand(-1, -1, 14).float(), tokens[:, :1].expand(-1, 10).float()

    def read(self, texts):
        return self(torch.tensor([[len(text)] * L_TXT for text in texts]))


def test_rollouts_go_to_the_end_and_begin_anew():
    torch.manual_seed(0)
    times = [1.0, 0.7, 0.4, 0.0]
    rollouts = few_steps.Rollouts(FakePool(), FakeTexts(), times, 6)
    assert rollouts.k.tolist() == [0, 1, 2, 0, 1, 2]
    assert rollouts.x[[0, 3]].mean().abs() < 0.5 and (rollouts.x[[2, 5]] - 3).mean().abs() < 0.5  # 0.6 · 5
    x, v = rollouts.x.clone(), torch.randn(6, L, 12)
    rollouts.step(v)
    assert rollouts.k.tolist() == [1, 2, 0, 1, 2, 0]
    torch.testing.assert_close(rollouts.x[[0, 3]], x[[0, 3]] - 0.3 * v[[0, 3]])
    torch.testing.assert_close(rollouts.x[[1, 4]], x[[1, 4]] - 0.3 * v[[1, 4]])
    assert rollouts.x[[2, 5]].std() > 0.5 and rollouts.x[[2, 5]].mean().abs() < 0.5  # noise again
    assert rollouts.text[1][:, 0].tolist() == [1, 1, 2, 1, 1, 2]  # and new captions
    for _ in range(3):
        rollouts.step(v)
    assert rollouts.k.tolist() == [1, 2, 0, 1, 2, 0] and rollouts.text[1][:, 0].tolist() == [4, 3, 5, 4, 3, 5]


# ---------------------------------------------------------------- training


def fall(student, loss, steps=25):
    """The loss before and after some steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    values = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values[0], values[-1]


def test_a_student_learns_guidance_through_its_delta_alone():
    teacher, (x, t, text, empty, w) = small(), batch()
    student = small(guidance_embed=True)
    guidance.start_guidance(student.guidance_in.requires_grad_(True))
    student.load_state_dict(teacher.state_dict(), strict=False)
    lora.make_trainable(student, 3, ("guidance_in",))
    before = {name: x.clone() for name, x in student.state_dict().items()}
    v_w = guided_velocity(partial(velocity, teacher), x, t, text, empty, w)
    first, last = fall(student, lambda: guidance_loss(velocity(student, x, t, text, w), v_w))
    assert last < 0.3 * first
    changed = {name for name, x in student.state_dict().items() if not torch.equal(x, before[name])}
    assert changed <= set(lora.trained_delta(student)) and len(changed) > 40
    x_0 = torch.randn(9, L, 12)
    more = tuple(torch.randn(9, *a.shape[1:]) for a in text)
    assert guidance.relative_error(teacher_with_w(teacher), teacher, x_0, more, empty, 1.0) < 1e-4
    assert guidance.relative_error(teacher_with_w(teacher), teacher, x_0, more, empty, 3.0) > 0.05


def teacher_with_w(teacher):
    """The teacher as a student that ignores w."""
    student = small(guidance_embed=True)
    student.load_state_dict(teacher.state_dict(), strict=False)
    torch.nn.init.zeros_(student.guidance_in.out_layer.weight)
    torch.nn.init.zeros_(student.guidance_in.out_layer.bias)
    return student


def test_a_student_learns_a_long_step():
    teacher, (x, t, text, empty, w) = small(), batch()
    student = lora.make_trainable(small(), 3)
    t, t_next = torch.tensor([1.0, 0.75, 0.5]), torch.tensor([0.75, 0.5, 0.25])
    guided = lambda x, t: guided_velocity(partial(velocity, teacher), x, t, text, empty, w)  # noqa: E731
    u = mean_velocity(x, euler_rollout(guided, x, t, t_next, 4), t, t_next)
    assert not u.requires_grad
    first, last = fall(student, lambda: segment_loss(velocity(student, x, t, text), u))
    assert last < 0.3 * first
    assert {n for n, p in student.named_parameters() if p.grad is not None} == set(lora.trained_delta(student))


# ---------------------------------------------------------------- the stages, from the command line


class SmallStage(Distillation):
    """A stage whose teacher is small, whose pictures are noise of one size; everything else is as it is."""

    def __init__(self, args, spec, shares, compose):
        self.args, self.spec, self.accelerator = args, spec, trainer.start(0, cpu=True)
        self.device, self.base = torch.device("cpu"), small(in_channels=64, out_channels=64).state_dict()
        self.pools, self.texts, self.drawings = FakePools(), FakeTexts(), None
        self.empty = self.texts.read([""])
        x, _, *others = FakePool64().batch(9)
        self.held_out = x, self.texts.read(list("abcdefghi")), *others
        self.ae = None


class FakePool64(FakePool):
    def batch(self, n, empty=0.1):  # as many parts as `compose_scenes` makes
        return torch.randn(n, 64, 64), torch.randint(1, 9, (n, L_TXT)), torch.zeros(n)


class FakePools(Pools):
    def __init__(self):
        self.pools, self.at = {(SIZE, SIZE): FakePool64()}, lambda step: ((SIZE, SIZE), self.pools[SIZE, SIZE])


@pytest.mark.parametrize("stage", ["guidance", "few_steps"])
def test_a_stage_saves_what_it_measures(stage, tmp_path, monkeypatch):
    module, name = {"guidance": (guidance, "dev"), "few_steps": (few_steps, "schnell")}[stage]
    shape = replace(ONE_BLOCK, in_channels=64, out_channels=64)
    for key in ("tiny", "tiny-dev", "tiny-schnell"):
        params = replace(shape, guidance_embed=configs[key].params.guidance_embed)
        monkeypatch.setitem(configs, key, replace(configs[key], params=params, num_steps=4))
    painted = []

    class Nothing:
        def save(self, path):
            painted.append(path.name)

    monkeypatch.setattr(module, "Distillation", SmallStage)
    monkeypatch.setattr(module, "sheet", lambda ae, x: Nothing())
    options = {"out": tmp_path, "batch": 8, "rank": 3, "steps": 24, "report": 4, "rate": 0.01, "measure": 9}
    argv = [f"--{key}={value}" for key, value in options.items()]
    monkeypatch.setattr(sys, "argv", [stage, *argv])
    module.main()
    delta = read(tmp_path / f"{name}.safetensors")
    assert {x.shape[0] for key, x in delta.items() if key.endswith("lora_A.weight")} == {3}
    assert any(key.startswith("guidance_in") for key in delta) == (name == "dev")
    assert read_metadata(tmp_path / f"{name}.safetensors")["rank"] == "3"
    report = json.loads((tmp_path / f"{name}.json").read_text())
    with (tmp_path / "log.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "seconds", "loss", "gradient", "ms", "held_out"]
    assert [int(row[0]) for row in rows] == [4, 8, 12, 16, 20, 24] and rows[4][5] and not rows[0][5]
    if name == "dev":
        assert {f"error_w{w}" for w in (1.5, 2.0, 3.0, 4.0, 5.0)} <= set(report)
        assert painted[0] == "20.png"
        assert sorted(painted[1:]) == sorted(f"{a}_w{w}.png" for a in ("sixteen", "teacher") for w in (1.5, 3.0, 5.0))
    else:
        assert {"distance_4_steps", "distance_base_4_steps", "distance_1_steps"} <= set(report)
        assert {"sixteen_4_steps.png", "sixteen_2_steps.png", "sixteen_1_steps.png", "teacher.png"} <= set(painted)
