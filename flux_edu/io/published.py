"""The published 12B models: where their files are, how they are fetched, and how they fit into a GPU.

flux-edu real flux-dev              what is here, what is missing, and which offload mode fits
flux-edu real flux-dev --download   fetch what is missing from the Hugging Face hub (extra: real)
flux-edu real convert A B           rewrite A in the other layout (published, diffusers) as B
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, get_spec
from flux_edu.io import memory
from flux_edu.io.checkpoint import CheckpointError, listed
from flux_edu.io.diffusers_layout import convert_file, load
from flux_edu.model import Flux
from flux_edu.text import TextEmbedder

CLIP_TOKENS = 77  # what CLIP was trained to read
Parts = tuple[TextEmbedder, TextEmbedder, Flux, AutoEncoder]

# variable → what it names inside a repository of FLUX.1: the file, or the folder and its tokenizer's
INSIDE = {
    "FLUX_MODEL": ("flux1-*.safetensors", "transformer"),
    "FLUX_AE": ("ae.safetensors", "vae"),
    "FLUX_T5": ("text_encoder_2",),
    "FLUX_CLIP": ("text_encoder",),
}
TOKENIZERS = {"FLUX_T5": "tokenizer_2", "FLUX_CLIP": "tokenizer"}
WANTED = ["flux1-*.safetensors", "ae.safetensors", "text_encoder/*", "text_encoder_2/*", "tokenizer/*", "tokenizer_2/*"]


@dataclass(frozen=True)
class Found:
    """Paths by variable name, each with its tokenizer's or None; and in words what is missing."""

    paths: dict[str, Path]
    tokenizers: dict[str, Path | None]
    missing: list[str]


def find(name: str) -> Found:
    """Where the files of a variant are, without asking any network.

    Looked up in this order: FLUX_MODEL, FLUX_AE, FLUX_T5 and FLUX_CLIP, one path each; the folder FLUX_HOME, a copy of
    the variant's repository; the cache of the Hugging Face hub, if its library is installed.
    """
    home = os.environ.get("FLUX_HOME")
    homes = [Path(home)] if home else []
    if cached := _in_cache(get_spec(name).repo_id):
        homes.append(cached)
    paths, tokenizers, unset, missing = {}, {}, [], []
    for key, places in INSIDE.items():
        if set_to := os.environ.get(key):
            if not Path(set_to).exists():
                missing.append(f"{key} = {set_to} does not exist")
            paths[key], tokenizers[key] = Path(set_to), None
            continue
        found = [hit for folder in homes for place in places for hit in sorted(folder.glob(place))]
        if not found:
            unset.append(key)
        else:
            paths[key] = found[0]
            tokenizers[key] = found[0].parent / TOKENIZERS[key] if key in TOKENIZERS else None
    if unset:
        missing.insert(0, f"set {', '.join(unset)} to where they are")
    return Found(paths, tokenizers, missing)


def _in_cache(repo_id: str | None) -> Path | None:
    """The newest copy of a repository that the hub's library has on this disk."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repo_id, local_files_only=True)) if repo_id else None
    except LocalEntryNotFoundError:
        return None


def download(name: str) -> Path:
    """Fetch a variant's files from the hub; some 34 GB. A closed door is answered with the two steps that open it."""
    repo_id = get_spec(name).repo_id
    if repo_id is None:
        raise ValueError(f"{name} ships with this package, there is nothing to download")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError:
        raise ImportError('downloading needs the hub\'s library: pip install "flux-edu[real]"') from None
    try:
        return Path(snapshot_download(repo_id, allow_patterns=WANTED))
    except (GatedRepoError, RepositoryNotFoundError):  # the hub says "not found" to whom it does not know
        raise PermissionError(
            f"{repo_id} is given only to those who have accepted its terms. Two steps: (1) sign in and accept them at"
            f" https://huggingface.co/{repo_id} ; (2) run `hf auth login` here, with a token of that account that may"
            " read. Then try again. FLUX.1 schnell is under Apache-2.0; FluxGenerator('tiny') needs nothing."
        ) from None


