"""Surface Dice (NSD) and the 95th percentile Hausdorff distance, in mm, computed by MONAI.

NSD weighs surface elements by their sub-voxel area (`use_subvoxels`, DeepMind's marching-cubes tables), so that
anisotropic voxels count by the surface that they stand for. HD95 is MONAI's: the larger of the two directed 95th
percentiles, linearly interpolated, over edge voxels (those with a background neighbour across a face), between their
middles. So NSD is the surface Dice of DeepMind's surface-distance (Nikolov et al., 2018, arXiv 1809.04430) and HD95 is
not its robust Hausdorff distance, which is a percentile by area; docs/guide.md has who agrees how closely.
Cases of depth 1 are scored as pictures, with contours instead of surfaces. A mask that reaches the border
of the array is closed there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from monai.metrics.utils import get_edge_surface_distance

TOLERANCES_MM = (1.0, 2.0)


@dataclass(frozen=True)
class Surface:
    """Surface scores of one class of one case; None is undefined.

    Args:
        nsd: one value in [0, 1] per tolerance. Both empty: undefined. Only one empty: 0.
        hd95: mm. Undefined if either is empty.
    """

    nsd: tuple[float | None, ...]
    hd95: float | None


def surface(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float],
    valid: np.ndarray | None = None,
    tolerances: Sequence[float] = TOLERANCES_MM,
) -> Surface:
    """Score one mask.

    Args:
        prediction, truth: bool (D, H, W).
        spacing: (3,) mm.
        valid: bool, voxels that count; the others are background in both. None: all.
        tolerances: mm.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction of shape {prediction.shape} and truth of shape {truth.shape} can't be compared")
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    found, there = bool(prediction.any()), bool(truth.any())
    if not (found and there):
        return Surface((0.0 if found or there else None,) * len(tolerances), None)
    spacing = [float(s) for s in spacing]
    if prediction.shape[0] == 1:
        prediction, truth, spacing = prediction[0], truth[0], spacing[1:]
    box = _bounding_slices(prediction | truth)
    prediction, truth = prediction[box], truth[box]
    p, t = torch.from_numpy(np.ascontiguousarray(prediction)), torch.from_numpy(np.ascontiguousarray(truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns about an argument of its own inner call
        edges, distances, areas = get_edge_surface_distance(p, t, spacing=spacing, use_subvoxels=True, symmetric=True)
        hd95 = compute_hausdorff_distance(p[None, None], t[None, None], True, percentile=95, spacing=spacing)
    weights = [a[e] for a, e in zip(areas, edges, strict=True)]
    total = float(sum(w.sum() for w in weights))
    nsd = tuple(
        float(sum(w[d <= limit].sum() for w, d in zip(weights, distances, strict=True))) / total for limit in tolerances
    )
    return Surface(nsd, float(hd95))


def _bounding_slices(mask: np.ndarray) -> tuple[slice, ...]:
    """Where a non-empty mask lies; MONAI adds the margin of background that it needs."""
    lines = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)
