"""What runs in the reader's browser and needs no kernel: names for sliders, and a schedule that follows the hand.

Both are anywidgets whose JavaScript stands beside this file and travels with the notebook: nothing comes from the web.
"""

from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Labels(anywidget.AnyWidget):
    """Invisible. Gives every slider of the panel it stands in the name that a screen reader reads.

    The handles of ipywidgets' sliders have a role and a value but no name; here they get that of their description.
    """

    _esm = HERE / "labels.js"


class LiveSchedule(anywidget.AnyWidget):
    """The time shift of Eq. (1.3) and the levels of Eq. (1.5), drawn in the browser while μ or σ is dragged.

    mu and sigma are back in Python when the slider is let go.
    """

    _esm = HERE / "schedule.js"
    mu = traitlets.Float(1.15).tag(sync=True)
    sigma = traitlets.Float(1.0).tag(sync=True)
    steps = traitlets.Int(8).tag(sync=True)
