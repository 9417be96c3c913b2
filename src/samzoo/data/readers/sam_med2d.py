"""SAM-Med2D's layout: image2label_train.json (image -> masks) and label2image_test.json (mask -> image).

Every mask is a binary PNG of one object. Where the names follow `<image stem>_<class>_<number>.png` they give the
class; else all objects are of one class. Objects of a class are merged; where objects of two classes overlap, the
smaller object keeps the pixels (`verify` counts them).
Source: OpenGVLab/SAM-Med2D, data_demo.
"""

from __future__ import annotations

import re
from pathlib import Path

from samzoo.data.files import picture_channels
from samzoo.data.index import (
    ClassTable,
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    Split,
    class_table,
    read_json,
    stem,
)
from samzoo.errors import DataError

TRAIN, TEST = "image2label_train.json", "label2image_test.json"
SINGLE = "object"


def recognise(root: Path) -> bool:
    return (root / TRAIN).is_file() or (root / TEST).is_file()


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: a json is not of its form, an image is in both files, a path leads nowhere."""
    splits: list[tuple[Split, dict[str, list[str]]]] = []
    if (root / TRAIN).is_file():
        splits.append(("train", _lists(read_json(root / TRAIN), root / TRAIN)))
    if (root / TEST).is_file():
        by_image: dict[str, list[str]] = {}
        for mask, image in _strings(read_json(root / TEST), root / TEST).items():
            by_image.setdefault(image, []).append(mask)
        splits.append(("test", by_image))

    found = Collector(settings)
    class_of: dict[str, str | None] = {}
    for _, images in splits:
        for image, masks in images.items():
            class_of |= {mask: _class_name(image, mask, settings.class_pattern) for mask in masks}
    unnamed = [mask for mask, name in class_of.items() if name is None]
    if unnamed:
        if settings.class_pattern is not None:
            raise DataError(f"data.class_pattern {settings.class_pattern!r} finds no class in mask {unnamed[0]!r}")
        found.notes.append(
            f"{len(unnamed)} mask names don't tell a class (first {unnamed[0]!r}): all objects are one class {SINGLE!r}"
        )
        class_of = dict.fromkeys(class_of, SINGLE)
    if settings.classes is not None:
        table = class_table(settings.classes, "data.classes")
    else:
        names = sorted({name for name in class_of.values() if name is not None})
        table = class_table({name: i for i, name in enumerate(names, start=1)}, str(root))
    ids = {name: i for i, name in enumerate(table.names, start=1)}

    for split, images in splits:
        for image, masks in images.items():
            if not masks:
                found.notes.append(f"{image} has no mask and is left out")
                continue
            labels = [LabelFile(_find(root, m), ids[class_of[m]]) for m in masks if class_of[m] in ids]
            if labels:
                found.add(stem(Path(image)), [_find(root, image)], labels, split)
    return _finish(found, root, table, settings)


def _finish(found: Collector, root: Path, table: ClassTable, settings: ReadSettings) -> DatasetIndex:
    first = next(iter(found.entries.values()), None)
    channels = picture_channels(first.images[0], settings.pictures) if first is not None else ()
    return found.finish(root.resolve().name, root, "sam_med2d", table, channels)


def _lists(content: object, file: Path) -> dict[str, list[str]]:
    if not isinstance(content, dict) or not all(
        isinstance(v, list) and all(isinstance(m, str) for m in v) for v in content.values()
    ):
        raise DataError(f"{file} must be an object: image path -> list of mask paths")
    return content


def _strings(content: object, file: Path) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise DataError(f"{file} must be an object: mask path -> image path")
    return content


def _class_name(image: str, mask: str, pattern: str | None) -> str | None:
    name = stem(Path(mask))
    if pattern is not None:
        match = re.search(pattern, name)
        return match.group(1) if match else None
    match = re.fullmatch(re.escape(stem(Path(image))) + r"_(.+)_\d+", name)
    return match.group(1) if match else None


def _find(root: Path, name: str) -> Path:
    """Paths are relative to the folder, or to its parent under the name it had when the json was written."""
    path = Path(name)
    candidates = [root / path, root / Path(*path.parts[1:]), root.parent / path]
    return next((c for c in candidates if c.is_file()), candidates[1] if len(path.parts) > 1 else candidates[0])
