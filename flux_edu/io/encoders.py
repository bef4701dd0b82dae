"""Text encoders from folders as transformers saves them: every number in its place, and their own tokenizers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPTextModel, PretrainedConfig, PreTrainedTokenizerBase, T5EncoderModel
from transformers.utils import logging

from flux_edu.io.checkpoint import CheckpointError, LazyStateDict, check_finite, listed
from flux_edu.text import TextEmbedder

Kind = type[T5EncoderModel] | type[CLIPTextModel]
TOKENIZERS = {T5EncoderModel: "tokenizer_2", CLIPTextModel: "tokenizer"}  # beside the encoder in FLUX.1's repositories
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")  # one of them, or there is no tokenizer


def load_embedder(path: str | Path, kind: Kind, max_length: int) -> TextEmbedder:
    """From a local folder in transformers' layout: config.json, safetensors, and the tokenizer there or beside it.

    What is stored in fewer than 32 bits is computed in bfloat16; fp8 with scales gets them, see `LazyStateDict`.
    """
    path = Path(path).expanduser()
    config, tokenizer = read_config(path, kind), load_tokenizer(path, kind, max_length)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{path} knows {config.vocab_size} tokens and its tokenizer writes {len(tokenizer)}: take the one that"
            " belongs to it"
        )
    with LazyStateDict(path) as weights:
        floats = {x.dtype for x in weights.shapes.values() if x.is_floating_point()}
        weights.dtype = torch.float32 if floats == {torch.float32} else torch.bfloat16
        state = dict(weights)
    check_finite(state, str(path))
    how = dict(config=config, state_dict=state, dtype=weights.dtype)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # without the library's own report, which has many lines
    try:
        encoder, info = kind.from_pretrained(None, **how, output_loading_info=True, ignore_mismatched_sizes=True)
    finally:
        logging.set_verbosity(verbosity)
    report = {"missing": sorted(info["missing_keys"]), "extra": sorted(info["unexpected_keys"])}
    shapes = sorted((name, tuple(stored), tuple(due)) for name, stored, due in info["mismatched_keys"])
    report["misshapen"] = [f"{name} is {stored}, should be {due}" for name, stored, due in shapes]
    if problems := [f"{len(keys)} {title}: {listed(keys)}" for title, keys in report.items() if keys]:
        raise CheckpointError(f"{path} does not hold the {kind.__name__} of its config.json: {'; '.join(problems)}")
    if kind is CLIPTextModel:
        check_end_of_text(encoder, tokenizer)
    return TextEmbedder(encoder.eval(), tokenizer, max_length)


def read_config(path: Path, kind: Kind) -> PretrainedConfig:
    """What config.json says of the encoder in a folder, if it is one of this kind."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a folder; give the folder of a {kind.__name__} with its tokenizer, as transformers saves it"
        )
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path} holds no .safetensors file, and pickled weights are not read: take a folder that has"
            " model.safetensors, or convert the weights where you trust them"
        )
    try:
        described = json.loads((path / "config.json").read_text("utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{path} holds no config.json of transformers that says what it is") from None
    family = kind.config_class.model_type.split("_")[0]  # t5, clip
    if not str(described).startswith(family):
        raise CheckpointError(f"{path} is the folder of a {described}, not of a {kind.__name__}")
    with as_checkpoint_error(f"{path / 'config.json'} cannot be read"):
        return kind.config_class.from_pretrained(path, local_files_only=True)


@contextmanager
def as_checkpoint_error(problem: str) -> Iterator[None]:
    """What the library raises for a damaged file, which may be anything, becomes a CheckpointError of one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise CheckpointError(f"{problem} ({type(error).__name__}: {reason}): download or copy it again") from error


def load_tokenizer(path: Path, kind: Kind, max_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer inside the encoder's folder, or the one beside it as in FLUX.1's repositories.

    Where there is none transformers would make one up that knows no word.
    """
    places = (path, path.parent / TOKENIZERS[kind])
    for place in places:
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            with as_checkpoint_error(f"the tokenizer in {place} cannot be read"):
                return AutoTokenizer.from_pretrained(place, local_files_only=True, model_max_length=max_length)
    raise CheckpointError(
        f"{path} has no tokenizer ({', '.join(TOKENIZER_FILES)}), and {places[1]} has none either: put the folder"
        f" {TOKENIZERS[kind]} of the model's repository there"
    )


def check_end_of_text(clip: CLIPTextModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """CLIP pools at its end-of-text token; with a tokenizer that writes another it would pool anywhere, silently.

    An eos_token_id of 2, as in the published config.json, means to transformers: the token of the highest number.
    """
    last, expected = tokenizer("")["input_ids"][-1:], clip.config.eos_token_id
    if expected == 2:
        expected = max(tokenizer.get_vocab().values())
    if last != [expected]:
        raise ValueError(
            f"this CLIP pools at token {expected}, but its tokenizer ends a text with {last or 'nothing'}: take"
            " the tokenizer that belongs to it, or set eos_token_id in its configuration"
        )
