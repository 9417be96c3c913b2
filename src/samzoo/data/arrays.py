"""Image and label in one file of arrays: slices in .npz, volumes in .h5. Neither holds a spacing.

Nothing in such a file is run: no pickled objects, no links to other files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from samzoo.data.files import READ_ERRORS, Array, check_size, exists
from samzoo.errors import DataError

ARRAY_ENDINGS = (".npz", ".h5")
FAULTS = (*READ_ERRORS, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile)


def holds_arrays(path: Path) -> bool:
    """Whether a file is of this form, by its ending."""
    return path.name.lower().endswith(ARRAY_ENDINGS)


def read_arrays(paths: Sequence[Path], name: str) -> Array:
    """One array of a case: of its volume, or of its slices, stacked in the order given.

    Args:
        paths: a single .h5 with (D, H, W), or .npz files with (H, W).
        name: "image" or "label".

    Returns:
        its axes are those of a NIfTI file (W, H, D); affine is the identity, spacing 1, both for want of better.

    Raises:
        DataError: missing, damaged, cut short, without the array, not of real numbers, slices of different shapes.
    """
    wanted = 3 if len(paths) == 1 and paths[0].suffix.lower() == ".h5" else 2
    planes = []
    for path in paths:
        array = _read(path, name)
        if array.dtype.kind not in "uifb":
            raise DataError(f"{path}: array {name!r} is {array.dtype}; samzoo reads real numbers only")
        if array.ndim != wanted or min(array.shape) < 1:
            axes = "(depth, height, width)" if wanted == 3 else "(height, width)"
            raise DataError(f"{path}: array {name!r} has shape {array.shape}; expected {axes}")
        if planes and array.shape != planes[0].shape:
            raise DataError(f"{path}: array {name!r} has shape {array.shape}, {paths[0]} has {planes[0].shape}")
        planes.append(array)
    volume = planes[0] if wanted == 3 else np.stack(planes)
    if volume.dtype.kind == "b":
        volume = volume.astype(np.uint8)
    return Array(volume.transpose(2, 1, 0)[None], np.eye(4), (1.0, 1.0, 1.0))


def _read(path: Path, name: str) -> np.ndarray:
    if not exists(path):
        raise DataError(f"{path}: file is missing")
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                _require(name, file.files, path)
                if not isinstance(array := file[name], np.ndarray):
                    raise DataError(f"{path}: {name!r} is not an array; fetch the file again")
                return array
        with h5py.File(path, "r") as file:
            _require(name, list(file), path)
            if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
                raise DataError(f"{path}: {name!r} is a group or a link, not an array")
            if file[name].dtype.kind not in "uifb" or file[name].shape is None:  # before anything of it is read
                raise DataError(f"{path}: array {name!r} is {file[name].dtype}; samzoo reads real numbers only")
            if file[name].external or file[name].is_virtual:
                raise DataError(f"{path}: array {name!r} is kept in other files; copy it into this one")
            check_size(path, file[name].nbytes)
            return file[name][()]
    except DataError:
        raise
    except FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: array {name!r} can't be read ({reason}); fetch the file again") from None


def _require(name: str, held: Sequence[str], path: Path) -> None:
    if name not in held:
        raise DataError(f"{path}: has no array {name!r}, but {', '.join(held) or 'none'}")
