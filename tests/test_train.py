"""Training: composition, what is held out, the objective, and that steps make the loss fall. Eq. (9.1) to (9.3)."""

import copy
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.model import FluxParams
from flux_edu.schedule import interpolate, time_shift
from flux_edu.train import latent_pool
from flux_edu.train.autoencoder import psnr, reconstruction_loss
from flux_edu.train.data import (
    ABOVE,
    BESIDE,
    COLOURS,
    ONE,
    SIXTEEN,
    SIZE,
    STYLES,
    Scenes,
    caption_chinese,
    caption_english,
    captions,
    draw_scenes,
    held_out,
    load_drawings,
    paste,
    render,
)
from flux_edu.train.latent_pool import Pool
from flux_edu.train.muon import Muon
from flux_edu.train.objectives import flow_loss, inputs, levels_of, logit_normal, shift_logit_normal
from flux_edu.train.text_to_velocity import TextEncoders, TextToVelocity, init_position_bias
from flux_edu.train.trainer import Clock, capture_cuda_graphs, learning_rate, make_ema, seed_of


@pytest.fixture(scope="module")
def drawings():
    return load_drawings()


# ---------------------------------------------------------------- the objective


@pytest.mark.equation("9.1")
def test_the_loss_is_zero_for_the_true_direction_alone():
    x_0, noise = torch.randn(5, 7, 3), torch.randn(5, 7, 3)
    t = torch.rand(5)
    seen = {}

    def truth(x_t, t, *condition):
        seen.update(x_t=x_t, t=t, condition=condition)
        return noise - x_0

    assert flow_loss(truth, x_0, noise, t, "c") == 0
    torch.testing.assert_close(seen["x_t"], interpolate(x_0, noise, t))
    assert seen["t"] is t and seen["condition"] == ("c",)
    off = flow_loss(lambda x_t, t: noise - x_0 + 0.5, x_0, noise, t)
    assert off.item() == pytest.approx(0.25, rel=1e-5)  # a mean over all numbers, squared


@pytest.mark.equation("9.2")
def test_noise_levels_are_logit_normal():
    torch.manual_seed(0)
    t = logit_normal(0.4, 1.3, 20_000)
    logit = torch.logit(t.double())
    assert 0 < t.min() and t.max() < 1
    assert logit.mean().item() == pytest.approx(0.4, abs=0.04)
    assert logit.std().item() == pytest.approx(1.3, abs=0.04)
    inside = ((logit - 0.4).abs() < 1.3).double().mean().item()
    assert inside == pytest.approx(math.erf(0.5**0.5), abs=0.015)  # bell-shaped, not only of that width


