"""Small data sets of every layout, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import h5py
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


def lesion(seed: int, shape: tuple[int, int] = (24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A colour picture (H, W, 3) and its mask (H, W) of 0 and 255, other ones for other seeds."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=np.uint8)
    top, left = rng.integers(2, shape[0] // 3), rng.integers(2, shape[1] // 3)
    mask[top : top + shape[0] // 2, left : left + shape[1] // 2] = 255
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8), mask


def save_pairs(images: Path, masks: Path, names: dict[str, str], ending: str, seed: int, **options) -> None:
    """Pictures and their masks under names {picture: mask}; as .jpg masks are noisy."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (image_name, mask_name) in enumerate(names.items()):
        image, mask = lesion(1000 * seed + number)
        Image.fromarray(image).save(images / f"{image_name}{ending}", **options)
        Image.fromarray(mask).save(masks / f"{mask_name}{ending}", **options)


def same(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}


POLYP_TRAIN = [*(f"cju{i}" for i in range(8)), "1", "2", "25", "26", "27", "300", "610", "611", "612"]
POLYP_TEST = {"CVC-300": "149", "CVC-ClinicDB": "3", "CVC-ColonDB": "3", "ETIS-LaribPolypDB": "3", "Kvasir": "cju9"}


def write_polyps(root: Path) -> Path:
    """PraNet's two archives: 8 pictures of Kvasir and 9 of ClinicDB for training, two of each test set."""
    train = root / "TrainDataset"
    save_pairs(train / "image", train / "mask", same(POLYP_TRAIN), ".png", 1)
    for number, (part, name) in enumerate(POLYP_TEST.items(), start=2):
        place = root / "TestDataset" / part
        save_pairs(place / "images", place / "masks", same([name, f"{name}0"]), ".png", number)
    return root


def write_kvasir_seg(root: Path) -> Path:
    """JPEG pictures with JPEG masks in three channels."""
    save_pairs(root / "images", root / "masks", same([f"cju{i}" for i in range(6)]), ".jpg", 10, quality=75)
    for path in (root / "masks").iterdir():
        Image.open(path).convert("RGB").save(path, quality=75)
    (root / "kavsir_bboxes.json").write_text("{}")
    return root


def write_clinicdb(root: Path) -> Path:
    names = same([str(i) for i in range(1, 5)])
    save_pairs(root / "Original", root / "Ground Truth", names, ".tif", 11, compression="tiff_lzw")
    return root


def write_images_masks(root: Path) -> Path:
    """The form in which CVC-ColonDB and CVC-300 are in PraNet's TestDataset.zip."""
    save_pairs(root / "images", root / "masks", same(["1", "2", "3"]), ".png", 12)
    return root


def write_etis(root: Path) -> Path:
    names = {str(i): f"p{i}" for i in (1, 2, 11, 21)}
    save_pairs(root / "ETIS-LaribPolypDB", root / "Ground Truth", names, ".tif", 13)
    return root


def write_isic(root: Path) -> Path:
    """The six archives of task 1, with what else lies in them."""
    for number, (part, count) in enumerate((("Training", 4), ("Validation", 2), ("Test", 3))):
        images, masks = root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
        for folder in (images, masks):
            folder.mkdir(parents=True)
            (folder / "LICENSE.txt").write_text("licence")
            (folder / "ATTRIBUTION.txt").write_text("attribution")
        for i in range(count):
            image, mask = lesion(20000 + 100 * number + i)
            name = f"ISIC_{number}00000{i}"
            Image.fromarray(image).save(images / f"{name}.jpg")
            Image.fromarray(image).save(images / f"{name}_superpixels.png")
            Image.fromarray(mask).save(masks / f"{name}_segmentation.png")
    return root


