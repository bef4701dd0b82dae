"""What the package tells its user: warnings at the user's own line, and the nearest words it knows.

The command line imports this before it knows whether PyTorch works: standard library only.
"""

import difflib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

OURS = ("flux_edu", "torch", "jaxtyping", "beartype")  # frames of these packages are not the user's


class Advice(UserWarning):
    """Something about the user's own input that is worth knowing; `panel.explore` shows it under the picture."""


def advise(message: str) -> None:
    """Warn at the innermost line outside this package, however deep inside it the call stands."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Advice, stacklevel=level)


@contextmanager
def collect() -> Iterator[list[str]]:
    """The advice given inside the block goes into a list, every time; other warnings go their usual way."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Advice)
        collected, usual = [], warnings.showwarning

        def keep(message, category, *where, **how):
            if issubclass(category, Advice):
                collected.append(str(message))
            else:
                usual(message, category, *where, **how)

        warnings.showwarning = keep
        yield collected


def advise_cut(embedder, text: str) -> None:
    """Warn where a `TextEmbedder` does not read a text to its end, and say how many tokens are lost."""
    tokens = len(embedder.tokenizer(text, verbose=False)["input_ids"])
    if (lost := tokens - embedder.max_length) > 0:
        advise(
            f"{type(embedder.encoder).__name__} reads {embedder.max_length} tokens; the last {lost} of {text[:40]!r}…"
            " are cut. Shorten the prompt."
        )


def advise_unknown(model: str, text: str, vocabulary: Iterable[str]) -> None:
    """Warn of the words that a tiny model has never seen, with the nearest that it has; of signs alone, too."""
    if text.strip() and not words(text):
        advise(f"the {model} model reads words, and {text[:40]!r} holds none. It paints something all the same.")
    if unknown := unknown_words(text, vocabulary):
        nearest = {word: f" (nearest: {', '.join(near)})" if near else "" for word, near in unknown.items()}
        named = ", ".join(f"{word[:40]!r}{near}" for word, near in nearest.items())
        advise(f"the {model} model has never seen {named}. It paints something all the same.")


def words(text: str) -> list[str]:
    """The words of a text in lower case, of any script; a run of Chinese characters is one word."""
    return re.findall(r"[^\W_\u4e00-\u9fff]+|[\u4e00-\u9fff]+", text.lower())


def unknown_words(text: str, vocabulary: Iterable[str], most: int = 10) -> dict[str, list[str]]:
    """The first words of a text that are not in the vocabulary, each with up to three known ones that look like it.

    Chinese is written without spaces, so there a character is known if it occurs in any known word.
    """
    known = sorted({word for entry in vocabulary for word in words(entry)})
    characters = set("".join(known))
    unknown = {}
    for word in dict.fromkeys(words(text)):
        if len(unknown) >= most:  # looking for the nearest takes some ms a word
            break
        if "\u4e00" <= word[0] <= "\u9fff":
            unknown |= {character: [] for character in word if character not in characters}
        elif word not in known:
            unknown[word] = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return unknown
