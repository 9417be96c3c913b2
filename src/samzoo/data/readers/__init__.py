"""One reader per layout: `recognise(root) -> bool` and `read(root, settings) -> DatasetIndex`."""

from __future__ import annotations

from pathlib import Path

from samzoo.data.index import DatasetIndex, ReadSettings
from samzoo.data.readers import folder, msd, nnunet, sam_med2d
from samzoo.errors import ConfigError, DataError

READERS = {"nnunet": nnunet, "msd": msd, "sam_med2d": sam_med2d, "folder": folder}
"""Asked in this order; the first that recognises a folder reads it."""


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
    inner = [p.parent.name for p in sorted(root.glob("*/dataset.json"))]
    if inner:
        hint = f" Its sub-folder {inner[0]!r} looks like one: did you mean {root / inner[0]}?"
    raise DataError(
        f"{root} is in no layout that samzoo knows.{hint} Known: nnU-Net (dataset.json with channel_names and "
        "file_ending, imagesTr, labelsTr); MSD or AMOS22 (dataset.json with a training list); SAM-Med2D "
        "(image2label_train.json, label2image_test.json); image/mask folders (images and masks, or train, val, test "
        "holding them)"
    )


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
    return READERS[layout].read(root, settings)
