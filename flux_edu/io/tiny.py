"""The tiny FLUX that ships with the package: its encoders' shapes, and loading."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import ModelSpec
from flux_edu.io import lora
from flux_edu.io.checkpoint import load_strict, read
from flux_edu.io.memory import Offload
from flux_edu.model import Flux
from flux_edu.text import TextEmbedder

TINY_FOLDER = files("flux_edu") / "weights" / "tiny"
TIED = "encoder.embed_tokens.weight"  # in transformers' T5 a second name of "shared.weight"; files hold the matrix once
TINY_T5 = dict(
    d_model=256, d_kv=64, d_ff=704, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu", dropout_rate=0.0
)
TINY_CLIP = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4)


def tiny_tokenizer(file: str | Path = Path(str(TINY_FOLDER)) / "tokenizer.json") -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>", eos_token="</s>")


def tiny_embedders(tokenizer_file: str | Path, max_length: int) -> tuple[TextEmbedder, TextEmbedder]:
    """A T5 and a CLIP of transformers' own classes, small and untrained, that share one tokenizer."""
    tokenizer = tiny_tokenizer(tokenizer_file)
    special = dict(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    t5 = T5EncoderModel(T5Config(**TINY_T5, **special))
    clip = CLIPTextModel(CLIPTextConfig(**TINY_CLIP, **special, bos_token_id=None, max_position_embeddings=max_length))
    return TextEmbedder(t5.eval(), tokenizer, max_length), TextEmbedder(clip.eval(), tokenizer, max_length)


def load_part(module: nn.Module, path: str | Path) -> None:
    """The weights of one of the tiny files, strictly."""
    state = read(path)
    if "shared.weight" in state:
        state[TIED] = state["shared.weight"]
    load_strict(module, state, source=str(path))


def load_tiny(spec: ModelSpec) -> tuple[tuple[TextEmbedder, TextEmbedder, Flux, AutoEncoder], Offload]:
    """The trained miniature in flux_edu/weights/tiny, stored in 8 bits a number, computed in float32.

    The distilled ones and the tools are the same files and a low-rank delta of the transformer.
    """
    if spec.lora and not (TINY_FOLDER / spec.lora).is_file():
        stages = {"dev": "guidance", "schnell": "few_steps"}
        name = spec.lora.removesuffix(".safetensors")
        raise FileNotFoundError(
            f"{TINY_FOLDER / spec.lora} is not there: this model is 'tiny' and that delta. Train it with"
            f" python -m flux_edu.train.{stages.get(name, f'tools {name}')}, or take 'tiny'"
        )
    t5, clip = tiny_embedders(TINY_FOLDER / "tokenizer.json", spec.txt_tokens)
    with torch.device("meta"):
        model, ae = Flux(spec.params), AutoEncoder(spec.ae_params)
    for part, file in ((t5.encoder, "t5"), (clip.encoder, "clip"), (model, "flux"), (ae, "ae")):
        path = TINY_FOLDER / f"{file}.safetensors"
        if file == "flux" and spec.lora:
            model = lora.with_delta(spec, read(path), read(TINY_FOLDER / spec.lora), spec.lora)
        else:
            load_part(part, path)
    return (t5, clip, model, ae), Offload()
