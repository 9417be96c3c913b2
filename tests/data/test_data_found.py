"""What is found where the user says nothing: intensities, and the classes of indexed masks."""

import nibabel as nib
import numpy as np
import pytest
from data_sets import save_nifti, write_msd, write_nnunet, write_pictures
from PIL import Image

import samzoo.data.found
from samzoo.data import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.verify import verify
from samzoo.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def own_home(home):
    return home


def found(root, **settings):
    return SamzooDataModule(root=str(root), **{"val_fraction": 0, "test_fraction": 0, **settings})


def test_ct_is_cut_at_percentiles_of_what_the_labels_hold(tmp_path):
    """Against numpy on the files themselves."""
    root = write_nnunet(tmp_path / "ct", channels=("CT",))
    data = found(root)
    assert not data.store.folder.exists(), "nothing is decoded yet"
    inside = []
    for entry in data.entries("train"):
        label = np.asarray(nib.load(entry.labels[0].path).dataobj)
        inside.append(np.asarray(nib.load(entry.images[0]).dataobj)[label > 0])
    low, high = np.percentile(np.concatenate(inside), (0.5, 99.5))
    intensity = data.decoding.intensity
    assert intensity.kind == "window"
    assert (intensity.low, intensity.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_only_training_cases_are_measured(tmp_path):
    root = write_nnunet(tmp_path / "ct", cases=4, channels=("CT",))
    splits = tmp_path / "splits.json"
    splits.write_text('{"train": ["case_00", "case_01"], "test": ["case_02", "case_03"]}')
    before = found(root, splits_file=str(splits)).decoding.intensity
    save_nifti(root / "imagesTr/case_03_0000.nii.gz", np.full((9, 8, 6), 9999, np.float32))
    assert found(root, splits_file=str(splits)).decoding.intensity == before
    save_nifti(root / "imagesTr/case_00_0000.nii.gz", np.full((9, 8, 6), 9999, np.float32))
    assert found(root, splits_file=str(splits)).decoding.intensity.high == pytest.approx(9999)


def test_a_scan_with_air_in_hu_is_ct_whatever_its_name(tmp_path):
    root = write_nnunet(tmp_path / "scan", cases=2, channels=("scan",))
    assert found(root).decoding.intensity.kind == "percentile"
    for case in ("case_00", "case_01"):
        image = np.full((9, 8, 6), -1000, np.int16)
        image[2:6, 2:5, 1:5] = 40
        save_nifti(root / f"imagesTr/{case}_0000.nii.gz", image)
    data = found(root)
    assert data.decoding.intensity.kind == "window" and "below -500" in data.found.reasons[0]


def test_a_window_for_ct_is_used_for_ct_alone(tmp_path):
    given = Intensity("auto", -1000, 1000)
    mr = found(write_nnunet(tmp_path / "mr"), intensity=given)
    assert mr.decoding.intensity == Intensity("percentile", 0.5, 99.5)
    root = write_nnunet(tmp_path / "ct", channels=("CT",))
    shifted = found(root, intensity=given).decoding.intensity
    assert shifted != Intensity("window", -1000, 1000), "no value below 0: these are not HU"
    for path in (root / "imagesTr").iterdir():
        save_nifti(path, np.random.default_rng(0).normal(-50, 100, (9, 8, 6)).astype(np.float32))
    ct = found(root, intensity=given)
    assert ct.decoding.intensity == Intensity("window", -1000, 1000) and ct.file_zero == 0.5
    with pytest.raises(ConfigError, match="low and high, or neither"):
        found(root, intensity=Intensity("auto", -1000))


def test_channels_of_two_kinds(tmp_path):
    root = write_nnunet(tmp_path / "petct", channels=("CT", "PET"))
    data = found(root, store_dtype="float32")
    assert data.decoding.intensity.kind == ["window", "percentile"]
    data.build_store(["train"])
    image = data.store.open(data.entries("train")[0]).image()
    assert image.shape[0] == 2 and image.min() == 0 and image.max() == 1
    alone = found(root, channels=["PET"])
    assert alone.decoding.intensity.kind == "percentile"
    with pytest.raises(ConfigError, match="has 2 values for 1 channels"):
        found(root, channels=["PET"], intensity=data.decoding.intensity).build_store(["train"])


def test_a_window_of_no_channel_is_refused():
    with pytest.raises(ConfigError, match="window needs low < high"):
        _ = Intensity("window", [], 5).zero


def test_pictures_by_their_depth(tmp_path):
    root = write_pictures(tmp_path / "cells")
    assert found(root).decoding.intensity == Intensity("range")
    deep = np.random.default_rng(0).integers(0, 4096, (20, 24)).astype(np.uint16)
    for path in (root / "images").iterdir():
        size = Image.open(path).size
        Image.fromarray(np.resize(deep, size[::-1])).save(path)
    assert found(root).decoding.intensity.kind == "percentile", "12 bits in 16 would be nearly black"


def test_it_is_measured_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    root, measured = write_msd(tmp_path / "msd", ("liver",)), []
    load = samzoo.data.found.load
    monkeypatch.setattr(samzoo.data.found, "load", lambda *args: measured.append(args) or load(*args))
    first = found(root).found
    assert len(measured) == 4 and found(root).found == first and len(measured) == 4
    save_nifti(root / "imagesTr/case_000.nii.gz", np.full((12, 10, 8), 7, np.float32))
    assert found(root).found != first and len(measured) == 8


def test_verify_says_what_a_training_would_take(tmp_path):
    root = write_nnunet(tmp_path / "ct", channels=("CT",))
    intensity = SamzooDataModule(root=str(root)).decoding.intensity
    report = verify(root, progress=False)
    assert report.ok and f"window {intensity.low:g} to {intensity.high:g} (CT by its name" in report.text()


def index_masks(root, values):
    """Write indexed masks: a block for each value."""
    for path in (root / "masks").iterdir():
        mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
        for i, value in enumerate(values):
            mask[2 * i : 2 * i + 2, 3:9] = value
        Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1], ["foreground"]),
        ([255], ["foreground"]),
        ([1, 2, 3], ["class_1", "class_2", "class_3"]),
        ([2], ["class_2"]),
        ([50, 100], ["class_50", "class_100"]),
    ],
)
def test_classes_of_indexed_masks(tmp_path, values, names):
    root = write_pictures(tmp_path / "cells")
    index_masks(root, values)
    data = found(root)
    assert list(data.class_names) == names
    data.build_store(["train"])
    counts = sum(data.store.open(e).counts().sum(0) for e in data.entries("train"))
    assert (counts == 12 * 5).all()
    again = SamzooDataModule(root=str(root), classes=data.found_settings.get("classes"))
    assert again.index.table == data.index.table


@pytest.mark.parametrize("values", [[1, 255], [1, 2, 255]])
def test_what_could_be_ignored_or_a_class_is_left_to_the_user(tmp_path, values):
    root = write_pictures(tmp_path / "cells")
    index_masks(root, values)
    with pytest.raises(DataError, match=r"name .*with data\.classes"):
        found(root).build_store(["train"])
    named = found(root, classes={"a": [1, 2], "ignore": 255})
    named.build_store(["train"])
