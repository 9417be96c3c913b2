"""Tumour archives as users get them: MSD, KiTS, LiTS and BraTS of several years."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from data_sets import ARCHIVES, tumour, write_brats, write_kits, write_kits21, write_lits
from test_data_recipes import DATASETS, module, test_cases

from samzoo.data.index import ReadSettings
from samzoo.data.readers import read_index
from samzoo.data.verify import verify
from samzoo.errors import DataError

RECIPES = sorted(p.stem for pattern in ("msd_*", "kits*", "lits*", "brats*") for p in DATASETS.glob(f"{pattern}.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_archive_verifies_and_decodes(tmp_path, name):
    content = yaml.safe_load((DATASETS / f"{name}.yaml").read_text())
    root = ARCHIVES[name](tmp_path / content["root"])
    assert verify(root, progress=False).layout == content["layout"]
    report = verify(root, content, progress=False)
    assert report.ok and not report.warnings, report.text()
    dm = module(name, root, val_fraction=0, test_fraction=1)
    assert all(torch.equal(case.label.unique(), torch.arange(dm.num_classes + 1)) for case in test_cases(dm).values())
    assert dm.entries("predict"), "cases without labels are there to be predicted"


def test_four_channels_in_their_order(tmp_path):
    """In one file (MSD) or in four (BraTS); each channel is scaled by itself."""
    for name in ("msd_brain_tumour", "brats2021"):
        root = ARCHIVES[name](tmp_path / name)
        dm = module(name, root, val_fraction=0, test_fraction=1)
        case = next(iter(test_cases(dm).values()))
        assert case.image.shape == (4, 8, 10, 12) and dm.num_channels == 4
        assert all(channel.min() == 0 and channel.max() == 1 for channel in case.image)
        one = module(name, root, val_fraction=0, test_fraction=1, channels=[dm.index.channels[2]])
        np.testing.assert_array_equal(next(iter(test_cases(one).values())).image[0], case.image[2])
    assert dm.index.channels == ("FLAIR", "T1", "T1CE", "T2")


def test_kits_is_brought_to_depth_height_width(tmp_path):
    cases = test_cases(module("kits23", write_kits(tmp_path / "kits23"), val_fraction=0, test_fraction=1))
    case = cases["case_00002"]
    assert case.label.shape == (12, 10, 8) and case.spacing == pytest.approx((3.0, 0.9, 0.8))
    np.testing.assert_array_equal(case.label, np.flip(tumour(2, 3)))


def test_kits_root_may_be_the_folder_of_cases_and_an_image_may_be_missing(tmp_path):
    root = write_kits21(tmp_path / "kits21")
    ids = {e.id for e in read_index(root / "data").entries}
    assert ids == {e.id for e in read_index(root).entries} and len(ids) == 5
    (root / "data/case_00001/imaging.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case_00001.imaging.nii.gz: file is missing.*script fetches the images"):
        read_index(root)


def test_lits_in_other_folders_and_a_batch_that_is_missing(tmp_path):
    root = write_lits(tmp_path / "LiTS")
    index = read_index(root)
    assert [e.id for e in index.of("predict")] == ["test-volume-0"] and len(index.entries) == 6
    (root / "segmentations").mkdir()
    for path in root.glob("Training*/segmentation-*"):
        path.rename(root / "segmentations" / path.name)
    assert [e.labels[0].path.name for e in read_index(root).entries if e.labels][3] == "segmentation-3.nii"
    (root / "segmentations/segmentation-3.nii").unlink()
    with pytest.raises(DataError, match=r"volume-3.nii: there is no segmentation-3.nii"):
        read_index(root)


def test_brats_of_other_years(tmp_path):
    """From 2023 on enhancing tumour is 3, and one patient has several examinations."""
    new = read_index(write_brats(tmp_path / "2023", 2023))
    assert new.table.source_values == (0, 1, 2, 3)
    assert {e.patient for e in new.entries} == {f"BraTS-GLI-{i:05d}" for i in range(5)}
    assert read_index(write_brats(tmp_path / "2021")).table.source_values == (0, 1, 2, 4)
    whole = ReadSettings(classes={"whole tumour": [1, 2, 4], "background": 0})
    assert read_index(tmp_path / "2021", whole).table.names == ("whole tumour",)
    (tmp_path / "2021").rename(tmp_path / "2023" / "2021")
    with pytest.raises(DataError, match="keep releases apart"):
        read_index(tmp_path / "2023")


def test_brats_case_with_an_odd_segmentation_or_without_a_channel(tmp_path):
    root = write_brats(tmp_path / "HGG", 2020).parent
    case = root / "HGG/BraTS20_Training_002"
    (case / "BraTS20_Training_002_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")
    index = read_index(root)
    assert index.entries[2].labels[0].path.name == "W39_1998.09.19_Segm.nii" and "Segm.nii is taken" in index.notes[0]
    (case / "BraTS20_Training_002_t1ce.nii").unlink()
    with pytest.raises(DataError, match=r"BraTS20_Training_002: no BraTS20_Training_002_t1ce.nii"):
        read_index(root)


def test_cut_file_is_named(tmp_path):
    root = write_brats(tmp_path / "b", 2021)
    path = root / "BraTS2021_00001/BraTS2021_00001_t2.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = verify(root, progress=False)
    assert [f.case for f in report.errors] == ["BraTS2021_00001"] and path.name in report.errors[0].message
