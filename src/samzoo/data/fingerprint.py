"""What a method may know of a data set before it is built: voxel sizes and extents of the training cases.

Median and target spacing follow nnU-Net v2's experiment planner (Isensee et al., Nat Methods 2021,
https://doi.org/10.1038/s41592-020-01008-z). Intensities are no part of it: `data.intensity` stands for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from PIL import Image

from samzoo.data.arrays import holds_arrays, read_arrays
from samzoo.data.decode import DecodeSettings, case_spacing
from samzoo.data.files import READ_ERRORS, Array, read_array
from samzoo.data.index import VOLUME_ENDINGS, CaseEntry
from samzoo.data.splits import NO_TRAINING
from samzoo.errors import DataError

ANISOTROPY = 3
"""How much coarser than the others an axis must be for a target of its own, and how many times fewer its voxels."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fingerprint:
    """Of a data set's training cases.

    Args:
        spacing: (3,) mm along D, H, W to which nnU-Net would resample: the medians; of a coarse axis the 10th
            percentile.
        shape: (D, H, W) median voxels at that spacing. Pictures have a depth of 1.
        cases: how many were measured.
    """

    spacing: Triple
    shape: tuple[int, int, int]
    cases: int


def measure(entries: Sequence[CaseEntry], settings: DecodeSettings) -> Fingerprint:
    """The fingerprint of these cases; of volumes and pictures only headers are read.

    Raises:
        DataError: no case, or a file that can't be read. ConfigError: settings that don't fit the files.
    """
    if not entries:
        raise DataError(f"there is no training case to measure: {NO_TRAINING}")
    measured = [case_extent(entry, settings) for entry in entries]
    shapes, spacings = (np.array(column, dtype=np.float64) for column in zip(*measured, strict=True))
    target = target_spacing(shapes, spacings)
    at_target = np.maximum(np.rint(shapes * spacings / target), 1)
    shape = np.maximum(np.rint(np.median(at_target, axis=0)), 1)
    return Fingerprint(tuple(target.tolist()), tuple(int(n) for n in shape), len(entries))


def target_spacing(shapes: np.ndarray, spacings: np.ndarray) -> np.ndarray:
    """nnU-Net's target spacing, (3,) mm: medians, but the 10th percentile of an axis that is coarse and short.

    Args:
        shapes: (N, 3) voxels.
        spacings: (N, 3) mm.
    """
    target, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finer, fewest = target[others].max(), shape[others].min()
    if target[worst] > ANISOTROPY * finer and ANISOTROPY * shape[worst] < fewest:
        target[worst] = max(np.percentile(spacings[:, worst], 10), finer)
    return target.round(6)


def case_extent(entry: CaseEntry, settings: DecodeSettings) -> tuple[tuple[int, int, int], Triple]:
    """Shape (D, H, W) and spacing (3,) mm that a case has once it is decoded.

    Raises:
        DataError: a file that can't be read. ConfigError: settings that don't fit it.
    """
    grid = _header(entry, settings)
    shape = settings.axes(grid).to_case(grid.data[0]).shape
    spacing = case_spacing(grid, settings)
    if grid.flat and settings.max_side is not None and max(shape) > settings.max_side:
        # as `decode` reduces it
        scale = settings.max_side / max(shape)
        reduced = (1, *(max(1, round(n * scale)) for n in shape[1:]))
        spacing = tuple(mm * n / to for mm, n, to in zip(spacing, shape, reduced, strict=True))
        shape = reduced
    return tuple(shape), spacing


def _header(entry: CaseEntry, settings: DecodeSettings) -> Array:
    """A case's first file without its values, where they can be left out; what is odd is read in full, to be told."""
    path = entry.images[0]
    if holds_arrays(path):
        first = read_arrays(entry.images[:1], "image")
        shape = first.data.shape[1:] if len(entry.images) == 1 else (*first.data.shape[1:3], len(entry.images))
        return _empty(shape, first.affine, first.spacing)
    try:
        if path.name.lower().endswith(VOLUME_ENDINGS):
            image = nib.load(path)
            affine = np.asarray(image.affine, dtype=np.float64)
            spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
            if len(image.shape) >= 2 and min(image.shape) > 0 and np.isfinite(affine).all() and (spacing > 0).all():
                return _empty((*image.shape, 1)[:3], affine, tuple(round(float(mm), 6) for mm in spacing))
        else:
            with Image.open(path) as picture:
                return _empty((1, picture.height, picture.width), np.eye(4), (1.0, 1.0, 1.0), flat=True)
    except (*READ_ERRORS, Image.DecompressionBombError):
        pass  # a TIFF that Pillow can't open, or a damaged file
    return read_array(path, settings.pictures)


def _empty(shape: Sequence[int], affine: np.ndarray, spacing: Triple, flat: bool = False) -> Array:
    return Array(np.broadcast_to(np.uint8(0), (1, *shape)), affine, spacing, flat=flat)