# ---------------------------------------------------------------- loading


def load_published(name: str, spec: ModelSpec, device: torch.device) -> tuple[Parts, memory.Offload]:
    """The 12B model and its parts, bfloat16 as published, and how they share the device's memory.

    What stays on the device goes there straight from the file, a tensor at a time: nothing is initialised first, and
    host memory holds no second copy. Small sums that need it are float32 in the code itself: noise levels, ids,
    rotations, the sampler's state.
    """
    found = find(name)
    if found.missing:
        raise FileNotFoundError(
            f"{name} is not shipped with this package. Accept its terms at huggingface.co/{spec.repo_id}, download its"
            f" files (flux-edu real {name} --download), and tell where they are: FLUX_HOME is a copy"
            " of the repository, or FLUX_MODEL and FLUX_AE are safetensors files, FLUX_T5 and FLUX_CLIP folders as"
            f" transformers saves them. Now: {'; '.join(found.missing)}. FluxGenerator('tiny') needs nothing."
        )
    offload = memory.choose_offload(spec, memory.memory_of(device))
    at = device if offload is memory.Offload.NONE else torch.device("cpu")
    with torch.device("meta"):
        model, ae = Flux(spec.params), AutoEncoder(spec.ae_params)
    load(model, found.paths["FLUX_MODEL"], at, torch.bfloat16)
    load(ae, found.paths["FLUX_AE"], at, torch.bfloat16)
    encoders = []
    for key, kind, tokens in (("FLUX_T5", T5EncoderModel, spec.txt_tokens), ("FLUX_CLIP", CLIPTextModel, CLIP_TOKENS)):
        embedder = load_embedder(found.paths[key], kind, tokens, found.tokenizers[key])
        encoders.append(embedder.to(at, torch.bfloat16 if device.type == "cuda" else None))
    return (*encoders, model, ae), offload


# ---------------------------------------------------------------- text encoders


def load_embedder(
    path: str | Path,
    kind: type[T5EncoderModel] | type[CLIPTextModel],
    max_length: int,
    tokenizer_path: str | Path | None = None,
) -> TextEmbedder:
    """From a local folder in transformers' layout (model.safetensors, config.json, tokenizer files).

    tokenizer_path: where the tokenizer stands in a folder of its own, as in FLUX.1's repositories.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a folder; give the folder of a {kind.__name__} with its tokenizer, as transformers saves it"
        )
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path} holds no .safetensors file, and pickled weights are not read: take a folder that has"
            " model.safetensors, or convert the weights where you trust them"
        )
    encoder, info = kind.from_pretrained(path, local_files_only=True, use_safetensors=True, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):  # transformers would leave these at random numbers
        raise CheckpointError(
            f"{path} is not the folder of a {kind.__name__}: {len(missing)} of its tensors are missing:"
            f" {listed(missing)}"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        tokenizer_path or path, local_files_only=True, model_max_length=max_length
    )
    if kind is CLIPTextModel:
        check_end_of_text(encoder, tokenizer)
    return TextEmbedder(encoder.eval(), tokenizer, max_length)


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


# ---------------------------------------------------------------- command line


def main(options: argparse.Namespace) -> int:
    """What is here, what is missing, what fits; 1 if something is missing. Or a file rewritten in the other layout."""
    if options.name == "convert":
        if len(options.files) != 2:
            raise ValueError(f"convert takes two files, the one to read and the one to write; got {len(options.files)}")
        source, target = options.files
        if target.exists() and not options.overwrite:
            raise FileExistsError(f"{target} exists: choose another name, or add --overwrite to replace it")
        print(f"{target}: {convert_file(source, target)}")
        return 0
    spec = get_spec(options.name)
    if options.files:
        raise ValueError(f"real takes one name, or `convert` and two files; got {options.name} {options.files[0]}")
    if options.download:
        print(download(options.name))
    found = find(options.name)
    for key, path in found.paths.items():
        print(f"{key:<11} {path}")
    print(*(f"missing: {each}" for each in found.missing), sep="\n")
    print(memory.table(spec))
    return int(bool(found.missing))
