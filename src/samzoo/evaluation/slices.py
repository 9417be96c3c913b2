"""One slice of each test case with all that was answered on it: what a report draws without data or model.

`slices/<case>.npz` of a run holds `case_id`, `z`, `shape` (3,) of the case in voxels, `spacing` (3,) in mm, `factor`,
`image` uint8 (H, W) or (H, W, 3), `truth` uint8 (H, W) of class ids (255 is ignored), and for each scored step
`<regime>/<step>` uint8 (H, W), the class ids that were answered. Of long sides every `factor`-th pixel is kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samzoo.evaluation.records import file_name
from samzoo.types import IGNORE, Case
from samzoo.writing import keep_older, write_atomically, writing

MAX_SIDE = 384
FOLDER = "slices"


class CaseSlice:
    """Takes what is answered on the slice of a case that tells most; the truth alone decides which one that is.

    Args:
        counts: (D, 256), voxels of each label value on each slice.
    """

    def __init__(self, case: Case, counts: np.ndarray) -> None:
        self.z = telling_slice(counts)
        self._factor = -(-max(case.shape[1:]) // MAX_SIDE)
        image = case.image[:, self.z].numpy()
        rgb = len(image) == 3 and case.shape[0] == 1
        image = self._thinned(image.transpose(1, 2, 0) if rgb else image[0])
        self.arrays: dict[str, np.ndarray] = {
            "case_id": np.array(case.id),
            "z": np.array(self.z),
            "shape": np.array(case.shape),
            "spacing": np.array(case.spacing, dtype=float),
            "factor": np.array(self._factor),
            "image": (image.clip(0, 1) * 255).round().astype(np.uint8),
            "truth": self._thinned(case.label[self.z].numpy()),
        }

    def add(self, regime: str, step: int, labels: np.ndarray) -> None:
        """Keep uint8 (H, W) class ids of this slice."""
        self.arrays[f"{regime}/{step}"] = self._thinned(labels)

    def add_masks(self, regime: str, step: int, masks: Mapping[int, np.ndarray]) -> None:
        """Likewise from a bool (H, W) for each class; a later class lies over an earlier one."""
        labels = np.zeros_like(self.arrays["truth"])
        for class_id, mask in masks.items():
            labels[self._thinned(mask)] = class_id
        self.arrays[f"{regime}/{step}"] = labels

    def _thinned(self, array: np.ndarray) -> np.ndarray:
        return array[:: self._factor, :: self._factor].copy()


def telling_slice(counts: np.ndarray) -> int:
    """Index of the slice with most classes; of equals, with most foreground, then the first. Empty cases: the middle.

    Args:
        counts: as of `CaseSlice`.
    """
    foreground = counts[:, 1:IGNORE]
    if not foreground.any():
        return len(counts) // 2
    classes, voxels = (foreground > 0).sum(axis=1), foreground.sum(axis=1)
    return int(np.lexsort((-voxels, -classes))[0])


def slice_path(folder: Path, case_id: str) -> Path:
    """Of one case, in the folder of a run or of an unfinished test."""
    return folder / FOLDER / f"{file_name(case_id)}.npz"


def write_slice(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the slice of one case.

    Args:
        folder: of the unfinished test.

    Raises:
        DataError: the file can't be written.
    """
    path = slice_path(folder, str(arrays["case_id"]))
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays), "wb")


def finish_slices(unfinished: Path, run: Path) -> None:
    """Put the slices of all cases into their place; those of an earlier test are kept under another name."""
    keep_older(run / FOLDER)
    if (unfinished / FOLDER).is_dir():
        with writing(run / FOLDER):
            os.replace(unfinished / FOLDER, run / FOLDER)
