"""Which masks of a label map are asked for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from samzoo.types import IGNORE

Objects = Literal["class", "component"]
"""A mask is a whole class of a slice, or one 8-connected part of it (as in SAM-Med2D's own data)."""


def object_map(label: Tensor, objects: Objects) -> Tensor:
    """int64 (B, S, S) labels -> int64 (B, S, S), 0 for nothing (and ignored pixels), 1, 2, ... for each object."""
    label = torch.where(label == IGNORE, 0, label)
    if objects == "class":
        return label
    parts = np.zeros(tuple(label.shape), dtype=np.int64)
    for picture, out in zip(label.cpu().numpy(), parts, strict=True):
        total = 0
        for value in np.unique(picture[picture > 0]):
            found, count = ndimage.label(picture == value, np.ones((3, 3)))
            out[found > 0] = found[found > 0] + total
            total += count
    return torch.from_numpy(parts).to(label.device)


def draw_masks(objects: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` objects per picture, uniform with replacement, picture after picture; pictures without any give none.

    Args:
        objects: int64 (B, S, S), see `object_map`.

    Returns:
        image_index int64 (P,), target bool (P, 1, S, S).
    """
    present = objects.new_zeros(len(objects), int(objects.max()) + 1).scatter_(1, objects.flatten(1), 1).cpu()
    present[:, 0] = 0
    rows = present.any(1).nonzero()[:, 0]
    if not len(rows):
        return rows.to(objects.device), objects.new_zeros(0, 1, *objects.shape[1:], dtype=torch.bool)
    drawn = torch.multinomial(present[rows].double(), count, replacement=True, generator=generator)
    index = rows.repeat_interleave(count).to(objects.device)
    wanted = drawn.flatten().to(objects.device)
    return index, objects[index, None] == wanted[:, None, None, None]
