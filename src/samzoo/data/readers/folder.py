"""Image and mask folders: images/ beside masks/, or train/, val/, test/ each holding the two.

A mask belongs to the picture of the same stem (plus the setting `mask_suffix`). Masks are binary (0/1 or 0/255, or
with noise and the setting `mask_threshold`) or indexed, with the classes that `classes` names or, without it, one for
each value that they hold. Files are PNG, JPEG, TIFF or
BMP pictures, or NIfTI volumes. Archives of this form name the folders in their own ways: CVC-ClinicDB has Original
beside Ground Truth; ETIS-LaribPolypDB a folder of its own name beside Ground Truth, whose masks are called p1, p2, ...
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from samzoo.data.files import picture_channels
from samzoo.data.index import (
    PICTURE_ENDINGS,
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    Split,
    list_files,
    repeated,
    stem,
)
from samzoo.data.readers.masks import found_table, mask_table
from samzoo.errors import DataError

IMAGES = ("images", "imgs", "image", "Original")
MASKS = ("masks", "labels", "mask", "label", "Ground Truth", "GroundTruth")
MASK_PREFIXES = ("", "p")
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def recognise(root: Path) -> bool:
    return any(find_pair(folder)[0] is not None for folder, _ in _places(root))


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a picture without its mask, two pictures of one stem, no pictures."""
    table = mask_table(settings)
    found = Collector(settings)
    first: Path | None = None
    for place, split in _places(root):
        images, masks = find_pair(place)
        if images is None:
            continue
        pictures = list_files(images)
        first = first or next(iter(pictures), None)
        if doubled := repeated(stem(p) for p in pictures):
            raise DataError(f"duplicate case id {doubled[0]!r}: {images} holds two files of that stem")
        if masks is None and split != "test":
            raise DataError(f"{place}: there is {images.name}, but none of {', '.join(MASKS)} beside it")
        by_stem = {stem(p): p for p in list_files(masks)} if masks is not None else {}
        prefix = _mask_prefix([stem(p) for p in pictures], by_stem, settings.mask_suffix)
        for picture in pictures:
            case_id = stem(picture)
            if masks is None:
                found.add(case_id, [picture], split="predict")
                continue
            wanted = prefix + case_id + settings.mask_suffix
            # A mask that is not there is reported like any other missing file, when the case is read.
            found.add(case_id, [picture], [LabelFile(by_stem.pop(wanted, masks / f"{wanted}.png"))], split)
        if by_stem and settings.include is None:
            found.notes.append(f"{len(by_stem)} masks in {masks} have no picture, first {sorted(by_stem)[0]!r}")
    if first is None:
        raise DataError(f"{root}: no picture found; pictures end in {', '.join(PICTURE_ENDINGS)}")
    if settings.classes is None and settings.mask_threshold is None:
        labels = [file.path for _, entry in sorted(found.entries.items()) for file in entry.labels]
        binary, table = table, found_table(labels, table)
        if table is not binary:
            found.notes.append(
                f"the masks' values are taken for {len(table.names)} classes, {', '.join(table.names[:8])}; name or "
                "merge them with data.classes, for example {cell: [1, 2, 3]} where they number objects"
            )
    return found.finish(root.resolve().name, root, "folder", table, picture_channels(first, settings.pictures))


def _places(root: Path) -> list[tuple[Path, Split | None]]:
    """Folders that may hold images and masks, with the split that their name gives."""
    inner = [(root / name, split) for name, split in SPLIT_FOLDERS.items() if (root / name).is_dir()]
    return inner or [(root, None)]


def find_pair(folder: Path) -> tuple[Path | None, Path | None]:
    """The folder's sub-folders of images and of masks, None each if it has none."""
    images = next((folder / n for n in IMAGES if (folder / n).is_dir()), None)
    masks = next((folder / n for n in MASKS if (folder / n).is_dir()), None)
    if images is None and masks is not None:
        others = [p for p in folder.iterdir() if p.is_dir() and p != masks and list_files(p, PICTURE_ENDINGS)]
        images = others[0] if len(others) == 1 else None
    return images, masks


def _mask_prefix(stems: Sequence[str], masks: Container[str], suffix: str) -> str:
    """What all mask names of a folder have before their picture's stem."""
    return next((p for p in MASK_PREFIXES if any(f"{p}{s}{suffix}" in masks for s in stems)), "")
