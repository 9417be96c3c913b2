"""Folders as people have them: other names and formats than documented are read rightly, or refused with a remedy."""

import gzip
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from data_sets import save_nifti, write_msd, write_nnunet, write_pictures
from PIL import Image

from samzoo.cli import main
from samzoo.data import SamzooDataModule
from samzoo.data.readers import read_index
from samzoo.data.readers.folder import mask_names
from samzoo.data.verify import verify
from samzoo.errors import DataError


def said(root: Path, **settings) -> str:
    return verify(root, settings, progress=False).text()


def rename(folder: Path, pattern: str) -> None:
    """Give all files of a folder names of this form."""
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(pattern.format(name=path.name.split(".")[0], ending=path.name.split(".", 1)[1])))


# --- names of masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{name}.{ending}", "{name}_mask.{ending}"),
        ("{name}_img.{ending}", "{name}_mask.{ending}"),
        ("img_{name}.{ending}", "mask_{name}.{ending}"),
        ("{name}_0000.{ending}", "{name}.{ending}"),
    ],
)
def test_masks_of_other_names_belong_to_their_pictures(pictures, image, mask):
    rename(pictures / "images", image)
    rename(pictures / "masks", mask)
    index = read_index(pictures)
    pairs = [(e.images[0].name, e.labels[0].path.name) for e in index.entries]
    wanted = [[form.format(name=f"p{i}", ending="png") for form in (image, mask)] for i in range(5)]
    assert sorted(map(list, pairs)) == wanted
    assert any("each belongs to one, as" in note for note in index.notes)


def test_a_mask_that_is_missing_among_masks_of_other_names_is_told(pictures):
    rename(pictures / "masks", "{name}_seg.{ending}")
    (pictures / "masks/p1_seg.png").unlink()
    assert "masks/p1_seg.png: file is missing" in said(pictures)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["v1_a", "v1_b"], ["v2_a", "v2_b"]),  # another visit
        (["case_1", "case_2"], ["case_11", "case_12"]),  # other cases
        (["a", "b"], ["a_liver", "a_spleen", "b_liver", "b_spleen"]),  # which of them?
        (["a_0000", "a_0001", "b_0000", "b_0001"], ["a", "b"]),  # channels
        (["a", "b", "c", "d"], ["x_a", "x_b"]),  # most have none
    ],
)
def test_names_that_leave_it_open_are_not_guessed(images, masks):
    assert mask_names(images, masks) == {name: name for name in images}


