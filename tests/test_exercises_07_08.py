"""Exercises and figures of chapters 7 and 8: usual mistakes are called by name, figures are drawn at both ends.

The equations of these chapters are tested in test_text.py and test_autoencoder.py.
"""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.teaching.exercises import chapter_07, chapter_08
from flux_edu.teaching.panel import picture_html
from flux_edu.teaching.plots import chapter_07 as text_plots
from flux_edu.teaching.plots import chapter_08 as plots
from flux_edu.teaching.plots.style import NotebookFigure

CHECKS = chapter_07.CHECKS | chapter_08.CHECKS


def first(ids, end):
    return (ids == end).int().argmax(dim=1)


WRONG = [
    # 7.1
    ("7.1", lambda ids, n: [*ids, 1], "all texts get the same length"),
    ("7.1", lambda ids, n: ([*ids, 1] + [0] * n)[:n], "the end token was cut off"),
    ("7.1", lambda ids, n: [*ids[: n - 1], 1] + [1] * (n - 1 - len(ids)), "you padded with the end token"),
    ("7.1", lambda ids, n: [0] * (n - 1 - len(ids)) + [*ids[: n - 1], 1], "belongs behind the text"),
    ("7.1", lambda ids, n: [*ids[: n - 1], *[0] * (n - 1 - len(ids)), 1], "directly after the words"),
    ("7.1", lambda ids, n: None, "forget `return`"),
    # 7.2
    ("7.2", lambda states, ids, end: states[:, -1], "the last state; behind a short text that is padding"),
    ("7.2", lambda states, ids, end: states[:, 0], "the first state, as BERT does"),
    ("7.2", lambda states, ids, end: states.mean(1), "the mean over all states"),
    ("7.2", lambda states, ids, end: states[torch.arange(3), ids.argmax(1)], "the largest number"),
    (
        "7.2",
        lambda states, ids, end: states[torch.arange(3), 6 - (ids.flip(1) == end).int().argmax(1)],
        "take the first, not the last",
    ),
    ("7.2", lambda states, ids, end: states[torch.arange(3), first(ids, end) - 1], "the state before the end token"),
    ("7.2", lambda states, ids, end: states[:, first(ids, end)], r"expected \(3, 5\): one vector a text"),
    # 7.3
    ("7.3", lambda q, k, v, b: (q @ k.mT / 5**0.5 + b).softmax(-1) @ v, "divided by the root of the head dimension"),
    ("7.3", lambda q, k, v, b: F.scaled_dot_product_attention(q, k, v, attn_mask=b), "T5 does not"),
    ("7.3", lambda q, k, v, b: ((q @ k.mT + b) / 5**0.5).softmax(-1) @ v, "T5 divides by nothing"),
    ("7.3", lambda q, k, v, b: (q @ k.mT).softmax(-1) @ v, "the bias is missing"),
    ("7.3", lambda q, k, v, b: ((q @ k.mT).softmax(-1) + b) @ v, "before the softmax"),
    ("7.3", lambda q, k, v, b: (q @ k.mT - b).softmax(-1) @ v, "you subtracted the bias"),
    ("7.3", lambda q, k, v, b: (q @ k.mT + b.mT).softmax(-1) @ v, "the bias is transposed"),
    ("7.3", lambda q, k, v, b: (q @ k.mT + b).softmax(-2) @ v, "dim=-1"),
    # 8.1
    ("8.1", lambda m, s, h: s * (m - h), "half of the moments are log variances"),
    ("8.1", lambda m, s, h: s * (m[:, 5:] - h), "the mean stands first"),
    ("8.1", lambda m, s, h: s * (m[:, ::2] - h), "two halves, not neighbours"),
    ("8.1", lambda m, s, h: s * m[:, :5] - h, "scaled before you shifted"),
    ("8.1", lambda m, s, h: s * (m[:, :5] + h), "you added the shift"),
    ("8.1", lambda m, s, h: (m[:, :5] - h) / s, "you divided by the scale"),
    ("8.1", lambda m, s, h: m[:, :5] / s + h, "that is decoding"),
    (
        "8.1",
        lambda m, s, h: s * (m[:, :5] + (m[:, 5:] / 2).exp() * torch.randn_like(m[:, :5]) - h),
        "nothing is drawn",
    ),
    # 8.2
    ("8.2", lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), "you padded all round"),
    ("8.2", lambda x, w, b: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, b, stride=2), "above and to the left"),
    ("8.2", lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 1, 0)), w, b, stride=2), "F.pad counts the last axis first"),
    ("8.2", lambda x, w, b: F.conv2d(x, w, b, stride=2), "without padding"),
    ("8.2", lambda x, w, b: F.conv2d(x, w, b, padding=1), "the stride of 2 is missing"),
    ("8.2", lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 0, 1)), w, stride=2), "the bias is missing"),
    # 8.3
    ("8.3", lambda m: (m.std(), m.mean()), "it is 1 / std"),
    ("8.3", lambda m: (1 / m.var(), m.mean()), "take the root"),
    ("8.3", lambda m: (1 / m.std(), -m.mean()), "the sign is the other way"),
    ("8.3", lambda m: (1 / m.std(), m.mean() / m.std()), "in the encoder's own units"),
    ("8.3", lambda m: (1 / m.std((0, 2, 3)), m.mean((0, 2, 3))), "one scale and one shift for all channels"),
    ("8.3", lambda m: (m.mean(), 1 / m.std()), "exchanged"),
    # 8.4
    ("8.4", lambda x, g: F.instance_norm(x), "one channel a group"),
    ("8.4", lambda x, g: F.group_norm(x, 1), "one group for all channels"),
    ("8.4", lambda x, g: F.group_norm(x, 12 // g), "the number of channels in a group"),
    ("8.4", lambda x, g: F.rms_norm(x.reshape(2, g, -1), (45,), eps=0.0).reshape(x.shape), "an RMS norm"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "answer", "said"), WRONG, ids=[f"{n} {said[:30]}" for n, _, said in WRONG])
def test_a_usual_mistake_is_called_by_its_name(number, answer, said):
    with pytest.raises(AssertionError, match=said):
        CHECKS[number](answer)


def test_another_way_to_the_right_answer_is_right():
    CHECKS["7.3"](lambda q, k, v, b: F.scaled_dot_product_attention(q, k, v, attn_mask=b, scale=1.0))
    CHECKS["8.1"](lambda m, s, h: s * m.chunk(2, 1)[0] - s * h)
    CHECKS["8.4"](lambda x, g: F.group_norm(x, g, eps=1e-6))


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
