"""Surface scores once more, by comparing every surface element with every other; slow, and plain to read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def inner_voxels(mask: np.ndarray) -> np.ndarray:
    """Voxels whose neighbours across all faces belong to the mask; beyond the array there is none."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return inner[(slice(1, -1),) * mask.ndim]


def surface_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(n, dim) mm, the middles of the mask's voxels that touch the background across a face."""
    return np.argwhere(mask & ~inner_voxels(mask)) * np.asarray(spacing, dtype=float)


def corner_points(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, list[tuple[bool, ...]]]:
    """(n, dim) mm, corners that voxels inside and outside share, and for each which of its voxels are inside."""
    padded, dim = np.pad(mask, 1), mask.ndim
    points, codes = [], []
    for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
        around = padded[tuple(slice(c, c + 2) for c in corner)].ravel()
        if around.any() and not around.all():
            points.append(corner)
            codes.append(tuple(bool(v) for v in around))
    return np.array(points, dtype=float).reshape(-1, dim) * np.asarray(spacing, dtype=float), codes


def nearest(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(n,) mm, from each point to the closest of the others."""
    return np.sqrt(((of[:, None] - to[None]) ** 2).sum(-1)).min(1)


def percentile(values: np.ndarray, percent: float) -> float:
    """With linear interpolation between the two closest values."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def hausdorff(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], percent: float = 95) -> float:
    """mm, the larger of the two directed percentiles over surface voxels."""
    p, t = surface_points(prediction, spacing), surface_points(truth, spacing)
    return max(percentile(nearest(p, t), percent), percentile(nearest(t, p), percent))


def hausdorff_by_transform(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """The same of 95 %, by distance transforms."""
    cross = ndimage.generate_binary_structure(truth.ndim, 1)
    p, t = (m & ~ndimage.binary_erosion(m, cross) for m in (prediction, truth))
    there, back = (ndimage.distance_transform_edt(~m, sampling=spacing) for m in (t, p))
    return max(np.percentile(there[p], 95), np.percentile(back[t], 95))


def contour_length(inside: tuple[bool, ...], spacing: Sequence[float]) -> float:
    """mm of contour at a corner of four pixels, by marching squares: cuts at the middles of the pixels' distances."""
    a, b, _, d = inside  # a and b over c and d
    diagonal = math.hypot(*spacing) / 2
    if sum(inside) in (1, 3):
        return diagonal
    if a == d:  # two opposite pixels
        return 2 * diagonal
    return spacing[1] if a == b else spacing[0]


def nsd_2d(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Length of contour within the tolerance of the other, of both, in shares of their whole length."""
    (p, p_codes), (t, t_codes) = corner_points(prediction, spacing), corner_points(truth, spacing)
    lengths = np.array([contour_length(code, spacing) for code in p_codes + t_codes])
    close = np.concatenate([nearest(p, t), nearest(t, p)]) <= tolerance + 1e-6
    return float(lengths[close].sum() / lengths.sum())


def nsd_unweighted(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """NSD that counts surface voxels instead of weighing them by area, as some libraries do."""
    p, t = surface_points(prediction, spacing), surface_points(truth, spacing)
    return float((np.concatenate([nearest(p, t), nearest(t, p)]) <= tolerance + 1e-6).mean())