def test_masks_that_belong_to_no_picture_are_one_error_with_a_remedy(pictures):
    for path in sorted((pictures / "masks").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_liver.png"))
        path.rename(path.with_name(f"{path.stem}_spleen.png"))
    report = verify(pictures, progress=False)
    assert len(report.errors) == 1
    assert "p0.png is for a mask called p0, but they are called p0_liver.png" in report.errors[0].message
    assert "--data.mask_suffix _liver" in report.errors[0].message
    assert verify(pictures, {"mask_suffix": "_liver"}, progress=False).ok


def test_two_masks_of_one_name_are_refused(pictures):
    Image.open(pictures / "masks/p1.png").save(pictures / "masks/p1.bmp")
    with pytest.raises(DataError, match=r"duplicate case id 'p1': .*masks holds two files"):
        read_index(pictures)


def test_umlauts_of_macos_and_of_others_are_the_same_letters(pictures, nnunet):
    """An archive packed on macOS has a letter and its dots as two characters."""
    for folder, form in (("images", "NFC"), ("masks", "NFD")):
        rename(pictures / folder, unicodedata.normalize(form, "{name} Müller.{ending}"))
    for folder, form in (("imagesTr", "NFD"), ("labelsTr", "NFC")):
        for path in sorted((nnunet / folder).iterdir()):
            path.rename(path.with_name(unicodedata.normalize(form, path.name.replace("case", "Fäll"))))
    for root in (pictures, nnunet):
        report = verify(root, progress=False)
        assert not report.findings
        assert all(unicodedata.is_normalized("NFC", case.id) for case in report.cases)


# --- names of folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("Images", "Masks"), ("img", "seg"), ("IMAGES", "Annotations"), ("images", "gt")])
def test_folders_are_known_by_other_names(pictures, names):
    (pictures / "images").rename(pictures / "between")
    (pictures / "between").rename(pictures / names[0])
    (pictures / "masks").rename(pictures / names[1])
    assert verify(pictures, progress=False).ok


def test_folders_of_splits_in_capitals(tmp_path):
    for i, split in enumerate(("Train", "Test")):
        write_pictures(tmp_path / "mine" / split, high=255 - i)
        for kind in ("images", "masks"):
            rename(tmp_path / "mine" / split / kind, f"{split}_{{name}}.{{ending}}")
    assert {e.split for e in read_index(tmp_path / "mine").entries} == {"train", "test"}


def test_a_folder_that_is_only_called_like_a_split_hides_nothing(pictures):
    (pictures / "test").mkdir()
    assert len(read_index(pictures).entries) == 5
    write_pictures(pictures / "test")
    assert "holds images in images and in test: move one of the two" in said(pictures)


WRONG_PLACES = {
    "images itself": (lambda r: r / "images", r"lies in a folder that looks like one: did you mean .*cells\?"),
    "above": (lambda r: r.parent, r"sub-folder 'cells' looks like one: did you mean .*cells\?"),
    "empty": (lambda r: (r.parent / "x").mkdir() or r.parent / "x", r"It is empty"),
}


@pytest.mark.parametrize("place", WRONG_PLACES)
def test_a_root_too_high_or_too_low(pictures, place):
    other, message = WRONG_PLACES[place]
    assert re.search(message, said(other(pictures)))


def test_a_file_for_a_root(pictures):
    told = said(pictures / "images/p0.png")
    assert re.search(r"p0.png is a file; give the folder of the data set", told)
    told = said(pictures / "nowhere")
    assert "; how to check it: samzoo verify" in told and "; where it lies elsewhere: --data.root PATH" in told


def test_what_may_not_be_read_is_not_called_damaged(pictures, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: "masks/p1" not in str(path))
    assert "masks/p1.png: no permission to read it; change its permissions" in said(pictures)

    def forbidden(folder, *_):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert "cells: no permission to read it" in said(pictures)


def patient_folders(root: Path) -> None:
    for path in sorted((root / "images").iterdir()):
        (root / path.stem).mkdir()
        path.rename(root / path.stem / "scan.png")
        (root / "masks" / path.name).rename(root / path.stem / "seg.png")
    (root / "images").rmdir()
    (root / "masks").rmdir()


def one_folder(root: Path) -> None:
    for path in sorted((root / "images").iterdir()):
        path.rename(root / path.name)
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")


def nested(root: Path, name: str) -> None:
    for kind in ("images", "masks"):
        (root / kind).rename(root / "inner")
        (root / kind).mkdir()
        (root / "inner").rename(root / kind / name)


ARRANGED_OTHERWISE = {
    "a folder for each patient": (patient_folders, r"p0/scan.png.*for example images/p0.png and masks/p0.png"),
    "all in one folder": (one_folder, r"It holds images itself \(p0.png\): put the images into a folder images"),
    "patients inside images": (lambda r: nested(r, "anna"), r"files lie in images itself: call them anna_p0.png"),
    "splits inside images": (lambda r: nested(r, "train"), r"its folder train holds some: make it train/images"),
    "no masks": (lambda r: shutil.rmtree(r / "masks"), r"put the masks into a folder of such a name"),
}


@pytest.mark.parametrize("arrangement", ARRANGED_OTHERWISE)
def test_other_arrangements_are_told_how_to_be_arranged(pictures, arrangement):
    arrange, message = ARRANGED_OTHERWISE[arrangement]
    arrange(pictures)
    assert re.search(message, said(pictures))


# --- other formats --------------------------------------------------------------------------------------------------

DICOM = bytes(128) + b"DICM"


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.dcm", DICOM, "dcm2niix"),
        ("IM0001", DICOM, "dcm2niix"),
        ("1.2.840.113619", DICOM, "dcm2niix"),
        ("a.NRRD", b"NRRD0004", "SimpleITK"),
        ("a.mha", b"ObjectType = Image", "SimpleITK"),
        ("a.mgz", b"x", "mri_convert"),
        ("a.npy", b"\x93NUMPY", r"nibabel.Nifti1Image\(array"),
        ("a.webp", b"RIFF", "save them as PNG"),
    ],
)
@pytest.mark.parametrize("place", ["images", "", "patient/series"])
def test_formats_that_are_not_read_are_named_with_a_remedy(tmp_path, place, name, content, remedy):
    (tmp_path / "mine" / place).mkdir(parents=True)
    (tmp_path / "mine" / place / name).write_bytes(content)
    if place == "images":
        (tmp_path / "mine/masks").mkdir()
    assert re.search(rf"{re.escape(name)}: samzoo does not read .*{remedy}", said(tmp_path / "mine"))


