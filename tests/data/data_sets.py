"""Small data sets of every layout, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (9, 8, 6)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag((0.8, 0.9, 3.0, 1.0)) if affine is None else affine), path)


def label_array(seed: int) -> np.ndarray:
    """(9, 8, 6) with class 1 on slices 1 to 4 and class 2 on slice 2 only."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[2:6, 2:5, 1:5] = 1
    label[6 + seed % 2, 3, 2] = 2
    return label


def write_nnunet(root: Path, cases: int = 4, channels: tuple[str, ...] = ("T1", "T2")) -> Path:
    rng = np.random.default_rng(0)
    for i in range(cases):
        for c in range(len(channels)):
            image = rng.normal(100 + 50 * c, 20, SHAPE).astype(np.float32)
            save_nifti(root / "imagesTr" / f"case_{i:02d}_{c:04d}.nii.gz", image)
        save_nifti(root / "labelsTr" / f"case_{i:02d}.nii.gz", label_array(i))
    content = {
        "channel_names": {str(c): name for c, name in enumerate(channels)},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_pictures(root: Path, cases: int = 5, high: int = 255) -> Path:
    rng = np.random.default_rng(1)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(cases):
        mask = np.zeros((20 + i, 24), dtype=np.uint8)
        mask[4:12, 5:14] = high
        image = rng.integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"p{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{i}.png")
    return root


def write_sam_med2d(root: Path) -> Path:
    """Three pictures for training and one for test; liver and spleen, the spleen lies on the liver."""
    rng = np.random.default_rng(2)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    train, test = {}, {}
    for i in range(4):
        name = f"ct_{i}_7"
        grey = rng.integers(0, 255, (16, 18), dtype=np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(root / "images" / f"{name}.png")
        for part, (organ, number, rows) in enumerate(
            (("liver", 0, (2, 10)), ("liver", 1, (12, 15)), ("spleen", 0, (4, 6)))
        ):
            mask = np.zeros((16, 18), dtype=np.uint8)
            mask[rows[0] : rows[1], 3:9] = 255 if part else 1
            file = f"data_demo/masks/{name}_{organ}_{number:03d}.png"
            Image.fromarray(mask).save(root / "masks" / Path(file).name)
            if i < 3:
                train.setdefault(f"data_demo/images/{name}.png", []).append(file)
            else:
                test[file] = f"data_demo/images/{name}.png"
    (root / "image2label_train.json").write_text(json.dumps(train))
    (root / "label2image_test.json").write_text(json.dumps(test))
    return root


def write_amos(root: Path) -> Path:
    """A tiny archive of AMOS22's form: CT and MR by id, validation labels, no test labels."""
    names = (
        "spleen, right kidney, left kidney, gall bladder, esophagus, liver, stomach, arota, postcava, pancreas, "
        "right adrenal gland, left adrenal gland, duodenum, bladder, prostate/uterus"
    )
    organs = names.split(", ")
    rng = np.random.default_rng(3)
    lists: dict[str, list] = {"training": [], "validation": [], "test": []}
    numbers = {"training": (1, 4, 5, 7, 507, 600), "validation": (8, 500, 554), "test": (2, 601)}
    for (part, ids), ending in zip(numbers.items(), ("Tr", "Va", "Ts"), strict=True):
        for number in ids:
            name = f"amos_{number:04d}.nii.gz"
            label = rng.integers(0, 16, (12, 10, 5)).astype(np.uint8)
            image = (label.astype(np.int16) * 30 - 200 + rng.integers(-20, 20, label.shape)).astype(np.int16)
            save_nifti(root / f"images{ending}" / name, image)
            item = {"image": f"./images{ending}/{name}", "label": f"./labels{ending}/{name}"}
            if part == "test":
                item = {"image": item["image"]}
            else:
                save_nifti(root / f"labels{ending}" / name, label)
            lists[part].append(item)
    content = {
        "name": "AMOS",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(i): o for i, o in enumerate(organs, start=1)},
        "numTraining": 6,
        "numValidation": 3,
        "numTest": 2,
    } | lists
    (root / "dataset.json").write_text(json.dumps(content))
    return root
