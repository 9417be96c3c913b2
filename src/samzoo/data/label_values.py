"""Values of masks and label maps: which are sound, and which class each of them is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samzoo.data.index import PICTURE_ENDINGS, ClassTable
from samzoo.errors import DataError


def above_threshold(data: np.ndarray, threshold: int, path: Path) -> np.ndarray:
    """A mask with noise (C, i, j, k) -> uint8 (i, j, k), 1 where its grey exceeds the threshold.

    A mask of nothing but 0 and 1 is taken as it is.

    Raises:
        DataError: NaN or infinite, or a mask in colours, whose grey says little about what is meant.
    """
    if not np.isfinite(data).all():
        raise DataError(f"{path}: label holds NaN or infinite values")
    if len(data) > 1 and float(np.ptp(data.astype(np.float32), axis=0).max()) > threshold:
        raise DataError(f"{path}: a mask in colours; data.mask_threshold is for grey masks of one class")
    if data.dtype.kind in "ui" and data.max() <= 1:
        return data[0].astype(np.uint8)
    return ((data[0] if len(data) == 1 else data.mean(0)) > threshold).astype(np.uint8)


def noise_hint(table: ClassTable, path: Path) -> str:
    """What else to do about a picture's odd mask values, where there is one class."""
    if len(table.names) > 1 or not path.name.lower().endswith(PICTURE_ENDINGS):
        return ""
    return "; if this is noise, as JPEG and interpolation make it, set data.mask_threshold: 127"


def as_integers(values: np.ndarray, path: Path) -> np.ndarray:
    """Raises DataError: label values with a fraction, NaN or infinity."""
    if values.dtype.kind in "ui":
        return values
    if not np.isfinite(values).all():
        raise DataError(f"{path}: label holds NaN or infinite values")
    rounded = np.rint(values)
    if (odd := values[np.abs(values - rounded) > 1e-4]).size:
        raise DataError(
            f"{path}: label values must be integers, found {float(odd.flat[0]):.4g} and {odd.size - 1} more like it; "
            "was it resampled with interpolation?"
        )
    return rounded.astype(np.int64)


def map_values(values: np.ndarray, table: ClassTable, path: Path) -> np.ndarray:
    """Source values -> uint8 class ids. Raises DataError: a value that isn't in the table."""
    ids = table.ids()
    present = present_values(values)
    if unknown := [v for v in present if v not in ids]:
        voxels = int(np.isin(values, unknown).sum())
        raise DataError(
            f"{path}: label values {unknown[:8]} ({voxels} voxels) are not in the data set's table {sorted(ids)}; "
            "correct the label, or name the values, in dataset.json or, where there is none, with data.classes"
            f"{noise_hint(table, path)}"
        )
    if set(ids) == {0, 1, 255} and {1, 255} <= set(present) and ids[1] == ids[255]:
        raise DataError(
            f"{path}: a binary mask holds both 1 and 255; name what they mean with data.classes, for example "
            "{organ: 1, ignore: 255}"
        )
    low = min(present)
    lookup = np.zeros(max(present) - low + 1, dtype=np.uint8)
    for v in present:
        lookup[v - low] = ids[v]
    return lookup[values.astype(np.int64) - low]


def present_values(values: np.ndarray) -> list[int]:
    """Sorted distinct values; counted instead of sorted where their range is small, which is far faster."""
    low, high = int(values.min()), int(values.max())
    if high - low > 65535:
        return [int(v) for v in np.unique(values)]
    return [int(v) + low for v in np.flatnonzero(np.bincount(values.ravel().astype(np.int64) - low))]