def test_an_image_of_another_format_is_not_left_out_in_silence(pictures, nnunet):
    (pictures / "images/p9.nrrd").write_bytes(b"NRRD")
    (nnunet / "imagesTr/case_09_0000.mha").write_bytes(b"ObjectType")
    shutil.copy(nnunet / "imagesTr/case_01_0000.nii.gz", nnunet / "imagesTr/case_08_0000.nii")
    assert "warning: left out in images: p9.nrrd: samzoo does not read NRRD" in said(pictures)
    told = said(nnunet)
    assert "case_09_0000.mha: samzoo does not read NRRD or MetaImage" in told
    assert "1 images in " in told and "file_ending '.nii.gz' and are left out, first case_08_0000.nii" in told


def test_what_systems_leave_in_folders_is_passed_over(pictures):
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "readme.txt", "._p0.png"):
        for kind in ("images", "masks"):
            (pictures / kind / name).write_bytes(b"junk")
    report = verify(pictures, progress=False)
    assert report.ok and not report.warnings and len(report.cases) == 5


def test_a_file_ending_that_does_not_fit_names_what_is_there(nnunet):
    content = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nii"}))
    assert "ends in .nii, dataset.json's file_ending, but there is case_00_0000.nii.gz" in said(nnunet)
    (nnunet / "dataset.json").write_text(json.dumps(content | {"file_ending": ".mha"}))
    assert re.search("file_ending '.mha' can't be read; samzoo does not read .*SimpleITK", said(nnunet))


def test_predicting_what_is_not_read(tmp_path, nnunet):
    from samzoo.data.readers.unlabelled import read_unlabelled

    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.dcm").write_bytes(DICOM)
    with pytest.raises(DataError, match=r"no NIfTI file or picture in this folder; a.dcm.*dcm2niix"):
        read_unlabelled([tmp_path / "new"], read_index(nnunet))


# --- NIfTI and dataset.json -----------------------------------------------------------------------------------------


