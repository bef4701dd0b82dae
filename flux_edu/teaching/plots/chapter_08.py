"""Figures of chapter 8: what a latent holds, what comes back, and what norms and paddings do."""

import string
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from flux_edu.teaching.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, new_figure


def as_pixels(x: Float[Tensor, "3 H W"]) -> np.ndarray:
    """Numbers in [-1, 1], cut off beyond, as 8-bit pixels that matplotlib draws."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def _bare(ax, picture: np.ndarray, title: str, **kwargs) -> None:
    ax.imshow(picture, interpolation="nearest", **kwargs)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9)


# ---------------------------------------------------------------- latents


def latent_maps(x: Float[Tensor, "3 H W"], z: Float[Tensor, "C h w"], caption: str = "a picture") -> Figure:
    """A picture beside the channels of its latent, all on one scale of colour."""
    C, columns = len(z), 8
    rows = -(-C // columns)
    places = [string.ascii_letters[:C][columns * row :][:columns].ljust(columns, ".") for row in range(rows)]
    fig, axes = new_figure(
        ";".join("00" + row for row in places),
        width=9,
        height=0.35 + 1.0 * rows,
        margins=(0.005, 0.995, 0.02, 0.9),
        wspace=0.08,
    )
    picture, *maps = axes.values()
    _bare(picture, as_pixels(x), f"3 × {x.shape[1]} × {x.shape[2]}")
    top = float(z.abs().max())
    for c, ax in enumerate(maps):
        ax.set_axis_off()
        ax.imshow(z[c].numpy(), cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        ax.set_title(f"{c}: {z[c].std():.1f}", fontsize=8, pad=2)
    strongest = int(z.flatten(1).std(dim=1).argmax())
    fig.set_label(
        f"{caption}, beside its latent: {C} channels of {z.shape[1]} × {z.shape[2]} places, blue negative, red"
        f" positive, over each its standard deviation. Channel {strongest} varies most, {z[strongest].std():.1f};"
        f" the largest value is {top:.1f}."
    )
    return fig


def latent_histogram(raw: Float[Tensor, "..."], scaled: Float[Tensor, "..."]) -> Figure:
    """How the encoder's numbers are spread before and after shift and scale, beside the noise they will meet."""
    fig, axes = new_figure(1, 2, width=8.2, height=2.8)
    x = np.linspace(-4, 4, 200)
    for ax, values, name in zip(axes, (raw, scaled), ("mean(enc(x))", "scale · (mean − shift)"), strict=True):
        ax.hist(values.flatten().numpy(), bins=80, range=(-4, 4), density=True, color=BLUE, label=name)
        ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=ORANGE, label="noise, N(0, 1)")
        ax.set(xlabel="number", ylabel="density", xlim=(-4, 4))
        ax.set_title(f"mean {values.mean():.3f}, standard deviation {values.std():.3f}", fontsize=10)
        ax.legend(fontsize=8, frameon=False)
    fig.set_label(
        f"Two histograms of latent numbers beside a normal curve. Before: mean {raw.mean():.3f}, standard deviation"
        f" {raw.std():.3f}; after shift and scale {scaled.mean():.3f} and {scaled.std():.3f}."
    )
    return fig


# ---------------------------------------------------------------- round trips


def came_back(x: Float[Tensor, "3 H W"], y: Float[Tensor, "3 H W"], psnr: float, caption: str = "a picture") -> Figure:
    """A picture, what came back of it, and where the two differ."""
    off = (x - y.clamp(-1, 1)).abs().mean(0) * 127.5
    fig, axes = new_figure(1, 3, width=7.6, height=2.8, margins=(0.01, 0.99, 0.02, 0.8), wspace=0.05)
    _bare(axes[0], as_pixels(x), "before")
    _bare(axes[1], as_pixels(y), f"back: {psnr:.1f} dB")
    _bare(axes[2], off.numpy(), f"difference, at most {off.max():.0f} of 255", cmap="magma", vmin=0, vmax=64)
    fig.suptitle(caption if caption.isascii() else "a picture with a Chinese caption", fontsize=10, y=0.98)
    fig.set_label(
        f"{caption}: before, after the round trip with {psnr:.1f} dB, and the difference, at most {off.max():.0f} of"
        f" 255 steps at a pixel and {off.mean():.1f} on the average."
    )
    return fig


