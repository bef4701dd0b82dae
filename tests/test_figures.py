"""The form of every figure: words for those who do not see it, named axes, nothing cut off.

What each figure says is tested where its chapter is.
"""

import inspect
import io
import warnings
from importlib import import_module

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.teaching.exercises.exercise import normal
from flux_edu.teaching.labs import toy_flows
from flux_edu.train import data

CHAPTERS = {n: import_module(f"flux_edu.teaching.plots.chapter_{n:02}") for n in (*range(1, 17), 18)}
PICTURES = import_module("flux_edu.teaching.plots.pictures")


BLOCKS = [*(f"double {i}" for i in range(4)), *(f"single {i}" for i in range(8))]
TOKENS = ["␣a", "␣fox", "白", "</s>", "<pad>", "<pad>", "<pad>"]
PROMPT = [f"␣{word}" for word in "a 3d fox on a yellow background".split()] + ["</s>", *["<pad>"] * 24]
SPLITS = ["16/56/56", "44/42/42", "2/124/2"]
TIMES = torch.linspace(0, 1, 11)
ATTENTION = (2 * normal(5, 96, 96)).softmax(-1)
PICTURE = Image.new("RGB", (128, 128), "pink")
MAP = torch.linspace(0, 1, 64).unflatten(0, (8, 8))
PROFILES = torch.rand(12, 5, 15, 15, generator=torch.Generator().manual_seed(4))
RUN = CHAPTERS[9].full_run()
SIZES = dict(width=(128, 2048), height=(128, 2048))

