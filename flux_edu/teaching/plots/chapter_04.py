"""Figures of chapter 4: embeddings of numbers, modulation, and joint attention over text and image."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from flux_edu.embeddings import timestep_embedding
from flux_edu.modulation import ModulationOut, modulate
from flux_edu.schedule import get_schedule
from flux_edu.teaching.labs.attention_maps import quadrant_shares
from flux_edu.teaching.plots.style import BLACK, BLUE, GREEN, GREY, IMG, ORANGE, PINK, RED, SKY, TXT, new_figure

PARTS = {"shift b": GREEN, "scale s": PINK, "gate g": RED}  # the order of a modulation
STREAMS = {"txt": TXT, "img": IMG}


# ---------------------------------------------------------------- 4.1 to 4.3: numbers become a vector


def time_embedding(t: float = 0.5, dim: int = 256) -> Figure:
    """Eq. (4.1): all noise levels as rows of cosines and sines, and how alike the row of t is to every other."""
    timesteps = torch.linspace(0, 1, 401)
    emb, mine = timestep_embedding(timesteps, dim), timestep_embedding(torch.tensor([t]), dim)[0]
    near = torch.linspace(-0.05, 0.05, 201)
    alike = timestep_embedding(near + t, dim) @ mine / (dim / 2)
    fig, (left, right) = new_figure(
        1, 2, width=8.4, height=3, width_ratios=[1.25, 1], margins=(0.07, 0.98, 0.17, 0.89), wspace=0.24
    )
    left.imshow(emb.numpy(), aspect="auto", origin="lower", cmap="PuOr", vmin=-1, vmax=1, extent=(0, dim, 0, 1))
    left.axhline(t, color=BLACK, lw=1.5)
    left.axvline(dim / 2, color=BLACK, lw=1, ls=":")
    left.set(xlabel=f"channel ({dim // 2} cosines, then {dim // 2} sines)", ylabel="noise level t")
    left.set(xticks=[0, dim // 2, dim], yticks=[0, 0.5, 1])
    left.set_title("emb(t): purple is 1, white 0, orange -1", fontsize=10)
    right.plot(1000 * near, alike, color=BLUE)
    right.axvline(0, color=BLACK, lw=1.5)
    right.set(xlabel="u - t, in thousandths", ylabel="similarity of emb(u) and emb(t)", ylim=(0, 1.05))
    right.set(xticks=[-50, 0, 50], yticks=[0, 0.5, 1])
    shown = {
        gap: float(timestep_embedding(torch.tensor([t + gap]), dim)[0] @ mine) / (dim / 2) for gap in (0.001, 0.01)
    }
    right.set_title(f"1/1000 away: {shown[0.001]:.3f}, 10/1000 away: {shown[0.01]:.3f}", fontsize=10)
    fig.set_label(
        f"Left: the {dim} numbers of emb(t) for t from 0 to 1, fast stripes in the first cosines and sines and slow"
        f" ones in the last, a line at t = {t:.3f}. Right: the similarity of emb(t) with its neighbours falls from 1 to"
        f" {shown[0.001]:.3f} one thousandth away and {shown[0.01]:.3f} ten thousandths away."
    )
    return fig


def rounded_times(num_steps: int = 50, image_seq_len: int = 4096) -> Figure:
    """How far the number 1000 t is off when t, or the product, is kept in bfloat16."""
    t = torch.tensor(get_schedule(num_steps, image_seq_len)[:-1], dtype=torch.float64)
    errors = {
        "t to bfloat16, then × 1000 (reference)": ((1000 * t.bfloat16()).double() - 1000 * t, RED, "o"),
        "× 1000, then to bfloat16 (diffusers)": ((1000 * t).bfloat16().double() - 1000 * t, BLUE, "s"),
        "float32 (this package)": ((1000 * t.float()).double() - 1000 * t, GREEN, "x"),
    }
    fig, ax = new_figure(width=7.5, height=3.3)
    for name, (error, color, marker) in errors.items():
        label = f"{name}: at most {error.abs().max():.1f}"
        ax.plot(1000 * t, error, marker, color=color, ms=6, mfc="none", label=label)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(xlabel="1000 t of the schedule", ylabel="error, in thousandths", xlim=(1020, -20), ylim=(-4, 7))
    ax.legend(fontsize=8, loc="upper left", ncols=1)
    summary = "; ".join(f"{name}: at most {error.abs().max():.2f} thousandths" for name, (error, *_) in errors.items())
    fig.set_label(f"The error of 1000 t at the {num_steps} noise levels of a schedule. {summary}.")
    return fig


def terms_of_vec(changes: dict[str, Float[Tensor, "T"]], timesteps: Float[Tensor, "T"]) -> Figure:
    """How far the velocity moves when a term of the conditioning vector is left out or exchanged, from noise on."""
    fig, ax = new_figure(width=7, height=3.2)
    for (name, change), color in zip(changes.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
        ax.plot(timesteps, 100 * change, "o-", ms=3.5, color=color, label=name)
    ax.set(xlabel="noise level t", ylabel="change of the velocity, %", ylim=(0, None), xlim=(1.02, -0.02))
    ax.legend(fontsize=9, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    summary = ", ".join(f"{name}: {c.min():.0%} to {c.max():.0%}" for name, c in changes.items())
    fig.set_label(f"Relative change of the velocity over the noise level. {summary}.")
    return fig


def guidance_number(
    numbers: Float[Tensor, "W"], changes: dict[str, Float[Tensor, "W"]], w: float = 2.5, dim: int = 256
) -> Figure:
    """A guidance number as sinusoids, and how far a model's velocities move with it, a curve a noise level."""
    emb = timestep_embedding(torch.tensor([w, 1.0]), dim)
    at = int((numbers - w).abs().argmin())
    fig, (left, right) = new_figure(1, 2, width=8.4, height=2.9, margins=(0.1, 0.98, 0.17, 0.89), wspace=0.27)
    left.imshow(emb.numpy(), aspect="auto", cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest")
    left.axhline(0.5, color=BLACK, lw=1.5)
    left.set_yticks([0, 1], [f"emb({w:g})", "emb(1)"])
    left.set(xlabel=f"channel ({dim // 2} cosines, then {dim // 2} sines)", xticks=[0, dim // 2, dim])
    left.set_title(f"w = {w:g} goes in as {1000 * w:,.0f}", fontsize=10)
    for (name, change), color in zip(changes.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
        right.plot(numbers, 100 * change, color=color, label=f"{name}: {change[at]:.0%}")
        right.plot(numbers[at], 100 * change[at], "D", color=RED, ms=7)
    right.set(xlabel="guidance w", ylabel="change of the velocity\nagainst w = 1, %")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    summary = ", ".join(f"{name} {change[at]:.1%}" for name, change in changes.items())
    fig.set_label(
        f"Left: the {dim} sinusoids of guidance {w:g} and of guidance 1. Right: how far the velocity is"
        f" from that at w = 1 as w goes from {numbers[0]:g} to {numbers[-1]:g}; at {w:g}: {summary}."
    )
    return fig


# ---------------------------------------------------------------- 4.4 and 4.5: modulation


def modulated_token(shift: float = 0.5, scale: float = 1.0, gate: float = 1.0) -> Figure:
    """Eq. (4.5) on one token of twelve channels: two of them are stretched, moved and let in."""
    x = torch.tensor([2.1, 3.4, 1.2, 5.0, 2.6, 4.1, 0.4, 3.3, 2.9, 1.7, 3.8, 2.2])
    b, s, g = torch.zeros(3, 12)
    b[3:5], s[3:5], g[3:5] = shift, scale, gate
    zero = torch.zeros(1, 1, 12)
    norm = modulate(x[None, None], ModulationOut(shift=zero, scale=zero))[0, 0]
    out = modulate(x[None, None], ModulationOut(b[None, None], s[None, None]))[0, 0]
    fig, (left, right) = new_figure(1, 2, width=8.4, height=2.9, margins=(0.07, 0.98, 0.17, 0.89))
    channels = np.arange(12)
    left.axvspan(2.5, 4.5, color="#eeeeee")
    left.plot(channels, norm, "o", color=GREY, label="LN(x)")
    left.plot(channels, out, "D", color=BLUE, ms=5, label="(1 + s) ⊙ LN(x) + b")
    left.vlines(channels, norm.numpy(), out.numpy(), color=BLUE, lw=1)
    left.set(xlabel="channel", ylabel="value", ylim=(-5, 9), yticks=[-4, 0, 4, 8], xticks=[0, 3, 4, 11])
    left.legend(fontsize=8, loc="upper right")
    left.set_title(f"channels 3 and 4: s = {scale:g}, b = {shift:g}", fontsize=10)
    right.axvspan(2.5, 4.5, color="#eeeeee")
    right.bar(channels, (g * out).numpy(), color=RED)
    right.axhline(0, color=GREY, lw=0.8)
    right.set(
        xlabel="channel", ylabel="g ⊙ branch, added to x", ylim=(-12, 12), yticks=[-10, 0, 10], xticks=[0, 3, 4, 11]
    )
    right.set_title(f"gate {gate:g} in channels 3 and 4, 0 elsewhere", fontsize=10)
    fig.set_label(
        f"Left: twelve normed channels of a token; channels 3 and 4 go from {norm[3]:.2f} and {norm[4]:.2f} to"
        f" {out[3]:.2f} and {out[4]:.2f} under scale {scale:g} and shift {shift:g}. Right: with the gate at {gate:g}"
        f" there and 0 elsewhere, only these two reach the token: {g[3] * out[3]:.2f} and {g[4] * out[4]:.2f}."
    )
    return fig


def modulation_along_t(
    numbers: Float[Tensor, "blocks 2 T 6 D"],
    timesteps: Float[Tensor, "T"],
    t: float = 0.5,
    block: int = 0,
    stream: str = "img",
) -> Figure:
    """Eq. (4.4) along the noise level: the size of each part, and its numbers channel by channel at one t.

    numbers holds the modulations of every block, of its text and its image stream (in this order), at every time.
    """
    mine = numbers[block, list(STREAMS).index(stream)]
    at = int((timesteps - t).abs().argmin())
    size = mine.pow(2).mean(-1).sqrt()
    fig, (left, right) = new_figure(1, 2, width=8.4, height=3.1, margins=(0.08, 0.98, 0.16, 0.89), wspace=0.22)
    channels = torch.linspace(0, 100, 81)
    picked = (channels / 100 * (mine.shape[-1] - 1)).long()
    for j, (name, color) in enumerate(PARTS.items()):
        for branch, ls in enumerate("-:"):
            label = None if branch else name
            left.plot(timesteps, size[:, 3 * branch + j], color=color, ls=ls, label=label)
            right.plot(channels, mine[at, 3 * branch + j].sort().values[picked], color=color, ls=ls)
    left.axvline(t, color=BLACK, lw=1.2)
    left.set(xlabel="noise level t", ylabel="root mean square over channels", ylim=(0, 1.25 * float(size.max())))
    left.set(xlim=(1.02, -0.02), xticks=[1, 0.5, 0])
    left.locator_params(axis="y", nbins=4)
    left.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
    left.set_title(f"block {block}, {stream}: attention branch, MLP dotted", fontsize=10)
    right.axhspan(0, 1, color="#eeeeee")
    edge = 1.1 * float(mine.abs().max())
    right.set(xlabel="share of the channels, sorted by size, %", ylabel="value", ylim=(-edge, edge))
    right.set_xticks([0, 50, 100])
    right.locator_params(axis="y", nbins=5)
    right.set_title(f"t = {timesteps[at]:.2f}; grey: what a sigmoid could give", fontsize=10)
    gates = mine[at, [2, 5]]
    summary = ", ".join(f"{name}{'¹²'[i // 3]} {size[at, i]:.2f}" for i, name in enumerate([*PARTS, *PARTS]))
    fig.set_label(
        f"Modulation of double block {block}, {stream} stream. Left: root mean square along t; at"
        f" t = {timesteps[at]:.2f}: {summary}. Right: all channels at that t; the gates reach from {gates.min():.2f} to"
        f" {gates.max():.2f} and {(gates < 0).float().mean():.0%} of them are negative."
    )
    return fig


# ---------------------------------------------------------------- 4.6 to 4.10: attention


def qkv_rows(heads: int = 3, width: int = 4) -> Figure:
    """Eq. (4.6): the 3D rows of W_qkv as three cuts read them, coloured by q, k, v, with the number of the head."""
    orders = {"(qkv h k): FLUX": "qkv h k", "(qkv k h)": "qkv k h", "(h qkv k)": "h qkv k"}
    kind, head, _ = torch.meshgrid(torch.arange(3), torch.arange(heads), torch.arange(width), indexing="ij")
    colours = np.array([to_rgb(SKY), to_rgb(ORANGE), to_rgb(GREEN)])
    fig, axes = new_figure(3, 1, width=8, height=2.5, margins=(0.15, 0.985, 0.18, 0.98), sharex=True)
    fig.subplots_adjust(hspace=0.35)
    right, summaries = torch.stack([kind, head]).flatten(1), []
    for ax, (name, order) in zip(axes, orders.items(), strict=True):
        kinds, numbers = (rearrange(x, f"qkv h k -> ({order})") for x in (kind, head))
        ax.imshow(colours[kinds.numpy()][None], aspect="auto")
        for row, (of_kind, of_head) in enumerate(zip(kinds.tolist(), numbers.tolist(), strict=True)):
            ax.text(row, 0, f"{'qkv'[of_kind]}\n{of_head}", ha="center", va="center", fontsize=7)
        ax.set(yticks=[], ylabel=name)
        ax.yaxis.label.set(rotation=0, ha="right", va="center", fontsize=9)
        same = (torch.stack([kinds, numbers]) == right).all(0).sum()
        summaries.append(f"{name} gives {same} to the right head of the right kind")
    axes[-1].set_xlabel(f"row of W_qkv, D = {heads * width}")
    fig.set_label(f"The {len(kind.flatten())} rows of W_qkv under three cuts: {'; '.join(summaries)}.")
    return fig


def scores_before_and_after(before: Float[Tensor, "..."], after: Float[Tensor, "..."]) -> Figure:
    """Eq. (4.7): attention scores q · k / √d_h without and with QK norm."""
    fig, axes = new_figure(1, 2, width=8, height=2.8)
    sizes = []
    for ax, x, name, color in zip(
        axes, (before, after), ("without QK norm", "with QK norm"), (GREY, BLUE), strict=True
    ):
        ax.hist(x.flatten().numpy(), bins=60, color=color)
        sizes.append(f"{x.min():.1f} to {x.max():.1f}, standard deviation {x.std():.2f}")
        ax.set(xlabel="score q · k / √d_h", ylabel="pairs of tokens", yscale="log")
        ax.set_title(f"{name}\n{sizes[-1]}", fontsize=9)
    fig.set_label(f"Histograms of attention scores. Without QK norm: {sizes[0]}. With it: {sizes[1]}.")
    return fig


def attention_map(A: Float[Tensor, "H L L"], L_txt: int, head: int = 0, words: int | None = None) -> Figure:
    """Eq. (4.9): who takes from whom, with the borders of the four quadrants. words: the tokens before the padding."""
    mine, L = A[head], A.shape[-1]
    share = quadrant_shares(mine, L_txt).numpy()
    fig, (left, right) = new_figure(1, 2, width=8, height=3.9, margins=(0.05, 0.98, 0.13, 0.92), wspace=0.35)
    left.imshow(mine.sqrt().numpy(), cmap="viridis", vmin=0)
    left.axhline(L_txt - 0.5, color="white", lw=1.5)
    left.axvline(L_txt - 0.5, color="white", lw=1.5)
    if words is not None and words < L_txt:
        left.axvline(words - 0.5, color="white", lw=0.8, ls=":")
    middle = [L_txt / 2, (L + L_txt) / 2]
    left.set_xticks(middle, ["text", "image"])
    left.set_yticks(middle, ["text", "image"], rotation=90, va="center")
    left.set(xlabel="takes from token (key)", ylabel="token (query)")
    left.set_title(f"head {head}; the brightest weight is {mine.max():.2f}", fontsize=10)
    right.barh([0, 1], share[:, 0], color=TXT, label="from text")
    right.barh([0, 1], share[:, 1], left=share[:, 0], color=IMG, label="from image")
    for i in range(2):
        right.text(0.02, i, f"{share[i, 0]:.0%}", va="center", color=BLACK)
        right.text(0.98, i, f"{share[i, 1]:.0%}", va="center", ha="right", color="white")
    right.set_yticks([0, 1], ["text rows", "image rows"])
    right.invert_yaxis()
    right.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="share of the weight, mean over the rows")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    fig.set_label(
        f"Attention weights of head {head} as a {L} × {L} map, text tokens first. Text rows take {share[0, 0]:.0%} from"
        f" text and {share[0, 1]:.0%} from the image; image rows take {share[1, 0]:.0%} from text and {share[1, 1]:.0%}"
        " from the image."
    )
    return fig


def where_a_word_is_read(
    A: Float[Tensor, "H L L"], words: list[str], L_txt: int, grid: tuple[int, int], word: int = 0
) -> Figure:
    """How much every image token takes from one text token, laid out as the picture, one map a head."""
    maps = A[:, L_txt:, word].unflatten(-1, grid)
    fig, axes = new_figure(1, len(maps), width=9, height=2.3, margins=(0.01, 0.99, 0.12, 0.78), wspace=0.06)
    top = float(maps.max())
    for h, (ax, each) in enumerate(zip(axes, maps, strict=True)):
        ax.imshow(each.numpy(), cmap="viridis", vmin=0, vmax=top)
        ax.set(xticks=[], yticks=[], xlabel=f"head {h}")
        ax.set_title(f"max {each.max():.3f}", fontsize=9)
    fig.suptitle(f"what image tokens take from “{words[word]}” (even would be {1 / A.shape[-1]:.3f})", fontsize=10)
    summary = ", ".join(f"head {h} {each.max():.3f}" for h, each in enumerate(maps))
    fig.set_label(
        f"For every head a map of {grid[0]} × {grid[1]} image tokens: the weight each gives to the text token"
        f" “{words[word]}”. Largest weights: {summary}; an even share would be {1 / A.shape[-1]:.3f}."
    )
    return fig


# ---------------------------------------------------------------- mistakes


def defects_by_block(curves: dict[str, Sequence[float]], names: Sequence[str]) -> Figure:
    """How far a symmetry is broken behind every block, on a logarithmic scale."""
    fig, ax = new_figure(width=7.6, height=3.4)
    summaries = []
    for (name, sizes), colour in zip(curves.items(), (BLUE, GREEN, SKY, RED, ORANGE, PINK, BLACK), strict=False):
        ax.plot(range(len(names)), [max(size, 1e-8) for size in sizes], "o-", ms=4, lw=1.2, color=colour, label=name)
        summaries.append(f"{name}: {sizes[0]:.0e} behind the first, {sizes[-1]:.0e} behind the last")
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="behind block", ylabel="relative change of image tokens", ylim=(1e-8, 10))
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(f"Relative change of the image tokens behind every block. {'; '.join(summaries)}.")
    return fig
