"""LiTS: volume-0.nii with segmentation-0.nii, and test-volume-0.nii without; unpacked or as .nii.gz.

They may lie in root or in its sub-folders ("Training Batch 1", "Training Batch 2", or images and segmentations apart).
Source: competitions.codalab.org/competitions/17094; Bilic et al. 2023.
"""

from __future__ import annotations

import re
from pathlib import Path

from samzoo.data.index import (
    VOLUME_ENDINGS,
    ClassTable,
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    choose_classes,
    list_files,
    stem,
)
from samzoo.errors import DataError

CLASSES = ClassTable({"liver": (1,), "tumour": (2,)})


def recognise(root: Path) -> bool:
    return bool(_files(root, "volume")) and bool(_files(root, "segmentation"))


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a volume or a segmentation without the other, or one number twice."""
    table = choose_classes(CLASSES, settings)
    found = Collector(settings)
    labels = {}
    for number, path in _files(root, "segmentation"):
        if number in labels:
            raise DataError(f"{labels[number]} and {path} are both segmentation {number}; remove one of them")
        labels[number] = path
    volumes = _files(root, "volume")
    if alone := sorted(set(labels) - {number for number, _ in volumes}):
        raise DataError(f"{labels[alone[0]]}: there is no volume-{alone[0]}.nii; fetch both training batches again")
    for number, path in volumes:
        if number not in labels:
            raise DataError(f"{path}: there is no segmentation-{number}.nii; fetch both training batches again")
        found.add(stem(path), [path], [LabelFile(labels[number])])
    for _, path in _files(root, "test-volume"):
        found.add(stem(path), [path], split="predict")
    return found.finish("lits", root, "lits", table, ("CT",))


def _files(root: Path, kind: str) -> list[tuple[int, Path]]:
    """Number and path of volumes, segmentations or test volumes, in root and its sub-folders."""
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    files = [path for folder in folders for path in list_files(folder, VOLUME_ENDINGS)]
    return sorted((int(m.group(1)), p) for p in files if (m := re.fullmatch(rf"{kind}-(\d+)", stem(p))))
