"""The strict judge: it knows nothing but pixels, and needs the drawings themselves."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flux_edu.train.data import COLOURS, SIZE, Drawings, Scenes, paste
from flux_edu.train.judge_model import object_crops, views

NEAR = 20  # pixels a side that are compared


def painted_region(crops: Float[Tensor, "B 3 H W"], ground: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 20 20"]:
    """What stands on the background, stretched to 20 × 20: the smallest box round all pixels unlike the background.

    A row or column with a single such pixel does not count, it may be an error of the autoencoder.
    """
    unlike = (crops - ground[:, :, None, None]).abs().amax(1) > 0.2
    boxes = []
    for axis in (1, 2):  # columns, then rows
        some = (unlike.sum(axis) > 1).float()
        none = some.sum(1) == 0
        size = some.shape[1]
        low, high = some.argmax(1).float(), size - some.flip(1).argmax(1).float()
        boxes.append((torch.where(none, 0, low) * 2 / size - 1, torch.where(none, size, high) * 2 / size - 1))
    (left, right), (top, bottom) = boxes
    zero = torch.zeros_like(left)
    row_x = torch.stack([(right - left) / 2, zero, (left + right) / 2], 1)
    row_y = torch.stack([zero, (bottom - top) / 2, (top + bottom) / 2], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [len(crops), 3, 3 * NEAR, 3 * NEAR], align_corners=False)
    return F.avg_pool2d(F.grid_sample(crops, grid, padding_mode="border", align_corners=False), 3)


class NearestDrawing:
    """Nearest drawing at 20 × 20 pixels, among all drawings on the background that was asked for. Nothing is learned.

    It looks where the prompt says that things are. A blurred or half-right drawing seldom passes.
    """

    def __init__(self, drawings: Drawings):
        self.drawings = drawings
        self.banks: dict[int, Tensor] = {}

    def bank(self, colour: int) -> Float[Tensor, "N 1200"]:
        """Every drawing on this background, as a painted region."""
        if colour not in self.banks:
            half = self.drawings.half
            ground = torch.tensor(list(COLOURS.values())[colour], device=half.device) / 255
            regions = []
            for part in half.split(512):
                n = len(part)
                canvas = ground[None, :, None, None].expand(n, 3, SIZE // 2, SIZE // 2)
                place = torch.tensor([[58.0, 32.0, 32.0]], device=half.device).expand(n, 3)
                region = painted_region(paste(canvas, part, place) * 2 - 1, ground.expand(n, 3) * 2 - 1)
                regions.append(region.flatten(1))
            self.banks[colour] = torch.cat(regions)
        return self.banks[colour]

    @torch.no_grad()
    def nearest(self, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> Int[np.ndarray, "O"]:
        """The nearest drawing of each object of `object_crops`."""
        picture, view, _ = object_crops(scenes)
        ground = pictures[:, :, :2].flatten(2).median(dim=2).values
        drawing = np.zeros(len(picture), dtype=int)
        for colour in np.unique(scenes.colour):
            rows = np.flatnonzero(scenes.colour[picture] == colour)
            at, which = (torch.from_numpy(x[rows]).to(pictures.device) for x in (picture, view))
            regions = painted_region(views(pictures[at])[torch.arange(len(rows)).to(at.device), which], ground[at])
            drawing[rows] = torch.cdist(regions.flatten(1), self.bank(int(colour))).argmin(dim=1).cpu().numpy()
        return drawing

    def verdict(self, pictures: Float[Tensor, "B 3 128 128"], scenes: Scenes) -> dict[str, Bool[np.ndarray, "B"]]:
        """Whether the object is right and whether the style is, of a pair both."""
        picture, _, asked = object_crops(scenes)
        nearest = self.nearest(pictures, scenes)
        right = {}
        for key, kind in (("strict object", self.drawings.concept), ("strict style", self.drawings.style)):
            right[key] = np.bincount(picture, kind[nearest] != kind[asked], minlength=len(scenes)) == 0
        return right