# figure → what it is given, and its sliders' ends: each is drawn once with its defaults, and once at every end
DRAWN = {
    "straight_path": ({}, dict(t=(0.0, 1.0))),
    "same_level": ({}, dict(t=(0.0, 1.0), factor=(2, 8))),
    "mu_line": ({}, dict(base_shift=(0.0, 2.0), max_shift=(0.0, 3.0), width=(256, 2560), height=(256, 2560))),
    "time_shift_curve": ({}, dict(mu=(-3.0, 3.0), sigma=(0.2, 3.0))),
    "schedule": ({}, dict(mu=(-1.0, 4.0), sigma=(0.2, 3.0), width=(256, 2048), height=(256, 2048), steps=(1, 50))),
    "noise_levels": ({}, dict(steps=(1, 50), threshold=(0.5, 0.99))),
    "step_sizes": ({}, dict(**SIZES, steps=(2, 60))),
    "mu_rules": ({}, dict(**SIZES, steps=(4, 200))),
    "noise_bands": ({}, dict(**SIZES, steps=(4, 200))),
    "follow_patch": ({}, dict(width=(64, 512), height=(64, 512), row=(0, 31), column=(0, 31))),
    "patch_mistakes": ({}, dict(width=(64, 512), height=(64, 512))),
    "token_places": ({}, dict(width=(64, 512), height=(64, 512))),
    "rope_spectrum": ({}, dict(log10_theta=(2.0, 6.0), dim=(16, 56), side=(8, 256))),
    "rope_arrows": ({}, dict(position=(0, 63), log10_theta=(2.0, 6.0))),
    "constant_angle": ({}, dict(query_at=(0, 20), key_at=(0, 20), omega=(0.05, 1.0))),
    "rope_pairings": ({}, dict(position=(0, 63))),
    "rope_axes": ({}, dict(axis_0=(0, 1), row=(0, 63), col=(0, 63), split=SPLITS)),
    "score_map": (
        {},
        dict(row=(0, 31), col=(0, 31), look_down=(-8, 8), look_right=(-8, 8), split=SPLITS, log10_theta=(2.0, 6.0)),
    ),
    "rope_precision": (dict(errors={"float32 angles": TIMES, "bfloat16 ids": TIMES / 2}), {}),
    "angles_beyond": ({}, dict(factor=(1, 8), log10_theta=(1.0, 6.0))),
    "repetition": (
        dict(curves={"256": CHAPTERS[3].lag_correlation(normal(1, 256, 3), 16)}, wavelengths=[6.28]),
        {},
    ),
    "time_embedding": ({}, dict(t=(0.0, 1.0))),
    "rounded_times": ({}, {}),
    "terms_of_vec": (dict(changes={"without time": TIMES, "without text": TIMES / 2}, timesteps=TIMES), {}),
    "guidance_number": (
        dict(numbers=torch.linspace(1, 6, 21), changes={"t = 1": torch.ones(21), "t = 0.5": torch.zeros(21)}),
        dict(w=(1.0, 6.0)),
    ),
    "modulated_token": ({}, dict(shift=(-2.0, 2.0), scale=(-2.0, 2.0), gate=(-2.0, 2.0))),
    "modulation_along_t": (
        dict(numbers=normal(3, 2, 11, 6, 30), timesteps=TIMES),
        dict(t=(0.0, 1.0), block=(0, 2), stream=("txt", "img")),
    ),
    "qkv_rows": ({}, dict(heads=(2, 4))),
    "scores_before_and_after": (dict(before=9 * normal(2, 9, 9), after=normal(2, 9, 9)), {}),
    "attention_map": (dict(A=ATTENTION, L_txt=32), dict(head=(0, 4), words=(9, 32))),
    "where_a_word_is_read": (dict(A=ATTENTION, words=["a", "cat"], L_txt=32, grid=(8, 8)), dict(word=(0, 1))),
    "defects_by_block": (
        dict(
            curves={"text shuffled": [1e-7] * 12, "ids doubled": [0.3] * 12},
            names=[name[0] + name[-1] for name in BLOCKS],
        ),
        {},
    ),
    "block_costs": ({}, dict(side=(256, 2048), L_txt=(0, 512))),
    "parallel_gap": (dict(gates=[0.01, 0.1, 1, 10], gaps=[0.001, 0.01, 0.1, 0.8]), dict(at=(0.01, 10))),
    "ablation": (dict(names=BLOCKS, attention=[0.1] * 12, mlp=[0.2] * 12), dict(t=(0.0, 1.0))),
    "token_norms": (dict(names=["input", *BLOCKS], txt=[1.0, 2] + [3.0] * 11, img=[1.0, 5, 6] + [70.0] * 10), {}),
    "block_inside": (
        dict(
            gates=normal(2, 30),
            branches=["attention", "MLP"],
            weights=ATTENTION[0],
            L_txt=32,
            title="double 0, head 0",
        ),
        {},
    ),
    "modulation_moves": (
        dict(
            shift=normal(24),
            scale=normal(24),
            gate=normal(24),
            ts=[0, 0.5, 1],
            over_t=[1, 0.5, 0],
            t=0.5,
            ws=[1, 4],
            over_w=[0, 1],
            w=3.5,
        ),
        dict(t=(0.0, 1.0), w=(1.0, 6.0)),
    ),
    "gates_over_t": (dict(names=BLOCKS[:3], ts=[0.0, 0.5, 1.0], sizes=torch.rand(3, 3)), {}),
    "euler_paths": ({}, dict(num_steps=(1, 40), wrong_sign=(True,))),
    "bf16_figure": ({}, dict(image_seq_len=(64, 16384), num_steps=(4, 100))),
    "strength_levels": ({}, dict(num_steps=(1, 50), strength=(0.0, 1.0))),
    "guidance_plane": (
        dict(v_uncond=torch.tensor([3.0, 0.0]), v_cond=torch.tensor([2.8, 0.8]), w=3.0),
        dict(w=(0.0, 8.0)),
    ),
    "guided_field": ({}, dict(w=(0.0, 6.0), num_steps=(1, 30))),
    "solver_orders": ({}, dict(data=("Gaussian", "two blobs"), mu=(-3.0, 3.0), deviation=(0.05, 2.0))),
    "solver_figure": (dict(errors={"Euler": [0.1, 0.05], "Heun": [0.1, 0.025]}, counts=[4, 8]), {}),
    "shift_errors": (dict(errors={"s = 0.1": [0.1, 0.2], "s = 3": [0.2, 0.1]}, mus=[-1.0, 1.0]), {}),
    "token_strip": (dict(labels=TOKENS, ids=range(7)), {}),
    "padding_states": (
        dict(labels=PROMPT, unmasked=normal(32, 5), masked=normal(32, 5, seed=1), empty=normal(32, 5, seed=2)),
        {},
    ),
    "position_bias": (dict(table=normal(4, 63)), dict(head=(0, 3), reach=(4, 31))),
    "who_sees_whom": (dict(changes={"T5": normal(7, 7).abs(), "CLIP": normal(7, 7).abs().triu()}, labels=TOKENS), {}),
    "reach_of_a_token": (dict(change=normal(32).abs(), labels=PROMPT), dict(place=(0, 31), pooled=(7, None))),
    "similarity_map": (dict(vectors=normal(9, 9), names=["a 3d fox on a yellow background", *"bcdefgh", "白"]), {}),
    "words_move": (
        dict(
            words=PROMPT[:7],
            outputs={"T5": normal(7).abs(), "CLIP": normal(7, seed=1).abs()},
            velocities={"through T5": normal(7, seed=1).abs(), "through CLIP": torch.zeros(7)},
        ),
        {},
    ),
    "text_mistakes": (dict(changes={"one": (0.5, 0.1), "two": (1.2, 0.0)}), {}),
    "latent_maps": (dict(x=normal(3, 128, 128), z=normal(16, 16, 16), caption="白色背景上的狐狸"), {}),
    "latent_histogram": (dict(raw=2 * normal(5, 7) + 3, scaled=normal(5, 7)), {}),
    "came_back": (
        dict(x=normal(3, 24, 24), y=normal(3, 24, 24, seed=1), psnr=12.3),
        dict(caption=("a fox", "白色背景上的狐狸")),
    ),
    "quality_curves": (dict(channels=[0, 8, 16], kept=[9.0, 20.0, 30.0], noise=[0.0, 1.0], noisy=[30.0, 15.0]), {}),
    "pixels_moved": (dict(change=normal(128, 128).abs()), dict(row=(0, 15), column=(0, 15))),
    "stride_two": ({}, dict(size=(4, 16), padding=("below and right", "all round"))),
    "plain_colours": (
        dict(levels=torch.arange(5.0), outputs={"8 groups": normal(5, 3), "32 groups": torch.zeros(5, 3)}),
        {},
    ),
    "sizes_inside": ({}, dict(side=(128, 2048), ch=(32, 128))),
    "round_trip_mistakes": (dict(results={"right": 30.0, "wrong": -2.0}), {}),
    "targets_at": ({}, dict(t=(0.02, 1.0), x=(-3.0, 3.0), y=(-2.0, 2.0))),
    "velocity_arrows": (dict(answer=toy_flows.blob_velocity, name="net", t=0.6), dict(t=(0.0, 1.0))),
    "where_walks_end": (dict(ends={"one": torch.zeros(9, 2), "two": torch.ones(9, 2)}), {}),
    "loss_by_level": (dict(curves={"measured": ([0.1, 0.5, 0.9], [0.9, 0.2, 0.5])}), dict(hill=(False,))),
    "live_loss": ({}, dict(losses=([2.0, 1.5, 1.2],), total=(3,))),
    "run_history": (dict(steps=[250, 500], losses=[0.5, 0.3], held_out={500: 0.35}), {}),
    "history_by_level": (dict(run=RUN), dict(mark=((2000, 3000),))),
    "logit_normal_levels": ({}, dict(a=(-2.0, 2.0), c=(0.2, 2.5))),
    "shifted_levels": ({}, dict(a=(-2.0, 2.0), c=(0.2, 2.0), **SIZES, steps=(1, 50))),
    "size_buckets": ({}, {}),
    "composed": ({}, dict(layout=tuple(CHAPTERS[9].LAYOUTS), style=tuple(data.STYLES), colour=("white", "black"))),
    "guidance_by_level": (dict(timesteps=[0.1, 0.9], moved={1.5: [0.1, 0.2], 3.0: [0.2, 0.5]}), {}),
    "student_losses": (dict(losses=[0.3, 0.2, 0.1]), dict(other=((0.3, 0.25),))),
    "delta_size": ({}, dict(rank=(1, 64))),
    "few_step_walks": ({}, dict(steps=(1, 28))),
    "off_the_chord": (dict(curves={"a walk": ([1.0, 0.5], [0.3, 0.1])}), {}),
    "fill_inputs": ({}, dict(left=(0, 120), top=(0, 120), side=(1, 128))),
    "kontext_sizes": ({}, dict(width=(256, 3840), height=(256, 3840))),
    "two_planes": ({}, dict(index=(0, 4), row=(0, 8))),
    "where_strength_enters": ({}, dict(strength=(0.0, 1.0), tokens=(64, 4096))),
    "cost_of_a_picture": (
        {},
        dict(variant=("flux-schnell",), width=(256, 2048), text_tokens=(0, 512), steps=(1, 50), precision=("4 bits",)),
    ),
    "scaling": ({}, dict(text_tokens=(0, 512))),
    "parameters_and_work": ({}, {}),
    "mu_directions": ({}, dict(mu=(-1.0, 3.5), steps=(4, 50))),
    "added_or_turned": ({}, dict(seed=(20,))),
    "step_sign": ({}, dict(steps=(1, 20))),
    "quadrant_atlas": (dict(shares=torch.full((12, 5, 2, 2), 0.5), names=BLOCKS), {}),
    "word_atlas": (dict(maps={"cat": MAP, "pink": 1 - MAP, "(end)": torch.ones(8, 8)}, picture=PICTURE), {}),
    "word_over_picture": (
        dict(weights=MAP, picture=PICTURE, word="cat", even=1 / 96, said="double 0, head 3, step 2: "),
        dict(weights=(0 * MAP + 1e-9,)),
    ),
    "words_by_block": (dict(curves={"cat": [-2.0] * 12, "dog": [2.0] * 12}, names=[n[0] + n[-1] for n in BLOCKS]), {}),
    "offset_atlas": (dict(profiles=PROFILES, names=BLOCKS), {}),
    "offset_head": (
        dict(
            profile=PROFILES[0, 0],
            mean=(0.5, -1.0),
            spread=4.0,
            by_order={-1: 0.5, 0: 2.0, 1: 1.0},
            tokens=64,
            said="double 0, head 0",
        ),
        {},
    ),
    "one_look": (dict(look=MAP, picture=PICTURE, row=3, column=4, said="double 0, head 0"), {}),
    "heads_sharp_and_wide": (
        dict(spread={"turned": 1 + 60 * PROFILES[..., 0, 0], "not": 1 + 60 * PROFILES[..., 1, 0]}, names=["d0"] * 12),
        {},
    ),
    "ablation_table": (
        dict(moved=PROFILES[:, :4, 0, 0], names=BLOCKS, parts=["block", "head 0", "head 1", "head 2"]),
        {},
    ),
    "read_and_needed": (dict(rows={"cat": (0.02, 0.4), "pink": (0.09, 0.02)}), {}),
    "where_parameters_are": ({}, dict(share=(False, True))),
    "gated_unit": ({}, dict(gate=(-4.0, 4.0))),
    "cost_plane": ({}, dict(width=(1024, 8192), double_blocks=(0, 64), shared_modulation=(True,), gated_mlp=(True,))),
    "whole_steps": (dict(added=normal(5, 7, 3), timesteps=[1.0, 0.8, 0.6, 0.4, 0.2]), dict(threshold=(0.0, 2.0))),
    "error_and_cost": (dict(curves={"plain steps": ([4, 8], [20.0, 30.0]), "a cache": ([5, 9], [25.0, 28.0])}), {}),
    "rounded_matrix": (dict(W=normal(24, 64)), dict(bits=(2, 8), rank=(0, 16))),
    "change_bars": (dict(changes={f"change {i}": 0.1 * i for i in range(8)}, kept=["change 0"]), {}),
    "picture_row": (dict(pictures=[PICTURE] * 3, names=["28 steps", "4 steps", "1 step"]), {}),
    "picture_rows": (
        dict(
            rows={"seed 0": [PICTURE] * 2, "seed 1": [PICTURE] * 2},
            labels=["w = 1", "w = 3"],
            alt="4 pink squares, seeds 0 and 1",
        ),
        {},
    ),
}