def test_endings_in_capitals(nnunet):
    for path in (*(nnunet / "imagesTr").iterdir(), *(nnunet / "labelsTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    assert verify(nnunet, progress=False).ok


def test_lists_of_nnunet_v1_leave_out_the_numbers_of_channels(tmp_path):
    root = write_msd(tmp_path / "Task001", ("liver",))
    for path in list((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    report = verify(root, progress=False)
    assert not report.errors and len(report.cases) == 6


def test_packed_or_not_against_the_name(nnunet):
    image, label = nnunet / "imagesTr/case_01_0000.nii.gz", nnunet / "labelsTr/case_02.nii.gz"
    image.write_bytes(gzip.decompress(image.read_bytes()))
    label.write_bytes(gzip.compress(label.read_bytes()))
    told = said(nnunet)
    assert "case_01_0000.nii.gz: is not packed by gzip, so its name must end in .nii; rename it" in told
    content = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nii"}))
    for path in (*(nnunet / "imagesTr").iterdir(), *(nnunet / "labelsTr").iterdir()):
        path.rename(path.with_name(path.name.removesuffix(".gz")))
    assert "case_00_0000.nii: is packed by gzip, so its name must end in .nii.gz; rename it" in said(nnunet)


def test_two_spacings_in_one_header_are_refused(nnunet):
    path = nnunet / "imagesTr/case_01_0000.nii.gz"
    image = nib.load(path)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine @ np.diag((0.5, 0.5, 2, 1)), 1)
    nib.save(image, path)
    assert re.search(r"case_01_0000.*sform and pixdim give two spacings.*correct the header", said(nnunet))


@pytest.mark.parametrize(("shift", "fits"), [(0.01, True), (0.3, False)])
def test_affines_of_a_case_may_differ_by_rounding(nnunet, shift, fits):
    path = nnunet / "labelsTr/case_01.nii.gz"
    label = nib.load(path)
    affine = label.affine.copy()
    affine[0, 3] += shift
    save_nifti(path, np.asarray(label.dataobj), affine)
    report = verify(nnunet, progress=False)
    assert report.ok == fits
    assert fits or "voxels up to 0.3 mm apart" in report.errors[0].message


def test_a_small_turn_moves_far_voxels(tmp_path):
    """0.002 rad are 1 mm over 500 voxels, though no entry of the affine differs by more than 0.002."""
    root = write_nnunet(tmp_path / "mine", channels=("T1",))
    image, label = root / "imagesTr/case_01_0000.nii.gz", root / "labelsTr/case_01.nii.gz"
    save_nifti(image, np.random.default_rng(0).normal(size=(500, 4, 2)).astype(np.float32), np.eye(4))
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.002), -np.sin(0.002)], [np.sin(0.002), np.cos(0.002)]]
    save_nifti(label, np.ones((500, 4, 2), np.uint8), turned)
    assert re.search(r"labelsTr/case_01.*voxels up to 0.99\d* mm apart", said(root))


def test_channels_on_the_first_axis_are_told(tmp_path):
    root = tmp_path / "mine"
    for i in range(3):
        save_nifti(root / f"images/a{i}.nii.gz", np.random.default_rng(i).normal(size=(4, 9, 8, 6)).astype(np.float32))
        save_nifti(root / f"masks/a{i}.nii.gz", np.ones((9, 8, 6), np.uint8))
    assert re.search(r"images/a0.nii.gz: its channels seem to be the first axis.*moveaxis", said(root))


@pytest.mark.parametrize(("cases", "words"), [(range(6), "no case has a value below 0"), ((1, 2), "2 of 6 cases")])
def test_ct_with_an_offset_is_told(tmp_path, cases, words):
    root = write_nnunet(tmp_path / "mine", cases=6, channels=("CT",))
    for i in range(6):
        path = root / f"imagesTr/case_{i:02d}_0000.nii.gz"
        values = np.random.default_rng(i).integers(-1000, 500, nib.load(path).shape)
        save_nifti(path, (values + (1024 if i in cases else 0)).astype(np.int16), nib.load(path).affine)
    report = verify(root, progress=False)
    assert any("channel CT" in f.message and words in f.message and "1024" in f.message for f in report.warnings)


# --- masks ----------------------------------------------------------------------------------------------------------


def save_palette(path: Path, indices: np.ndarray, colours: list[int]) -> None:
    picture = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    picture.putpalette(colours + [0] * (768 - len(colours)))
    picture.save(path)


def test_palettes_of_masks(pictures):
    shape = np.asarray(Image.open(pictures / "masks/p0.png")).shape
    indices = np.zeros(shape)
    indices[2:5, 2:9] = 1
    save_palette(pictures / "masks/p0.png", indices, [0, 0, 0, 255, 0, 0])
    assert verify(pictures, progress=False).ok
    save_palette(pictures / "masks/p0.png", 1 - indices, [255, 255, 255, 0, 0, 0])  # the same picture in a viewer
    assert re.search(r"p0.png: 0 is not black in the mask's palette.*save the mask in grey", said(pictures))


def test_inverted_tiff_masks(pictures):
    mask = np.asarray(Image.open(pictures / "masks/p0.png"))
    (pictures / "masks/p0.png").unlink()
    for compression in (None, "zlib"):
        tifffile.imwrite(pictures / "masks/p0.tif", mask, photometric="miniswhite", compression=compression)
        assert re.search(r"p0.tif: a mask that is shown inverted.*Invert LUT", said(pictures))
    tifffile.imwrite(pictures / "masks/p0.tif", mask, photometric="minisblack")
    assert verify(pictures, progress=False).ok


