"""Figures of chapters 7 and 8, drawn at both ends.

The equations of these chapters are tested in test_text.py and test_autoencoder.py.
"""

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.teaching.exercises.exercise import normal
from flux_edu.teaching.plots import chapter_07 as text_plots
from flux_edu.teaching.plots import chapter_08 as plots

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


def test_the_alternative_text_of_the_causal_map_tells_the_triangle():
    label = text_plots.who_sees_whom({"CLIP": normal(7, 7).abs().triu()}, LABELS).get_label()
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
    label = plots.sizes_inside(1024).get_label()
    assert "latent 16 × 128² 0.262" in label and re.search(r"12 times smaller", label)
