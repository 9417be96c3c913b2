"""dataset.json with lists of files, as in the Medical Segmentation Decathlon and AMOS22.

`training` holds {"image", "label"} pairs, `validation` (AMOS22) likewise, `test` names of images or pairs; paths are
relative to the folder. `labels` maps values to names.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from samzoo.data.files import exists
from samzoo.data.index import (
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    Split,
    channel_names,
    choose_classes,
    class_table,
    ending_of,
    read_json,
    require,
    stem,
)
from samzoo.errors import DataError


def recognise(root: Path) -> bool:
    file = root / "dataset.json"
    if not file.is_file():
        return False
    content = read_json(file)
    return isinstance(content, dict) and "training" in content


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: dataset.json lacks a key, or a list holds something else than files."""
    file = root / "dataset.json"
    content = read_json(file)
    names = require(content, "labels", file, '"labels": {"0": "background", "1": "liver"}')
    training = require(content, "training", file, '"training": [{"image": "./imagesTr/a.nii.gz", "label": ...}]')
    modality = content.get("modality") or content.get("channel_names")
    if not isinstance(modality, dict):
        raise DataError(f'{file} has no key \'modality\'; expected for example "modality": {{"0": "CT"}}')
    channels = channel_names(modality, "modality", file)
    table = choose_classes(class_table(_values(names, file), str(file)), settings)

    found = Collector(settings)
    validation, test = content.get("validation") or [], content.get("test") or []
    for key, items in (("training", training), ("validation", validation), ("test", test)):
        if not isinstance(items, list):
            raise DataError(f"{file}: {key} must be a list of files, not {str(items)[:80]!r}")
    for item in training:
        _add(found, root, file, item, "train" if validation else None)
    for item in validation:
        _add(found, root, file, item, settings.validation_as)
    for item in test:
        _add(found, root, file, item, "test")

    for key, items in (("numTraining", training), ("numValidation", validation)):
        if key in content and content[key] != len(items):
            found.notes.append(f"dataset.json says {key} {content[key]}, but lists {len(items)}")
    return found.finish(content.get("name") or root.resolve().name, root, "msd", table, channels)


def _values(names: Any, file: Path) -> dict[str, int]:
    try:
        if all(type(value) is int for value in names.values()):  # as nnU-Net v2 has it, names to values
            names = {value: name for name, value in names.items()}
        values = {str(name): int(value) for value, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError(f'{file}: labels must map values to names, for example {{"0": "background"}}') from None
    if len(values) != len(names):
        raise DataError(f"{file}: two label values have the same name")
    return values


def _add(found: Collector, root: Path, file: Path, item: Any, split: Split | None) -> None:
    item = {"image": item} if isinstance(item, str) else item
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("image"), str)
        or not isinstance(item.get("label"), str | None)
    ):
        raise DataError(f"{file}: expected an image name or an object with image and label, found {str(item)[:80]!r}")
    image, label = root / item["image"], item.get("label")
    # Hidden test labels are often listed though they are not in the archive.
    labelled = label is not None and (split != "test" or exists(root / label))
    if not labelled and split != "test":
        raise DataError(f"{file}: {item['image']} is listed for training or validation without a label")
    labels = [LabelFile(root / label)] if labelled else []
    images = [image] if exists(image) else _numbered(image) or [image]
    found.add(stem(image).removesuffix("_0000"), images, labels, split if labelled else "predict")


def _numbered(image: Path) -> list[Path]:
    """The files of a case's channels, where nnU-Net v1 lists case.nii.gz and the folder holds case_0000.nii.gz, ..."""
    ending = ending_of(image)
    name = image.name.removesuffix(ending)
    numbered = (image.with_name(f"{name}_{channel:04d}{ending}") for channel in range(1000))
    return list(itertools.takewhile(exists, numbered))