def write_acdc(root: Path, training: Iterable[int] = (1, 2, 3, 4)) -> Path:
    """database/training with some patients, database/testing with two; two labelled frames each, and the film."""
    rng = np.random.default_rng(5)
    for part, patients in (("training", training), ("testing", (101, 102))):
        for number in patients:
            folder = root / "database" / part / f"patient{number:03d}"
            for frame in (1, 12):
                label = rng.integers(0, 4, (12, 10, 3)).astype(np.uint8)
                image = (label.astype(np.int16) * 40 + rng.integers(0, 20, label.shape)).astype(np.int16)
                save_nifti(folder / f"{folder.name}_frame{frame:02d}.nii.gz", image)
                save_nifti(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", label)
            save_nifti(folder / f"{folder.name}_4d.nii.gz", np.zeros((12, 10, 3, 5), np.int16))
            (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n")
    return root


def write_acdc_whole(root: Path) -> Path:
    """All 100 patients for training, whom MaskSAM's split divides."""
    return write_acdc(root, range(1, 101))


SYNAPSE_TRAIN = (5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40)
SYNAPSE_TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)


def abdomen(number: int, classes: int) -> np.ndarray:
    """(12, 10, 4) label of a case: every class on every slice, in other places for other numbers."""
    return ((np.arange(480).reshape(12, 10, 4) + number) % (classes + 1)).astype(np.uint8)


def write_synapse(root: Path) -> Path:
    """RawData.zip of BTCV: 30 labelled cases of 13 organs, two without labels."""
    raw = root / "RawData"
    for number in (*SYNAPSE_TRAIN, *SYNAPSE_TEST):
        label = abdomen(number, 13)
        save_nifti(raw / f"Training/img/img{number:04d}.nii.gz", label.astype(np.int16) * 30 - 150 + number)
        save_nifti(raw / f"Training/label/label{number:04d}.nii.gz", label)
    for number in (61, 62):
        save_nifti(raw / f"Testing/img/img{number:04d}.nii.gz", abdomen(number, 13).astype(np.int16))
    return root


def write_synapse_npz(root: Path) -> Path:
    """The slices and volumes that TransUNet's authors prepared; every number is a float there."""
    for folder in ("train_npz", "test_vol_h5", "lists"):
        (root / folder).mkdir(parents=True)
    for number in (*SYNAPSE_TRAIN, *SYNAPSE_TEST):
        label = abdomen(number, 8).transpose(2, 1, 0).astype(np.float32)
        image = label / 10 + np.float32(number / 1000)
        if number in SYNAPSE_TEST:
            with h5py.File(root / f"test_vol_h5/case{number:04d}.npy.h5", "w") as file:
                file["image"], file["label"] = image, label
            continue
        for z in range(len(label)):
            np.savez(root / f"train_npz/case{number:04d}_slice{z:03d}.npz", image=image[z], label=label[z])
    return root


def tumour(seed: int, classes: int, shape: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    """A label in which every class is on some slices."""
    label = np.zeros(shape, np.uint8)
    for k in range(1, classes + 1):
        label[2:8, 2 + k : 4 + k + seed % 3, 2:6] = k
    return label


def write_msd(root: Path, labels: tuple[str, ...], channels: tuple[str, ...] = ("CT",), cases: int = 4) -> Path:
    """An archive of the Medical Segmentation Decathlon: several channels are the fourth axis of one file."""
    rng, task = np.random.default_rng(6), "case"
    for part, numbers in (("Tr", range(cases)), ("Ts", (90, 91))):
        for number in numbers:
            label = tumour(number, len(labels))
            grey = [label * np.float32(100 * (c + 1)) + rng.normal(0, 5, label.shape) for c in range(len(channels))]
            image = np.stack(grey, -1) if len(channels) > 1 else grey[0]
            save_nifti(root / f"images{part}/{task}_{number:03d}.nii.gz", image.astype(np.float32))
            if part == "Tr":
                save_nifti(root / f"labels{part}/{task}_{number:03d}.nii.gz", label)
    names = [f"{task}_{number:03d}.nii.gz" for number in range(cases)]
    content = {
        "name": root.name,
        "tensorImageSize": "4D" if len(channels) > 1 else "3D",
        "modality": {str(i): c for i, c in enumerate(channels)},
        "labels": {"0": "background"} | {str(i): name for i, name in enumerate(labels, start=1)},
        "numTraining": cases,
        "numTest": 2,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [f"./imagesTs/{task}_090.nii.gz", f"./imagesTs/{task}_091.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_kits(root: Path, place: str = "dataset", label_name: str = "segmentation") -> Path:
    """Four labelled cases, and one without label; axes are z, y, x, all pointing the other way, as in the originals."""
    affine = np.zeros((4, 4))
    affine[(2, 1, 0, 3), (0, 1, 2, 3)] = -3.0, -0.9, -0.8, 1.0
    for number in range(5):
        case, label = root / place / f"case_{number:05d}", tumour(number, 3)
        save_nifti(case / "imaging.nii.gz", label.astype(np.int16) * 50 - 100 + number, affine)
        if number < 4:
            save_nifti(case / f"{label_name}.nii.gz", label, affine)
    return root


def write_kits21(root: Path) -> Path:
    return write_kits(root, "data", "aggregated_MAJ_seg")


def write_lits(root: Path) -> Path:
    """Two batches of two and three volumes, one test volume."""
    for number in range(5):
        batch, label = root / f"Training Batch {1 + number // 2 % 2}", tumour(number, 2)
        save_nifti(batch / f"volume-{number}.nii", label.astype(np.int16) * 80 - 100 + number)
        save_nifti(batch / f"segmentation-{number}.nii", label)
    save_nifti(root / "Test-Data" / "test-volume-0.nii", tumour(9, 2).astype(np.int16) * 80 - 91)
    return root


def write_brats(root: Path, year: int = 2021) -> Path:
    """Four labelled cases and one without; names, endings and the enhancing tumour's value change with the year."""
    names = {2020: "BraTS20_Training_{:03d}", 2021: "BraTS2021_{:05d}", 2023: "BraTS-GLI-{:05d}-000"}
    parts = ("-t2f", "-t1n", "-t1c", "-t2w") if year == 2023 else ("_flair", "_t1", "_t1ce", "_t2")
    end = ".nii" if year == 2020 else ".nii.gz"
    for number in range(5):
        name = names[year].format(number)
        label = tumour(number, 3)
        for c, part in enumerate(parts):
            save_nifti(root / name / f"{name}{part}{end}", label.astype(np.int16) * (c + 1) * 100 + number)
        if number < 4:
            label[label == 3] = 3 if year == 2023 else 4
            save_nifti(root / name / f"{name}{parts[0][0]}seg{end}", label)
    return root


ARCHIVES = {
    "amos_ct": write_amos,
    "sam_med2d_demo": write_sam_med2d,
    "nuclei_2d": write_pictures,
    "polyps": write_polyps,
    "kvasir_seg": write_kvasir_seg,
    "cvc_clinicdb": write_clinicdb,
    "cvc_colondb": write_images_masks,
    "cvc_300": write_images_masks,
    "etis": write_etis,
    "isic2018": write_isic,
    "acdc": write_acdc,
    "acdc_masksam": write_acdc_whole,
    "synapse": write_synapse,
    "synapse_13": write_synapse,
    "synapse_npz": write_synapse_npz,
    "msd_lung": partial(write_msd, labels=("cancer",)),
    "msd_pancreas": partial(write_msd, labels=("pancreas", "cancer")),
    "msd_colon": partial(write_msd, labels=("colon cancer primaries",)),
    "msd_hepatic_vessel": partial(write_msd, labels=("Vessel", "Tumour")),
    "msd_liver": partial(write_msd, labels=("liver", "cancer")),
    "msd_brain_tumour": partial(
        write_msd, labels=("edema", "non-enhancing tumor", "enhancing tumour"), channels=("FLAIR", "T1w", "t1gd", "T2w")
    ),
    "kits21": write_kits21,
    "kits23": write_kits,
    "lits": write_lits,
    "brats2020": partial(write_brats, year=2020),
    "brats2021": write_brats,
}
"""Name of a data set's config -> writer of a tiny archive of its form; the others are nnU-Net data sets."""
