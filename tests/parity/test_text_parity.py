"""TextEmbedder against transformers: tiny random encoders in transformers' own files, with a tokenizer made here.

Whatever FLUX wants from the encoders is held against plain calls of transformers: padding up to max_length, which is
not masked; T5's whole sequence; CLIP's state at the end-of-text token, found by either of transformers' two rules.
"""

import socket

import pytest
import torch
from parity_tools import FLOAT32_BAR, FLOAT64_BAR, draw, error, hold, short
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from flux_edu.io.encoders import load_embedder

WORDS = "a the of on left right above below red green blue violet circle square star small large bright dark".split()
PROMPTS = ["a small red circle on the left", "bright star", ""]
LENGTH = 13
RULES = ("modern", "published")  # the end-of-text token named by its number, or 2, which means: the highest number


def make_tokenizer(special, template):
    """One token a word; `special` come first and "</s>" last of all, unless `special` names it."""
    names = [*special, *WORDS, *(["</s>"] if "</s>" not in special else [])]
    numbers = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(name, numbers[name]) for name in ("<s>", "</s>") if name in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return tokenizer


def save_t5(folder):
    tokenizer = make_tokenizer(["<pad>", "</s>", "<unk>"], "$A </s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=20,
        d_kv=7,
        d_ff=28,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,  # an embedder that forgot eval() would show it
    )
    draw(T5EncoderModel(config), 41).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_clip(folder, rule):
    if rule == "modern":
        tokenizer = make_tokenizer(["<pad>", "</s>", "<unk>", "<s>"], "<s> $A </s>")
        roles = dict(pad_token="<pad>", eos_token="</s>")
    else:  # padded with the end-of-text token, which has the highest number
        tokenizer = make_tokenizer(["<unk>", "<s>"], "<s> $A </s>")
        roles = dict(pad_token="</s>", eos_token="</s>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>", **roles)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=LENGTH,
        attention_dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id if rule == "modern" else 2,
    )
    draw(CLIPTextModel(config), 42).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    save_t5(root / "t5")
    for rule in RULES:
        save_clip(root / rule, rule)
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing here may ask the hub, whether HF_HUB_OFFLINE is set or not."""

    def refuse(*args, **kwargs):
        raise AssertionError("a test without network tried to reach it")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def theirs(folder, kind, prompts, dtype=torch.float32, attention_mask="ones"):
    """Plain transformers: tokens padded and cut to LENGTH, and the encoder's whole output."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    batch = tokenizer(prompts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids = batch["input_ids"]
    mask = {"ones": torch.ones_like(ids), "none": None, "padding": batch["attention_mask"]}[attention_mask]
    model = kind.from_pretrained(folder, local_files_only=True).eval().to(dtype)
    with torch.no_grad():
        return ids, model(input_ids=ids, attention_mask=mask)


def ours(folder, kind, dtype=torch.float32):
    return load_embedder(folder, kind, LENGTH).requires_grad_(False).to(dtype)


bars = pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, FLOAT32_BAR), (torch.float64, FLOAT64_BAR)])


@pytest.mark.equation("7.1")
@bars
@pytest.mark.parametrize("attention_mask", ["ones", "none"])
def test_t5_gives_its_whole_last_sequence(folders, dtype, bar, attention_mask):
    ids, expected = theirs(folders / "t5", T5EncoderModel, PROMPTS, dtype, attention_mask)
    txt = ours(folders / "t5", T5EncoderModel, dtype)(PROMPTS)
    assert txt.shape == (3, LENGTH, 20) and txt.dtype == dtype
    assert ids.tolist()[2] == [1] + 12 * [0]  # the empty prompt: its end, then padding
    hold(f"T5 {short(dtype)}", error(txt, expected.last_hidden_state), bar)


def test_t5_reads_the_padding_as_flux_was_trained_to(folders):
    """Masked, as other uses of T5 have it, the words' own states would be others."""
    ids, masked = theirs(folders / "t5", T5EncoderModel, PROMPTS, attention_mask="padding")
    txt = ours(folders / "t5", T5EncoderModel)(PROMPTS)
    words = ids != 0
    assert error(txt[words], masked.last_hidden_state[words]) > 0.01


@pytest.mark.equation("7.2")
@bars
@pytest.mark.parametrize("rule", RULES)
def test_clip_gives_its_state_at_the_end_of_the_text(folders, rule, dtype, bar):
    ids, expected = theirs(folders / rule, CLIPTextModel, PROMPTS, dtype)
    y = ours(folders / rule, CLIPTextModel, dtype)(PROMPTS)
    assert y.shape == (3, 20) and y.dtype == dtype
    end = torch.tensor([1 + len(prompt.split()) for prompt in PROMPTS])  # after <s> and one token a word
    assert (ids[torch.arange(3), end] == AutoTokenizer.from_pretrained(folders / rule).eos_token_id).all()
    hold(f"CLIP {short(dtype)}, {rule} rule", error(y, expected.last_hidden_state[torch.arange(3), end]), bar)
    hold(f"CLIP {short(dtype)}, {rule} rule, pooler", error(y, expected.pooler_output), bar)


@pytest.mark.parametrize("rule", RULES)
def test_clip_looks_back_only_so_masking_the_padding_would_change_nothing(folders, rule):
    _, masked = theirs(folders / rule, CLIPTextModel, PROMPTS, attention_mask="padding")
    assert error(ours(folders / rule, CLIPTextModel)(PROMPTS), masked.pooler_output) <= FLOAT32_BAR


@pytest.mark.parametrize(("name", "kind"), [("t5", T5EncoderModel), ("published", CLIPTextModel)])
def test_a_long_text_is_cut_before_its_end_token(folders, name, kind):
    prompt = " ".join(WORDS)
    ids, expected = theirs(folders / name, kind, [prompt])
    out = ours(folders / name, kind)([prompt])
    tokenizer = AutoTokenizer.from_pretrained(folders / name)
    assert ids[0, -1] == tokenizer.eos_token_id
    assert error(out, expected.pooler_output if kind is CLIPTextModel else expected.last_hidden_state) <= FLOAT32_BAR


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moving_the_embedder_moves_the_encoder(folders, dtype):
    assert ours(folders / "t5", T5EncoderModel, dtype)(["star"]).dtype == dtype
