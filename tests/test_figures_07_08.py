"""Figures of chapters 7 and 8, drawn at both ends.

The equations of these chapters are tested in test_text.py and test_autoencoder.py.
"""

import re
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.teaching.panel import picture_html
from flux_edu.teaching.plots import chapter_07 as text_plots
from flux_edu.teaching.plots import chapter_08 as plots
from flux_edu.teaching.plots.style import NotebookFigure

# ---------------------------------------------------------------- token labels


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes only: every character of several bytes is cut into pieces."""
    names = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


def test_labels_show_spaces_and_the_bytes_of_broken_characters(tokenizer):
    ids = tokenizer("a é")["input_ids"] + [1, 0]
    assert text_plots.token_labels(tokenizer, ids) == ["a", "␣", "⟨C3⟩", "⟨A9⟩", "</s>", "<pad>"]


def test_labels_of_the_shipped_tokenizer_put_together_give_the_text():
    shipped = PreTrainedTokenizerFast(
        tokenizer_file=str(TINY_FOLDER / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    labels = text_plots.token_labels(shipped, shipped("a red fox, 白狐")["input_ids"])
    whole = b"".join(
        bytes.fromhex(label[1:-1]) if label.startswith("⟨") else label.encode() for label in labels[:-1]
    ).decode()
    assert whole.replace("␣", " ").strip() == "a red fox, 白狐" and labels[-1] == "</s>"


# ---------------------------------------------------------------- figures

LABELS = ["␣a", "␣fox", "白", "</s>", "<pad>", "<pad>", "<pad>"]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FIGURES = {
    "token_strip": lambda: [text_plots.token_strip(LABELS, range(7)), text_plots.token_strip(LABELS[:1], [5])],
    "padding_states": lambda: [
        text_plots.padding_states(labels, *(numbers(len(labels), 5, seed=seed) for seed in (0, 1, 2)))
        for labels in (LABELS, LABELS[:4])
    ],
    "position_bias": lambda: [
        text_plots.position_bias(numbers(3, 25), head, reach) for head, reach in [(0, 4), (2, 12), (0, 12), (2, 4)]
    ],
    "who_sees_whom": lambda: [
        text_plots.who_sees_whom({"T5": numbers(7, 7).abs(), "CLIP": numbers(7, 7).abs().triu()}, LABELS)
    ],
    "reach_of_a_token": lambda: [
        text_plots.reach_of_a_token(numbers(7).abs(), LABELS, place, "CLIP", pooled)
        for place, pooled in [(0, 3), (6, 3), (2, None)]
    ],
    "similarity_map": lambda: [text_plots.similarity_map(numbers(4, 9), ["a", "b", "白", ""])],
    "words_move": lambda: [
        text_plots.words_move(
            ["a", "fox", "白"],
            {"T5": numbers(3).abs(), "CLIP": numbers(3).abs()},
            {"through T5": numbers(3, seed=1).abs(), "through CLIP": torch.zeros(3)},
        )
    ],
    "text_mistakes": lambda: [text_plots.text_mistakes({"one": (0.5, 0.1), "two": (1.2, 0.0)})],
    "latent_maps": lambda: [
        plots.latent_maps(numbers(3, 24, 40), numbers(C, 3, 5), "白色背景上的狐狸") for C in (16, 5)
    ],
    "latent_histogram": lambda: [plots.latent_histogram(2 * numbers(5, 7) + 3, numbers(5, 7))],
    "came_back": lambda: [
        plots.came_back(numbers(3, 24, 40), numbers(3, 24, 40, seed=1), 12.3, caption)
        for caption in ("a fox", "白色背景上的狐狸")
    ],
    "quality_curves": lambda: [plots.quality_curves([0, 8, 16], [9.0, 20.0, 30.0], [0.0, 1.0], [30.0, 15.0])],
    "pixels_moved": lambda: [plots.pixels_moved(numbers(40, 56).abs(), *place) for place in [(0, 0), (4, 6)]],
    "stride_two": lambda: [
        plots.stride_two(size, zeros) for size in (4, 16) for zeros in ("below and right", "all round")
    ],
    "plain_colours": lambda: [
        plots.plain_colours(torch.arange(5.0), {"8 groups": numbers(5, 3), "32 groups": torch.zeros(5, 3)})
    ],
    "sizes_inside": lambda: [plots.sizes_inside(), plots.sizes_inside(128, 32)],
    "round_trip_mistakes": lambda: [plots.round_trip_mistakes({"right": 30.0, "wrong": -2.0})],
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_without_a_warning_and_say_what_they_show(name):
    for fig in FIGURES[name]():
        assert isinstance(fig, NotebookFigure) and len(fig.get_label()) > 30
        assert "nan" not in fig.get_label()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fig.get_label()[:20].split("“")[0].replace("'", "&#x27;") in picture_html(fig)


def test_the_alternative_text_of_the_causal_map_tells_the_triangle():
    label = text_plots.who_sees_whom({"CLIP": numbers(7, 7).abs().triu()}, LABELS).get_label()
    assert "CLIP: largest change before the exchanged token 0.00, from it on" in label


def test_pixels_moved_counts_what_lies_in_the_square():
    change = torch.zeros(40, 56)
    change[16:24, 32:40] = 1.0  # the place (2, 4) itself
    change[15, 31] = 64.0  # just outside of it
    assert "50% of the change falls within them, 100% within 24 × 24" in plots.pixels_moved(change, 2, 4).get_label()


def test_pixels_are_cut_off_and_rounded():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).expand(3, 1, 5)
    assert plots.as_pixels(x)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert plots.as_pixels(x).dtype == np.uint8


def test_sizes_of_the_published_encoder():
    told = plots.sizes_inside(1024).get_label()
    assert "latent 16 × 128² 0.262" in told and re.search(r"12 times smaller", told)
