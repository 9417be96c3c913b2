"""Dice and IoU from counts of voxels, with the counts kept.

Undefined values are None. Truth and prediction both empty: undefined. Truth empty and prediction not: 0, a false
positive. Truth not empty and prediction empty: 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Voxels of one class of one case: rightly found, extra, missed."""

    tp: int
    fp: int
    fn: int

    @property
    def dice(self) -> float | None:
        return None if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float | None:
        return None if self.empty else self.tp / (self.tp + self.fp + self.fn)

    @property
    def empty(self) -> bool:
        """Neither truth nor prediction has a voxel."""
        return self.tp + self.fp + self.fn == 0

    @property
    def false_positive(self) -> bool:
        """Something was found of a class that is not there."""
        return self.tp + self.fn == 0 and self.fp > 0


def overlap(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> Overlap:
    """Count the voxels.

    Args:
        prediction, truth: bool arrays of one shape.
        valid: bool, voxels that count; None: all.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction of shape {prediction.shape} and truth of shape {truth.shape} can't be compared")
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    tp = int(np.count_nonzero(prediction & truth))
    return Overlap(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(truth)) - tp)
