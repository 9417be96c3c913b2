"""Public archives as users unpack them: recognised, read as meant, and their usual faults told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_sets import (
    ARCHIVES,
    POLYP_TRAIN,
    lesion,
    write_acdc,
    write_clinicdb,
    write_etis,
    write_isic,
    write_kvasir_seg,
    write_polyps,
)
from PIL import Image

from samzoo.data import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.index import ReadSettings
from samzoo.data.readers import read_index
from samzoo.data.verify import verify
from samzoo.errors import ConfigError, DataError

DATASETS = Path(__file__).parents[2] / "configs" / "datasets"
RECIPES = ["polyps", "kvasir_seg", "cvc_clinicdb", "cvc_colondb", "cvc_300", "etis", "isic", "acdc"]


def recipe(name: str) -> dict:
    return yaml.safe_load((DATASETS / f"{name}.yaml").read_text())


def module(name: str, root: Path, **settings) -> SamzooDataModule:
    content = recipe(name)
    return SamzooDataModule(**content | {"root": str(root), "intensity": Intensity(**content["intensity"])} | settings)


def test_cases(dm: SamzooDataModule) -> dict:
    dm.setup("test")
    return {case.id: case for case in dm.test_dataloader()}


test_cases.__test__ = False


@pytest.mark.filterwarnings("ignore:.*other numbers of pictures")
@pytest.mark.parametrize("name", RECIPES)
def test_archive_verifies_by_itself_and_by_its_recipe(tmp_path, name):
    content = recipe(name)
    root = ARCHIVES[content["name"]](tmp_path / "archive")
    by_recipe = verify(root, content, progress=False)
    assert by_recipe.ok and by_recipe.layout == content["layout"], by_recipe.text()
    assert by_recipe.presence["test"] and all(by_recipe.presence["test"].values())
    by_itself = verify(root, progress=False)
    assert by_itself.layout == content["layout"]
    if name == "kvasir_seg":
        assert all("data.mask_threshold: 127" in f.message for f in by_itself.errors) and by_itself.errors
    else:
        assert by_itself.ok, by_itself.text()
    case = next(iter(test_cases(module(name, root)).values()))
    assert case.label is not None and (case.label > 0).any() and case.image.max() > 0.2


def test_folder_around_an_archive_is_told(tmp_path):
    write_clinicdb(tmp_path / "CVC-ClinicDB" / "PNG")
    with pytest.raises(DataError, match=r"did you mean .*PNG"):
        read_index(tmp_path / "CVC-ClinicDB")


# --- masks with noise -------------------------------------------------------------------------------------------------


def test_jpeg_masks_are_cut_at_the_threshold(tmp_path):
    root = write_kvasir_seg(tmp_path / "Kvasir-SEG")
    values = np.asarray(Image.open(root / "masks/cju0.jpg"))
    assert len(np.unique(values)) > 2, "JPEG left the mask exact: the test shows nothing"
    for name, case in test_cases(module("kvasir_seg", root, test_fraction=1, val_fraction=0)).items():
        truth = lesion(10000 + int(name[-1]))[1] > 0
        np.testing.assert_array_equal(case.label[0].numpy() == 1, truth)
    with pytest.raises(DataError, match=r"cju\d.jpg.*set data.mask_threshold: 127"):
        test_cases(module("kvasir_seg", root, mask_threshold=None))


def test_channels_that_differ_by_noise_are_one_mask_and_colours_are_none(tmp_path):
    root = write_kvasir_seg(tmp_path / "Kvasir-SEG")
    path = root / "masks/cju0.jpg"
    noisy = np.repeat(lesion(10000)[1][..., None], 3, axis=-1).astype(int)
    noisy += np.random.default_rng(0).integers(-20, 20, noisy.shape)
    path.unlink()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path.with_suffix(".png"))
    settings = {"include": "cju0", "test_fraction": 1, "val_fraction": 0}
    case = test_cases(module("kvasir_seg", root, **settings))["cju0"]
    np.testing.assert_array_equal(case.label[0].numpy() == 1, lesion(10000)[1] > 0)
    noisy[..., 1:] = 0
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path.with_suffix(".png"))
    with pytest.raises(DataError, match=r"cju0.png: a mask in colours"):
        test_cases(module("kvasir_seg", root, **settings))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_masks_of_zero_and_one_survive_the_threshold(pictures, mode):
    for path in (pictures / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 0
        Image.fromarray(mask if mode == "1" else mask.astype(np.uint8)).save(path)
    dm = SamzooDataModule(root=str(pictures), mask_threshold=127, test_fraction=1, val_fraction=0)
    assert all(case.label.sum() == 72 for case in test_cases(dm).values())


def test_threshold_is_part_of_the_stores_signature(pictures):
    signatures = {SamzooDataModule(root=str(pictures), mask_threshold=t).signature for t in (None, 100, 127)}
    assert len(signatures) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_threshold": 127, "classes": {"a": 1, "b": 2}}, "makes masks of one class, but data.classes names a, b"),
        ({"mask_threshold": 127, "classes": {"a": 255, "ignore": 7}}, "names a, ignore"),
        ({"mask_threshold": -1}, "data.mask_threshold is -1"),
    ],
)
def test_thresholds_that_make_no_sense(pictures, settings, message):
    with pytest.raises(ConfigError, match=message):
        SamzooDataModule(root=str(pictures), **settings)


def test_threshold_where_no_mask_is_thresholded(nnunet):
    with pytest.raises(ConfigError, match="masks of layout nnunet are never thresholded"):
        SamzooDataModule(root=str(nnunet), mask_threshold=127)


@pytest.mark.parametrize("compression", ["tiff_lzw", "group4", "packbits", "tiff_deflate", "jpeg"])
def test_compressions_of_tiff(tmp_path, compression):
    root = write_clinicdb(tmp_path / "CVC-ClinicDB")
    path, mask = root / "Ground Truth/1.tif", lesion(11000)[1]
    picture = Image.fromarray(mask).convert("1" if compression == "group4" else "L")
    picture.save(path, compression=compression)
    case = test_cases(module("cvc_clinicdb", root))["1"]
    np.testing.assert_array_equal(case.label[0].numpy() == 1, mask > 0)


# --- the polyp benchmark ----------------------------------------------------------------------------------------------


@pytest.fixture
def polyps(tmp_path) -> Path:
    return write_polyps(tmp_path / "polyps")


COUNTS = "ignore:.*other numbers of pictures"


@pytest.mark.filterwarnings(COUNTS)
def test_polyp_splits_come_from_the_archives(polyps):
    dm = module("polyps", polyps, val_fraction=0.3)
    sets = {s: sorted(e.id for e in dm.entries(s)) for s in ("train", "val", "test")}
    names = {n: f"CVC-ClinicDB/{n}" if n.isdigit() else f"Kvasir/{n}" for n in POLYP_TRAIN}
    assert sorted(sets["train"] + sets["val"]) == sorted(names.values()) and sets["val"]
    assert [i.split("/")[0] for i in sets["test"][::2]] == [
        "CVC-300",
        "CVC-ClinicDB",
        "CVC-ColonDB",
        "ETIS-LaribPolypDB",
        "Kvasir",
    ]
    assert dm.class_names == ("polyp",) and dm.num_channels == 3
    case = test_cases(dm)["CVC-ColonDB/3"]
    np.testing.assert_array_equal(case.label[0].numpy() == 1, lesion(4000)[1] > 0)


@pytest.mark.filterwarnings(COUNTS)
def test_frames_of_a_video_are_on_one_side_of_the_validation_split(polyps):
    index = read_index(polyps)
    patients = {e.id: e.patient for e in index.of("train")}
    clinic = [patients[f"CVC-ClinicDB/{n}"] for n in (1, 2, 25)]
    assert len(set(clinic)) == 1
    assert patients["CVC-ClinicDB/26"] == patients["CVC-ClinicDB/27"] not in clinic
    assert len({patients[f"CVC-ClinicDB/{n}"] for n in (610, 611, 612)}) == 1
    assert patients["Kvasir/cju0"] == "Kvasir/cju0"
    for seed in range(5):
        dm = module("polyps", polyps, val_fraction=0.4, seed=seed)
        assert not {e.patient for e in dm.entries("train")} & {e.patient for e in dm.entries("val")}


def test_polyp_counts_and_missing_sets_are_warnings(polyps):
    shutil.rmtree(polyps / "TestDataset/CVC-300")
    report = verify(polyps, recipe("polyps"), progress=False)
    assert report.ok
    (message,) = [f.message for f in report.warnings if "than usual" in f.message]
    for part in ("TrainDataset/Kvasir 8 (usually 900)", "TestDataset/CVC-300 0 (usually 60)"):
        assert part in message
    only_test = {"include": "(CVC-ColonDB|Kvasir)/.*"}
    chosen = verify(polyps, recipe("polyps") | only_test, overlays=polyps / "overlays", progress=False)
    assert chosen.ok and not [f for f in chosen.warnings if "usual" in f.message]
    assert (polyps / "overlays/CVC-ColonDB/3.png").is_file()


@pytest.mark.filterwarnings(COUNTS)
def test_polyp_faults(polyps):
    shutil.copy(polyps / "TrainDataset/image/cju1.png", polyps / "TestDataset/Kvasir/images/cju9.png")
    report = verify(polyps, recipe("polyps"), progress=False)
    assert ["same image is in more than one split" in f.message for f in report.errors] == [True]
    shutil.copy(polyps / "TrainDataset/image/cju1.png", polyps / "TestDataset/Kvasir/images/cju1.png")
    with pytest.raises(DataError, match=r"duplicate case id 'Kvasir/cju1'"):
        read_index(polyps)
    (polyps / "TestDataset/Kvasir/images/cju1.png").unlink()
    (polyps / "TrainDataset/mask/25.png").unlink()
    assert "TrainDataset/mask/25.png: file is missing" in verify(polyps, progress=False).errors[0].message
    shutil.rmtree(polyps / "TrainDataset/mask")
    with pytest.raises(DataError, match=r"TrainDataset: there is image, but no folder of masks"):
        read_index(polyps)


def test_a_benchmark_without_its_test_archive_is_not_tested_on_training_pictures(polyps):
    shutil.rmtree(polyps / "TestDataset")
    with pytest.warns(UserWarning, match="usually 380"):
        dm = module("polyps", polyps)
    with pytest.raises(DataError, match="has no test case"):
        dm.test_dataloader()


# --- single archives --------------------------------------------------------------------------------------------------


def test_etis_masks_with_a_prefix_belong_to_their_pictures(tmp_path):
    root = write_etis(tmp_path / "ETIS-LaribPolypDB")
    cases = test_cases(module("etis", root))
    assert list(cases) == ["1", "11", "2", "21"]
    np.testing.assert_array_equal(cases["21"].label[0].numpy() == 1, lesion(13003)[1] > 0)
    (root / "Ground Truth/p11.tif").unlink()
    assert "p11.tif: file is missing" in verify(root, progress=False).errors[0].message


@pytest.mark.filterwarnings(COUNTS)
def test_isic_splits_and_what_lies_beside_the_pictures(tmp_path):
    root = write_isic(tmp_path / "ISIC2018")
    dm = module("isic", root)
    assert {s: len(dm.entries(s)) for s in ("train", "val", "test", "predict")} == {
        "train": 4,
        "val": 2,
        "test": 3,
        "predict": 0,
    }
    assert dm.class_names == ("lesion",)
    case = test_cases(dm)["ISIC_2000001"]
    np.testing.assert_array_equal(case.label[0].numpy() == 1, lesion(20201)[1] > 0)
    assert len(module("isic", root, validation_as="test").entries("test")) == 5
    shutil.rmtree(root / "ISIC2018_Task1_Test_GroundTruth")
    assert [e.id for e in module("isic", root).entries("predict")] == [f"ISIC_200000{i}" for i in range(3)]
    (root / "ISIC2018_Task1_Training_GroundTruth/ISIC_0000002_segmentation.png").unlink()
    assert "ISIC_0000002_segmentation.png: file is missing" in verify(root, progress=False).errors[0].message
    shutil.rmtree(root / "ISIC2018_Task1_Training_GroundTruth")
    with pytest.raises(DataError, match="needs ISIC2018_Task1_Training_GroundTruth beside it"):
        read_index(root)


@pytest.mark.parametrize("place", ["", "database"])
def test_acdc_patients_frames_and_classes(tmp_path, place):
    root = write_acdc(tmp_path / "ACDC") / place
    dm = module("acdc", root, val_fraction=0.25)
    assert {s: len(dm.entries(s)) for s in ("train", "val", "test")} == {"train": 6, "val": 2, "test": 4}
    assert len({e.patient for e in dm.entries("val")}) == 1, "both frames of a patient"
    assert dm.class_names == ("right ventricle", "myocardium", "left ventricle")
    case = test_cases(dm)["patient101_frame12"]
    assert case.image.shape == (1, 3, 10, 12) and case.patient == "patient101" and case.spacing[0] == 3.0
    only = read_index(root, ReadSettings(classes={"left ventricle": 3}, patient_pattern=r"patient(\d+)"))
    assert only.table.names == ("left ventricle",) and only.entries[0].patient == "001"


def test_acdc_without_ground_truth(tmp_path):
    root = write_acdc(tmp_path / "ACDC")
    for path in (root / "database/testing").rglob("*_gt.nii.gz"):
        path.unlink()
    assert len(module("acdc", root).entries("predict")) == 4
    (root / "database/training/patient002/patient002_frame12_gt.nii.gz").unlink()
    with pytest.raises(DataError, match=r"patient002_frame12.nii.gz: no patient002_frame12_gt.nii.gz"):
        read_index(root)
