"""One reader per layout: `recognise(root) -> bool` and `read(root, settings) -> DatasetIndex`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samzoo.data.index import DatasetIndex, ReadSettings
from samzoo.data.readers import acdc, brats, folder, isic, kits, lits, msd, nnunet, polyps, sam_med2d, synapse
from samzoo.errors import ConfigError, DataError

READERS = {
    "nnunet": nnunet,
    "msd": msd,
    "sam_med2d": sam_med2d,
    "polyps": polyps,
    "isic": isic,
    "acdc": acdc,
    "synapse": synapse,
    "kits": kits,
    "lits": lits,
    "brats": brats,
    "folder": folder,
}
"""Asked in this order; the first that recognises a folder reads it."""

Layout = Literal[
    "auto",
    "phantom",
    "nnunet",
    "msd",
    "sam_med2d",
    "polyps",
    "isic",
    "acdc",
    "synapse",
    "kits",
    "lits",
    "brats",
    "folder",
]
"""What a user may say: a reader's name, auto (ask them all), or phantom (the embedded data set)."""


def recognise(root: Path) -> str:
    """Name of the layout of a folder.

    Raises:
        DataError: none fits; says what each layout looks like.
    """
    for name, reader in READERS.items():
        if reader.recognise(root):
            return name
    hint = ""
    if (root / "imagesTr").is_dir():
        hint = " There is an imagesTr, but no dataset.json beside it."
    inner = [p for p in sorted(root.iterdir()) if _looks_like_one(p)]
    if inner:
        hint = f" Its sub-folder {inner[0].name!r} looks like one: did you mean {inner[0]}?"
    raise DataError(
        f"{root} is in no layout that samzoo knows.{hint} Known: nnU-Net (dataset.json with channel_names and "
        "file_ending, imagesTr, labelsTr); MSD or AMOS22 (dataset.json with a training list); SAM-Med2D "
        "(image2label_train.json, label2image_test.json); the polyp benchmark (TrainDataset, TestDataset); ISIC 2018 "
        "(ISIC2018_Task1-2_Training_Input and its kind); ACDC (training and testing, holding patient001 ...); "
        "Synapse or BTCV (Abdomen/RawData/Training/img and label, or train_npz and test_vol_h5); "
        "KiTS (case_00000 holding imaging.nii.gz); LiTS (volume-0.nii and segmentation-0.nii); "
        "BraTS (case folders holding CASE_flair.nii.gz or CASE-t2f.nii.gz and its kind); "
        "image/mask folders (images and masks, or train, val, test holding them)"
    )


def _looks_like_one(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(reader.recognise(folder) for reader in READERS.values())
    except (OSError, DataError):  # a folder that may not be read, or is broken, is no hint
        return False


def read_index(root: Path, settings: ReadSettings | None = None) -> DatasetIndex:
    """The case index of a data set.

    Raises:
        DataError: not a folder, unknown layout, or whatever the reader found wrong. ConfigError: no such layout.
    """
    settings = settings or ReadSettings()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"{root} does not exist")
    layout = recognise(root) if settings.layout == "auto" else settings.layout
    if layout not in READERS:
        raise ConfigError(f"data.layout {layout!r} is unknown; known are auto, phantom, {', '.join(READERS)}")
    index = READERS[layout].read(root, settings)
    if settings.mask_threshold is not None and index.table.threshold is None:
        raise ConfigError(f"data.mask_threshold is set, but masks of layout {layout} are never thresholded; remove it")
    return index
