"""Broken input: each gives one message that names the fault, from `verify` and from the data module alike."""

from __future__ import annotations

import errno
import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from data_sets import SHAPE, label_array, save_nifti, write_nnunet
from PIL import Image

from samzoo.data import SamzooDataModule, store
from samzoo.data.decode import Intensity
from samzoo.data.verify import verify
from samzoo.errors import ConfigError, DataError, SamzooError

IMAGE = "imagesTr/case_01_0000.nii.gz"
SECOND = "imagesTr/case_01_0001.nii.gz"
LABEL = "labelsTr/case_01.nii.gz"
AFFINE = np.diag((0.8, 0.9, 3.0, 1.0))
IMAGE_DATA = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def edit_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def patch_header(path: Path, offset: int, value: np.ndarray) -> None:
    """Write into the raw header what libraries refuse to write."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def with_pixdim(path: Path, value: float) -> None:
    patch_header(path, 80, np.float32(value))


def with_shape_zero(path: Path) -> None:
    patch_header(path, 42, np.int16(0))


def with_singular_sform(path: Path) -> None:
    patch_header(path, 296, np.zeros(4, np.float32))


def with_flipped_qform(path: Path) -> None:
    image = nib.load(path)
    flipped = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    flipped.set_sform(image.affine, 1)
    flipped.set_qform(image.affine @ np.diag((1, 1, -1, 1)), 1)
    nib.save(flipped, path)


def with_values(*values: float) -> np.ndarray:
    label = label_array(0).astype(np.float32)
    for i, v in enumerate(values):
        label[0, 0, i] = v
    return label


RGB_VOXELS = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

VOLUMES = {
    "truncated gzip": (lambda r: cut(r / IMAGE), r"case_01_0000.*damaged or cut short"),
    "not a NIfTI": (lambda r: (r / IMAGE).write_bytes(b"hello" * 100), r"case_01_0000.*can't be read as NIfTI"),
    "gzip of something else": (
        lambda r: (r / IMAGE).write_bytes(gzip.compress(b"hello" * 100)),
        r"case_01_0000.*can't be read as NIfTI",
    ),
    "no bytes": (lambda r: (r / IMAGE).write_bytes(b""), r"case_01_0000.*file is empty \(0 bytes\)"),
    "truncated label": (lambda r: cut(r / LABEL), r"labelsTr/case_01.*damaged or cut short"),
    "label of another shape": (
        lambda r: save_nifti(r / LABEL, label_array(0)[:, :, :5]),
        r"labelsTr/case_01.*shape \(9, 8, 5\) differs from \(9, 8, 6\)",
    ),
    "label of another affine": (
        lambda r: save_nifti(r / LABEL, label_array(0), AFFINE + np.eye(4, k=3) * 2),
        r"labelsTr/case_01.*affine differs .* 2 mm apart",
    ),
    "label flipped": (
        lambda r: save_nifti(r / LABEL, label_array(0), AFFINE @ np.diag((-1, 1, 1, 1))),
        r"labelsTr/case_01.*affine differs",
    ),
    "channels of other shapes": (
        lambda r: save_nifti(r / SECOND, IMAGE_DATA[:8]),
        r"case_01_0001.*shape \(8, 8, 6\) differs from \(9, 8, 6\)",
    ),
    "NaN": (
        lambda r: save_nifti(r / IMAGE, np.where(IMAGE_DATA == 7, np.nan, IMAGE_DATA)),
        r"case_01_0000.*1 voxels are NaN or infinite",
    ),
    "infinity": (
        lambda r: save_nifti(r / SECOND, np.where(IMAGE_DATA < 3, np.inf, IMAGE_DATA)),
        r"case_01_0001.*3 voxels are NaN or infinite",
    ),
    "a channel is missing": (
        lambda r: (r / SECOND).unlink(),
        r"case 'case_01' has 1 channels, the data set 2 \(T1, T2\)",
    ),
    "the first channel is missing": (lambda r: (r / IMAGE).unlink(), r"channel 0000 of case 'case_01' is missing"),
    "a channel too many": (
        lambda r: save_nifti(r / "imagesTr/case_01_0002.nii.gz", IMAGE_DATA),
        r"case 'case_01' has 3 image files, but dataset.json names 2 channels",
    ),
    "no channel number": (
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr/other.nii.gz"),
        r"other.nii.gz: nnU-Net images end in the channel number",
    ),
    "4D image": (
        lambda r: save_nifti(r / IMAGE, np.stack([IMAGE_DATA] * 3, -1)),
        r"case_01_0000.*has 4 channels, the data set 2",
    ),
    "5D image": (
        lambda r: save_nifti(r / IMAGE, np.zeros((4, 4, 4, 2, 2), np.float32)),
        r"case_01_0000.*5D image of shape",
    ),
    "colour voxels": (lambda r: save_nifti(r / IMAGE, RGB_VOXELS), r"case_01_0000.*real numbers only"),
    "complex voxels": (
        lambda r: save_nifti(r / IMAGE, IMAGE_DATA.astype(np.complex64)),
        r"case_01_0000.*complex64; samzoo reads real numbers only",
    ),
    "zero-size image": (lambda r: with_shape_zero(r / IMAGE), r"case_01_0000.*image is empty"),
    "negative spacing": (lambda r: with_pixdim(r / IMAGE, -0.8), r"case_01_0000.*spacing.*needs a positive one"),
    "zero spacing": (lambda r: with_pixdim(r / IMAGE, 0), r"case_01_0000.*spacing.*needs a positive one"),
    "singular affine": (
        lambda r: with_singular_sform(r / IMAGE),
        r"case_01_0000.*spacing.*needs a positive one",
    ),
    "order of slices ambiguous": (
        lambda r: with_flipped_qform(r / IMAGE),
        r"case_01_0000.*order of slices is ambiguous",
    ),
    "label value outside the table": (
        lambda r: save_nifti(r / LABEL, with_values(7, 9)),
        r"labelsTr/case_01.*label values \[7, 9\] \(2 voxels\) are not in the data set's table \[0, 1, 2\]",
    ),
    "negative label value": (lambda r: save_nifti(r / LABEL, with_values(-1)), r"label values \[-1\]"),
    "fractional label": (
        lambda r: save_nifti(r / LABEL, with_values(0.5, 1.5)),
        r"labelsTr/case_01.*must be integers, found 0.5 and 1 more",
    ),
    "NaN in the label": (lambda r: save_nifti(r / LABEL, with_values(np.nan)), r"label holds NaN"),
    "label of two channels": (
        lambda r: save_nifti(r / LABEL, np.stack([label_array(0)] * 2, -1)),
        r"labelsTr/case_01.*a label must have one channel",
    ),
    "label is missing": (lambda r: (r / LABEL).unlink(), r"labelsTr/case_01.*missing"),
    "no dataset.json": (lambda r: (r / "dataset.json").unlink(), r"There is an imagesTr, but no dataset.json"),
    "dataset.json is not JSON": (
        lambda r: (r / "dataset.json").write_text('{"labels": '),
        r"dataset.json is not readable JSON",
    ),
    "no labels key": (lambda r: edit_json(r / "dataset.json", labels=None), r"dataset.json has no key 'labels'"),
    "no channel_names key": (
        lambda r: edit_json(r / "dataset.json", channel_names=None),
        r"dataset.json has no key 'channel_names'",
    ),
    "no file_ending key": (
        lambda r: edit_json(r / "dataset.json", file_ending=None),
        r"dataset.json has no key 'file_ending'",
    ),
    "unreadable file_ending": (
        lambda r: edit_json(r / "dataset.json", file_ending=".mha"),
        r"file_ending '.mha' can't be read",
    ),
    "overlapping regions": (
        lambda r: edit_json(r / "dataset.json", labels={"background": 0, "whole": [1, 2], "core": [2]}),
        r"value 2 belongs to both 'whole' and 'core'",
    ),
    "label values that are names": (
        lambda r: edit_json(r / "dataset.json", labels={"background": 0, "organ": "one"}),
        r"label 'organ' must be an integer",
    ),
    "no class": (lambda r: edit_json(r / "dataset.json", labels={"background": 0}), r"0 classes"),
    "no cases": (lambda r: shutil.rmtree(r / "imagesTr"), r"layout nnunet, but no case was found"),
    "duplicate case id": (
        lambda r: save_nifti(r / "imagesTs/case_01_0000.nii.gz", IMAGE_DATA),
        r"duplicate case id 'case_01'",
    ),
    "unknown id in splits_final.json": (
        lambda r: (r / "splits_final.json").write_text('[{"train": ["case_00"], "val": ["nobody"]}]'),
        r"splits_final.json: 1 ids are not in the data set, first 'nobody'",
    ),
    "case in two splits": (
        lambda r: (r / "splits_final.json").write_text('[{"train": ["case_00", "case_01"], "val": ["case_01"]}]'),
        r"case 'case_01' is in both train and val",
    ),
}


def load_all(root: Path, **settings) -> None:
    """What a run does with a data set before the first number appears."""
    dm = SamzooDataModule(root=str(root), **settings)
    for stage in ("fit", "validate", "test"):
        dm.setup(stage)


def assert_refused(root: Path, message: str, **settings) -> None:
    report = verify(root, settings, progress=False)
    assert not report.ok
    found = "\n".join(f.message for f in report.errors)
    with pytest.raises(SamzooError, match=message):
        load_all(root, **settings)
    assert re.search(message, found), found


@pytest.mark.parametrize("fault", VOLUMES)
def test_broken_volumes(nnunet, fault):
    damage, message = VOLUMES[fault]
    damage(nnunet)
    assert_refused(nnunet, message)


def save_picture(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    Image.fromarray(array, mode).save(path)


def varying_alpha(root: Path) -> None:
    rgba = np.full((21, 24, 4), 200, dtype=np.uint8)
    rgba[:5, :, 3] = 0
    save_picture(root / "images/p1.png", rgba)


def two_pages(root: Path) -> None:
    page = Image.new("L", (24, 21))
    (root / "images/p1.png").unlink()
    page.save(root / "images/p1.tif", save_all=True, append_images=[page])


def cut_jpeg(root: Path) -> None:
    picture = Image.open(root / "images/p1.png").convert("RGB")
    (root / "images/p1.png").unlink()
    picture.save(root / "images/p1.jpg")
    cut(root / "images/p1.jpg")


PICTURES = {
    "unreadable PNG": (lambda r: (r / "images/p1.png").write_bytes(b"\x89PNG nothing"), r"p1.png: unreadable picture"),
    "truncated PNG": (lambda r: cut(r / "images/p1.png"), r"p1.png: unreadable picture"),
    "truncated JPEG": (cut_jpeg, r"p1.jpg: unreadable picture"),
    "no bytes": (lambda r: (r / "masks/p1.png").write_bytes(b""), r"masks/p1.png: file is empty"),
    "alpha that varies": (varying_alpha, r"p1.png: has an alpha channel that is not constant"),
    "TIFF of several pages": (two_pages, r"p1.tif: holds 2 pages"),
    "grey among colour": (
        lambda r: save_picture(r / "images/p1.png", np.zeros((21, 24), np.uint8)),
        r"case 'p1' has 1 channels, the data set 3 \(red, green, blue\) \(data.pictures",
    ),
    "mask of another size": (
        lambda r: save_picture(r / "masks/p1.png", np.zeros((5, 5), np.uint8)),
        r"masks/p1.png: shape \(1, 5, 5\) differs from \(1, 21, 24\)",
    ),
    "mask is not binary": (
        lambda r: save_picture(r / "masks/p1.png", np.full((21, 24), 3, np.uint8)),
        r"masks/p1.png: label values \[3\].*data.classes",
    ),
    "mask of 1 and 255": (
        lambda r: save_picture(r / "masks/p1.png", np.tile(np.uint8([1, 255, 0]), (21, 8))),
        r"masks/p1.png: a binary mask holds both 1 and 255",
    ),
    "coloured mask": (
        lambda r: save_picture(r / "masks/p1.png", np.tile(np.uint8([255, 0, 0]), (21, 24, 1))),
        r"masks/p1.png: a label must have one channel",
    ),
    "no mask": (lambda r: (r / "masks/p1.png").unlink(), r"masks/p1.png.*missing"),
    "no mask folder": (lambda r: shutil.rmtree(r / "masks"), r"there is images, but none of masks"),
    "two pictures of one stem": (
        lambda r: Image.open(r / "images/p1.png").save(r / "images/p1.jpg"),
        r"duplicate case id 'p1'",
    ),
    "no picture": (lambda r: [p.unlink() for p in (r / "images").iterdir()], r"no picture found"),
}


@pytest.mark.parametrize("fault", PICTURES)
def test_broken_pictures(pictures, fault):
    damage, message = PICTURES[fault]
    damage(pictures)
    assert_refused(pictures, message)


SAM_MED2D = {
    "mask is not binary": (
        lambda r: save_picture(r / "masks/ct_0_7_liver_000.png", np.full((16, 18), 9, np.uint8)),
        r"liver_000.png: an object's mask must be binary",
    ),
    "mask is missing": (lambda r: (r / "masks/ct_0_7_liver_000.png").unlink(), r"ct_0_7_liver_000.png.*missing"),
    "json of another form": (
        lambda r: (r / "image2label_train.json").write_text('["a.png"]'),
        r"image2label_train.json must be an object",
    ),
    "picture for training and test": (
        lambda r: edit_json(r / "label2image_test.json", **{"masks/ct_3_7_liver_000.png": "images/ct_0_7.png"}),
        r"duplicate case id 'ct_0_7'",
    ),
}


@pytest.mark.parametrize("fault", SAM_MED2D)
def test_broken_sam_med2d(sam_med2d, fault):
    damage, message = SAM_MED2D[fault]
    damage(sam_med2d)
    assert_refused(sam_med2d, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, r"no key 'labels'"),
        ({"modality": None}, r"no key 'modality'"),
        ({"labels": ["background", "liver"]}, r"labels must map values to names"),
        ({"training": [{"image": "./imagesTr/amos_0001.nii.gz"}]}, r"amos_0001.*without a label"),
        ({"training": [3]}, r"expected an image name or an object"),
        ({"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}, r"a.nii.gz.*missing"),
    ],
)
def test_broken_dataset_json_of_amos(amos, change, message):
    edit_json(amos / "dataset.json", **change)
    assert_refused(amos, message)


def test_patient_in_two_splits(nnunet):
    (nnunet / "splits_final.json").write_text('[{"train": ["case_00", "case_01"], "val": ["case_02", "case_03"]}]')
    settings = {"patient_pattern": r"(case)_", "splits_file": "splits_final.json"}
    assert_refused(nnunet, r"patient 'case' has cases in both train and val", **settings)


def test_patient_in_two_splits_of_nnunets_own_file(nnunet):
    (nnunet / "splits_final.json").write_text('[{"train": ["case_00", "case_01"], "val": ["case_02", "case_03"]}]')
    assert_refused(nnunet, r"patient 'case' has cases in both train and val", patient_pattern=r"(case)_")


def test_patient_pattern_without_a_patient(nnunet):
    assert_refused(
        nnunet, r"patient_pattern 'sub-\(.*finds no patient in case id 'case_00'", patient_pattern=r"sub-(\d+)"
    )


def test_same_image_in_two_splits_is_leakage(nnunet):
    for c in range(2):
        shutil.copy(nnunet / f"imagesTr/case_00_000{c}.nii.gz", nnunet / f"imagesTr/case_01_000{c}.nii.gz")
    (nnunet / "splits_final.json").write_text('[{"train": ["case_00", "case_02"], "val": ["case_01", "case_03"]}]')
    report = verify(nnunet, progress=False)
    assert "same image is in more than one split: case_00 (train), case_01 (val)" in report.errors[0].message


def test_empty_labels_are_told(nnunet):
    save_nifti(nnunet / LABEL, np.zeros(SHAPE, np.uint8))
    report = verify(nnunet, progress=False)
    assert report.ok
    assert [f.case for f in report.warnings if "label is empty" in f.message] == ["case_01"]
    for i in range(4):
        save_nifti(nnunet / f"labelsTr/case_{i:02d}.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "no label holds any class" in verify(nnunet, progress=False).text()


def test_missing_root_says_what_to_fetch_where_to_put_it_and_how_to_check(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMZOO_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        SamzooDataModule(root="amos22", source="zenodo.org, CC BY 4.0")
    message = str(caught.value)
    assert "zenodo.org, CC BY 4.0" in message
    assert str(tmp_path / "amos22") in message
    assert f"samzoo verify {tmp_path / 'amos22'}" in message


def test_folder_of_another_kind(tmp_path):
    (tmp_path / "x").mkdir()
    assert_refused(tmp_path / "x", r"in no layout that samzoo knows")
    write_nnunet(tmp_path / "x" / "inner")
    assert_refused(tmp_path / "x", r"did you mean .*inner")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ["T1", "FLAIR"]}, r"no channel 'FLAIR'; the data set has 0: T1, 1: T2"),
        ({"channels": [2]}, r"no channel 2"),
        ({"classes": {"bone": 5}}, r"asks for label values \[5\]; the data set has \[0, 1, 2\]"),
        ({"intensity": Intensity("window")}, r"needs a value for 'low'"),
        ({"intensity": Intensity("window", 5, 5)}, r"window needs low < high"),
        ({"intensity": Intensity("percentile", 0, 120)}, r"percentiles need"),
        ({"intensity": Intensity("window", [0, 0, 0], 9)}, r"has 3 values for 2 channels"),
        ({"intensity": Intensity("range")}, r"needs 8- or 16-bit pictures"),
        ({"slice_axis": 3}, r"slice_axis must be 0, 1 or 2"),
        ({"val_fraction": 0.7, "test_fraction": 0.7}, r"sum to at most 1"),
        ({"include": "patient.*"}, r"no case that data.include 'patient"),
        ({"batch_size": 0}, r"data.batch_size must be at least 1"),
        ({"foreground_fraction": 1.5}, r"at most 1, not 1.5"),
        ({"fold": 3, "splits_file": "folds.json"}, r"data.fold is 3, but .* has folds 0 to 0"),
    ],
)
def test_settings_that_do_not_fit(nnunet, settings, message):
    (nnunet / "folds.json").write_text('[{"train": ["case_00"], "val": ["case_01"]}]')
    with pytest.raises(SamzooError, match=message):
        load_all(nnunet, **settings)


def test_no_test_case_is_an_error_that_says_so(nnunet):
    dm = SamzooDataModule(root=str(nnunet), test_fraction=0)
    with pytest.raises(DataError, match=r"has no test case \(train "):
        dm.test_dataloader()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_no_debris_and_says_what_to_do(nnunet, monkeypatch, number):
    dm = SamzooDataModule(root=str(nnunet))
    written = []

    def fill_up(path, array):
        if len(written) >= 4:  # the first case fits
            path.write_bytes(b"half")
            raise OSError(number, "No space left on device")
        written.append(path)
        save_array(path, array)

    save_array = store.save_array
    monkeypatch.setattr(store, "save_array", fill_up)
    with pytest.raises(DataError, match=r"no space left .* set SAMZOO_HOME"):
        dm.setup("fit")
    (left,) = dm.store.folder.iterdir()
    assert (left / "meta.json").is_file()
    monkeypatch.undo()


def test_nothing_to_predict(nnunet, tmp_path):
    with pytest.raises(DataError, match=r"name some with --images PATH"):
        SamzooDataModule(root=str(nnunet)).predict_dataloader()
    with pytest.raises(DataError, match="does not exist"):
        SamzooDataModule(root=str(nnunet), predict_root=str(tmp_path / "nowhere")).predict_dataloader()
    save_nifti(tmp_path / "new/a_0000.nii.gz", IMAGE_DATA)
    save_nifti(tmp_path / "new/a_0002.nii.gz", IMAGE_DATA)
    with pytest.raises(DataError, match=r"case 'a' has channel files \[0, 2\]"):
        SamzooDataModule(root=str(nnunet), predict_root=str(tmp_path / "new")).predict_dataloader()


def test_unknown_layout(nnunet):
    with pytest.raises(ConfigError, match=r"data\.layout 'dicom' is unknown"):
        SamzooDataModule(root=str(nnunet), layout="dicom")
