"""Figures of chapter 7: tokens, what stands at the padding, order, who has seen whom, and what each encoder moves."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, new_figure

T5_COLOUR, CLIP_COLOUR = ORANGE, GREEN  # of the two encoders, in every figure of the chapter
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Zen Hei",
    "SimHei",
)


# ---------------------------------------------------------------- tokens


def token_labels(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Every token as it reads: ␣ for the space before a word, ⟨E7 8B⟩ for bytes that are only a part of a character."""
    labels, special = [], set(tokenizer.all_special_tokens)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    for piece in tokenizer.convert_ids_to_tokens(list(ids)):
        raw = bytes(byte_of[letter] for letter in piece) if piece not in special else piece.encode()
        try:
            labels.append(raw.decode().replace(" ", "␣"))
        except UnicodeDecodeError:
            labels.append(f"⟨{raw.hex(' ').upper()}⟩")
    return labels


@cache
def _chinese_font() -> str | None:
    known = set(font_manager.get_font_names())
    return next((name for name in CHINESE_FONTS if name in known), None)


def _drawable(label: str, font: str | None) -> str:
    """Characters that no font at hand can draw, by their number in Unicode."""
    return label if font else "".join(c if ord(c) < 0x2E80 else f"U+{ord(c):04X}" for c in label)


