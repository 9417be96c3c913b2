"""Synapse (BTCV, "Beyond the Cranial Vault"), abdomen: the NIfTI release, or the slices prepared for TransUNet.

The release: Abdomen/RawData/Training/img/img0001.nii.gz beside label/label0001.nii.gz, 13 organs, and Testing/img
without labels. The slices: train_npz/case0005_slice000.npz and test_vol_h5/case0001.npy.h5, each with the arrays image
(in [0, 1]) and label (8 organs); the slices of a case are one volume. Case ids are case0001 in both.
Source: synapse.org/#!Synapse:syn3193805; github.com/Beckschen/TransUNet, datasets/README.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
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
from samzoo.data.readers.masks import note_counts
from samzoo.errors import DataError

ORGANS = [
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
]
SLICE_ORGANS = ["aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"]
USUAL_SLICES = {"train_npz cases": 18, "train_npz slices": 2211, "test_vol_h5 cases": 12}
NO_SPACING = "these files hold no spacing: distances are in voxels, as if a voxel were 1 mm in all directions"


def recognise(root: Path) -> bool:
    return _release(root) is not None or _slices(root)


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: both forms in one folder, an image without label, a gap in the slices of a case."""
    release = _release(root)
    if release is not None and _slices(root):
        raise DataError(f"{root} holds the NIfTI release and the slices of Synapse; move one of them to another folder")
    found = Collector(settings)
    if release is None:
        table = choose_classes(_numbered(SLICE_ORGANS), settings)
        _read_slices(found, root)
    else:
        table = choose_classes(_numbered(ORGANS), settings)
        _read_release(found, release)
    return found.finish("synapse", root, "synapse", table, ("CT",))


def _numbered(names: list[str]) -> ClassTable:
    return ClassTable({name: (value,) for value, name in enumerate(names, start=1)})


def _release(root: Path) -> Path | None:
    """The folder that holds Training, in root or up to two folders below it."""
    for place in (root, root / "RawData", root / "Abdomen" / "RawData"):
        if _images(place / "Training"):
            return place
    return None


def _images(place: Path) -> dict[str, Path]:
    """Number -> image of a folder Training or Testing."""
    named = {p: re.fullmatch(r"img(\d{4})", stem(p)) for p in list_files(place / "img", VOLUME_ENDINGS)}
    return {match.group(1): p for p, match in named.items() if match}


def _read_release(found: Collector, place: Path) -> None:
    labels = {stem(p): p for p in list_files(place / "Training" / "label", VOLUME_ENDINGS)}
    for number, image in _images(place / "Training").items():
        label = labels.get(f"label{number}")
        if label is None:
            raise DataError(f"{image}: there is no label/label{number}.nii.gz beside img; fetch the archive again")
        found.add(f"case{number}", [image], [LabelFile(label)])
    for number, image in _images(place / "Testing").items():
        found.add(f"case{number}", [image], split="predict")


def _slices(root: Path) -> bool:
    return bool(_by_case(root)) or bool(_volumes(root))


def _by_case(root: Path) -> dict[str, dict[int, Path]]:
    """Case id -> number of a slice -> its file."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in list_files(root / "train_npz", [".npz"]):
        if match := re.fullmatch(r"(case\d{4})_slice(\d+)", path.stem):
            cases[match.group(1)][int(match.group(2))] = path
    return cases


def _volumes(root: Path) -> dict[str, Path]:
    files = list_files(root / "test_vol_h5", [".npy.h5"])
    return {p.name.split(".")[0]: p for p in files if re.fullmatch(r"case\d{4}\.npy\.h5", p.name)}


def _read_slices(found: Collector, root: Path) -> None:
    training, volumes = _by_case(root), _volumes(root)
    for case_id, slices in training.items():
        if gaps := sorted(set(range(max(slices))) - set(slices)):
            raise DataError(
                f"{root / 'train_npz'}: {case_id} has slices up to {max(slices):03d}, but {len(gaps)} are missing, "
                f"first {case_id}_slice{gaps[0]:03d}.npz; unpack the archive again"
            )
        files = [slices[number] for number in sorted(slices)]
        found.add(case_id, files, map(LabelFile, files), "train")
    for case_id, path in volumes.items():
        found.add(case_id, [path], [LabelFile(path)], "test")
    slices = sum(map(len, training.values()))
    note_counts(found, USUAL_SLICES, dict(zip(USUAL_SLICES, (len(training), slices, len(volumes)), strict=True)))
    found.notes.append(NO_SPACING)
