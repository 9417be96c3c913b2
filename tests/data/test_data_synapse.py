"""Synapse (BTCV) in both its forms, and the splits that come with samzoo."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from data_sets import (
    ARCHIVES,
    SYNAPSE_TEST,
    SYNAPSE_TRAIN,
    abdomen,
    save_nifti,
    write_acdc_whole,
    write_amos,
    write_synapse,
    write_synapse_npz,
)

from samzoo.data import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.readers import read_index
from samzoo.data.verify import verify
from samzoo.errors import DataError

DATASETS = Path(__file__).parents[2] / "configs" / "datasets"
COUNTS = "ignore:.*other numbers of pictures"
NO_SPACING = "ignore:.*these files hold no spacing"
LEFT_OUT = "ignore:.*labelled cases are in no split"


def recipe(name: str) -> dict:
    return yaml.safe_load((DATASETS / f"{name}.yaml").read_text())


def module(name: str, root: Path, **settings) -> SamzooDataModule:
    content = recipe(name)
    return SamzooDataModule(**content | {"root": str(root), "intensity": Intensity(**content["intensity"])} | settings)


def ids(dm: SamzooDataModule, split: str) -> list[str]:
    return [e.id for e in dm.entries(split)]


def case_ids(numbers) -> list[str]:
    return [f"case{n:04d}" for n in numbers]


@pytest.mark.parametrize("name", ["synapse", "synapse_13", "synapse_npz", "acdc_masksam"])
def test_archive_verifies_by_itself_and_by_its_recipe(tmp_path, name):
    content = recipe(name)
    root = ARCHIVES[content["name"]](tmp_path / "archive")
    report = verify(root, content, progress=False)
    assert report.ok and report.layout == content["layout"], report.text()
    assert all(report.presence["train"].values()) and all(report.presence["test"].values())
    for word in (f"layout {content['layout']}", f"{len(report.classes)} classes", next(iter(report.classes)), "test "):
        assert word in report.text()
    if name == "acdc_masksam":
        return  # 400 files: read once is enough
    by_itself = verify(root, progress=False)
    assert by_itself.ok and by_itself.layout == content["layout"], by_itself.text()


# --- the NIfTI release ------------------------------------------------------------------------------------------------


def test_release_has_the_split_and_the_eight_organs(tmp_path):
    dm = module("synapse", write_synapse(tmp_path / "BTCV"))
    assert ids(dm, "train") == case_ids(SYNAPSE_TRAIN) and ids(dm, "test") == case_ids(SYNAPSE_TEST)
    assert ids(dm, "val") == [] and ids(dm, "predict") == ["case0061", "case0062"]
    dm.build_store(["test"])
    case = dm.store.open(dm.entries("test")[1])
    source = abdomen(2, 13).transpose(2, 1, 0)
    names = {"spleen": 1, "left kidney": 3, "liver": 6, "stomach": 7, "aorta": 8, "pancreas": 11}
    for name, value in names.items():
        np.testing.assert_array_equal(case.label() == dm.class_names.index(name) + 1, source == value)
    assert dm.num_classes == 8
    assert (case.label()[np.isin(source, (5, 9, 10, 12, 13))] == 0).all(), "other organs are background"
    assert module("synapse_13", tmp_path / "BTCV").num_classes == 13


@pytest.mark.parametrize("inner", ["Abdomen/RawData", "RawData", "."])
def test_release_is_found_where_users_unpack_it(tmp_path, inner):
    for folder, kind in (("img", "img"), ("label", "label")):
        save_nifti(tmp_path / inner / "Training" / folder / f"{kind}0001.nii.gz", abdomen(1, 13))
    assert [e.id for e in read_index(tmp_path).entries] == ["case0001"]


def test_release_without_a_label(tmp_path):
    root = write_synapse(tmp_path / "BTCV")
    (root / "RawData/Training/label/label0007.nii.gz").unlink()
    with pytest.raises(DataError, match=r"img0007.nii.gz: there is no label/label0007.nii.gz beside img"):
        read_index(root)


def test_an_incomplete_release_does_not_make_another_split(tmp_path):
    root = write_synapse(tmp_path / "BTCV")
    for kind in ("img", "label"):
        (root / f"RawData/Training/{kind}/{kind}0038.nii.gz").unlink()
    with pytest.raises(DataError, match=r"synapse.json: 1 ids are not in the data set, first 'case0038'"):
        module("synapse", root)


def test_both_forms_in_one_folder(tmp_path):
    write_synapse_npz(write_synapse(tmp_path / "x"))
    with pytest.raises(DataError, match="holds the NIfTI release and the slices"):
        read_index(tmp_path / "x")


# --- slices and volumes of arrays -------------------------------------------------------------------------------------


@pytest.fixture
def slices(tmp_path) -> Path:
    return write_synapse_npz(tmp_path / "Synapse")


def broken(root: Path, case_id: str) -> str:
    """What is said of the only case that is wrong."""
    report = verify(root, progress=False)
    assert {f.case for f in report.errors} == {case_id}, report.text()
    return report.errors[0].message


@pytest.mark.filterwarnings(COUNTS)
def test_slices_of_a_case_are_one_volume_as_the_volumes_are(slices):
    with pytest.warns(UserWarning, match="no spacing: distances are in voxels"):
        dm = module("synapse_npz", slices, store_dtype="float32")
    assert ids(dm, "train") == case_ids(SYNAPSE_TRAIN) and ids(dm, "test") == case_ids(SYNAPSE_TEST)
    dm.build_store(["train", "test"])
    for entry, number in ((dm.entries("train")[3], 9), (dm.entries("test")[4], 8)):
        case, source = dm.store.open(entry), abdomen(number, 8).transpose(2, 1, 0)
        np.testing.assert_array_equal(case.label(), source)
        np.testing.assert_allclose(case.image()[0], source / 10 + number / 1000, atol=1e-6)
        assert case.shape == (4, 10, 12) and case.spacing == (1, 1, 1)
    assert dm.class_names[5] == "pancreas"


@pytest.mark.filterwarnings(COUNTS, NO_SPACING)
def test_a_changed_slice_is_decoded_anew(slices):
    entry = module("synapse_npz", slices).entries("train")[0]
    before = module("synapse_npz", slices).signature
    np.savez(entry.images[2], image=np.zeros((10, 12)), label=np.zeros((10, 12)), other=np.zeros(9))
    assert module("synapse_npz", slices).signature != before


def test_counts_are_told(slices):
    messages = [f.message for f in verify(slices, progress=False).warnings]
    assert any("train_npz slices 72 (usually 2211)" in m for m in messages), messages


def test_a_gap_in_the_slices(slices):
    (slices / "train_npz/case0009_slice001.npz").unlink()
    with pytest.raises(DataError, match=r"case0009 has slices up to 003, but 1 are missing, first case0009_slice001"):
        read_index(slices)


class Unpickled:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_objects_are_not_loaded(slices, tmp_path):
    harmful = np.array([Unpickled(tmp_path / "trace")], dtype=object)
    np.savez(slices / "train_npz/case0005_slice001.npz", image=harmful, label=np.zeros((10, 12)))
    assert "case0005_slice001.npz: array 'image' can't be read" in broken(slices, "case0005")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((10, 12))}, "slice001.npz: has no array 'label', but image"),
        ({"image": np.zeros((9, 12)), "label": np.zeros((9, 12))}, r"slice001.npz: array 'image' has shape (9, 12)"),
        ({"image": np.zeros(5), "label": np.zeros(5)}, "has shape (5,); expected (height, width)"),
        ({"image": np.zeros((10, 12)), "label": np.full((10, 12), 9.0)}, "case0005_*.npz: label values [9]"),
        ({"image": np.zeros((10, 12)), "label": np.full((10, 12), 0.5)}, "label values must be integers"),
        ({"image": np.full((10, 12), np.nan), "label": np.zeros((10, 12))}, "voxels are NaN"),
        ({"image": np.full((10, 12), "a"), "label": np.zeros((10, 12))}, "samzoo reads real numbers only"),
    ],
)
def test_broken_slices(slices, arrays, message):
    np.savez(slices / "train_npz/case0005_slice001.npz", **arrays)
    assert message in broken(slices, "case0005")


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "zip"])
def test_damaged_slices(slices, kind):
    path = slices / "train_npz/case0005_slice002.npz"
    whole = path.read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("image.npy", b"not an array")
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"image"}[kind])
    assert "case0005_slice002.npz: " in broken(slices, "case0005")


def test_damaged_volumes(slices):
    path = slices / "test_vol_h5/case0008.npy.h5"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        assert "case0008.npy.h5: array 'image' can't be read" in broken(slices, "case0008")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": np.zeros((4, 10, 12))}, "has no array 'label', but image"),
        ({"image": np.zeros((4, 10, 12)), "label": np.zeros((3, 10, 12))}, "differs from"),
        ({"image": np.zeros((10, 12)), "label": np.zeros((10, 12))}, "expected (depth, height, width)"),
        ({"image": ["a", "b"], "label": np.zeros((4, 10, 12))}, "samzoo reads real numbers only"),
        ({"image": h5py.ExternalLink("case0001.npy.h5", "image"), "label": np.zeros(4)}, "is a group or a link"),
    ],
)
def test_broken_volumes(slices, content, message):
    with h5py.File(slices / "test_vol_h5/case0008.npy.h5", "w") as file:
        for key, value in content.items():
            file[key] = value
    assert message in broken(slices, "case0008")


# --- splits that come along -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(LEFT_OUT)
def test_acdc_split_by_patients(tmp_path):
    root = write_acdc_whole(tmp_path / "ACDC")
    for dm in (module("acdc_masksam", root), module("acdc", root, splits_file="acdc_masksam.json")):
        assert {s: len(dm.entries(s)) for s in ("train", "val", "test")} == {"train": 140, "val": 20, "test": 40}
        of = {s: {e.patient for e in dm.entries(s)} for s in ("train", "val", "test")}
        assert not (of["train"] & of["val"] or of["train"] & of["test"] or of["val"] & of["test"])
        assert {"patient017", "patient002"} <= of["test"] and "patient089" in of["val"]
        assert "patient101" not in of["test"], "the archive's own test patients are not in this split"


@pytest.mark.filterwarnings("ignore:.*dataset.json says")
def test_amos_folds_leave_its_test_set(tmp_path):
    root = write_amos(tmp_path / "amos22")
    plain = module("amos", root)
    folds = [module("amos", root, folds=2, fold=k) for k in range(2)]
    assert all(ids(dm, "test") == ids(plain, "test") == ["amos_0008", "amos_0500"] for dm in folds)
    assert sorted(ids(folds[0], "val") + ids(folds[1], "val")) == ["amos_0001", "amos_0004", "amos_0005", "amos_0007"]
    assert ids(folds[0], "train") == ids(folds[1], "val")
    assert {c.id: c.split for c in verify(root, recipe("amos") | {"folds": 2, "fold": 1}, progress=False).cases} == {
        e.id: e.split for e in folds[1].index.entries
    }