@pytest.mark.equation("9.3")
@pytest.mark.parametrize(("mu", "sigma"), [(0.4675, 1.0), (1.15, 1.7)])
def test_shifting_the_levels_is_moving_mean_and_deviation(mu, sigma):
    torch.manual_seed(3)
    shifted = time_shift(mu, sigma, logit_normal(-0.2, 0.9, 500).double())
    torch.manual_seed(3)
    moved = logit_normal(*shift_logit_normal(-0.2, 0.9, mu, sigma), 500).double()
    torch.testing.assert_close(shifted, moved, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- captions


def test_captions_say_what_stands_where():
    fox, apple = ("flat", "fox"), (None, "red apple")
    assert caption_english(ONE, "orange", ("3d", "astronaut"), fox) == "a 3d astronaut on an orange background"
    assert caption_english(BESIDE, "white", fox, apple) == "a flat fox left of a red apple on a white background"
    turned = caption_english(ABOVE, None, (None, "house"), ("noto", "rocket"), turned=True)
    assert turned == "a noto rocket below a house"
    assert caption_chinese(ONE, "white", ("flat", "狐狸"), apple) == "白色背景上的扁平狐狸"
    assert caption_chinese(BESIDE, "red", ("3d", "狗脸"), ("noto", "猫脸")) == "红色背景上，立体狗脸在noto猫脸左边"


def test_one_style_word_holds_for_both_and_two_styles_are_both_named(drawings):
    flat, solid = drawings.find("flat", "fox"), drawings.find("3d", "red apple")
    flat_apple = drawings.find("flat", "red apple")
    rows = np.array([[flat, flat_apple], [flat, solid]] * 40)
    scenes = Scenes(np.full(80, BESIDE), rows, np.zeros((80, 2, 3)), np.zeros(80, int))
    said = set(captions(drawings, scenes, seed=0, chinese=0))
    assert "a flat fox left of a red apple on a white background" in said
    assert "a flat red apple right of a fox on a white background" in said
    assert "a flat fox left of a 3d red apple on a white background" in said
    assert not any("3d fox" in text or "flat red apple left" in text for text in said)


def test_a_seed_fixes_scenes_and_captions(drawings):
    one, again, other = (draw_scenes(drawings, 50, seed=seed) for seed in (4, 4, 5))
    assert captions(drawings, one, 1) == captions(drawings, again, 1) != captions(drawings, other, 1)


# ---------------------------------------------------------------- pictures


def test_a_drawing_is_pasted_where_its_place_says():
    red = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).reshape(1, 4, 1, 1).expand(1, 4, 32, 32)
    out = paste(torch.zeros(1, 3, 64, 64), red, torch.tensor([[16.0, 40.0, 24.0]]))
    painted = (out[0, 0] > 0.5).nonzero()
    assert painted.min(0).values.tolist() == [16, 32] and painted.max(0).values.tolist() == [31, 47]
    assert out[0, 1:].abs().max() == 0


def test_half_transparent_drawings_mix_with_the_ground():
    half = torch.tensor([100, 0, 0, 128], dtype=torch.uint8).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)
    out = paste(torch.ones(1, 3, 8, 8), half, torch.tensor([[8.0, 4.0, 4.0]]))[0, :, 4, 4]
    torch.testing.assert_close(out, torch.tensor([127 + 100, 127, 127]) / 255)


def test_pictures_have_the_background_asked_for_and_something_on_it(drawings):
    scenes = draw_scenes(drawings, 48, seed=2)
    x = render(drawings, scenes)
    assert x.shape == (48, 3, SIZE, SIZE) and x.min() >= -1 and x.max() <= 1
    ground = torch.tensor(list(COLOURS.values()))[torch.from_numpy(scenes.colour)] / 127.5 - 1
    corners = x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert ((corners - ground[:, :, None]).abs().amax(1).median(1).values < 0.02).all()
    assert ((x - ground[:, :, None, None]).abs().amax(1).flatten(1).amax(1) > 0.1).all()
    mine = render(drawings, scenes[:2], torch.tensor([[0.25, 0.5, 0.75], [float("nan")] * 3]))
    torch.testing.assert_close(mine[0, :, 0, 0], torch.tensor([-0.5, 0.0, 0.5]), atol=1e-5, rtol=0)
    torch.testing.assert_close(mine[1], x[1])


def test_scenes_of_another_size_are_in_proportion(drawings):
    sizes = (128, 128), (256, 256), (256, 128)
    small, large, wide = (draw_scenes(drawings, 60, 3, width=w, height=h) for w, h in sizes)
    np.testing.assert_allclose(large.place, 2 * small.place)
    halved = torch.nn.functional.avg_pool2d(render(drawings, large, width=256, height=256), 2)
    assert (halved - render(drawings, small)).abs().mean() < 0.03
    middle = np.stack([wide.place[wide.layout == layout, :, 1:].mean(0) for layout in (BESIDE, ABOVE)])
    np.testing.assert_allclose(middle, [[[64, 64], [192, 64]], [[128, 32], [128, 96]]], atol=1.5)
    assert wide.place[wide.layout == BESIDE, :, 0].min() > 110 and wide.place[wide.layout == ABOVE, :, 0].max() < 61
    x, text = torch.zeros(1, 16 * 8, 64), (torch.zeros(1, 5, 7), torch.zeros(1, 3))
    assert inputs(x, torch.ones(1), text, grid=(8, 16))[1].amax((0, 1)).tolist() == [0, 7, 15]