def quality_curves(
    channels: Sequence[int], kept: Sequence[float], noise: Sequence[float], noisy: Sequence[float]
) -> Figure:
    """How well pictures come back with fewer channels of the latent, and with noise added to it."""
    fig, (left, right) = new_figure(1, 2, width=8.2, height=2.9, sharey=True)
    left.plot(channels, kept, "o-", color=BLUE, ms=4)
    left.set(xlabel="channels kept", ylabel="PSNR, dB", xticks=channels)
    right.plot(noise, noisy, "s-", color=RED, ms=4)
    right.set(xlabel="standard deviation of the noise added")
    for ax in (left, right):
        ax.grid(color="#e6e6e6")
    fig.set_label(
        f"Left: PSNR over the number of channels kept, {kept[0]:.1f} dB with {channels[0]} to {kept[-1]:.1f} dB with"
        f" {channels[-1]}. Right: PSNR over the noise added, {noisy[0]:.1f} dB without noise to {noisy[-1]:.1f} dB at a"
        f" standard deviation of {noise[-1]:g}."
    )
    return fig


def pixels_moved(change: Float[Tensor, "H W"], row: int = 8, column: int = 8, factor: int = 8) -> Figure:
    """How far every pixel moves when one place of the latent is changed, on a logarithmic scale, and the shares."""
    H, W = change.shape
    fig, (left, right) = new_figure(
        1, 2, width=8, height=3.3, width_ratios=[1, 1.1], margins=(0.07, 0.985, 0.15, 0.92), wspace=0.4
    )
    seen = left.imshow((change + 1e-6).log10().numpy(), cmap="viridis", vmin=-4, vmax=0)
    left.add_patch(Rectangle((column * factor - 0.5, row * factor - 0.5), factor, factor, fill=False, ec=RED, lw=1.5))
    left.set(xlabel="pixel column", ylabel="pixel row")
    left.set_title(f"latent place ({row}, {column}) changed", fontsize=10)
    fig.colorbar(seen, ax=left, label="log₁₀ of the change", shrink=0.9)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    middle = factor / 2 - 0.5
    far = torch.maximum((y - row * factor - middle).abs(), (x - column * factor - middle).abs())
    widths = torch.arange(1, 2 * max(H, W) // factor, 2)  # whole latent places: 1, 3, 5 …
    shares = [float(change[far < factor * w / 2].sum() / change.sum()) for w in widths.tolist()]
    right.plot((widths * factor).numpy(), shares, "o-", color=BLUE, ms=3)
    right.axvline(factor, color=RED, lw=1)
    right.set(xlabel="side of a square around the place, pixels", ylabel="share of all change", ylim=(0, 1.03))
    fig.set_label(
        f"Left: a map of how far pixels move when the latent's place ({row}, {column}) changes; its own 8 × 8 pixels"
        f" are framed. Right: {shares[0]:.0%} of the change falls within them, {shares[1]:.0%} within 24 × 24,"
        f" {shares[2]:.0%} within 40 × 40 pixels."
    )
    return fig


# ---------------------------------------------------------------- parts


def stride_two(size: int = 8, padding: str = "below and right") -> Figure:
    """Which inputs each output of the halving convolution reads, along one axis, with zeros at one end or at both."""
    before = 0 if padding == "below and right" else 1
    fig, ax = new_figure(width=7.5, height=2.3, margins=(0.125, 0.985, 0.22, 0.89))
    n = size // 2
    for out in range(n):
        reads = [2 * out - before + k for k in range(3)]
        for i in reads:
            ax.plot([i, (reads[0] + reads[2]) / 2], [0, 1], color=GREY, lw=0.9, zorder=0)
        ax.plot((reads[0] + reads[2]) / 2, 1, "o", color=BLUE, ms=13)
        ax.text((reads[0] + reads[2]) / 2, 1, str(out), ha="center", va="center", color="white", fontsize=8)
    zeros = [size] if before == 0 else [-1]
    for i in [*range(size), *zeros]:
        zero = i in zeros
        ax.plot(i, 0, "s", color="white" if zero else ORANGE, mec=GREY, ms=13)
        ax.text(i, 0, "0" if zero else str(i), ha="center", va="center", fontsize=8)
    ax.set(xlim=(-1.6, size + 0.6), ylim=(-0.35, 1.35), xlabel="place along one axis")
    ax.set_yticks([0, 1], ["pixels read", "outputs"])
    ax.set_title(f"zeros {padding}: output i is centred on pixel 2i{' + 1' if before == 0 else ''}", fontsize=10)
    first = ", ".join(str(i) if 0 <= i < size else "zero" for i in range(-before, 3 - before))
    fig.set_label(
        f"{size} pixels and {n} outputs of a 3-wide convolution with stride 2, zeros {padding}: output 0 reads pixels"
        f" {first}, and output i is centred on pixel 2i{' + 1' if before == 0 else ''}."
    )
    return fig


def plain_colours(
    levels: Float[Tensor, "N"], outputs: dict[str, Float[Tensor, "N 3"]], title: str = "an untrained decoder"
) -> Figure:
    """What a decoder makes of plain latents from dark to bright: three colours each, a panel for every kind of norm."""
    fig, axes = new_figure(1, len(outputs), width=8.2, height=3, sharey=True, squeeze=False)
    summaries = []
    for ax, (name, out) in zip(axes[0], outputs.items(), strict=True):
        for c, colour in enumerate((RED, GREEN, BLUE)):
            ax.plot(levels.numpy(), out[:, c].numpy(), "o-", color=colour, ms=3, label=("red", "green", "blue")[c])
        spread = float(out.std(dim=0).mean())
        ax.set_title(f"{name}: spread {spread:.1e}", fontsize=10)
        ax.set(xlabel="level of the plain latent")
        summaries.append(f"{name} {spread:.1e}")
    axes[0, 0].set_ylabel("colour of the middle pixel")
    axes[0, -1].legend(fontsize=8, frameon=False)
    fig.set_label(
        f"{title}: colour that comes out over the level of the plain latent that goes in. Spread of the outputs:"
        f" {'; '.join(summaries)}."
    )
    return fig


def sizes_inside(
    side: int = 1024, ch: int = 128, ch_mult: Sequence[int] = (1, 2, 4, 4), z_channels: int = 16
) -> Figure:
    """How many numbers stand at each stage of the encoder for a square picture of this side."""
    names, numbers = ["picture"], [3 * side * side]
    for level, m in enumerate(ch_mult):
        s = side >> level
        names.append(f"{ch * m} × {s}²")
        numbers.append(ch * m * s * s)
    s = side >> (len(ch_mult) - 1)
    names.append(f"latent\n{z_channels} × {s}²")
    numbers.append(z_channels * s * s)
    fig, ax = new_figure(width=7.5, height=2.9)
    colours = [ORANGE, *[GREY] * len(ch_mult), BLUE]
    ax.bar(range(len(names)), np.array(numbers) / 1e6, color=colours)
    for i, n in enumerate(numbers):
        ax.text(i, n / 1e6, f"{n / 1e6:.3g}", ha="center", va="bottom", fontsize=9)
    ax.set_xticks(range(len(names)), names, fontsize=9)
    ax.set(ylabel="numbers, millions", yscale="log", xlabel="stage: channels × side²")
    fig.set_label(
        f"Numbers at each stage of the encoder for {side} × {side} pixels, in millions: "
        + ", ".join(f"{' '.join(name.split())} {n / 1e6:.3g}" for name, n in zip(names, numbers, strict=True))
        + f". The latent is {numbers[0] / numbers[-1]:.0f} times smaller than the picture."
    )
    return fig


def round_trip_mistakes(results: dict[str, float]) -> Figure:
    """How well pictures come back when something is done wrong that raises no error."""
    fig, ax = new_figure(width=7.8, height=0.7 + 0.34 * len(results))
    names, values = list(results), list(results.values())
    ax.barh(names, values, color=[GREEN, *[PINK] * (len(names) - 1)])
    for i, value in enumerate(values):
        ax.text(value, i, f" {value:.1f}", va="center", fontsize=9)
    ax.set_xlim(min(0, *values), 1.12 * max(values))
    ax.invert_yaxis()
    ax.set_xlabel("PSNR, dB")
    fig.set_label("PSNR of round trips: " + "; ".join(f"{n} {v:.1f} dB" for n, v in results.items()) + ".")
    return fig