def token_strip(labels: Sequence[str], ids: Sequence[int], columns: int = 8) -> Figure:
    """A prompt as the encoders see it: one box a token with its number below, padding pale, the end token dark."""
    rows, font = -(-len(labels) // columns), _chinese_font()
    family = ["DejaVu Sans", *([font] if font else [])]
    fig, ax = new_figure(width=8.4, height=0.25 + 0.52 * rows, margins=(0.005, 0.995, 0.02, 0.98))
    for i, (label, number) in enumerate(zip(labels, ids, strict=True)):
        x, y = i % columns, -(i // columns)
        padding, end = label == "<pad>", label == "</s>"
        colour = "#ffffff" if padding else RED if end else "#fbe3b3"
        ax.add_patch(Rectangle((x - 0.46, y - 0.4), 0.92, 0.8, fc=colour, ec=GREY, lw=0.8))
        ink = "#ffffff" if end else GREY if padding else "#1a1a1a"
        shown = _drawable(label, font)
        ax.text(x, y + 0.1, shown, ha="center", va="center", fontsize=9, color=ink, family=family)
        ax.text(x, y - 0.24, str(number), ha="center", va="center", fontsize=7, color=ink)
        ax.text(x - 0.43, y + 0.28, str(i), ha="left", va="center", fontsize=6, color=ink)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(-rows + 0.5, 0.5))
    ax.set_axis_off()
    read = [label for label in labels if label != "<pad>"]
    fig.set_label(f"{len(read)} tokens: {' | '.join(read)}; then {len(labels) - len(read)} of padding.")
    return fig


def _ticks(ax, labels: Sequence[str], axis: str = "x", size: int = 8) -> None:
    """Tokens along an axis, upright where they would run into one another."""
    font = _chinese_font()
    shown = [_drawable(label, font).replace("<pad>", "·").lstrip("␣") or "␣" for label in labels]
    kwargs = dict(fontsize=size, family=["DejaVu Sans", *([font] if font else [])])
    if axis == "x":
        ax.set_xticks(range(len(labels)), shown, rotation=90, **kwargs)
    else:
        ax.set_yticks(range(len(labels)), shown, **kwargs)


# ---------------------------------------------------------------- T5: padding and order


def padding_states(
    labels: Sequence[str], unmasked: Float[Tensor, "L C"], masked: Float[Tensor, "L C"], empty: Float[Tensor, "L C"]
) -> Figure:
    """T5's states along the prompt: how long each is, and how like the empty prompt's state at the same place."""
    fig, (upper, lower) = new_figure(2, 1, width=8.4, height=4.2, sharex=True, margins=(0.08, 0.99, 0.24, 0.98))
    real = [label != "<pad>" for label in labels]
    colours = [T5_COLOUR if r else SKY for r in real]
    norms = unmasked.norm(dim=-1)
    likeness = _cosine(unmasked, empty)
    moved = (masked - unmasked).norm(dim=-1) / norms
    upper.bar(range(len(labels)), norms.numpy(), color=colours)
    upper.set(ylabel="length of\nthe state")
    lower.plot(
        likeness.numpy(), "o-", color=BLUE, ms=3, lw=1, label="cosine with the empty prompt's state at this place"
    )
    lower.plot(moved.numpy(), "s--", color=RED, ms=3, lw=1, label="relative change when padding is masked")
    lower.set(ylabel="number", ylim=(min(-0.05, float(likeness.min()) - 0.05), 1.35 * max(1.0, float(moved.max()))))
    lower.legend(fontsize=8, frameon=False, loc="upper right", ncols=2)
    lower.set_xlabel("position (orange: the prompt; blue: padding)")
    _ticks(lower, labels)
    n = sum(real)
    pad = f"the {len(real) - n} of padding {norms[n:].mean():.1f}" if n < len(real) else "no padding"
    like = f"{likeness[n:].mean():.2f} on the padding, " if n < len(real) else ""
    fig.set_label(
        f"Upper: mean length of the {n} states of the prompt {norms[:n].mean():.1f}, {pad}. Lower: cosine with the"
        f" empty prompt's states {like}{likeness[:n].mean():.2f} on the prompt; masking the padding changes the"
        f" prompt's states by {moved[:n].mean():.0%}."
    )
    return fig


def position_bias(table: Float[Tensor, "H distances"], head: int = 0, reach: int = 20) -> Figure:
    """What T5 adds to a score for the distance between two tokens: one line a head, the chosen one strong.

    The middle of the table is distance 0, a token looking at itself.
    """
    middle = table.shape[1] // 2
    distance = np.arange(-reach, reach + 1)
    rows = table[:, middle - reach : middle + reach + 1]
    fig, ax = new_figure(width=8, height=3.2, margins=(0.085, 0.985, 0.155, 0.92))
    for h, row in enumerate(rows):
        if h != head:
            ax.plot(distance, row.numpy(), color=GREY, lw=0.8, label="other heads" if h == (head == 0) else None)
    chosen = rows[head]
    ax.plot(distance, chosen.numpy(), "o-", color=T5_COLOUR, ms=3.5, label=f"head {head}")
    best = int(distance[int(chosen.argmax())])
    ax.axvline(0, color=GREY, lw=0.7, ls=":")
    ax.set(xlabel="distance: place of the token looked at − own place, in tokens", ylabel="added to the score")
    ax.set_title(f"head {head} likes the distance {best:+d} best", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    fig.set_label(
        f"T5's position bias of {len(table)} heads over the distance from -{reach} to {reach} tokens; head {head} runs"
        f" from {chosen.min():.2f} to {chosen.max():.2f} and is largest at distance {best:+d}."
    )
    return fig


# ---------------------------------------------------------------- who has seen whom


def who_sees_whom(changes: dict[str, Float[Tensor, "L L"]], labels: Sequence[str]) -> Figure:
    """For each encoder: exchange one token (row) and see which states (columns) move."""
    fig, axes = new_figure(1, len(changes), width=8.6, height=4.1, squeeze=False)
    summaries = []
    for ax, (name, change) in zip(axes[0], changes.items(), strict=True):
        seen = ax.imshow(change.numpy(), cmap="viridis", vmin=0, vmax=max(1e-9, float(change.max())))
        _ticks(ax, labels, "x")
        _ticks(ax, labels, "y")
        ax.set(xlabel="state that moves", ylabel="token that was exchanged", title=name)
        ax.spines[:].set_visible(False)
        fig.colorbar(seen, ax=ax, shrink=0.75, label="relative change")
        before = change.tril(-1)  # row later than column: a state before the exchanged token
        summaries.append(
            f"{name}: largest change before the exchanged token {before.max():.2f}, from it on {change.max():.2f}"
        )
    fig.set_label("Two maps, exchanged token against moved state. " + "; ".join(summaries) + ".")
    return fig


def reach_of_a_token(
    change: Float[Tensor, "L"], labels: Sequence[str], place: int = 0, name: str = "CLIP", pooled: int | None = None
) -> Figure:
    """Which states move when the token at `place` is exchanged; the pooled state, if any, in red."""
    fig, ax = new_figure(width=8.4, height=2.9, margins=(0.075, 0.99, 0.34, 0.91))
    colours = [BLUE] * len(labels)
    if pooled is not None:
        colours[pooled] = RED
    ax.bar(range(len(labels)), change.numpy(), color=colours)
    ax.axvline(place, color=ORANGE, lw=1.5, ls="--")
    ax.set(ylabel="relative change", xlabel="state", ylim=(0, 1.1 * max(0.1, float(change.max()))))
    moved = int((change > 1e-6).sum())
    ax.set_title(f"{name}: exchanging “{_drawable(labels[place], _chinese_font())}” moves {moved} states", fontsize=10)
    _ticks(ax, labels)
    end = f" The pooled state moves by {change[pooled]:.2f}." if pooled is not None else ""
    fig.set_label(
        f"{name}: after exchanging token {place}, {labels[place]}, {moved} of {len(labels)} states move, those before"
        f" it by at most {change[:place].max() if place else 0:.2f}, the others by up to {change[place:].max():.2f}."
        f"{end}"
    )
    return fig


# ---------------------------------------------------------------- prompts against prompts


def _cosine(a: Float[Tensor, "... C"], b: Float[Tensor, "... C"]) -> Float[Tensor, "..."]:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-12)


def similarity_map(vectors: Float[Tensor, "N C"], names: Sequence[str], title: str = "CLIP's pooled vectors") -> Figure:
    """Cosine similarity of every prompt's vector with every other's, after the mean of all is taken away."""
    centred = vectors - vectors.mean(0)
    matrix = _cosine(centred[:, None], centred[None])
    fig, ax = new_figure(width=7.2, height=4.2, margins=(0.36, 0.93, 0.12, 0.93))
    seen = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    _ticks(ax, names, "y")
    ax.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize=8)
    ax.set(xlabel="prompt, counted from above", title=title)
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            ax.text(
                j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.6 else "k"
            )
    fig.colorbar(seen, ax=ax, label="cosine")
    off = matrix.fill_diagonal_(-2)
    i, j = divmod(int(off.argmax()), len(names))
    fig.set_label(
        f"{title}: cosine similarity of {len(names)} prompts with each other. The closest pair is “{names[i]}” and"
        f" “{names[j]}” with {off.max():.2f}."
    )
    return fig