def test_drawings_stand_in_their_cells(drawings):
    scenes = draw_scenes(drawings, 60, 3)
    middle = np.stack([scenes.place[scenes.layout == layout, :, 1:].mean(0) for layout in (BESIDE, ABOVE)])
    np.testing.assert_allclose(middle, [[[32, 64], [96, 64]], [[64, 32], [64, 96]]], atol=1.5)
    side = scenes.place[..., 0]
    assert 56 <= side[scenes.layout != ONE].min() < side[scenes.layout != ONE].max() <= 60
    assert 98 <= side[scenes.layout == ONE, 0].min() < side[scenes.layout == ONE, 0].max() <= 110


# ---------------------------------------------------------------- what is held out


def combinations(drawings, scenes):
    """Every combination a scene holds, as arguments of held_out."""
    for layout, pair, colour in zip(scenes.layout, scenes.drawing, scenes.colour, strict=True):
        names = [drawings.names[drawings.concept[i]]["en"][0] for i in pair]
        for i, name in list(zip(pair, names, strict=True))[: 1 if layout == ONE else 2]:
            yield {"style": STYLES[drawings.style[i]], "name": name}
            yield {"name": name, "colour": list(COLOURS)[colour]}
        if layout != ONE:
            yield {"name": names[0], "other": names[1]}


def test_nothing_held_out_is_ever_drawn(drawings):
    assert not any(held_out(**one) for one in combinations(drawings, draw_scenes(drawings, 1500, seed=11)))


def test_every_held_out_scene_holds_something_unseen(drawings):
    scenes = draw_scenes(drawings, 200, seed=12, unseen=True)
    for i in range(len(scenes)):
        assert any(held_out(**one) for one in combinations(drawings, scenes[i : i + 1]))


def test_held_out_is_a_matter_of_words_and_not_of_order():
    assert held_out(name="fox", other="red apple") == held_out(name="red apple", other="fox")
    shares = np.mean([held_out(name=f"thing {i}", other=f"thing {i + 1}") for i in range(4000)])
    assert shares == pytest.approx(0.1, abs=0.02)
    assert not held_out(style="3d", name="dog face")  # the drawings of the sixteen prompts are trained on
    with pytest.raises(ValueError, match="exactly one"):
        held_out(name="fox", style="flat", colour="red")


def test_a_folder_without_drawings_is_answered_with_the_remedy(tmp_path, drawings):
    with pytest.raises(FileNotFoundError, match="emoji.py"):
        load_drawings(tmp_path)
    with pytest.raises(ValueError, match="no 3d drawing of 'spaceship'"):
        drawings.find("3d", "spaceship")


# ---------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))