def figures():
    """Every public function of plots that returns a Figure, by name."""
    for module in (*CHAPTERS.values(), PICTURES):
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_"
            if own and inspect.signature(function).return_annotation is Figure:
                yield name, function


FIGURES = dict(figures())
CASES = [
    pytest.param(name, usual | change, id=f"{name}-{'-'.join(f'{key}={value}'[:30] for key, value in change.items())}")
    for name, (usual, sliders) in DRAWN.items()
    for change in [{}, *({key: value} for key, ends in sliders.items() for value in ends)]
]


def test_every_figure_is_drawn_here():
    assert set(FIGURES) == set(DRAWN)


def unnamed(ax):
    """Axes with numbers and no name. Words explain themselves; axes that are shared show their numbers once."""
    return [
        axis
        for axis in (ax.xaxis, ax.yaxis)
        if ax.axison
        and not axis.get_label_text()
        and any(text.get_visible() and text.get_text().strip("−.").isdigit() for text in axis.get_ticklabels())
    ]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_a_figure_says_what_it_shows_and_nothing_is_cut_off(name, values):
    fig = FIGURES[name](**values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, axes that do not fit
        fig.savefig(io.BytesIO(), format="png")
    alt = fig.get_label()
    assert len(alt) > 25 and "nan" not in alt, alt
    assert not [axis for ax in fig.axes for axis in unnamed(ax)]
    ink, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    beyond = max(-ink.x0, -ink.y0, ink.x1 - width, ink.y1 - height)
    assert beyond < 0.02, f"{beyond:.2f} inches lie beyond the figure's edge"
