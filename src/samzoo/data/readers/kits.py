"""KiTS19, KiTS21 and KiTS23: case_00000/imaging.nii.gz with segmentation.nii.gz, or KiTS21's aggregated_MAJ_seg.nii.gz.

The root is the folder of the cases or the challenge's repository, which keeps them in `data` or `dataset`. Images come
by a script of the repository, so a case that has only its segmentation was never completed. Cases without segmentation
(the test cases of KiTS19) are for prediction. KiTS19 has no cysts. The first file axis is the one from slice to slice.
Source: github.com/neheller/kits19, kits21 and kits23.
"""

from __future__ import annotations

import re
from pathlib import Path

from samzoo.data.index import ClassTable, Collector, DatasetIndex, LabelFile, ReadSettings, choose_classes
from samzoo.errors import DataError

CLASSES = ClassTable({"kidney": (1,), "tumour": (2,), "cyst": (3,)})
LABELS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")
"""KiTS21 has a label of each annotator besides; this is the one that its challenge was scored with."""


def recognise(root: Path) -> bool:
    return any((case / name).is_file() for case in _cases(root) for name in ("imaging.nii.gz", *LABELS))


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a case has a segmentation, but no image."""
    table = choose_classes(CLASSES, settings)
    found = Collector(settings)
    for case in _cases(root):
        image, label = case / "imaging.nii.gz", next((case / n for n in LABELS if (case / n).is_file()), None)
        if image.is_file():
            labels = [LabelFile(label)] if label is not None else []
            found.add(case.name, [image], labels, None if labels else "predict")
        elif label is not None:
            raise DataError(
                f"{image}: file is missing, though {label.name} is there; the repository's own script fetches the "
                "images (kits23_download_data, or get_imaging of KiTS19 and KiTS21)"
            )
        else:
            found.notes.append(f"{case} holds neither imaging.nii.gz nor a segmentation")
    return found.finish("kits", root, "kits", table, ("CT",))


def _cases(root: Path) -> list[Path]:
    """The case folders of root, else of its folder dataset or data."""
    for place in (root, root / "dataset", root / "data"):
        if place.is_dir() and (cases := [p for p in place.iterdir() if re.fullmatch(r"case_\d{5}", p.name)]):
            return sorted(cases)
    return []
