"""A canvas that remembers what words look like.

Most of the time that matplotlib takes for a small plot goes into its labels: laying out and rasterizing a word costs
about a millisecond. A slider draws the same words at the same places again and again, so here each is drawn once and
copied from then on. The pictures are those of matplotlib's own canvas (a test compares them).
"""

import io
import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from PIL import Image

MOST = 4000  # words kept, a few kilobytes each; then the memory starts anew
WORDS: dict[tuple, tuple[int, int, np.ndarray] | None] = {}  # how a word at a place looks: left, bottom, its pixels
SIZES: dict[tuple, tuple[float, float, float]] = {}  # its width, height and descent
HEIGHTS: dict[tuple, list[float | None]] = {}  # of all words in a font


class RememberingRenderer(RendererAgg):
    """matplotlib's renderer, with its functions for text answered from memory where they can be."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        ink = (*gc.get_rgb()[:3], gc.get_alpha())
        key = (s, x, y, angle, ismath, ink, prop, self.dpi, self.width, self.height)
        if key not in WORDS:
            if len(WORDS) >= MOST:
                WORDS.clear()
            WORDS[(*key[:6], prop.copy(), *key[7:])] = self._drawn_alone(ink, x, y, s, prop, angle, ismath, mtext)
        if WORDS[key] is not None:
            self.draw_image(gc, *WORDS[key])

    def _drawn_alone(self, ink, x, y, s, prop, angle, ismath, mtext):
        """The word on an empty ground just large enough, cut out; None when it is blank."""
        width, height, _ = self.get_text_width_height_descent(s, prop, ismath)
        far = math.ceil(width + height) + 4  # no pixel of the word is further from its place, whatever the angle
        aside, above = math.floor(x) - far, math.floor(y) - far
        ground = RendererAgg(2 * far, 2 * far, self.dpi)
        gc = ground.new_gc()
        gc.set_foreground(ink[:3])
        gc.set_alpha(ink[3])
        ground.draw_text(gc, x - aside, y - above, s, prop, angle, ismath, mtext)
        pixels = np.asarray(ground.buffer_rgba())
        rows, columns = np.nonzero(pixels[..., 3].any(1))[0], np.nonzero(pixels[..., 3].any(0))[0]
        if not len(rows):
            return None
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        word = pixels[top:bottom, left:right][::-1].copy()
        return int(left) + aside, self.height - int(bottom) - above, word

    def get_text_width_height_descent(self, s, prop, ismath):
        key = (s, ismath, prop, self.dpi)
        if key not in SIZES:
            if len(SIZES) >= MOST:
                SIZES.clear()
            SIZES[(s, ismath, prop.copy(), self.dpi)] = super().get_text_width_height_descent(s, prop, ismath)
        return SIZES[key]

    def _get_font_height_metrics(self, prop):
        """Ascent, descent and line gap of a font; untold, matplotlib 3.11 reads its tables again for every word."""
        key = (prop, self.dpi)
        if key not in HEIGHTS:
            font = self._prepare_font(prop)
            table, scale = font.get_sfnt_table("OS/2"), prop.get_size_in_points() * self.dpi / 72 / font.units_per_EM
            names = ("sTypoAscender", 1), ("sTypoDescender", -1), ("sTypoLineGap", 1)
            HEIGHTS[(prop.copy(), self.dpi)] = [sign * table[name] * scale if table else None for name, sign in names]
        return HEIGHTS[key]


class RememberingCanvas(FigureCanvasAgg):
    """A canvas with that renderer."""

    def get_renderer(self):
        size = (*self.get_width_height(), self.figure.dpi)
        if getattr(self, "renderer", None) is None or self._size != size:
            self.renderer, self._size = RememberingRenderer(*size), size
        return self.renderer


def pixels(fig: Figure) -> np.ndarray:
    """A figure drawn once, as an array (height, width, 3)."""
    canvas = fig.canvas if isinstance(fig.canvas, RememberingCanvas) else RememberingCanvas(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # the canvas draws on the same buffer the next time


def png(fig: Figure) -> bytes:
    """A figure as the bytes of a PNG file, at the figure's own dots per inch."""
    file = io.BytesIO()
    Image.fromarray(pixels(fig)).save(file, "png", compress_level=1)
    return file.getvalue()
