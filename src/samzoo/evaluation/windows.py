"""Volumes by sliding windows: where they lie, how they are weighted, and how their answers become native slices.

Positions and weights are nnU-Net's. Class logits of a whole volume may be too large to keep (61 classes of
300 x 512 x 512 voxels take 19 GB), so that everything here is a stream along depth: `stitched` holds the slices that
later windows still touch, `native_slices` two of those that are finished.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from samzoo.geometry import VolumeGrid

PEAK = 10.0
"""Of the importance map. Any would do; this one keeps its tails above 0 in half precision."""

Corner = tuple[int, int, int]
"""First voxel of a window: depth, height, width."""


def window_starts(size: Sequence[int], window: Sequence[int], step: float = 0.5) -> list[list[int]]:
    """First voxels of the windows along each axis: evenly spread from end to end, at most `step` windows apart.

    Args:
        size: of the grid, nowhere smaller than the window.
        step: share of the window's side, in (0, 1].

    Raises:
        ValueError: the grid is smaller than the window.
    """
    if any(n < side for n, side in zip(size, window, strict=True)):
        raise ValueError(f"a grid of {tuple(size)} does not hold a window of {tuple(window)}")
    starts = []
    for n, side in zip(size, window, strict=True):
        intervals = math.ceil((n - side) / (side * step))
        starts.append(sorted({round((n - side) / max(intervals, 1) * i) for i in range(intervals + 1)}))
    return starts


def importance_map(window: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights (*window): a Gaussian around the centre of sigma = side / 8 along each axis, nowhere 0."""
    delta = np.zeros(tuple(window))
    delta[tuple(side // 2 for side in window)] = 1
    weights = torch.from_numpy(gaussian_filter(delta, [side / 8 for side in window], mode="constant"))
    weights = (weights / (weights.max() / PEAK)).to(dtype)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def stitched(windows: Iterable[tuple[Corner, Tensor]], size: Corner, weights: Tensor) -> Iterator[Tensor]:
    """Weighted mean of overlapping windows, slice by slice.

    Args:
        windows: first voxel and logits (K, T, h, w) of each, in the order of depth; together they cover the grid.
        size: (D, H, W) of the grid.
        weights: (T, h, w), positive.

    Yields:
        float32 (K, H, W), D times. At no time are more than T slices kept.
    """
    sums: list[Tensor] = []  # (K + 1, H, W) of the slices from `first` on: weighted sum, then sum of weights
    first = 0

    def finish(count: int) -> Iterator[Tensor]:
        for _ in range(count):
            total = sums.pop(0)
            yield total[:-1].div_(total[-1])

    for (z, y, x), logits in windows:
        yield from finish(z - first)
        first = z
        depth, height, width = weights.shape
        while len(sums) < depth:
            sums.append(logits.new_zeros(len(logits) + 1, *size[1:], dtype=torch.float32))
        for k, total in enumerate(sums):
            part = total[:, y : y + height, x : x + width]
            part[:-1].addcmul_(logits[:, k].float(), weights[k])
            part[-1] += weights[k]
    yield from finish(size[0] - first)


def native_slices(slices: Iterable[Tensor], grid: VolumeGrid) -> Iterator[Tensor]:
    """Take logits back to native voxels, slice by slice: trilinear without corner alignment, the padding cut away.

    Args:
        slices: (K, H, W), all D of the grid in order.

    Yields:
        float32 (K, h, w), d times.
    """
    (depth, height, width), (front, top, left) = grid.content, grid.offset
    content = (
        _in_plane(s[:, top : top + height, left : left + width], grid.native[1:])
        for s in itertools.islice(slices, front, front + depth)
    )
    near = far = next(content)
    at = 0  # the slice of the content that is `near`; `far` is the next one, at the end the same
    if depth > 1:
        far = next(content)
    for z in range(grid.native[0]):
        position = min(max((z + 0.5) * depth / grid.native[0] - 0.5, 0.0), depth - 1.0)
        while at < int(position):
            at, near, far = at + 1, far, next(content, far)
        share = position - at
        yield torch.lerp(near, far, share) if share else near


def _in_plane(logits: Tensor, plane: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == plane:
        return logits
    return F.interpolate(logits[None], plane, mode="bilinear", align_corners=False)[0]
