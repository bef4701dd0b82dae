"""Every figure of the notebooks: pure functions from numbers to a matplotlib Figure, one file a chapter.

A figure's label (`fig.set_label`) is its alternative text, which `flux_edu.learn.explore` puts on the picture.
"""

from flux_edu.plots.style import new_figure as new_figure
