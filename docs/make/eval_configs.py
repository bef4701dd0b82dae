"""What `evaluate` paints: models, steps, guidance, sizes and shifts, and which of them are compared."""

import itertools
from dataclasses import dataclass, replace

from flux_edu.configs import configs
from flux_edu.patchify import token_grid
from flux_edu.schedule import get_schedule
from flux_edu.train.data import SIZE

SQUARE = (SIZE, SIZE)


@dataclass(frozen=True)
class EvalConfig:
    """Who paints, in how many steps, how strongly guided, from which prompts, at which size and noise levels.

    shift_tokens is L of Eq. (1.5); 0 leaves the levels evenly spaced, None does what the model always does.
    """

    model: str
    steps: int
    guidance: float
    prompts: str = "English"
    size: tuple[int, int] = SQUARE  # width and height
    shift_tokens: int | None = None

    def __str__(self) -> str:
        text = f"{self.model}, {self.steps} steps, w = {self.guidance:g}, {self.prompts}"
        if self.size != SQUARE:
            text += f", {self.size[0]} × {self.size[1]}"
        if self.shift_tokens is not None:
            text += f", shift of {self.shift_tokens:,} tokens" if self.shift_tokens else ", no shift"
        return text

    def timesteps(self) -> list[float]:
        """The noise levels, Eq. (1.5)."""
        width, height = self.size
        rows, columns = token_grid(height, width)
        shift = configs[self.model].shift if self.shift_tokens is None else self.shift_tokens > 0
        return get_schedule(self.steps, self.shift_tokens or rows * columns, shift=shift)


def eval_configs(models: list[str], quick: bool) -> list[EvalConfig]:
    """What is painted; the first one of each model is the usual one, which the others are compared with."""
    chosen: list[EvalConfig] = []
    for name in models:
        w, usual, is_base = configs[name].guidance, configs[name].num_steps, configs[name].lora is None
        steps = [s for s in ((8, 4, 1) if quick else (8, 4, 2, 1)) if s != usual and (is_base or not quick)]
        scales = (1.5, 2.0, 5.0) if w > 0 and not quick else ()
        kinds = ["Chinese"] * (is_base or not quick) + ["trained"] * (is_base and not quick)
        chosen += [EvalConfig(name, s, w) for s in [usual, *steps]]
        chosen += [EvalConfig(name, usual, scale) for scale in scales]
        if is_base and not quick:
            chosen += [EvalConfig(name, s, scale) for s in (4, 2, 1) for scale in (1.0, 1.5, 2.0)]
        chosen += [EvalConfig(name, usual, w, kind) for kind in kinds]
    return chosen


def size_configs(models: list[str], sizes: list[tuple[int, int]]) -> list[EvalConfig]:
    """Each model as usual at each size; where the schedule is shifted also w = 2, and four steps of all kinds."""
    chosen: list[EvalConfig] = []
    for name, size in itertools.product(models, sizes):
        usual = EvalConfig(name, configs[name].num_steps, configs[name].guidance, size=size)
        chosen.append(usual)
        if configs[name].shift:
            few = [replace(usual, steps=4, guidance=w) for w in (usual.guidance, 2.0, 1.5, 1.0)]
            chosen += [replace(usual, guidance=2.0)]
            chosen += [replace(one, shift_tokens=tokens) for one in few for tokens in (None, 0, 4096)]
    return chosen


def comparisons(chosen: list[EvalConfig]) -> list[tuple[EvalConfig, EvalConfig]]:
    """Which settings are held against each other: those of a model and size against the usual one, a given shift
    against the model's own, dev and schnell against the base."""
    first = {(one.model, one.size): one for one in reversed(chosen)}
    pairs: list[tuple[EvalConfig, EvalConfig | None]] = []
    for one in chosen:
        usual = first[one.model, one.size]
        if one.shift_tokens is not None:
            pairs.append((one, replace(one, shift_tokens=None)))
        elif one != usual and one.prompts != "trained":
            pairs.append((one, usual))
        if one.model == "tiny-dev" and one.prompts == "English":
            pairs.append((one, replace(one, model="tiny")))
        if one.model == "tiny-schnell" and one.prompts == "English":
            pairs.append((one, first.get(("tiny", one.size))))
    return [(one, other) for one, other in pairs if other in chosen]
