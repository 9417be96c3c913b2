"""Which axes of a file become depth, height and width of a case, and back."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from samzoo.errors import ConfigError


@dataclass(frozen=True)
class Axes:
    """How the arrays of a file become those of a case.

    Args:
        order: file axes that become D, H, W.
        flipped: those of D (0), H (1), W (2) that run backwards in the file.
    """

    order: tuple[int, int, int]
    flipped: tuple[int, ...] = ()

    def to_case(self, array: np.ndarray) -> np.ndarray:
        """(i, j, k) of the file -> (D, H, W), a view."""
        return np.flip(array.transpose(self.order), self.flipped)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """(D, H, W) -> (i, j, k) of the file, a view."""
        return np.flip(array, self.flipped).transpose(np.argsort(self.order))


PICTURE = Axes((0, 1, 2))
"""A picture is read in the order of a case."""


def file_axes(affine: np.ndarray, slice_axis: int, canonical: bool = False) -> Axes:
    """The axes of a volume: the slice axis first, then the others from last to first (so that x is the last).

    Args:
        affine: (4, 4), voxel index of i, j, k to mm.
        slice_axis: of the file's axes i, j, k, or of the canonical x, y, z.
        canonical: x, y, z are the file's axes that are closest to right, anterior and superior, turned to point there;
            else they are i, j, k, whatever these are.

    Raises:
        ConfigError: no such axis.
    """
    order = axis_order(slice_axis)
    if not canonical:
        return Axes(order)
    world, direction = nib.io_orientation(affine).T
    closest = [int(np.flatnonzero(world == axis)[0]) for axis in order]
    return Axes(tuple(closest), tuple(d for d, axis in enumerate(closest) if direction[axis] < 0))


def axis_order(slice_axis: int) -> tuple[int, int, int]:
    """The slice axis, then the others from last to first."""
    if slice_axis not in (0, 1, 2):
        raise ConfigError(f"data.slice_axis must be 0, 1 or 2, not {slice_axis}")
    return (slice_axis, *(a for a in (2, 1, 0) if a != slice_axis))
