"""A small subword tokenizer for the captions, English and Chinese: `python -m flux_edu.train.tokenizer`.

Bytes first, then pairs of them merged (BPE), so every text has tokens, whatever is typed. Chinese is cut into single
characters before, which makes its tokens mean the same wherever they stand. Sennrich et al., 2016.
"""

import argparse
import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.train.data import CHINESE, COLOURS, STYLES, Drawings, captions, draw_scenes, load_drawings

VOCABULARY = 2304


def train_tokenizer(texts: list[str], vocab_size: int = VOCABULARY) -> Tokenizer:
    """Lower case, one space before every word, </s> at the end; <pad> = 0, </s> = 1, the rest from the texts.

    </s> must not be 2: transformers' CLIP takes an end-of-text token of 2 for a sign of its first, faulty setting.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def known_words(drawings: Drawings) -> list[str]:
    """Every word and Chinese character of the captions: what the model can have learned."""
    texts = [name for entry in drawings.names for name in (*entry["en"], entry["zh"])]
    texts += [*COLOURS, *STYLES, *CHINESE.values(), "a an on background left right of above below"]
    texts.append("背景上的在左右下边面色")
    return sorted({word for text in texts for word in re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji"))
    parser.add_argument("--out", type=Path, default=Path(str(TINY_FOLDER)))
    args = parser.parse_args()
    drawings = load_drawings(args.data)
    # every name once as it is and some captions around them: names must not drown in "a … on a … background"
    names = [name for entry in drawings.names for name in (*entry["en"], entry["zh"])]
    tokenizer = train_tokenizer(names * 4 + captions(drawings, draw_scenes(drawings, 8000, seed=1), seed=1))
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    words = known_words(drawings)
    (args.out / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False), "utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens, {len(words)} known words")


if __name__ == "__main__":
    main()
