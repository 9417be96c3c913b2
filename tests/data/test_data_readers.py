"""Every layout is read as meant: cases, patients, channels, classes, axes, values."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
import yaml
from data_sets import SHAPE, label_array, save_nifti, write_nnunet, write_pictures
from PIL import Image

from samzoo.data import SamzooDataModule
from samzoo.data.decode import DecodeSettings, Intensity, decode
from samzoo.data.index import ReadSettings
from samzoo.data.readers import read_index, recognise
from samzoo.data.restore import read_mark, source_label, write_label
from samzoo.errors import ConfigError, DataError
from samzoo.types import Case


def cases_of(dm: SamzooDataModule, split: str = "test") -> dict[str, Case]:
    dm.setup("test" if split == "test" else "fit")
    loader = dm.test_dataloader() if split == "test" else dm.val_dataloader()
    return {case.id: case for case in loader}


def everything_is_test(**settings) -> SamzooDataModule:
    return SamzooDataModule(val_fraction=0, test_fraction=1, **settings)


@pytest.mark.parametrize("layout", ["nnunet", "msd", "folder", "sam_med2d"])
def test_layout_is_recognised(layout, nnunet, pictures, sam_med2d, amos):
    root = {"nnunet": nnunet, "msd": amos, "folder": pictures, "sam_med2d": sam_med2d}[layout]
    assert recognise(root) == layout


def test_nnunet_case_keeps_values_axes_and_geometry(nnunet):
    dm = everything_is_test(root=str(nnunet), intensity=Intensity("window", 0, 200), store_dtype="float32")
    assert dm.class_names == ("organ", "tumour") and dm.num_classes == 2 and dm.num_channels == 2
    case = cases_of(dm)["case_02"]
    file = nib.load(nnunet / "imagesTr/case_02_0001.nii.gz")
    expected = np.clip(file.get_fdata() / 200, 0, 1).transpose(2, 1, 0)
    assert case.image.shape == (2, 6, 8, 9) and case.spacing == (3.0, 0.9, 0.8)
    np.testing.assert_allclose(case.image[1], expected, atol=1e-6)
    np.testing.assert_array_equal(case.label, label_array(2).transpose(2, 1, 0))
    np.testing.assert_array_equal(case.affine, file.affine)
    assert type(case.image) is torch.Tensor and case.image.dtype == torch.float32 and case.label.dtype == torch.uint8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_file_axis_can_be_the_slices_and_predictions_come_back(nnunet, tmp_path, axis):
    dm = everything_is_test(root=str(nnunet), slice_axis=axis)
    case = cases_of(dm)["case_01"]
    assert case.shape[0] == SHAPE[axis]
    assert case.spacing[0] == (0.8, 0.9, 3.0)[axis]
    write_label(case.label.numpy(), case.source, tmp_path / "out.nii.gz", dm.source_values, dm.slice_axis)
    written, source = nib.load(tmp_path / "out.nii.gz"), nib.load(case.source)
    np.testing.assert_array_equal(written.dataobj, label_array(1))
    assert (written.affine == source.affine).all() and written.get_data_dtype() == np.uint8
    for key in ("sform_code", "qform_code", "pixdim"):
        assert (written.header[key] == source.header[key]).all()
    plain = tmp_path / "out.nii"
    write_label(case.label.numpy(), case.source, plain, dm.source_values, dm.slice_axis, mark="made so")
    np.testing.assert_array_equal(nib.load(plain).dataobj, label_array(1))
    assert read_mark(plain) == "made so" and read_mark(tmp_path / "out.nii.gz") == read_mark(tmp_path) == ""


def test_channels_are_chosen_and_ordered(nnunet):
    both = cases_of(everything_is_test(root=str(nnunet)))["case_00"].image
    swapped = cases_of(everything_is_test(root=str(nnunet), channels=["T2", 0]))["case_00"].image
    assert torch.equal(swapped, both.flip(0))
    assert cases_of(everything_is_test(root=str(nnunet), channels=["T2"]))["case_00"].image.shape[0] == 1


def test_where_the_zero_of_files_lies(nnunet):
    assert everything_is_test(root=str(nnunet), intensity=Intensity("window", -1000, [1000, 0])).file_zero == 0.5
    windows = {(-100, 300): 0.25, (10, 20): 0.0, (-20, -10): 1.0, (0, 5): 0.0}
    assert {ends: Intensity("window", *ends).zero for ends in windows} == windows
    assert Intensity("percentile", 10, 90).zero == Intensity("range").zero == 0.0
    with pytest.raises(ConfigError, match="low < high"):
        _ = Intensity("window", 3, 3).zero


def test_percentiles_are_per_volume_and_channel(nnunet):
    case = cases_of(everything_is_test(root=str(nnunet), intensity=Intensity("percentile", 10, 90)))["case_00"]
    for channel in case.image:
        assert channel.min() == 0 and channel.max() == 1
        assert 0.15 < (channel == 0).float().mean() + (channel == 1).float().mean() < 0.25


def test_affines_that_differ_by_rounding_pass(nnunet):
    affine = np.diag((0.8, 0.9, 3.0, 1.0)) + 1e-6
    affine[3] = (0, 0, 0, 1)
    save_nifti(nnunet / "labelsTr/case_01.nii.gz", label_array(1), affine)
    assert len(cases_of(everything_is_test(root=str(nnunet)))) == 4


def test_classes_can_be_selected_merged_and_ignored(nnunet):
    def label(**classes):
        return cases_of(everything_is_test(root=str(nnunet), classes=classes))["case_00"].label.numpy()

    truth = label_array(0).transpose(2, 1, 0)
    np.testing.assert_array_equal(label(tumour=2), truth == 2)
    np.testing.assert_array_equal(label(any=[1, 2]), truth > 0)
    np.testing.assert_array_equal(label(organ=1, ignore=2), np.where(truth == 2, 255, truth))


def test_predictions_carry_the_data_sets_own_values(nnunet):
    dm = SamzooDataModule(root=str(nnunet), classes={"tumour": 2})
    assert dm.source_values == (0, 2)
    assert source_label(np.array([[0, 1]]), dm.source_values).tolist() == [[0, 2]]
    assert source_label(np.array([1]), (0, 500)).dtype == np.uint16


def test_given_folds_are_respected(nnunet):
    folds = [
        {"train": ["case_00", "case_01"], "val": ["case_02"]},
        {"train": ["case_02", "case_01"], "val": ["case_00"]},
    ]
    (nnunet / "splits_final.json").write_text(json.dumps(folds))
    with pytest.warns(UserWarning, match="1 labelled cases are in no split"):
        dm = SamzooDataModule(root=str(nnunet), fold=1, test_fraction=0)
    assert [e.id for e in dm.entries("train")] == ["case_01", "case_02"]
    assert [e.id for e in dm.entries("val")] == ["case_00"]


def test_own_splits_file(nnunet, tmp_path):
    (tmp_path / "mine.json").write_text('{"train": ["case_00"], "val": ["case_01"], "test": ["case_03", "case_02"]}')
    dm = SamzooDataModule(root=str(nnunet), splits_file=str(tmp_path / "mine.json"))
    assert {s: len(dm.entries(s)) for s in ("train", "val", "test")} == {"train": 1, "val": 1, "test": 2}


def test_nnunet_test_images_with_and_without_labels(nnunet):
    for c in range(2):
        save_nifti(nnunet / f"imagesTs/new_{c:04d}.nii.gz", np.ones(SHAPE, np.float32))
    dm = SamzooDataModule(root=str(nnunet))
    assert [e.id for e in dm.entries("predict")] == ["new"]
    assert [c.label for c in dm.predict_dataloader()] == [None]
    save_nifti(nnunet / "labelsTs/new.nii.gz", label_array(0))
    dm = SamzooDataModule(root=str(nnunet))
    assert [e.id for e in dm.entries("test")] == ["new"] and not dm.entries("predict")


def test_msd_channels_in_one_file(tmp_path):
    rng = np.random.default_rng(0)
    save_nifti(tmp_path / "imagesTr/a.nii.gz", rng.normal(size=(*SHAPE, 2)).astype(np.float32))
    save_nifti(tmp_path / "labelsTr/a.nii.gz", label_array(0))
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": [],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    case = cases_of(everything_is_test(root=str(tmp_path)))["a"]
    assert case.image.shape == (2, 6, 8, 9)


def amos_settings() -> dict:
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/datasets/amos.yaml").read_text())
    return settings | {"intensity": Intensity(**settings["intensity"])}


def test_amos_recipe_reads_an_archive_of_that_form(amos):
    dm = SamzooDataModule(**amos_settings() | {"root": str(amos)})
    ids = {s: [e.id for e in dm.entries(s)] for s in ("train", "val", "test", "predict")}
    assert ids["test"] == ["amos_0008", "amos_0500"], "its validation list, CT alone"
    assert sorted(ids["train"] + ids["val"]) == ["amos_0001", "amos_0004", "amos_0005", "amos_0007"]
    assert len(ids["val"]) == 1 and ids["predict"] == ["amos_0002"]
    assert dm.num_classes == 15 and dm.class_names[0] == "spleen" and dm.class_names[14] == "prostate/uterus"
    case = cases_of(dm)["amos_0500"]
    source = nib.load(amos / "imagesVa/amos_0500.nii.gz").get_fdata().transpose(2, 1, 0)
    np.testing.assert_allclose(case.image[0], np.clip((source + 160) / 400, 0, 1), atol=5e-4)


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks_of_either_kind(tmp_path, high):
    root = write_pictures(tmp_path / "cells", high=high)
    dm = everything_is_test(root=str(root), intensity=Intensity("range"))
    assert dm.class_names == ("foreground",)
    case = cases_of(dm)["p2"]
    assert case.image.shape == (3, 1, 22, 24) and case.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(case.label[0].numpy() == 1, np.asarray(Image.open(root / "masks/p2.png")) > 0)
    np.testing.assert_allclose(
        case.image[:, 0], np.asarray(Image.open(root / "images/p2.png")).transpose(2, 0, 1) / 255, atol=1e-3
    )


def test_indexed_masks_and_palettes(pictures):
    mask = np.zeros((21, 24), np.uint8)
    mask[3:6], mask[9:12] = 1, 7
    indexed = Image.fromarray(mask).convert("P")
    indexed.putdata(mask.ravel().tolist())
    indexed.save(pictures / "masks/p1.png")
    case = cases_of(everything_is_test(root=str(pictures), classes={"a": 1, "b": 7, "c": 255}, include="p1"))["p1"]
    np.testing.assert_array_equal(case.label[0], np.where(mask == 7, 2, mask))


def test_split_folders_and_mask_suffix(tmp_path):
    for split, cases in (("train", "ab"), ("val", "c"), ("test", "d")):
        for name in cases:
            for folder, stem in (("images", name), ("masks", f"{name}_segmentation")):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
                Image.new("L", (5, 4)).save(tmp_path / split / folder / f"{stem}.png")
    index = read_index(tmp_path, ReadSettings(mask_suffix="_segmentation"))
    assert {e.id: e.split for e in index.entries} == {"a": "train", "b": "train", "c": "val", "d": "test"}
    assert index.channels == ("grey",)


def test_sixteen_bit_grey_is_scaled_by_its_range(tmp_path):
    root = write_pictures(tmp_path / "cells", cases=1)
    deep = np.linspace(0, 65535, 20 * 24).reshape(20, 24).astype(np.uint16)
    for ending in ("png", "tif"):
        (root / "images/p0.png").unlink(missing_ok=True)
        Image.fromarray(deep).save(root / f"images/p0.{ending}")
        case = cases_of(everything_is_test(root=str(root), intensity=Intensity("range"), store_dtype="float32"))["p0"]
        np.testing.assert_allclose(case.image[0, 0], deep / 65535, atol=1e-6)
        (root / f"images/p0.{ending}").unlink()


def test_constant_alpha_is_dropped_and_grey_made_rgb_on_request(pictures):
    for i in range(5):
        Image.open(pictures / f"images/p{i}.png").convert("RGBA").save(pictures / f"images/p{i}.png")
    Image.open(pictures / "images/p1.png").convert("L").save(pictures / "images/p1.png")
    rgb = cases_of(everything_is_test(root=str(pictures), pictures="rgb"))
    assert {c.image.shape[0] for c in rgb.values()} == {3}
    grey = cases_of(everything_is_test(root=str(pictures), pictures="grey"))
    assert {c.image.shape[0] for c in grey.values()} == {1}


def test_pixel_size_of_pictures(pictures):
    assert cases_of(everything_is_test(root=str(pictures), pixel_mm=0.25))["p1"].spacing == (1.0, 0.25, 0.25)


def test_sam_med2d_objects_become_a_label(sam_med2d):
    dm = SamzooDataModule(root=str(sam_med2d), intensity=Intensity("range"), patient_pattern=r"^(.+)_\d+$")
    assert dm.class_names == ("liver", "spleen")
    assert [e.patient for e in dm.entries("test")] == ["ct_3"]
    label = cases_of(dm)["ct_3_7"].label[0].numpy()
    expected = np.zeros((16, 18), np.uint8)
    expected[2:10, 3:9], expected[12:15, 3:9] = 1, 1
    expected[4:6, 3:9] = 2
    np.testing.assert_array_equal(label, expected, "parts of a class are merged, the smaller object lies on top")


def test_sam_med2d_names_without_a_class_are_one_class(sam_med2d):
    for file in ("image2label_train.json", "label2image_test.json"):
        path = sam_med2d / file
        path.write_text(
            path.read_text().replace("_liver_000", "-x").replace("_liver_001", "-y").replace("_spleen_000", "-z")
        )
    for mask in (sam_med2d / "masks").iterdir():
        name = mask.name.replace("_liver_000", "-x").replace("_liver_001", "-y").replace("_spleen_000", "-z")
        mask.rename(mask.with_name(name))
    with pytest.warns(UserWarning, match="all objects are one class 'object'"):
        dm = SamzooDataModule(root=str(sam_med2d))
    assert dm.class_names == ("object",)
    named = SamzooDataModule(root=str(sam_med2d), class_pattern=r"-(\w)$")
    assert named.class_names == ("x", "y", "z")


def test_images_to_predict_need_no_dataset_json(nnunet, tmp_path):
    for name in ("x_0000", "x_0001", "y_0000", "y_0001"):
        save_nifti(tmp_path / f"new/{name}.nii.gz", np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32))
    dm = SamzooDataModule(root=str(nnunet), predict_root=str(tmp_path / "new"))
    cases = list(dm.predict_dataloader())
    assert [c.id for c in cases] == ["x", "y"] and cases[0].image.shape == (2, 3, 4, 5)
    assert all(c.label is None for c in cases)


def test_single_picture_to_predict_and_png_written(pictures, tmp_path):
    Image.open(pictures / "images/p0.png").save(tmp_path / "mine.png")
    dm = SamzooDataModule(root=str(pictures), predict_root=[str(tmp_path / "mine.png")])
    (case,) = dm.predict_dataloader()
    target = tmp_path / "out" / "mine.png"
    write_label(np.ones(case.shape, np.uint8), case.source, target, dm.source_values, 2, mark="made so")
    assert (np.asarray(Image.open(target)) == 255).all() and read_mark(target) == "made so"


def test_large_pictures_are_reduced_and_predictions_brought_back(pictures, tmp_path):
    whole = {c.id: c for c in _test_cases(SamzooDataModule(root=str(pictures), test_fraction=1, val_fraction=0))}
    small = _test_cases(SamzooDataModule(root=str(pictures), test_fraction=1, val_fraction=0, max_side=12))
    for case in small:
        before = whole[case.id]
        assert max(case.shape) == 12 and set(case.label.unique().tolist()) == {0, 1}
        assert case.spacing == pytest.approx((1, before.shape[1] / case.shape[1], before.shape[2] / 12))
        assert float(case.label.float().mean()) == pytest.approx(float(before.label.float().mean()), abs=0.03)
        assert float(case.image.mean()) == pytest.approx(float(before.image.mean()), abs=0.02)
        write_label(case.label.numpy(), case.source, tmp_path / f"{case.id}.png", (0, 255), 2)
        written = np.asarray(Image.open(tmp_path / f"{case.id}.png")) > 0
        assert written.shape == before.shape[1:] and (written == before.label[0].numpy()).mean() > 0.9
    with pytest.raises(DataError, match="the prediction 9 x 30"):
        write_label(np.ones((1, 30, 9), np.uint8), case.source, tmp_path / "o.png", (0, 255), 2)


def _test_cases(dm):
    dm.setup("test")
    return list(dm.test_dataloader())


def test_predictions_of_another_shape_are_refused(nnunet, tmp_path):
    source = nnunet / "imagesTr/case_00_0000.nii.gz"
    with pytest.raises(DataError, match="has shape"):
        write_label(np.ones((3, 3, 3), np.uint8), source, tmp_path / "o.nii.gz", (0, 1), 2)
    assert not list(tmp_path.glob("*o.nii.gz")) and not list(tmp_path.glob(".writing*"))


def test_scaled_headers_are_undone(tmp_path):
    root = write_nnunet(tmp_path / "d", cases=1, channels=("CT",))
    image = nib.Nifti1Image(np.arange(432, dtype=np.int16).reshape(SHAPE), np.diag((0.8, 0.9, 3.0, 1.0)))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, root / "imagesTr/case_00_0000.nii.gz")
    index = read_index(root)
    expected = nib.load(root / "imagesTr/case_00_0000.nii.gz").get_fdata()
    settings = DecodeSettings(Intensity("window", float(expected.min()), float(expected.max())))
    decoded = decode(index.entries[0], index, settings)
    scaled = (expected - expected.min()) / np.ptp(expected)
    np.testing.assert_allclose(decoded.image[0], scaled.transpose(2, 1, 0), atol=1e-5)


def test_wide_integers_are_not_taken_for_sixteen_bit(tmp_path):
    root = write_pictures(tmp_path / "cells", cases=1)
    (root / "images/p0.png").unlink()
    tifffile.imwrite(root / "images/p0.tif", np.full((20, 24), 70000, np.int32))
    with pytest.raises(ConfigError, match="values reach 70000"):
        cases_of(everything_is_test(root=str(root), intensity=Intensity("range")))
    tifffile.imwrite(root / "images/p0.tif", np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24))
    with pytest.raises(ConfigError, match="needs 8- or 16-bit pictures"):
        cases_of(everything_is_test(root=str(root), intensity=Intensity("range")))


def test_data_sets_without_validation_can_be_fitted(nnunet):
    dm = SamzooDataModule(root=str(nnunet), val_fraction=0)
    dm.setup("fit")
    assert dm.val_dataloader() == [] and len(dm.train_dataloader()) > 0
