"""TextEmbedder: what it gives, how a text is cut and padded, and what it says to folders that do not fit.

The comparison with transformers itself stands in parity/test_text_parity.py.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from flux_edu import text
from flux_edu.io.advice import Advice, advise_cut
from flux_edu.io.checkpoint import CheckpointError
from flux_edu.io.encoders import check_end_of_text, load_embedder

WORDS = "red green blue circle square star left right".split()
LENGTH = 7


def tokenizer(*, end_number=1, writes_end=True):
    """One token a word and </s> at the end; </s> has the number asked for."""
    names = ["<pad>", *WORDS]
    names.insert(end_number, "</s>")
    numbers = {name: i for i, name in enumerate(names)}
    core = Tokenizer(models.WordLevel(numbers, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if writes_end:
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end_number)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


def t5(tokens=None, length=LENGTH):
    torch.manual_seed(0)
    config = T5Config(vocab_size=10, d_model=12, d_kv=5, d_ff=20, num_layers=1, num_heads=2, dropout_rate=0.0)
    return text.TextEmbedder(T5EncoderModel(config).eval(), tokens or tokenizer(), length)


def clip(tokens=None, eos_token_id=1, length=LENGTH):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=10,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=3,
        max_position_embeddings=length,
        eos_token_id=eos_token_id,
        bos_token_id=None,
        pad_token_id=0,
    )
    return text.TextEmbedder(CLIPTextModel(config).eval(), tokens or tokenizer(), length)


@pytest.mark.equation("7.2")
def test_clip_gives_one_vector_the_state_at_the_end_of_the_text():
    embedder = clip()
    ids = torch.tensor([[2, 5, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    states = embedder.encoder(input_ids=ids).last_hidden_state
    embedded = embedder(["red circle", ""])
    assert embedded.shape == (2, 12)
    torch.testing.assert_close(embedded, torch.stack([states[0, 2], states[1, 0]]))


@pytest.mark.parametrize("make", [t5, clip])
def test_a_batch_is_its_texts_one_by_one(make):
    embedder, texts = make(), ["red circle left", "", "blue star"]
    torch.testing.assert_close(embedder(texts), torch.cat([embedder([one]) for one in texts]), atol=1e-5, rtol=1e-5)


def test_the_order_of_words_reaches_t5_states_though_flux_sees_none():
    embedder = t5()
    assert not torch.allclose(embedder(["red circle blue square"])[:, 0], embedder(["red square blue circle"])[:, 0])


def test_the_unconditioned_half_is_the_empty_text():
    txt, vec = text.embed_empty(t5(), clip())
    torch.testing.assert_close(txt, t5()([""]))
    torch.testing.assert_close(vec, clip()([""]))


# ---------------------------------------------------------------- too long


def test_a_text_that_just_fits_is_not_warned_about():
    prompt = "red green blue circle square star"
    assert t5().tokens([prompt]).tolist() == [[2, 3, 4, 5, 6, 7, 1]]
    advise_cut(t5(), prompt)  # a warning would be an error


def test_a_text_that_is_too_long_is_cut_with_a_warning_that_counts():
    embedder, prompt = t5(), "red green blue circle square star left right"
    assert embedder.tokens([prompt]).tolist() == [[2, 3, 4, 5, 6, 7, 1]]  # six words and the end: two words are gone
    message = (
        r"T5EncoderModel reads 7 tokens; the last 2 of 'red green blue circle square star left r'… are cut. Shorten"
    )
    with pytest.warns(Advice, match=message) as caught:
        advise_cut(embedder, prompt)
    assert caught[0].filename == __file__


# ---------------------------------------------------------------- what does not fit


def test_one_string_is_not_a_list():
    with pytest.raises(TypeError):  # the shape checks of the tests come first; without them the message says what to do
        t5()("red circle")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere is not a folder; give the folder of a T5EncoderModel with its"
    ):
        load_embedder(tmp_path / "nowhere", T5EncoderModel, LENGTH)


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match="holds no .safetensors file, and pickled weights are not read"):
        load_embedder(tmp_path, T5EncoderModel, LENGTH)


def saved(folder, kind):
    """An encoder and its tokenizer in one folder."""
    embedder = {T5EncoderModel: t5, CLIPTextModel: clip}[kind]()
    embedder.encoder.save_pretrained(folder)
    embedder.tokenizer.save_pretrained(folder)
    return embedder


def test_the_folder_of_the_other_encoder_is_an_error_and_not_a_random_model(tmp_path):
    saved(tmp_path, CLIPTextModel)
    with pytest.raises(CheckpointError, match="is the folder of a clip_text_model, not of a T5EncoderModel"):
        load_embedder(tmp_path, T5EncoderModel, LENGTH)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="holds no config.json of transformers that says what it is"):
        load_embedder(tmp_path, CLIPTextModel, LENGTH)


@pytest.mark.parametrize("kind", [T5EncoderModel, CLIPTextModel])
def test_a_folder_is_read_back_as_it_was_written(tmp_path, kind):
    embedder = saved(tmp_path, kind)
    torch.testing.assert_close(load_embedder(tmp_path, kind, LENGTH)(["blue star"]), embedder(["blue star"]))


@pytest.mark.parametrize("kind", [T5EncoderModel, CLIPTextModel])
def test_the_tokenizer_may_stand_beside_the_encoder_and_is_never_made_up(tmp_path, kind):
    embedder = saved(tmp_path / "encoder", kind)
    beside = tmp_path / {T5EncoderModel: "tokenizer_2", CLIPTextModel: "tokenizer"}[kind]
    beside.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "encoder" / name).rename(beside / name)
    again = load_embedder(tmp_path / "encoder", kind, LENGTH)
    assert torch.equal(again.tokens(["blue star"]), embedder.tokens(["blue star"]))
    (beside / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=f"encoder has no tokenizer .*, and .*{beside.name} has none either"):
        load_embedder(tmp_path / "encoder", kind, LENGTH)


@pytest.mark.parametrize("kind", [T5EncoderModel, CLIPTextModel])
@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_scaled_fp8_comes_with_its_scales(tmp_path, kind, scale_name):
    """Without them the numbers would reach 448, the largest of fp8."""
    embedder = saved(tmp_path, kind)
    state, stored = load_file(tmp_path / "model.safetensors"), {"scaled_fp8": torch.zeros(2)}
    for name, x in state.items():
        if x.ndim == 2 and "embed" not in name and "bias" not in name and "shared" not in name:
            scale = x.abs().max() / 448
            stored[name.removesuffix("weight") + scale_name] = scale.reshape(1)
            x = (x / scale).to(torch.float8_e4m3fn)
        stored[name] = x
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = load_embedder(tmp_path, kind, LENGTH)
    for name, x in again.encoder.state_dict().items():
        expected = embedder.encoder.state_dict()[name]
        torch.testing.assert_close(x.float(), expected, atol=0.07 * expected.abs().max(), rtol=0.07)
    expected = embedder(["blue star"])
    assert (again(["blue star"]).float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("kind", [T5EncoderModel, CLIPTextModel])
def test_what_the_encoder_has_no_place_for_is_refused(tmp_path, kind, capfd):
    saved(tmp_path, kind)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if name.endswith("weight"))
    for change, message in (
        ({"more.scale": torch.ones(1)}, "1 extra: more.scale"),
        ({name: None}, "1 missing: "),
        ({name: torch.ones(3)}, r"1 misshapen: .* is \(3,\), should be \("),
        ({name: torch.full_like(state[name], torch.nan)}, "holds NaN or infinite numbers in 1 of"),
    ):
        changed = {key: x for key, x in (state | change).items() if x is not None}
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        capfd.readouterr()
        with pytest.raises(CheckpointError, match=message):
            load_embedder(tmp_path, kind, LENGTH)
        assert "REPORT" not in capfd.readouterr().err, "the library's report, of many lines"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "No"}}'),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": "t5", "d_model": "12"}'),
        ("config.json", '{"model_type": "t5", "d_model": {}}'),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(name, content, tmp_path):
    saved(tmp_path, T5EncoderModel)
    (tmp_path / name).write_text(content)
    with pytest.raises(
        CheckpointError, match=r"^(the tokenizer in )?/.* cannot be read \(.*\): download or copy it again$"
    ):
        load_embedder(tmp_path, T5EncoderModel, LENGTH)


def test_an_end_of_text_token_that_is_not_clips_is_an_error():
    """transformers would pool at the first token, whatever it is."""
    with pytest.raises(ValueError, match=r"this CLIP pools at token 5, but its tokenizer ends a text with \[1\]"):
        check_end_of_text(clip(eos_token_id=5).encoder, tokenizer())
    with pytest.raises(ValueError, match="this CLIP pools at token 1, but its tokenizer ends a text with nothing"):
        check_end_of_text(clip().encoder, tokenizer(writes_end=False))


def test_an_end_of_text_token_of_two_means_the_highest_number():
    with pytest.raises(ValueError, match=r"pools at token 9, but its tokenizer ends a text with \[2\]"):
        check_end_of_text(clip(eos_token_id=2).encoder, tokenizer(end_number=2))
    embedder = clip(tokenizer(end_number=9), eos_token_id=2)  # as published: 2 in config.json, 49407 in the tokenizer
    check_end_of_text(embedder.encoder, embedder.tokenizer)
    states = embedder.encoder(input_ids=torch.tensor([[3, 9, 0, 0, 0, 0, 0]])).last_hidden_state
    torch.testing.assert_close(embedder(["blue"]), states[:, 1])