def test_coloured_masks_are_not_told_to_be_noise(pictures):
    Image.fromarray(np.tile(np.uint8([255, 0, 0]), (21, 24, 1))).save(pictures / "masks/p1.png")
    told = said(pictures)
    assert "save it as one map, a number for each class" in told and "mask_threshold" not in told


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_takes_the_settings_of_fit(pictures, capsys):
    for path in (pictures / "masks").iterdir():
        values = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.where(values > 0, 250, 3).astype(np.uint8)).save(path)
    line = ["verify", str(pictures)]
    assert main([*line, "--data.mask_threshold", "100"]) == 0
    assert f"--data.root {pictures} --data.mask_threshold=100" in capsys.readouterr().out
    assert main([*line, "--data.mask_treshold", "100"]) == 2
    assert "did you mean data.mask_threshold" in capsys.readouterr().err
    assert main([*line, "--data.mask_threshold", "high"]) == 1
    assert "data.mask_threshold: 'high' does not fit" in capsys.readouterr().out
    assert main([*line, "--data.classes", "{a: 1"]) == 2
    assert "data.classes: '{a: 1' is not valid YAML" in capsys.readouterr().err


def test_many_faults_of_one_kind_are_not_all_told(tmp_path, capsys):
    root = write_pictures(tmp_path / "mine", cases=30)
    for i in range(1, 30):
        (root / f"masks/p{i}.png").unlink()
    assert main(["verify", str(root), "--json", str(tmp_path / "report.json")]) == 1
    told = capsys.readouterr().out
    assert told.count("file is missing") == 8 and "and 21 more errors of single cases; --json FILE lists all" in told
    assert "NOT USABLE: 29 errors" in told
    assert len(json.loads((tmp_path / "report.json").read_text())["findings"]) >= 29


def test_classes_are_not_said_to_be_absent_where_no_label_could_be_read(pictures):
    for path in (pictures / "masks").iterdir():
        path.write_bytes(b"")
    assert not verify(pictures, progress=False).warnings


# --- patients and classes -------------------------------------------------------------------------------------------


def test_slices_of_one_patient_in_several_splits_are_told(tmp_path):
    root = write_pictures(tmp_path / "mine", cases=12)
    for kind in ("images", "masks"):
        for i, path in enumerate(sorted((root / kind).iterdir())):
            path.rename(path.with_name(f"p{i // 4:02d}_{i:03d}.png"))
    told = said(root)
    assert re.search(r"warning: \d names stand for several cases that are in different splits, first 'p0\d'", told)
    pattern = re.search(r"--data.patient_pattern '([^']+)'", told).group(1)
    assert not verify(root, {"patient_pattern": pattern}, progress=False).warnings
    with pytest.warns(UserWarning, match="scores come out too good"):
        SamzooDataModule(root=str(root))


def test_names_with_one_number_are_not_taken_for_patients(pictures, nnunet, sam_med2d):
    assert not any("different splits" in said(root) for root in (pictures, nnunet, sam_med2d))


def test_lists_of_files_with_the_labels_of_nnunet_v2(tmp_path):
    root = write_msd(tmp_path / "mine", ("liver", "tumour"))
    content = json.loads((root / "dataset.json").read_text())
    labels = {name: int(value) for value, name in content["labels"].items()}
    (root / "dataset.json").write_text(json.dumps(content | {"labels": labels}))
    assert read_index(root).table.values == {"liver": (1,), "tumour": (2,)}


def test_a_class_that_is_in_no_training_case_is_told_by_the_training(nnunet):
    content = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(content | {"labels": content["labels"] | {"cyst": 3}}))
    dm = SamzooDataModule(root=str(nnunet))
    dm.setup("fit")
    with pytest.warns(UserWarning, match="1 of 3 classes are in no training case, so that nothing .*: cyst"):
        dm.train_dataloader()
