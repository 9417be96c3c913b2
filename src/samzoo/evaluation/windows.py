"""Volumes by sliding windows: where they lie, how they are weighted, and how their answers become native slices.

Positions and weights are nnU-Net's. Class logits of a whole volume may be too large to keep (61 classes of
300 x 512 x 512 voxels take 19 GB), so that everything here is a stream along depth: `stitched` holds the slices that
later windows still touch, `native_slices` two of those that are finished.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

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

OUTSIDE = -8.0
"""Logit where no crop lies: about that of a sure answer, so that interpolation ends what reaches the side of a crop
half a voxel beyond it."""


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


def native_part(
    crops: Sequence[tuple[Corner, Tensor]], grid: VolumeGrid, weights: Tensor
) -> tuple[Corner, Iterator[Tensor]]:
    """What `native_slices` would give for the weighted mean of some crops, only where they lie.

    Args:
        crops: first voxel and logits (1, 1, l, l, l) of each, which are resized trilinearly to that of `weights`.
        weights: (S, S, S), positive.

    Returns:
        the first native voxel (z, y, x) of the part, and its logits float32 (h, w) slice by slice; beyond them there is
        nothing above 0.
    """
    content = [(o, o + c) for o, c in zip(grid.offset, grid.content, strict=True)]
    ends = [(min(c[a] for c, _ in crops), max(c[a] for c, _ in crops) + weights.shape[a]) for a in range(3)]
    near = [max(first, a - 1) for (first, _), (a, _) in zip(content, ends, strict=True)]  # with one voxel around
    far = [min(last, b + 1) for (_, last), (_, b) in zip(content, ends, strict=True)]
    total = weights.new_zeros(2, *(b - a for a, b in zip(near, far, strict=True)))
    for corner, logits in crops:
        full = F.interpolate(logits.float(), tuple(weights.shape), mode="trilinear", align_corners=False)[0, 0]
        low = [max(c, a) for c, a in zip(corner, near, strict=True)]
        high = [min(c + n, b) for c, n, b in zip(corner, weights.shape, far, strict=True)]
        source = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
        target = tuple(slice(a - n, b - n) for a, b, n in zip(low, high, near, strict=True))
        total[0][target] += full[source] * weights[source]
        total[1][target] += weights[source]
    values = total[0].div_(total[1]).masked_fill_(total[1] == 0, OUTSIDE)

    places = []  # for each axis: first native voxel; for each, the two of `values` beside it and the second's share
    for axis, (a, b) in enumerate(ends):
        count, offset = grid.content[axis], grid.offset[axis]
        native = (np.arange(grid.native[axis]) + 0.5) * count / grid.native[axis] - 0.5
        position = np.clip(native, 0, count - 1) + offset
        kept = np.flatnonzero((position > a - 1) & (position < b))
        position = position[kept] - near[axis]
        lower = position.astype(int)
        upper = np.minimum(lower + 1, values.shape[axis] - 1)
        share = torch.from_numpy(position - lower).float().to(values.device)
        places.append((int(kept[0]), *(torch.from_numpy(i).to(values.device) for i in (lower, upper)), share))

    (_, *depth), (_, y0, y1, y), (_, x0, x1, x) = places

    @lru_cache(maxsize=2)  # neighbouring slices share a plane
    def plane(z: int) -> Tensor:
        rows = torch.lerp(values[z].index_select(0, y0), values[z].index_select(0, y1), y[:, None])
        return torch.lerp(rows.index_select(1, x0), rows.index_select(1, x1), x)

    slices = (torch.lerp(plane(z0), plane(z1), z) for z0, z1, z in zip(*(v.tolist() for v in depth), strict=True))
    return tuple(first for first, *_ in places), slices


def _in_plane(logits: Tensor, plane: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == plane:
        return logits
    return F.interpolate(logits[None], plane, mode="bilinear", align_corners=False)[0]
