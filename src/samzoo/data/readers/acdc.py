"""ACDC: patientXXX/patientXXX_frameNN.nii.gz with ..._frameNN_gt.nii.gz, in database/training and database/testing.

Two frames of each patient have ground truth, the end of diastole and of systole; they are one patient's two cases. The
whole film (..._4d.nii.gz) is left alone. The older release has no ground truth for its test patients: they are for
prediction.
Source: creatis.insa-lyon.fr/Challenge/acdc, databases and evaluation.
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
    Split,
    choose_classes,
    list_files,
    stem,
)
from samzoo.errors import DataError

SPLITS: dict[str, Split] = {"training": "train", "testing": "test"}
CLASSES = ClassTable({"right ventricle": (1,), "myocardium": (2,), "left ventricle": (3,)})


def recognise(root: Path) -> bool:
    return any(_patients(place) for place in _places(root))


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: no frame, or a frame for training without ground truth."""
    table = choose_classes(CLASSES, settings)
    found = Collector(settings)
    for place in _places(root):
        split = SPLITS[place.name]
        for folder in _patients(place):
            files = {stem(p): p for p in list_files(folder, VOLUME_ENDINGS)}
            frames = [name for name in files if re.fullmatch(rf"{folder.name}_frame\d+", name)]
            if not frames:
                found.notes.append(f"{folder} holds no {folder.name}_frame*.nii.gz")
            for name in frames:
                label = files.get(f"{name}_gt")
                if label is None and split == "train":
                    raise DataError(f"{files[name]}: no {name}_gt.nii.gz beside it; fetch the archive again")
                labels = [LabelFile(label)] if label is not None else []
                found.add(name, [files[name]], labels, split if labels else "predict", patient=folder.name)
    return found.finish("acdc", root, "acdc", table, ("MR",))


def _places(root: Path) -> list[Path]:
    """The folders training and testing, in root or in its folder database."""
    inner = root / "database" if (root / "database").is_dir() else root
    return [inner / name for name in SPLITS]


def _patients(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(p for p in place.iterdir() if p.is_dir() and re.fullmatch(r"patient\d+", p.name))
