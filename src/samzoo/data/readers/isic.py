"""ISIC 2018, task 1 (lesion boundaries): six archives, unpacked side by side.

ISIC2018_Task1-2_Training_Input/ISIC_<7 digits>.jpg beside ISIC2018_Task1_Training_GroundTruth/ISIC_<7
digits>_segmentation.png, and likewise Validation and Test. What else the archives hold (licence, superpixels) is left
alone. Validation and test pictures without their ground truth are for prediction.
Source: the challenge's description of its data, challenge.isic-archive.com/landing/2018/45.
"""

from __future__ import annotations

import re
from pathlib import Path

from samzoo.data.files import picture_channels
from samzoo.data.index import PICTURE_ENDINGS, Collector, DatasetIndex, LabelFile, ReadSettings, Split, list_files, stem
from samzoo.data.readers.masks import mask_table, note_counts
from samzoo.errors import DataError

USUAL = {"Training": 2594, "Validation": 100, "Test": 1000}


def recognise(root: Path) -> bool:
    return any(_folders(root, part)[0].is_dir() for part in USUAL)


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: no pictures, or training pictures without the folder of their ground truth."""
    table = mask_table(settings, "lesion")
    found = Collector(settings)
    splits: dict[str, Split] = {"Training": "train", "Validation": settings.validation_as, "Test": "test"}
    counted = {}
    for part, split in splits.items():
        images, masks = _folders(root, part)
        pictures = [p for p in list_files(images, PICTURE_ENDINGS) if re.fullmatch(r"ISIC_\d+", stem(p))]
        counted[part] = len(pictures)
        labelled = masks.is_dir()
        if pictures and not labelled and split == "train":
            raise DataError(f"{images.name} needs {masks.name} beside it, which is not in {root}")
        for picture in pictures:
            labels = [LabelFile(masks / f"{stem(picture)}_segmentation.png")] if labelled else []
            found.add(stem(picture), [picture], labels, split if labelled else "predict")
    note_counts(found, USUAL, counted)
    first = next(iter(found.entries.values()), None)
    channels = picture_channels(first.images[0], settings.pictures) if first is not None else ()
    return found.finish("isic2018", root, "isic", table, channels)


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    return root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