@pytest.mark.parametrize("text", [*SIXTEEN[:3], "", "白色背景上，立体宇航员在红苹果左边", "Größe 🦊 zyx"])
def test_tokens_give_the_text_back(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert ids[-1] == tokenizer.token_to_id("</s>") == 1
    assert tokenizer.decode(ids).strip() == text.lower().replace("，", ",")


def test_captions_fit_and_their_words_are_known(tokenizer, drawings):
    texts = captions(drawings, draw_scenes(drawings, 300, seed=8), seed=8)
    lengths = [len(encoded.ids) for encoded in tokenizer.encode_batch([*texts, *SIXTEEN])]
    assert np.mean(np.array(lengths) <= configs["tiny"].txt_tokens) > 0.99
    known = set(json.loads((TINY_FOLDER / "vocabulary.json").read_text("utf-8")))
    assert {word for text in SIXTEEN for word in text.replace("-", " ").split()} <= known


# ---------------------------------------------------------------- steps


def small_spec():
    params = FluxParams(64, 64, 256, 256, 32, 2.0, 1, 1, 1, (8, 12, 12), 10_000, True, False)
    return replace(configs["tiny"], params=params)


def test_before_training_the_guess_is_zero_and_steps_make_it_better(drawings):
    torch.manual_seed(0)
    spec = small_spec()
    model = TextToVelocity(spec, TINY_FOLDER / "tokenizer.json")
    ae = AutoEncoder(spec.ae_params).requires_grad_(False)
    pool = Pool(drawings, ae, model.texts, size=6, seed=(0,))
    pool.refresh(0)
    x_0, tokens, *_ = pool.batch(6)
    x_0, noise, t = (x_0 - x_0.mean()) / x_0.std(), torch.randn_like(x_0), logit_normal(0.0, 1.0, 6)
    assert model(x_0, t, tokens).abs().max() == 0
    ema = make_ema(model, decay=0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = flow_loss(model, x_0, noise, t, tokens)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        ema.update_parameters(model)
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert ema.module.flux.final_layer.linear.weight.abs().max() > 0


def test_each_step_takes_one_size_at_as_many_tokens_and_its_own_levels(drawings, monkeypatch):
    monkeypatch.setattr(latent_pool, "BLOCK", 2)
    sizes, made = {(64, 64): 3.0, (96, 32): 1.0}, []

    def compose(pool, n, seed, unseen=False, *, width, height):
        made.append((width, height, seed))
        return torch.zeros(n, width * height // 256, 64), torch.zeros(n, 32, dtype=torch.int16)

    texts, ae = TextEncoders(TINY_FOLDER / "tokenizer.json", 32), AutoEncoder(configs["tiny"].ae_params)
    pools = latent_pool.Pools(drawings, ae, texts, 6, (4, 0), renew=5, shares=sizes, compose=compose)
    pools.fill()
    assert [made.count(one) for one in dict.fromkeys(made)] == [1] * 4  # 3 blocks of 2, and 1 of 2
    taken = [pools.at(step) for step in range(400)]
    assert all(
        pool is pools.pools[size] and pool.batch(1)[0].shape[1] == math.prod(size) // 256 for size, pool in taken
    )
    assert np.mean([size == (64, 64) for size, _ in taken]) == pytest.approx(0.75, abs=0.07)
    assert len(made) == len(set(made)) > 60 and pools.at(7)[0] == taken[7][0]
    assert sum(latent_pool.SHARES.values()) == pytest.approx(1)
    assert max(latent_pool.SHARES, key=latent_pool.SHARES.get) == (128, 128)
    for size in latent_pool.SHARES:
        tokens = latent_pool.batch_of(427, size) * (math.prod(latent_pool.grid_of(size)) + 32)
        assert 0.99 * 427 * 96 < tokens <= 427 * 96
    few, many = (logit_normal(*levels_of(n), 4000).median() for n in (64, 256))
    assert (few.item(), many.item()) == pytest.approx([1 / (1 + math.exp(-mu)) for mu in (0.4675, 0.5)], abs=0.02)


def test_graphs_are_replayed_for_their_shapes_alone(monkeypatch):
    replayed = []

    def make_graphed(module, sample, **options):
        forward = module.forward
        module.forward = lambda *inputs: replayed.append(sample[0].shape) or forward(*inputs)
        return module

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed)
    layer = capture_cuda_graphs(torch.nn.Linear(3, 2), (torch.zeros(4, 3),), (torch.zeros(5, 3),))
    outputs = [layer(torch.ones(n, 3)) for n in (5, 6, 4)]
    assert replayed == [(5, 3), (4, 3)] and torch.equal(outputs[1][:5], outputs[0])
    outputs[0].sum().backward()
    assert layer.weight.grad.tolist() == [[5.0] * 3] * 2 and list(layer.state_dict()) == ["weight", "bias"]


def test_muon_in_stacks_is_torchs_and_goes_on_after_a_reload():
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in [(5, 3), (3, 7), (5, 3), (3, 7), (4, 4)]]
    ours, theirs = ([torch.nn.Parameter(W.clone()) for W in matrices] for _ in range(2))
    muon, torchs = Muon(ours, lr=0.02), torch.optim.Muon(theirs, 0.02, 0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        if step == 2:  # as a training that goes on does
            state = copy.deepcopy(muon.state_dict())
            muon = Muon(ours, lr=0.5)
            muon.load_state_dict(state)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        muon.step()
        torchs.step()
    for W, p, q in zip(matrices, ours, theirs, strict=True):
        assert (p - q).norm() < 0.03 * (p - W).norm()  # torch's rounds are in bfloat16 here too


def test_empty_captions_come_as_often_as_asked(drawings):
    pool = Pool.__new__(Pool)  # the draw alone, without pictures
    pool.parts = torch.zeros(3, 64, 64, dtype=torch.bfloat16), torch.full((3, 4), 7, dtype=torch.int16)
    pool.empty = torch.tensor([[1, 0, 0, 0]], dtype=torch.int16)
    x, tokens, *_ = pool.batch(5000, empty=0.1)
    dropped = (tokens == pool.empty).all(1)
    assert x.dtype == torch.float32 and dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (tokens[~dropped] == 7).all()


def test_the_reconstruction_loss_sees_blur_specks_and_colour():
    torch.manual_seed(0)
    x, nothing = torch.rand(2, 3, 16, 16) * 2 - 1, (torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2))
    speck = x.clone()
    speck[:, :, 3, 3] += 1
    assert reconstruction_loss(x, x, *nothing) == 0
    assert reconstruction_loss(x, speck, *nothing) > 0.02  # 1/256 of the pixels, yet more than the worst pixel's share
    assert psnr(x, x.clamp(-1, 1)) > 100


def test_the_ema_follows_faster_at_first_and_the_rate_ends_at_zero():
    layer, values = torch.nn.Linear(1, 1), []
    ema = make_ema(layer, decay=0.5)
    for value in (0.0, 1.0, 1.0, *[0.0] * 10, 1.0):
        torch.nn.init.constant_(layer.weight, value)
        ema.update_parameters(layer)
        values.append(ema.module.weight.item())
    assert values[:3] == pytest.approx([0, 10 / 12, 1 - (2 / 12) * (3 / 13)])  # β = 2/12, then 3/13 …
    assert values[-1] == pytest.approx(0.5 + 0.5 * values[-2])  # … and 1/2 in the end
    rates = [learning_rate(p, warm_up=0.1) for p in (0, 0.05, 0.3, 0.6, 0.8, 1, 1.1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.5, 0, 0])


def test_the_clock_goes_on_from_where_an_earlier_start_ended():
    clock = Clock(Accelerator(cpu=True), seconds=100.0)
    assert clock.progress() == 0  # getting ready does not count
    clock.begun = time.monotonic()
    assert 0 < clock.progress() < 0.1
    again = Clock(Accelerator(cpu=True), seconds=100.0)
    again.resume(step=70, used=60.0)
    assert again.progress() == 0.6 and again.step == 70
    again.begun = time.monotonic()
    assert 0.6 < again.progress() < 0.7
    again.steps = 80  # what is further on counts: time or steps
    assert again.progress() == 70 / 80


def test_seeds_of_neighbours_differ_and_are_the_same_again():
    seeds = {seed_of(a, b, c) for a in range(5) for b in range(5) for c in range(40)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(3, 1, 4) == seed_of(3, 1, 4) != seed_of(3, 4, 1)
    torch.manual_seed(max(seeds)), np.random.default_rng(max(seeds))


def test_heads_of_t5_start_at_their_neighbours_on_either_side():
    t5 = tiny_embedders(TINY_FOLDER / "tokenizer.json", 32)[0].encoder
    init_position_bias(t5)
    attention = t5.encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(17, 17)[0]  # heads, token that looks, token looked at
    weights = bias.softmax(dim=-1)[:, 8]  # of the middle token
    for head, seen in enumerate(weights):
        left, right = seen[:8].sum(), seen[9:].sum()
        assert seen.argmax() == 8 and max(left, right) > 10 * min(left, right)
        assert (right > left) == (head % 2 == 0)
        assert seen[6:11].sum() > 0.6