def words_move(
    words: Sequence[str],
    outputs: dict[str, Float[Tensor, "W"]],
    velocities: dict[str, Float[Tensor, "W"]],
) -> Figure:
    """Leave one word out: how far each encoder's output moves, and how far FLUX's velocity moves through it."""
    height = 0.9 + 0.34 * len(words)
    fig, axes = new_figure(
        1, 2, width=8.6, height=height, sharey=True, margins=(0.13, 0.985, 0.5 / height, 0.98), wspace=0.06
    )
    y, thick = np.arange(len(words)), 0.38
    panels = ((outputs, "the encoder's output"), (velocities, "FLUX's velocity"))
    for ax, (values, what) in zip(axes, panels, strict=True):
        for k, (name, each) in enumerate(values.items()):
            colour = T5_COLOUR if "T5" in name else CLIP_COLOUR
            ax.barh(y + (k - 0.5) * thick, each.numpy(), thick, color=colour, label=name)
        ax.set(xlabel=f"relative change of {what}")
        ax.legend(fontsize=8, frameon=False)
    _ticks(axes[0], words, "y", 9)
    axes[0].set(ylabel="word left out")
    axes[0].invert_yaxis()
    summaries = [f"{name} most by “{words[int(each.argmax())]}”, {each.max():.2f}" for name, each in velocities.items()]
    fig.set_label(f"Leaving out one of {len(words)} words. Velocity moves " + "; ".join(summaries) + ".")
    return fig


def text_mistakes(changes: dict[str, tuple[float, float]]) -> Figure:
    """Mistakes that raise no error: how far txt or vec moves, and the velocity with it."""
    fig, ax = new_figure(width=8, height=0.8 + 0.45 * len(changes))
    y, thick = np.arange(len(changes)), 0.38
    both = np.array(list(changes.values()))
    ax.barh(y - thick / 2, both[:, 0], thick, color=PINK, label="encoder's output")
    ax.barh(y + thick / 2, both[:, 1], thick, color=BLUE, label="velocity")
    ax.set_yticks(y, list(changes), fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("relative change")
    ax.legend(fontsize=8, frameon=False)
    summary = "; ".join(f"{name}: output {a:.0%}, velocity {b:.0%}" for name, (a, b) in changes.items())
    fig.set_label(f"Relative change by each mistake. {summary}.")
    return fig
