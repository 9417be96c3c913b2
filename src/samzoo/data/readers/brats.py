"""BraTS: a folder per case with four MR images and a segmentation.

Until 2021 CASE_flair, _t1, _t1ce, _t2 and _seg; in BraTS 2023 CASE-t2f, -t1n, -t1c, -t2w and -seg; as .nii.gz or .nii.
Enhancing tumour was 4 until 2021 and is 3 since. Case folders lie in root or up to two folders below it (the archive's
own folder, HGG and LGG). Cases without segmentation, as those for validation, are for prediction. From 2023 on a case's
name ends in the number of the examination: the rest is the patient.
Source: med.upenn.edu/cbica/brats2020, synapse.org syn51156910 (BraTS 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
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

CHANNELS = ("FLAIR", "T1", "T1CE", "T2")
FORMS = {
    ("_flair", "_t1", "_t1ce", "_t2"): ("_seg", 4),
    ("-t2f", "-t1n", "-t1c", "-t2w"): ("-seg", 3),
}
"""What follows the case's name, in the order of CHANNELS -> the same of its segmentation, and enhancing tumour."""

DEPTH = 2
"""How far below root case folders are looked for."""


def recognise(root: Path) -> bool:
    return next(_cases(root), None) is not None


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a case lacks one of its images, or cases of both forms."""
    found = Collector(settings)
    form = None
    for folder, images in _cases(root):
        if form not in (None, images):
            raise DataError(f"{folder}: named as in another year than the cases before it; keep releases apart")
        form = images
        files = {stem(p): p for p in list_files(folder, VOLUME_ENDINGS)}
        for ending in images:
            if folder.name + ending not in files:
                raise DataError(f"{folder}: no {folder.name}{ending}.nii.gz; fetch the archive again")
        label = files.get(folder.name + FORMS[images][0])
        if label is None:  # one case of BraTS 2020 came with its segmentation under another name
            odd = [p for name, p in files.items() if name.lower().endswith("segm")]
            label = odd[0] if len(odd) == 1 else None
            found.notes += [f"{path} is taken as the segmentation of {folder.name}" for path in odd[:1]]
        found.add(
            folder.name,
            [files[folder.name + ending] for ending in images],
            [] if label is None else [LabelFile(label)],
            "predict" if label is None else None,
            patient=folder.name.rsplit("-", 1)[0] if images[0].startswith("-") else None,
        )
    enhancing = FORMS[form][1] if form else 4
    classes = {"necrotic core": (1,), "oedema": (2,), "enhancing tumour": (enhancing,)}
    return found.finish("brats", root, "brats", choose_classes(ClassTable(classes), settings), CHANNELS)


def _cases(folder: Path, depth: int = DEPTH) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Case folders and the endings of their images. A folder is a case's if any image is named after it."""
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
        names = {stem(p) for p in list_files(inner, VOLUME_ENDINGS)}
        images = next((form for form in FORMS if any(inner.name + ending in names for ending in form)), None)
        if images is not None:
            yield inner, images
        elif depth:
            yield from _cases(inner, depth - 1)
