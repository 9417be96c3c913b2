"""What is measured of the training cases before any of them is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from data_sets import save_nifti, write_nnunet, write_synapse_npz
from PIL import Image

from samzoo.data import SamzooDataModule, files
from samzoo.data.fingerprint import case_extent, measure, target_spacing
from samzoo.errors import DataError


def write_volumes(root, extents):
    """A data set of one channel whose files have these (shape, spacing) along i, j, k."""
    write_nnunet(root, len(extents), channels=("CT",))
    for number, (shape, spacing) in enumerate(extents):
        affine = np.diag((*spacing, 1.0))
        save_nifti(root / f"imagesTr/case_{number:02d}_0000.nii.gz", np.ones(shape, np.int16), affine)
        save_nifti(root / f"labelsTr/case_{number:02d}.nii.gz", np.ones(shape, np.uint8), affine)
    return SamzooDataModule(root=str(root), val_fraction=0, test_fraction=0)


def test_medians_of_the_training_cases_from_headers_alone(tmp_path, monkeypatch):
    extents = [((8, 10, 6), (1.0, 1.0, 2.0)), ((8, 12, 7), (1.0, 0.5, 2.0)), ((16, 10, 9), (0.5, 1.0, 2.5))]
    data = write_volumes(tmp_path / "Dataset002_Grids", extents)
    monkeypatch.setattr(files, "_read_nifti", lambda path: pytest.fail(f"{path} was read"))
    found = measure(data.entries("train"), data.decoding)
    assert found.spacing == (2.0, 1.0, 1.0) and found.cases == 3
    assert found.shape == (7, 10, 8), "medians of (6, 10, 8), (7, 6, 8), (11, 10, 8) at that spacing"


def test_only_training_cases_count(tmp_path):
    write_volumes(tmp_path / "Dataset002_Grids", [((8, 8, 8), (1.0, 1.0, 1.0)), ((4, 4, 4), (9.0, 9.0, 9.0))])
    (tmp_path / "mine.json").write_text('{"train": ["case_00"], "test": ["case_01"]}')
    data = SamzooDataModule(
        root=str(tmp_path / "Dataset002_Grids"), splits_file=str(tmp_path / "mine.json"), val_fraction=0
    )
    assert measure(data.entries("train"), data.decoding).shape == (8, 8, 8)
    with pytest.raises(DataError, match="no training case"):
        measure(data.entries("val"), data.decoding)


def test_a_coarse_and_short_axis_takes_the_tenth_percentile():
    spacings = np.array([[float(mm), 1.0, 1.0] for mm in range(4, 15)])
    short, long = np.tile((20.0, 200.0, 200.0), (11, 1)), np.tile((100.0, 200.0, 200.0), (11, 1))
    assert target_spacing(short, spacings).tolist() == [5.0, 1.0, 1.0]
    assert target_spacing(long, spacings).tolist() == [9.0, 1.0, 1.0], "as many slices: no finer ones are made up"
    assert target_spacing(short, spacings / (4, 1, 1)).tolist() == [2.25, 1.0, 1.0], "not coarse enough"
    mixed = np.array([[0.2, 1.0, 1.0]] * 4 + [[8.0, 1.0, 1.0]] * 7)
    assert target_spacing(short, mixed).tolist() == [1.0, 1.0, 1.0], "never finer than the other axes"


def assert_as_decoded(data):
    data.build_store()
    for split in ("train", "val", "test"):
        for entry in data.entries(split):
            case = data.store.open(entry)
            shape, spacing = case_extent(entry, data.decoding)
            assert shape == case.shape and spacing == pytest.approx(case.spacing, rel=1e-12)


@pytest.mark.parametrize("settings", [{}, {"slice_axis": 0}, {"canonical": True}])
def test_volumes_have_the_extent_that_they_have_decoded(tmp_path, settings):
    root = write_nnunet(tmp_path / "Dataset003_Turned", channels=("CT",))
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = -0.7, 1.3, 2.9, 1  # k runs to the left, i to the front
    for path in root.glob("*Tr/*.nii.gz"):
        save_nifti(path, np.ones((9, 8, 6), np.uint8), turned)
    assert_as_decoded(SamzooDataModule(root=str(root), **settings))


@pytest.mark.parametrize("settings", [{}, {"pixel_mm": 0.25}, {"max_side": 17, "pixel_mm": 0.5}])
def test_pictures_have_the_extent_that_they_have_decoded(pictures, settings):
    for path in sorted(pictures.glob("*/*.png"))[::2]:
        Image.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    assert_as_decoded(SamzooDataModule(root=str(pictures), **settings))


def test_arrays_have_the_extent_that_they_have_decoded(tmp_path):
    assert_as_decoded(SamzooDataModule(root=str(write_synapse_npz(tmp_path / "synapse"))))


def test_a_damaged_file_is_told(tmp_path):
    data = write_volumes(tmp_path / "Dataset002_Grids", [((8, 8, 8), (1.0, 1.0, 1.0))] * 2)
    broken = data.entries("train")[0].images[0]
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=f"{broken.name}.*damaged"):
        measure(data.entries("train"), data.decoding)
