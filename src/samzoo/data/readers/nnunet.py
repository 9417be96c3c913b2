"""nnU-Net v2 raw data: dataset.json, imagesTr/<case>_<channel>.<ending>, labelsTr/<case>.<ending>.

imagesTs with labelsTs is the test set, without it is for prediction. A splits_final.json in the folder is respected.
Source: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

import re
from pathlib import Path

from samzoo.data.foreign import foreign_files, kind_of, remedy
from samzoo.data.index import (
    ENDINGS,
    Collector,
    DatasetIndex,
    LabelFile,
    ReadSettings,
    channel_names,
    choose_classes,
    class_table,
    list_files,
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
    return isinstance(content, dict) and "training" not in content


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: dataset.json lacks a key, a case lacks a channel or its label."""
    file = root / "dataset.json"
    content = read_json(file)
    channels = require(content, "channel_names", file, '"channel_names": {"0": "CT"}')
    labels = require(content, "labels", file, '"labels": {"background": 0, "liver": 1}')
    ending = require(content, "file_ending", file, '"file_ending": ".nii.gz"')
    if ending not in ENDINGS:
        known = kind_of(Path(f"case{ending}")) if isinstance(ending, str) else None
        raise DataError(
            f"{file}: file_ending {str(ending)[:80]!r} can't be read; "
            + (remedy(known) if known else f"samzoo reads {', '.join(ENDINGS)}")
        )
    if not isinstance(channels, dict) or not isinstance(labels, dict):
        raise DataError(f"{file}: channel_names and labels must be objects")
    names = channel_names(channels, "channel_names", file)
    table = choose_classes(class_table(labels, str(file)), settings)

    found = Collector(settings)
    training = _images(root / "imagesTr", ending)
    if not training:
        raise DataError(_no_image(root / "imagesTr", ending))
    labels = _labels(root / "labelsTr", ending)
    for case_id, images in training.items():
        found.add(case_id, images, [LabelFile(labels.get(case_id, root / "labelsTr" / f"{case_id}{ending}"))])
    labelled_test = (root / "labelsTs").is_dir()
    test_labels = _labels(root / "labelsTs", ending)
    for case_id, images in _images(root / "imagesTs", ending).items():
        label = test_labels.get(case_id, root / "labelsTs" / f"{case_id}{ending}")
        found.add(case_id, images, [LabelFile(label)] if labelled_test else [], "test" if labelled_test else "predict")
    for folder in (root / "imagesTr", root / "imagesTs"):
        if left_out := [p for p in list_files(folder) if not p.name.lower().endswith(ending)]:
            found.notes.append(
                f"{len(left_out)} images in {folder} don't end in dataset.json's file_ending {ending!r} and are left "
                f"out, first {left_out[0].name}"
            )
        if others := foreign_files(folder):
            found.notes.append(f"left out in {folder}: {others}")

    for entry in found.entries.values():
        if len(entry.images) not in (1, len(channels)):
            raise DataError(
                f"{root}: case {entry.id!r} has {len(entry.images)} image files, but dataset.json names "
                f"{len(channels)} channels ({', '.join(names)}); expected {entry.id}_0000{ending} to "
                f"{entry.id}_{len(channels) - 1:04d}{ending}"
            )
    if settings.include is None:
        orphans = set(labels) - set(training)
        if orphans:
            found.notes.append(f"{len(orphans)} labels have no image, first {sorted(orphans)[0]!r}")
        if content.get("numTraining") not in (None, len(training)):
            found.notes.append(f"dataset.json says numTraining {content['numTraining']}, found {len(training)} cases")
    name = content.get("name") or root.resolve().name
    own_splits = root / "splits_final.json"
    return found.finish(name, root, "nnunet", table, names, own_splits if own_splits.is_file() else None)


def _labels(folder: Path, ending: str) -> dict[str, Path]:
    """Case id -> its label."""
    return {stem(p): p for p in list_files(folder, [ending])}


def _no_image(folder: Path, ending: str) -> str:
    if not folder.is_dir():
        return f"layout nnunet, but no case was found: {folder} is missing; put the images there"
    if files := list_files(folder):
        return (
            f"layout nnunet, but no case was found: no file in {folder} ends in {ending}, dataset.json's file_ending, "
            f"but there is {files[0].name}; correct file_ending"
        )
    found = foreign_files(folder, deep=True) or f"put images there, for example {folder / f'case_01_0000{ending}'}"
    return f"layout nnunet, but no case was found in {folder}: {found}"


def _images(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Case id -> its channel files in order."""
    cases: dict[str, list[Path]] = {}
    for path in list_files(folder, [ending]):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if match is None:
            raise DataError(f"{path}: nnU-Net images end in the channel number, for example case_0000{ending}")
        channel = cases.setdefault(match.group(1), [])
        if int(match.group(2)) != len(channel):
            raise DataError(f"{path}: channel {len(channel):04d} of case {match.group(1)!r} is missing")
        channel.append(path)
    return cases
