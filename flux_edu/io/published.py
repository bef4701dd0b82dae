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
from transformers import CLIPTextModel, T5EncoderModel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec, get_spec
from flux_edu.io import lora, memory
from flux_edu.io.checkpoint import CheckpointError, listed
from flux_edu.io.device import pick_device
from flux_edu.io.diffusers_layout import check_header, convert_file, load
from flux_edu.io.encoders import load_embedder, read_config
from flux_edu.io.lora_layouts import read_lora
from flux_edu.model import Flux
from flux_edu.text import TextEmbedder

CLIP_TOKENS = 77  # what CLIP was trained to read
Parts = tuple[TextEmbedder, TextEmbedder, Flux, AutoEncoder]
WANTED = ["flux1-*.safetensors", "ae.safetensors", "text_encoder/*", "text_encoder_2/*", "tokenizer/*", "tokenizer_2/*"]


@dataclass(frozen=True)
class Files:
    """Paths by variable name, and in words what is missing."""

    paths: dict[str, Path]
    missing: list[str]


def repositories(spec: ModelSpec) -> list[str]:
    """Where a variant's files come from: its own repository, and its base's if it is a LoRA or an adapter."""
    return [repo_id for repo_id in (spec.repo_id, spec.base and get_spec(spec.base).repo_id) if repo_id]


def find(name: str) -> Files:
    """Where the files of a variant are, without asking any network.

    Looked up in this order: FLUX_MODEL, FLUX_AE, FLUX_T5, FLUX_CLIP (and FLUX_LORA), one path each; the folder
    FLUX_HOME, a copy of the variant's repository; the cache of the Hugging Face hub, if its library is installed.
    """
    spec = get_spec(name)
    if spec.repo_id is None:
        raise ValueError(f"{name} ships with this package: there is nothing to find or to download")
    repo_id = repositories(spec)[-1]  # of the base, if there is one
    own = f"flux1-{repo_id.partition('FLUX.1-')[2].lower()}.safetensors"  # flux1-krea-dev of FLUX.1-Krea-dev
    places = {
        "FLUX_MODEL": (own, "transformer"),
        "FLUX_AE": ("ae.safetensors", "vae"),
        "FLUX_T5": ("text_encoder_2",),
        "FLUX_CLIP": ("text_encoder",),
    }
    if spec.lora:
        places["FLUX_LORA"] = (spec.lora,)
    home = os.environ.get("FLUX_HOME")
    folders = [Path(home).expanduser()] if home else []
    missing = [f"FLUX_HOME = {folder} is not a folder" for folder in folders if not folder.is_dir()]
    folders += [cached for repo_id in repositories(spec) if (cached := _in_cache(repo_id))]
    paths, unset = {}, []
    for key, names in places.items():
        if variable := os.environ.get(key):
            paths[key] = Path(variable).expanduser()
            if not paths[key].exists():
                missing.append(f"{key} = {paths[key]} does not exist")
        elif hit := next((path for folder in folders for path in inside(folder, names)), None):
            paths[key] = hit
        else:
            unset.append(key)
    if "FLUX_MODEL" in unset:
        others = sorted(path.name for folder in folders for path in folder.glob("flux1-*.safetensors"))
        missing += [f"{home or 'the cache'} holds {listed(others)}, but no {own}"] if others else []
    if unset:
        missing.insert(0, f"set {', '.join(unset)} to where they are")
    return Files(paths, missing)


