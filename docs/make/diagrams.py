"""The drawings of the network: whole and block by block, with the part lit that a notebook is about.

`python docs/make/diagrams.py` writes them to notebooks/img; a test holds the files equal to what this draws.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from flux_edu.configs import configs

FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"
INK, PALE, LINE = "#1a1a1a", "#f3f3f3", "#8a8a8a"
TXT, IMG, VEC, POS = "#fbe3b3", "#cfe3f5", "#d9eedd", "#f4d9e8"  # text, image, conditioning, positions
LIT = "#E69F00"

# which boxes of the whole network each notebook lights
CHAPTERS = {
    "01": ["schedule"],
    "02": ["noise", "patchify", "ids", "unpatchify"],
    "03": ["ids", "rope"],
    "04": ["schedule", "guidance", "embed", "vec", "double"],
    "05": ["single", "last"],
    "06": ["schedule", "guidance", "euler"],
    "07": ["prompt", "clip", "t5"],
    "08": ["unpatchify", "decoder", "picture"],
    "09": ["t5", "clip", "embed", "vec", "txt_in", "img_in", "double", "single", "last"],
    "10": ["guidance", "embed", "vec"],
}


class Drawing:
    """An SVG put together from boxes and arrows; boxes whose key is in `lit` stand out, the others step back."""

    def __init__(self, width: int, height: int, title: str, lit: Sequence[str] = ()):
        self.size, self.title, self.lit, self.known, self.parts = (width, height), title, set(lit), set(), []

    def box(self, key: str, x: float, y: float, w: float, h: float, text: str, colour: str = PALE) -> None:
        """A rounded box; the first line of the text is bold, the rest is small."""
        self.known.add(key)
        lit = key in self.lit
        dim = bool(self.lit) and not lit
        stroke = f"stroke='{LIT}' stroke-width='4'" if lit else f"stroke='{LINE}' stroke-width='1'"
        fill = "#ffffff" if dim else colour
        self.parts.append(f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='7' fill='{fill}' {stroke}/>")
        lines = text.split("\n")
        top = y + h / 2 - 8 * (len(lines) - 1)
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 16 * i + 5, line, 13 if i == 0 else 11, "middle", bold=i == 0, faint=dim)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 11,
        anchor: str = "start",
        bold: bool = False,
        faint: bool = False,
    ) -> None:
        weight, ink = "bold" if bold else "normal", "#6a6a6a" if faint else INK
        style = f"font-size='{size}' font-weight='{weight}' fill='{ink}' text-anchor='{anchor}'"
        self.parts.append(f"<text x='{x}' y='{y}' {style}>{escape(text)}</text>")

    def arrow(self, *points: tuple[float, float], head: bool = True) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        end = " marker-end='url(#head)'" if head else ""
        self.parts.append(f"<polyline points='{path}' fill='none' stroke='#555555' stroke-width='1.5'{end}/>")

    def svg(self) -> str:
        if unknown := self.lit - self.known:
            raise ValueError(
                f"nothing in this drawing is called {', '.join(sorted(unknown))}; there is {sorted(self.known)}"
            )
        w, h = self.size
        head = (
            "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7'"
            " orient='auto'>"
            "<path d='M0,0 L8,4 L0,8 z' fill='#555555'/></marker></defs>"
        )
        start = (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {w} {h}' width='{w}' height='{h}' role='img' {FONT}>"
        )
        ground = f"<rect width='{w}' height='{h}' fill='#ffffff'/>"
        return "\n".join([start, f"<title>{escape(self.title)}</title>", head, ground, *self.parts, "</svg>", ""])


def network(lit: Sequence[str] = ()) -> str:
    """The whole of FLUX.1: prompt, noise and noise level in, one velocity out, and the sampling loop around it."""
    d = Drawing(1000, 480, "FLUX.1 from a prompt to a picture", lit)
    # inputs
    d.box("schedule", 15, 20, 120, 46, "noise level t\nschedule · 01", VEC)
    d.box("guidance", 15, 76, 120, 46, "guidance w\n06", VEC)
    d.box("prompt", 15, 160, 120, 46, "prompt")
    d.box("noise", 15, 280, 120, 46, "noise ε\n16 × h × w · 02", IMG)
    # to the width of the model
    d.box("embed", 175, 20, 110, 102, "sinusoids\nand MLPs\n04", VEC)
    d.box("clip", 175, 136, 110, 42, "CLIP → y\nand MLP · 07", VEC)
    d.box("t5", 175, 190, 110, 42, "T5 → txt\n07", TXT)
    d.box("patchify", 175, 280, 110, 46, "patchify\nto tokens · 02", IMG)
    d.box("ids", 175, 350, 110, 46, "ids\n(0, row, col) · 02", POS)
    d.box("txt_in", 320, 190, 80, 42, "txt_in", TXT)
    d.box("img_in", 320, 280, 80, 46, "img_in", IMG)
    d.box("rope", 320, 350, 80, 46, "RoPE\n03", POS)
    d.box("vec", 320, 50, 80, 42, "vec\n04", VEC)
    # the blocks
    d.box("double", 445, 170, 130, 170, "19 × double\ntxt and img apart,\none attention\n04", IMG)
    d.box("single", 620, 170, 130, 170, "38 × single\n[txt, img] together,\nattention beside MLP\n05", IMG)
    d.box("last", 790, 255, 90, 85, "last layer\n→ velocity v\n05", IMG)
    d.box("euler", 790, 395, 90, 56, "Euler step\n06", VEC)
    d.box("unpatchify", 898, 280, 94, 46, "unpatchify\n02", IMG)
    d.box("decoder", 905, 190, 80, 46, "decoder\n08", IMG)
    d.box("picture", 905, 110, 80, 46, "picture")
    # what goes where
    for y in (43, 99):
        d.arrow((135, y), (175, y))
    d.arrow((285, 71), (320, 71))
    d.arrow((135, 176), (155, 176), (155, 157), (175, 157))
    d.arrow((135, 190), (155, 190), (155, 211), (175, 211))
    d.arrow((285, 157), (360, 157), (360, 92))
    d.arrow((285, 211), (320, 211))
    d.arrow((400, 211), (445, 211))
    d.arrow((135, 303), (175, 303))
    d.arrow((285, 303), (320, 303))
    d.arrow((400, 303), (445, 303))
    d.arrow((230, 326), (230, 350))
    d.arrow((285, 373), (320, 373))
    d.arrow((400, 373), (685, 373), (685, 340))
    d.arrow((510, 373), (510, 340))
    d.arrow((400, 71), (835, 71), (835, 255))
    d.arrow((510, 71), (510, 170))
    d.arrow((685, 71), (685, 170))
    d.text(590, 62, "vec steers every block: shift, scale, gate", 11, "middle")
    d.arrow((575, 211), (620, 211))
    d.arrow((575, 303), (620, 303))
    d.arrow((750, 303), (790, 303))
    d.text(770, 293, "img", 10, "middle")
    d.arrow((835, 340), (835, 395))
    d.arrow((790, 423), (303, 423), (303, 303), (320, 303))
    d.text(550, 441, "again with the next, smaller t, until t = 0", 11, "middle")
    d.arrow((880, 423), (945, 423), (945, 326))
    d.arrow((945, 280), (945, 236))
    d.arrow((945, 190), (945, 156))
    return d.svg()


def double_block(lit: Sequence[str] = ()) -> str:
    """One double-stream block, with the number of the equation beside each part."""
    d = Drawing(760, 560, "A double-stream block", lit)
    d.box("mod", 290, 16, 180, 50, "vec → SiLU → Linear\n2 × 6 modulations · 4.4", VEC)
    for name, x, colour in (("txt", 40, TXT), ("img", 520, IMG)):
        mid, side = x + 100, 40 if name == "txt" else -40
        d.text(mid, 28, f"{name} tokens", 13, "middle", bold=True)
        d.arrow((mid, 36), (mid, 84))
        d.box("modulate", x, 84, 200, 44, "(1 + s¹) ⊙ LN(x) + b¹\n4.5", colour)
        d.box("qkv", x, 150, 200, 44, "qkv → q, k, v of each head\n4.6", colour)
        d.box("qknorm", x, 216, 200, 44, "QK norm\n4.7", colour)
        d.box("proj", x, 376, 200, 44, "x + g¹ ⊙ proj(A)\n4.11", colour)
        d.box("mlp", x, 450, 200, 58, "x + g² ⊙ MLP(…)\n… = (1 + s²) ⊙ LN(x) + b²\n4.12", colour)
        for y, to in ((128, 150), (194, 216), (260, 290), (346, 376), (420, 450), (508, 548)):
            d.arrow((mid, y), (mid, to))
        out = x - 18 if name == "txt" else x + 218
        d.arrow((mid, 60), (out, 60), (out, 398), (x if name == "txt" else x + 200, 398))  # the residual path
        edge = x + 200 if name == "txt" else x
        d.arrow((290 if name == "txt" else 470, 50), (edge + side, 50), (edge + side, 106), (edge, 106))
        d.arrow((edge + side, 106), (edge + side, 398), (edge, 398))
        d.arrow((edge + side, 398), (edge + side, 479), (edge, 479))
    d.box(
        "attention",
        40,
        290,
        680,
        56,
        "one attention over [txt, img], q and k rotated by RoPE\nsplit again · 4.8 4.9 4.10",
        POS,
    )
    return d.svg()


def single_block(lit: Sequence[str] = ()) -> str:
    """One single-stream block, with the number of the equation beside each part."""
    d = Drawing(760, 400, "A single-stream block", lit)
    d.text(200, 24, "x = [txt, img]", 13, "middle", bold=True)
    d.box("mod", 470, 12, 220, 44, "vec → SiLU → Linear\nb, s, g · 5.1", VEC)
    d.box("modulate", 100, 70, 200, 44, "(1 + s) ⊙ LN(x) + b\n5.1", IMG)
    d.box("linear1", 100, 136, 460, 40, "linear1: D → 3D + 4D · 5.2", IMG)
    d.box("attention", 100, 204, 220, 58, "QK norm, RoPE, attention\nover all tokens\n5.3", POS)
    d.box("gelu", 340, 204, 220, 58, "GELU(m)\n5.3", IMG)
    d.box("linear2", 100, 290, 460, 40, "linear2: D + 4D → D · 5.3", IMG)
    d.box("gate", 100, 350, 460, 34, "x + g ⊙ o · 5.4", IMG)
    d.arrow((200, 32), (200, 70))
    d.arrow((200, 114), (200, 136))
    for x, text in ((210, "q, k, v: 3D"), (450, "m: 4D")):
        d.arrow((x, 176), (x, 204))
        d.text(x + 8, 194, text, 10)
        d.arrow((x, 262), (x, 290))
    d.arrow((330, 330), (330, 350))
    d.arrow((200, 46), (60, 46), (60, 367), (100, 367))  # the residual path
    d.arrow((640, 56), (640, 92), (300, 92))
    d.arrow((640, 92), (640, 367), (560, 367))
    return d.svg()


def doors() -> str:
    """The three doors by which a picture enters: more channels, more image tokens, more text tokens."""
    d = Drawing(760, 330, "Three doors for a picture: channels, image tokens, text tokens")
    for y, name, width in (
        (20, "Canny, Depth: a picture", "64 + 64"),
        (74, "Fill: the rest, and a mask", "64 + 64 + 256"),
    ):
        d.box(name, 20, y, 190, 42, f"{name.split(': ')[1]}\n{name.split(':')[0]}", IMG)
        d.arrow((210, y + 21), (300, y + 21))
        d.box(f"{name} token", 300, y, 190, 42, f"{width} channels\nevery image token", IMG)
        d.arrow((490, y + 21), (520, y + 21), (520, 150), (540, 150))
    d.box("reference", 20, 140, 190, 42, "a reference\nKontext", IMG)
    d.arrow((210, 161), (300, 161))
    d.box("longer", 300, 140, 190, 42, "L + L_r tokens\nids (1, row, column)", IMG)
    d.arrow((490, 161), (540, 161))
    d.box("seen", 20, 208, 190, 42, "a picture, seen by SigLIP\nRedux", TXT)
    d.arrow((210, 229), (300, 229))
    d.box("text", 300, 208, 190, 42, "512 + 729 text tokens\nids (0, 0, 0)", TXT)
    d.arrow((490, 229), (520, 229), (520, 172), (540, 172))
    d.box("start", 20, 276, 190, 42, "a picture\nimage to image", IMG)
    d.arrow((210, 297), (630, 297), (630, 208))
    d.text(300, 290, "no door: x_t itself, mixed with noise")
    d.box("flux", 540, 114, 180, 94, "transformer\nvelocity of the L tokens\nof the picture made", PALE)
    return d.svg()


def autoencoder() -> str:
    """The published encoder above and the decoder below: maps of one size share a column, tall where they are large."""
    p, tiny = configs["flux-dev"].ae_params, configs["tiny"].ae_params
    heights, last = (160, 126, 98, 76), len(p.ch_mult) - 1  # the picture is halved three times
    d = Drawing(1000, 426, "The autoencoder's encoder and decoder, stage by stage")

    def stage(
        x: float, y: float, width: float, level: int, channels: int, lines: list[str], colour: str = PALE
    ) -> None:
        """A box with the shape of its maps, after so many halvings."""
        side = f"/{2**level}" if level else ""
        text = "\n".join([f"{channels} × H{side} × W{side}", *lines])
        d.box(text, x, y - heights[level] / 2, width, heights[level], text, colour)

    for y, down in ((110, True), (310, False)):
        d.text(12, y - 90, "Encoder, from left to right" if down else "Decoder, from right to left", 13, bold=True)
        stage(12, y, 86, 0, p.in_channels, ["picture"], IMG)
        for level, factor in enumerate(p.ch_mult):
            lines = [f"convolution from {p.in_channels}"] if down and level == 0 else []
            lines += [f"{p.num_res_blocks + (not down)} residual blocks"]
            lines += ["then half the size"] if down and level < last else []
            lines += ["then twice the size"] if not down and level > 0 else []
            lines += [f"convolution to {p.out_ch}"] if not down and level == 0 else []
            stage(118 + 150 * level, y, 130, level, p.ch * factor, lines)
        lines = ["residual, attention,", "residual"]
        lines = [*lines, f"convolution to {2 * p.z_channels}"] if down else [f"convolution from {p.z_channels}", *lines]
        stage(718, y, 130, last, p.ch * p.ch_mult[-1], lines)
        for left, right in [(98, 118), *((x - 20, x) for x in range(268, 719, 150))]:
            d.arrow(*([(left, y), (right, y)] if down else [(right, y), (left, y)]))
    stage(868, 110, 124, last, 2 * p.z_channels, [f"{p.z_channels} means,", f"{p.z_channels} log variances"])
    stage(868, 210, 124, last, p.z_channels, ["latent z of 8.1,", "read by 8.2"], VEC)
    d.arrow((848, 110), (868, 110))
    d.arrow((930, 148), (930, 172))
    d.arrow((930, 248), (930, 310), (848, 310))
    widths = ", ".join(f"{tiny.ch * factor}" for factor in tiny.ch_mult)
    d.text(12, 412, f"The tiny autoencoder has the same stages, of {widths} channels.")
    return d.svg()


def drawings() -> dict[str, str]:
    """File name → SVG, for everything that the notebooks and the README show."""
    whole = {"flux.svg": network()} | {f"flux_{number}.svg": network(lit) for number, lit in CHAPTERS.items()}
    return whole | {
        "double_block.svg": double_block(),
        "single_block.svg": single_block(),
        "doors.svg": doors(),
        "autoencoder.svg": autoencoder(),
    }


if __name__ == "__main__":
    folder = Path(__file__).resolve().parents[2] / "notebooks" / "img"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawings().items():
        (folder / name).write_text(svg, encoding="utf-8", newline="\n")
        print(folder / name)
