"""data.canonical: the same body in the same place, however a file stores it, and predictions back on its own axes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from data_sets import write_kits

from samzoo.data import SamzooDataModule
from samzoo.data.decode import DecodeSettings, Intensity
from samzoo.data.readers import read_index
from samzoo.data.restore import write_label
from samzoo.data.store import Store, digest

STANDARD = (("R", 0.8), ("A", 0.9), ("S", 3.0))
STORED = {
    "standard": "RAS",
    "z, y, x, all turned": "IPL",
    "turned in the plane": "LPS",
    "y, z, x": "ASL",
}


def oblique() -> np.ndarray:
    """(4, 4) turned by 20 degrees around z, then by 10 around x."""
    a, b = np.deg2rad((20, 10))
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    return nib.affines.from_matvec(np.array(about_x) @ about_z @ np.diag([mm for _, mm in STANDARD]), (-40, 7, 100))


@pytest.fixture
def body(tmp_path):
    """One volume stored in several ways (a case each), with its image and label in x, y, z."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 100, (9, 8, 6)).astype(np.int16), rng.integers(0, 3, (9, 8, 6)).astype(np.uint8)
    root = tmp_path / "cases"
    for folder, array in (("images", image), ("masks", label)):
        (root / folder).mkdir(parents=True)
        for i, codes in enumerate(STORED.values()):
            turn = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
            )
            stored = nib.Nifti1Image(array, oblique()).as_reoriented(turn)
            assert "".join(nib.aff2axcodes(stored.affine)) == codes
            nib.save(stored, root / folder / f"case_{i}.nii.gz")
    return root, image, label


def module(root, **settings) -> SamzooDataModule:
    own = {"layout": "folder", "classes": {"background": 0, "a": 1, "b": 2}, "intensity": Intensity("window", 0, 99)}
    return SamzooDataModule(root=str(root), **own, val_fraction=0, test_fraction=1, store_dtype="float32", **settings)


def test_all_ways_of_storing_give_one_case_and_come_back(body, tmp_path):
    root, image, label = body
    dm = module(root, canonical=True)
    dm.setup("test")
    cases = {case.id: case for case in dm.test_dataloader()}
    assert len(cases) == len(STORED)
    for case in cases.values():
        np.testing.assert_allclose(case.image[0], image.transpose(2, 1, 0) / 99, atol=1e-6)
        np.testing.assert_array_equal(case.label, label.transpose(2, 1, 0))
        assert case.spacing == pytest.approx((3.0, 0.9, 0.8))
        write_label(case.label.numpy(), case.source, tmp_path / "back.nii.gz", dm.source_values, 2, canonical=True)
        back, mask = nib.load(tmp_path / "back.nii.gz"), nib.load(case.source.replace("images", "masks"))
        np.testing.assert_array_equal(back.dataobj, mask.dataobj)
        np.testing.assert_array_equal(back.affine, mask.affine)
        np.testing.assert_array_equal(case.affine, mask.affine)
    sagittal = module(root, canonical=True, slice_axis=0)
    sagittal.setup("test")
    for case in sagittal.test_dataloader():
        np.testing.assert_array_equal(case.label, label.transpose(0, 2, 1))


def test_what_is_predicted_is_turned_as_well(body):
    root, image, _ = body
    dm = module(root, canonical=True, predict_root=str(root / "images"))
    for case in dm.predict_dataloader():
        np.testing.assert_allclose(case.image[0], image.transpose(2, 1, 0) / 99, atol=1e-6)


def test_stores_made_without_it_stay_valid(tmp_path):
    index = read_index(write_kits(tmp_path / "kits"))
    before = {
        "format": 1,
        "root": str(index.root.resolve()),
        "table": [list(index.table.values.items()), index.table.background, index.table.ignore],
        "channels": index.channels,
        "settings": {
            "intensity": {"kind": "percentile", "low": None, "high": None},
            "channels": (0,),
            "slice_axis": 2,
            "pictures": "auto",
            "pixel_mm": 1.0,
            "max_side": None,
        },
        "dtype": "float16",
    }
    assert Store(index, DecodeSettings()).signature == digest(before)
    assert Store(index, DecodeSettings(canonical=True)).signature != digest(before)
