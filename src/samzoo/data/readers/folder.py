"""Image and mask folders: images/ beside masks/, or train/, val/, test/ each holding the two.

A mask belongs to the picture of the same stem (plus the setting `mask_suffix`), or to that whose name is the same
without what all pictures, and all masks, begin and end with: img_7 and mask_7, anna_t1 and anna_seg. Masks are binary
(0/1 or 0/255, or with noise and the setting `mask_threshold`) or indexed, with the classes that `classes` names or,
without it, one for each value that they hold. Files are PNG, JPEG, TIFF or BMP pictures, or NIfTI volumes. Archives of
this form name the folders in their own ways: CVC-ClinicDB has Original beside Ground Truth; ETIS-LaribPolypDB a folder
of its own name beside Ground Truth, whose masks are called p1, p2, ...
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from samzoo.data.files import picture_channels
from samzoo.data.foreign import foreign_files
from samzoo.data.index import (
    ENDINGS,
    PICTURE_ENDINGS,
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    Split,
    ending_of,
    list_files,
    repeated,
    stem,
)
from samzoo.data.readers.masks import found_table, mask_table
from samzoo.errors import DataError

IMAGES = ("images", "imgs", "image", "img", "original")
MASKS = (
    *("masks", "labels", "mask", "label", "segmentations", "segmentation", "segs", "seg"),
    *("annotations", "ground truth", "groundtruth", "ground_truth", "gt"),
)
"""Of folders, in small letters; those on disk may be written otherwise."""
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def recognise(root: Path) -> bool:
    return any(find_pair(folder)[0] is not None for folder in (root, *(place for place, _ in _places(root))))


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a picture without its mask, masks of other names, two pictures of one stem, no pictures."""
    table = mask_table(settings)
    found = Collector(settings)
    first: Path | None = None
    empty: list[Path] = []
    for place, split in _places(root):
        images, masks = find_pair(place)
        if images is None:
            found.notes.append(f"{place.name} is left out: it holds no folder of images ({', '.join(IMAGES)})")
            continue
        pictures = list_files(images)
        if not pictures:
            empty.append(images)
        first = first or next(iter(pictures), None)
        if masks is None and split != "test":
            raise DataError(
                f"{place}: there is {images.name}, but none of {', '.join(MASKS)} beside it; put the masks into a "
                "folder of such a name"
            )
        for folder in filter(None, (images, masks)):
            if doubled := repeated(stem(p) for p in list_files(folder)):
                raise DataError(f"duplicate case id {doubled[0]!r}: {folder} holds two files of that stem")
            if pictures and (others := foreign_files(folder)):
                found.notes.append(f"left out in {folder.relative_to(root)}: {others}")
        if masks is None:
            for picture in pictures:
                found.add(stem(picture), [picture], split="predict")
            continue
        by_stem = {stem(p): p for p in list_files(masks)}
        names = mask_names([stem(p) for p in pictures], by_stem, settings.mask_suffix)
        if pictures and not any(name in by_stem for name in names.values()):
            raise DataError(_no_mask(images, pictures, masks, list(by_stem.values()), settings.mask_suffix))
        if renamed := [(own, name) for own, name in names.items() if name != own + settings.mask_suffix]:
            found.notes.append(
                f"masks in {masks.relative_to(root)} have other names than their pictures; each belongs to one, as "
                f"{renamed[0][1]!r} does to {renamed[0][0]!r}"
            )
        ending = ending_of(next(iter(by_stem.values()))) if by_stem else ".png"
        for picture in pictures:
            # A mask that is not there is reported like any other missing file, when the case is read.
            wanted = names[stem(picture)]
            mask = by_stem.pop(wanted, masks / f"{wanted}{ending}")
            found.add(stem(picture), [picture], [LabelFile(mask)], split)
        if by_stem and settings.include is None:
            found.notes.append(
                f"{len(by_stem)} masks in {masks.relative_to(root)} have no picture, first {sorted(by_stem)[0]!r}"
            )
    if first is None:
        raise DataError(_no_picture(empty or [root]))
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
    """Folders that hold images and masks, or should, with the split that their name gives.

    Raises:
        DataError: the folder holds both itself, and in folders of splits.
    """
    named = _folders(root)
    inner = [(named[name], split) for name, split in SPLIT_FOLDERS.items() if name in named]
    if not any(find_pair(place)[0] for place, _ in inner):
        return [(root, None)]
    if (images := find_pair(root)[0]) is not None:
        raise DataError(
            f"{root} holds images in {images.name} and in {inner[0][0].name}: move one of the two to another folder"
        )
    return inner


