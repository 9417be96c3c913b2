"""One reader per layout: `recognise(root) -> bool` and `read(root, settings) -> DatasetIndex`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samzoo.data.foreign import foreign_files
from samzoo.data.index import DatasetIndex, ReadSettings, ending_of, list_files
from samzoo.data.readers import acdc, brats, folder, isic, kits, lits, msd, nnunet, polyps, run, sam_med2d, synapse
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
    "run": run,
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
    "run",
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
    raise DataError(
        f"{root} is in no layout that samzoo knows.{_hint(root)} Known: nnU-Net (dataset.json with channel_names and "
        "file_ending, imagesTr, labelsTr); MSD or AMOS22 (dataset.json with a training list); SAM-Med2D "
        "(image2label_train.json, label2image_test.json); folders of images and masks (images beside masks, or train, "
        "val, test holding the two); and public archives as they are unpacked (samzoo zoo). docs/own-data.md has a "
        "tree for each"
    )


def _hint(root: Path) -> str:
    """What a folder in no layout looks like, and what to do, as a sentence."""
    if (root / "imagesTr").is_dir():
        return " There is an imagesTr, but no dataset.json beside it."
    absolute = root.absolute()
    for above in (absolute.parent.parent, absolute.parent):
        if _looks_like_one(above):
            return f" It lies in a folder that looks like one: did you mean {above}?"
    inside = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    if not inside:
        return " It is empty."
    folders = [p for p in inside if p.is_dir()]
    if likely := [p for p in folders if _looks_like_one(p)]:
        one = f" Its sub-folder {likely[0].name!r} looks like one: did you mean {likely[0]}?"
        if len(likely) == 1:
            return one
        return (
            f"{one} There are {len(likely)} of the kind; where each is a patient, put the images of all into one "
            "images, the masks into one masks, with the patient in the file names (data.patient_pattern)."
        )
    if others := foreign_files(root, deep=True):
        return f" It holds {others}."
    if files := list_files(root):
        return (
            f" It holds images itself ({files[0].name}): put the images into a folder images, their masks under the "
            "same names into a folder masks beside it."
        )
    if folders and (files := list_files(folders[0])):
        name, ending = folders[0].name, ending_of(files[0])
        return (
            f" It holds folders with images in them ({name}/{files[0].name}): put all images into a folder images and "
            f"their masks, under the same names, into a folder masks beside it, for example images/{name}{ending} and "
            f"masks/{name}{ending}."
        )
    return f" It holds {', '.join(p.name for p in inside[:5])}{' and more' if len(inside) > 5 else ''}."


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
    try:
        layout = recognise(root) if settings.layout == "auto" else settings.layout
        if layout not in READERS:
            raise ConfigError(f"data.layout {layout!r} is unknown; known are auto, phantom, {', '.join(READERS)}")
        index = READERS[layout].read(root, settings)
    except PermissionError as error:
        raise DataError(
            f"{error.filename or root}: no permission to read it; change its permissions (chmod), or work on a copy"
        ) from None
    if settings.mask_threshold is not None and index.table.threshold is None:
        raise ConfigError(f"data.mask_threshold is set, but masks of layout {layout} are never thresholded; remove it")
    return index
