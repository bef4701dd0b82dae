"""A small subword tokenizer for the captions, English and Chinese: `python -m flux_edu.train.tokenizer`.

Bytes first, then pairs of them merged (BPE), so every text has tokens, whatever is typed. Chinese is cut into single
characters before, which makes its tokens mean the same wherever they stand. Sennrich et al., 2016.

With --words as many entries are spent otherwise: a Chinese name is a token, or a few that are names or words themselves
(长颈鹿, a giraffe, is then no deer, 鹿), and bytes are left for what is in no caption. Not used by what ships.
"""

import argparse
import json
import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.train.asked import MEASURES, PLACES
from flux_edu.train.data import CHINESE, COLOURS, STYLES, Drawings, captions, draw_scenes, load_drawings

VOCABULARY = 2304
NORMAL = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
NORMAL += [normalizers.Prepend(" ")]


def train_tokenizer(texts: list[str], vocab_size: int = VOCABULARY) -> Tokenizer:
    """Lower case, one space before every word, </s> at the end; <pad> = 0, </s> = 1, the rest from the texts.

    </s> must not be 2: transformers' CLIP takes an end-of-text token of 2 for a sign of its first, faulty setting.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(NORMAL)
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


def pieces(name: str, words: Iterable[str]) -> list[str] | None:
    """A name as the fewest of these words, or None if it is not made of them."""
    best: list[list[str] | None] = [[]] + [None] * len(name)
    for end in range(1, len(name) + 1):
        starts = [start for start in range(end) if best[start] is not None and name[start:end] in words]
        best[end] = min((best[start] + [name[start:end]] for start in starts), key=len, default=None)
    return best[-1]


def chinese_words(drawings: Drawings) -> list[str]:
    """The words of captions and instructions, and each name that is not made of two or three shorter ones."""
    words = dict.fromkeys([*"色背景上的在左右下边面一两三个只小把变成风格去掉互换角落里", "背景上", *MEASURES])
    words |= dict.fromkeys([*CHINESE.values(), *(f"{CHINESE[colour]}色" for colour in COLOURS)])
    words |= dict.fromkeys(["左边", "右边", "上面", "下面", *(place for place, _ in PLACES.values() if place)])
    names = {part for entry in drawings.names for part in re.findall(r"[\u4e00-\u9fff]+", entry["zh"])}
    for name in sorted(names, key=lambda name: (len(name), name)):
        made = pieces(name, words)
        if len(name) < 3 or made is None or len(made) > 3:
            words[name] = None
    return list(words)


def word_tokenizer(drawings: Drawings, texts: list[str], vocab_size: int = VOCABULARY) -> Tokenizer:
    """As `train_tokenizer`, with Chinese by words: the fewest pieces of a fixed list, and bytes for all else."""
    vocabulary = ["<pad>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *chinese_words(drawings)]
    texts = [text for text in texts if text.isascii()]
    english = train_tokenizer(texts, vocab_size)
    used = Counter(token for encoded in english.encode_batch(texts) for token in encoded.tokens)
    letters = dict.fromkeys("Ġ" + string.ascii_lowercase + string.digits + string.punctuation)
    latin = dict.fromkeys([*letters, *(token for token, _ in used.most_common() if token != "</s>")])
    vocabulary += [token.replace("Ġ", "▁") for token in latin][: vocab_size - len(vocabulary)]
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in vocabulary], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([*NORMAL, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.post_processor = english.post_processor
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
    parser.add_argument("--words", action="store_true", help="Chinese by words, not by characters")
    args = parser.parse_args()
    drawings = load_drawings(args.data)
    # every name once as it is and some captions around them: names must not drown in "a … on a … background"
    names = [name for entry in drawings.names for name in (*entry["en"], entry["zh"])]
    texts = names * 4 + captions(drawings, draw_scenes(drawings, 8000, seed=1), seed=1)
    tokenizer = word_tokenizer(drawings, texts) if args.words else train_tokenizer(texts)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    words = known_words(drawings)
    (args.out / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False), "utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens, {len(words)} known words")


if __name__ == "__main__":
    main()