def _folders(folder: Path) -> dict[str, Path]:
    """Sub-folders by their name in small letters, which goes before one that only differs in that."""
    inner = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return {p.name.casefold(): p for p in sorted(inner)}


def find_pair(folder: Path) -> tuple[Path | None, Path | None]:
    """The folder's sub-folders of images and of masks, None each if it has none."""
    named = _folders(folder)
    images = next((named[n] for n in IMAGES if n in named), None)
    masks = next((named[n] for n in MASKS if n in named), None)
    if images is None and masks is not None:
        others = [p for p in named.values() if p != masks and list_files(p, PICTURE_ENDINGS)]
        images = others[0] if len(others) == 1 else None
    return images, masks


def mask_names(images: Sequence[str], masks: Collection[str], suffix: str = "") -> Mapping[str, str]:
    """Stem of each picture -> stem that its mask has, or would have.

    That of the picture and the suffix; or else, where no mask is called so, what tells the pictures apart between what
    all masks begin and end with, if by this every mask belongs to a picture, and most pictures have one. Both may not
    begin or end with numbers that differ: a mask of visit 2 does not belong to a picture of visit 1.
    """
    exact = {name: name + suffix for name in images}
    if suffix or not masks or not images or any(name in masks for name in images):
        return exact
    (ahead, behind), (before, after) = _shared(images), _shared(list(masks))
    for numbers in ([re.findall(r"\d+", part) for part in pair] for pair in ((ahead, before), (behind, after))):
        if all(numbers) and numbers[0] != numbers[1]:
            return exact
    names = {name: before + name[len(ahead) : len(name) - len(behind)] + after for name in images}
    if not set(masks) <= set(names.values()) or len(images) >= 2 * len(masks):
        return exact
    return names


def _shared(names: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, without digits where they differ: these belong to the number that follows."""
    ahead = _beginning(names)
    if any(len(name) > len(ahead) for name in names):
        ahead = ahead.rstrip("0123456789")
    behind = _beginning([name[len(ahead) :][::-1] for name in names])[::-1]
    if any(len(name) > len(ahead) + len(behind) for name in names):
        behind = behind.lstrip("0123456789")
    return ahead, behind


def _beginning(names: Sequence[str]) -> str:
    """That all names share."""
    return "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )


def _no_mask(images: Path, pictures: Sequence[Path], masks: Path, found: Sequence[Path], suffix: str) -> str:
    if not found:
        return f"{masks}: no mask found; {_instead(masks)}"
    name = stem(pictures[0])
    longer = next((s for p in found if (s := stem(p)).startswith(name) and s != name), None)
    if longer and not suffix:
        more = f"give what all masks have after the picture's name: --data.mask_suffix {longer[len(name) :]}"
    else:
        more = "a mask needs its picture's name"
    if re.search(r"_\d{4}$", name):
        more += (
            "; where _0000, _0001, ... number channels: put images into imagesTr, masks into labelsTr, and a "
            "dataset.json beside them (docs/own-data.md)"
        )
    return (
        f"{masks}: none of the masks belongs to a picture in {images} by its name: {pictures[0].name} is for a mask "
        f"called {name}{suffix}, but they are called {found[0].name} and the like; {more}"
    )


def _no_picture(folders: Sequence[Path]) -> str:
    return f"{folders[0]}: no picture found; {_instead(folders[0])}"


def _instead(folder: Path) -> str:
    """What a folder without pictures holds, and what to do."""
    if others := foreign_files(folder, deep=True):
        return others
    inner = [p for p in _folders(folder).values() if list_files(p)]
    if inner and inner[0].name.casefold() in SPLIT_FOLDERS:
        return f"its folder {inner[0].name} holds some: make it {inner[0].name}/{folder.name} instead"
    if inner:
        example = list_files(inner[0])[0]
        return (
            f"its folder {inner[0].name} holds some, but a case's files lie in {folder.name} itself: call them "
            f"{inner[0].name}_{example.name} and so on; --data.patient_pattern then tells whose they are"
        )
    return f"files end in {', '.join(ENDINGS)}"
