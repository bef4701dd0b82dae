"""What is measured of pictures of one thing without a judge: connected regions, their colour, size and place."""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flux_edu.train.asked import CORNER, PLACES, TINTS, Asked, Catalogue
from flux_edu.train.data import COLOURS


def regions(pictures: Float[Tensor, "B 3 H W"]) -> list[Bool[np.ndarray, "k H W"]]:
    """The connected regions of each picture that are unlike its background, those of at least 0.4 % of it.

    The background is the median of the outermost two pixels. Gaps of a pixel are closed.
    """
    masks = []
    for picture in pictures.float():
        rim = [picture[:, :2], picture[:, -2:], picture[:, :, :2], picture[:, :, -2:]]
        ground = torch.cat([part.flatten(1) for part in rim], dim=1).median(dim=1).values
        unlike = ((picture - ground[:, None, None]).abs().amax(dim=0) > 0.2).byte().cpu().numpy()
        k, labels = cv2.connectedComponents(cv2.morphologyEx(unlike, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
        every = labels == np.arange(1, k)[:, None, None]
        masks.append(every[every.mean(axis=(1, 2)) >= 0.004])
    return masks


def at_its_place(centre: Float[np.ndarray, "2"], where: int) -> bool:
    """Whether a centre, x and y in parts of the picture, is at a place of `PLACES`.

    On each axis it is below 0.4, above 0.6 or in the middle between; "in the corner" it is in the middle of neither.
    """
    part = np.digitize(centre, (0.4, 0.6)) / 2
    if where == CORNER:
        return not (part == 0.5).any()
    return bool((part == list(PLACES.values())[where][1]).all())


def asked_verdict(
    catalogue: Catalogue, pictures: Float[Tensor, "B 3 H W"], asked: Asked
) -> dict[str, Bool[np.ndarray, "B"]]:
    """Whether as many connected regions as things were asked for, and in their colour, size and place.

    The colour is the named one nearest to the median over all regions; of a thing that is not tinted it is not judged
    and right. Size and place are those of the box round all regions, and wrong without any; small is a longer side of
    at most 0.4 of the picture's shorter one.
    """
    tints = torch.tensor([COLOURS[name] for name in TINTS]) / 127.5 - 1
    right: dict[str, list[bool]] = {"count": [], "tint": [], "small": [], "place": []}
    for i, masks in enumerate(regions(pictures)):
        right["count"].append(len(masks) == asked.count[i])
        name, there = catalogue.tint[asked.drawing[i]], torch.from_numpy(masks.any(axis=0))
        median = pictures[i].float().cpu()[:, there].median(dim=1).values if there.any() else torch.zeros(3)
        nearest = TINTS[int((tints - median).square().sum(dim=1).argmin())]
        right["tint"].append(name in ("", nearest))
        x, y, width, height = cv2.boundingRect(masks.any(axis=0).astype(np.uint8))
        size, centre = np.array(pictures.shape[:1:-1]), np.array([x + width / 2, y + height / 2])
        right["small"].append(width > 0 and (not asked.small[i] or max(width, height) <= 0.4 * min(size)))
        right["place"].append(width > 0 and at_its_place(centre / size, asked.where[i]))
    return {key: np.array(values) for key, values in right.items()}


_ONE, _BARE = dict(tinted=0.0, counted=0.0, placed=0.0, small=0.0), dict(styled=0.0, grounded=0.0, chinese=0.0)
# The rows of the evaluation: what is measured, what is drawn, and how it is said.
ROWS = {
    "bare names": ("object", _ONE, _BARE),
    "Chinese measure words": ("object", _ONE, _BARE | {"chinese": 1.0}),
    "counts": ("count", _ONE | {"counted": 2 / 3}, _BARE | {"grounded": 1.0}),
    "a thing's colour": ("tint", _ONE | {"tinted": 1.0}, _BARE | {"grounded": 1.0}),
    "small things": ("small", _ONE | {"small": 1.0}, _BARE | {"grounded": 1.0}),
    "corners and edges": ("place", _ONE | {"placed": 1.0}, _BARE | {"grounded": 1.0}),
}