def inside(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Which of these a folder holds: a file, or a folder with safetensors in it.

    diffusers' folder `transformer` does not say whose it is, so it counts only where no flux1-*.safetensors does.
    """
    hits = []
    for path in (folder / name for name in names):
        anybodys = path.name == "transformer" and any(folder.glob("flux1-*.safetensors"))
        if path.is_file() or (any(path.glob("*.safetensors")) and not anybodys):
            hits.append(path)
    return hits


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


def download(name: str) -> list[Path]:
    """Fetch a variant's files from the hub; some 34 GB. A closed door is answered with the two steps that open it."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError:
        raise ImportError('downloading needs the hub\'s library: pip install "flux-edu[real]"') from None
    folders = []
    for repo_id in repositories(get_spec(name)):
        try:
            folders.append(Path(snapshot_download(repo_id, allow_patterns=WANTED)))
        except (GatedRepoError, RepositoryNotFoundError):  # the hub says "not found" to whom it does not know
            raise PermissionError(
                f"{repo_id} is given only to those who have accepted its terms. Two steps: (1) sign in and accept them"
                f" at https://huggingface.co/{repo_id} ; (2) run `hf auth login` here, with a token of that account"
                " that may read. Then try again. FLUX.1 schnell is under Apache-2.0; the model called tiny needs"
                " nothing."
            ) from None
    return folders


# ---------------------------------------------------------------- loading


def check_files(name: str, files: Files) -> None:
    """That every file is of this variant, by headers and configurations; an error names the first that is not."""
    spec = get_spec(name)
    with torch.device("meta"):
        model, ae = Flux(get_spec(spec.base or name).params), AutoEncoder(spec.ae_params)
    check_header(model, files.paths["FLUX_MODEL"])
    check_header(ae, files.paths["FLUX_AE"])
    for key, kind, width in encoders(spec):
        config = read_config(files.paths[key], kind)
        if config.hidden_size != width:
            raise CheckpointError(
                f"{key} = {files.paths[key]} is an encoder of width {config.hidden_size}; {name} reads {width}"
            )


def encoders(spec: ModelSpec) -> list[tuple[str, type, int]]:
    """Variable, kind and width of a variant's encoders."""
    return [
        ("FLUX_T5", T5EncoderModel, spec.params.context_in_dim),
        ("FLUX_CLIP", CLIPTextModel, spec.params.vec_in_dim),
    ]


def load_published(name: str, spec: ModelSpec, device: torch.device) -> tuple[Parts, memory.Offload]:
    """The 12B model and its parts, bfloat16 as published, and how they share the device's memory.

    What stays on the device goes there straight from the file, a tensor at a time: nothing is initialised first, and
    host memory holds no second copy. Small sums that need it are float32 in the code itself: noise levels, ids,
    rotations, the sampler's state. A LoRA is merged in host memory.
    """
    files = find(name)
    if files.missing:
        raise FileNotFoundError(
            f"{name} is not shipped with this package. {how_to_get(name)} Or tell where its files are: FLUX_HOME is a"
            " copy of the repository, or FLUX_MODEL and FLUX_AE are safetensors files, FLUX_T5 and FLUX_CLIP folders as"
            f" transformers saves them. Now: {'; '.join(files.missing)}. The model called tiny needs nothing."
        )
    check_files(name, files)
    offload = memory.choose_offload(spec, memory.memory_of(device))
    at = torch.device("cpu") if offload.parts else device
    with torch.device("meta"):
        model, ae = Flux(get_spec(spec.base or name).params), AutoEncoder(spec.ae_params)
    load(model, files.paths["FLUX_MODEL"], torch.device("cpu") if spec.lora else at, torch.bfloat16)
    if path := files.paths.get("FLUX_LORA"):
        model = lora.with_delta(spec, model.state_dict(), read_lora(path), str(path)).to(at)
    load(ae, files.paths["FLUX_AE"], at, torch.bfloat16)
    lengths = spec.txt_tokens, CLIP_TOKENS
    embedders = []
    for (key, kind, _), length in zip(encoders(spec), lengths, strict=True):
        embedder = load_embedder(files.paths[key], kind, length)
        embedders.append(embedder.to(at, torch.bfloat16 if device.type == "cuda" else None))
    return (*embedders, model, ae), offload


def how_to_get(name: str) -> str:
    """One line: the terms, and the command that fetches a variant."""
    repos = repositories(get_spec(name))
    terms = "Apache-2.0" if "schnell" in name else "FLUX.1 [dev] Non-Commercial License"
    links = " and ".join(f"https://huggingface.co/{repo_id}" for repo_id in repos)
    return (
        f"Accept its terms ({terms}) at {links}, run `hf auth login`, then `flux-edu real {name} --download` (34 GB)."
    )


# ---------------------------------------------------------------- command line


def main(options: argparse.Namespace) -> int:
    """What is here, what is missing, what fits; 1 if something is missing. Or a file rewritten in the other layout."""
    if options.name == "convert":
        if len(options.files) != 2:
            raise ValueError(f"convert takes two files, the one to read and the one to write; got {len(options.files)}")
        source, target = options.files
        if target.suffix != ".safetensors":
            raise ValueError(f"{target}: what is written is a safetensors file; end its name in .safetensors")
        if target.exists() and not options.overwrite:
            raise FileExistsError(f"{target} exists: choose another name, or add --overwrite to replace it")
        print(f"{target}: {convert_file(source, target)}")
        return 0
    if options.files:
        raise ValueError(f"real takes one name, or `convert` and two files; got {options.name} {options.files[0]}")
    files, device = find(options.name), pick_device()
    if options.download:
        print(*download(options.name), sep="\n")
        files = find(options.name)
    for key, path in files.paths.items():
        print(f"{key:<11} {path}")
    if files.missing:
        print(*(f"missing: {line}" for line in files.missing), how_to_get(options.name), sep="\n")
    else:
        check_files(options.name, files)
    print(memory.on_this_machine(get_spec(options.name), device), "", memory.table(get_spec(options.name)), sep="\n")
    return int(bool(files.missing))
