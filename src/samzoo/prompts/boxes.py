"""Boxes around a structure in a volume, as many as somebody draws. A picture is a volume of depth 1."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from samzoo.prompts.simulate import tight_box
from samzoo.types import Box

Draw = Callable[[np.ndarray], tuple[int, ...]]
"""How somebody draws a box around a mask (not empty); coordinates as of `tight_box`."""


def foreground_slices(truth: np.ndarray) -> list[int]:
    """Indices of the slices (axis 0) that hold foreground."""
    return np.flatnonzero(truth.any(axis=(1, 2))).tolist()


def boxes_per_slice(truth: np.ndarray, draw: Draw = tight_box) -> tuple[tuple[Box, ...], int]:
    """A box on each slice with foreground; boxes and how many of them a human draws."""
    boxes = tuple(_as_box(z, np.array(draw(truth[z]), dtype=float)) for z in foreground_slices(truth))
    return boxes, len(boxes)


def box_3d(truth: np.ndarray, draw: Draw = tight_box) -> tuple[tuple[Box, ...], int]:
    """One box around the whole structure."""
    x0, y0, z0, x1, y1, z1 = draw(truth)
    return (Box(z0, y0, x0, z1, y1, x1),), 1


def interpolated_boxes(truth: np.ndarray, draw: Draw = tight_box, *, drawn: int) -> tuple[tuple[Box, ...], int]:
    """Boxes on `drawn` foreground slices, evenly spread from first to last, linearly interpolated between."""
    slices = foreground_slices(truth)
    keys = sorted({slices[round(i)] for i in np.linspace(0, len(slices) - 1, drawn)})
    corners = {z: np.array(draw(truth[z]), dtype=float) for z in keys}
    boxes = [_as_box(keys[0], corners[keys[0]])]
    for a, b in pairwise(keys):
        for z in range(a + 1, b + 1):
            t = (z - a) / (b - a)
            boxes.append(_as_box(z, (1 - t) * corners[a] + t * corners[b]))
    return tuple(boxes), len(keys)


def _as_box(z: int, corners: np.ndarray) -> Box:
    x0, y0, x1, y1 = (int(v) for v in np.floor(corners + 0.5))
    return Box(z, y0, x0, z + 1, max(y1, y0 + 1), max(x1, x0 + 1))
