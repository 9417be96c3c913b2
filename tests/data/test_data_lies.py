"""Files that contradict themselves, and data sets described by what is no description: found by tests/fuzz."""

import gzip
import io
import json
import struct

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile
from data_sets import SHAPE, write_msd, write_nnunet
from PIL import Image

from samzoo.cli import main
from samzoo.data.arrays import read_arrays
from samzoo.data.files import read_array
from samzoo.data.index import ReadSettings
from samzoo.data.readers import read_index
from samzoo.data.verify import verify
from samzoo.errors import ConfigError, DataError

VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
RGB = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)


def nifti(offset=None, form="", value=0):
    raw = nib.Nifti1Image(VOXELS, np.diag((0.8, 0.9, 3.0, 1.0))).to_bytes()
    packed = b"" if offset is None else struct.pack("<" + form, value)
    return raw[: offset or 0] + packed + raw[(offset or 0) + len(packed) :]


def test_a_flipped_bit_in_a_packed_volume_is_seen(tmp_path):
    """The checksum lies behind the last voxel, where nobody looks who reads voxels only."""
    packed = bytearray(gzip.compress(nifti(), 0))
    packed[len(packed) // 2] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"a.nii.gz: can't be read as NIfTI \(CRC check failed"):
        read_array(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (nifti(72, "h", 32), "says 32 bits a voxel"),
        (nifti(70, "h", 2), "says 16 bits a voxel"),
        (nifti(112, "f", np.inf), "scales the voxels by inf"),
        (nifti(123, "B", 3), "spacing in micrometres"),
        (nifti(46, "h", 5), "more voxels than the shape"),
        (nifti(108, "f", np.inf), "can't be read as NIfTI"),
        (nifti(42, "h", 32000), "damaged or cut short"),
    ],
)
def test_headers_that_contradict_the_voxels(tmp_path, raw, message):
    for name, content in (("a.nii", raw), ("b.nii.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            read_array(tmp_path / name)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_a_flipped_bit_in_a_png_is_seen(tmp_path):
    raw = bytearray(saved(tmp_path / "a.png", RGB, compress_level=0).read_bytes())
    raw[600] ^= 1
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(DataError, match=r"a.png: unreadable picture"):
        read_array(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_that_viewers_turn(tmp_path, name):
    exif = Image.Exif()
    exif[274] = 3
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, RGB, extratags=[(274, 3, 1, 3, True)])
    else:
        saved(path, RGB, exif=exif)
    with pytest.raises(DataError, match=f"{name}: EXIF orientation 3 makes viewers turn"):
        read_array(path)


def test_pictures_of_which_half_would_be_lost(tmp_path):
    path = saved(tmp_path / "a.gif", RGB)
    (tmp_path / "a.png").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="not what its ending says"):
        read_array(tmp_path / "a.png")
    whole = io.BytesIO()
    tifffile.imwrite(whole, RGB[..., 0])
    (tmp_path / "a.tif").write_bytes(whole.getvalue()[:-30])
    with pytest.raises(DataError, match=r"a.tif: unreadable picture"):
        read_array(tmp_path / "a.tif")


def test_h5_that_would_fill_the_memory_or_reads_elsewhere(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (2000, 4000, 4000), np.float32, chunks=(1, 64, 64))
    with pytest.raises(DataError, match=r"a.h5: says that it holds 122070 MiB"):
        read_arrays([path], "image")
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (2, 2, 2), np.uint8, external=[(str(tmp_path / "other"), 0, 8)])
    with pytest.raises(DataError, match=r"a.h5: array 'image' is kept in other files"):
        read_arrays([path], "image")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {"organ": 1, "organ": 2}}', "'organ' stands twice"),
        ('{"labels": NaN}', "NaN is no number of JSON"),
        ("[" * 100000, "too deep"),
        ("9" * 5000, "4300 digits"),
        ('{"channel_names": {"a": "CT"}, "labels": {"b": 1}, "file_ending": ".nii.gz"}', "channels by number"),
        ('{"channel_names": {"0": "CT"}, "labels": {"b": 1' + "0" * 30 + '}, "file_ending": ".nii.gz"}', "32 bit"),
    ],
)
def test_dataset_json_that_is_no_plain_json(tmp_path, text, message):
    root = write_nnunet(tmp_path / "set", cases=2)
    (root / "dataset.json").write_text(text)
    (finding,) = verify(root, progress=False).errors
    assert "dataset.json" in finding.message and message in finding.message


@pytest.mark.parametrize("change", [{"test": 3}, {"training": {}}, {"training": [{"image": "a.nii", "label": [1]}]}])
def test_lists_of_dataset_json_that_are_none(tmp_path, change):
    root = write_msd(tmp_path / "set", ("organ",), cases=2)
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"dataset.json: "):
        read_index(root)


@pytest.mark.parametrize("content", [{"train": "case_00", "val": []}, {"train": [0], "val": []}, {"train": None}])
def test_splits_that_are_no_lists_of_names(tmp_path, content):
    root = write_nnunet(tmp_path / "set", cases=2)
    (root / "splits_final.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"splits_final.json: expected an object with lists"):
        read_index(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patient_pattern": "("}, "data.patient_pattern '\\(' is no regular expression"),
        ({"class_pattern": "a"}, "data.class_pattern 'a' must have one group"),
        ({"fold": "0"}, "data.fold: '0' does not fit; expected int"),
        ({"classes": {"a": "1"}}, "data.classes: .* does not fit"),
        ({"pictures": "gray"}, "data.pictures: 'gray' does not fit"),
    ],
)
def test_settings_of_another_type(settings, message):
    with pytest.raises(ConfigError, match=message):
        ReadSettings(**settings)


def test_verify_finds_settings_of_another_type(tmp_path):
    root = write_nnunet(tmp_path / "set", cases=2)
    (finding,) = verify(root, {"val_fraction": "half"}, progress=False).errors
    assert finding.message == "data.val_fraction: 'half' does not fit; expected float"


def test_names_that_are_no_text_do_not_break_the_terminal(tmp_path, capsys):
    folder = tmp_path / "a\udcff\x1b[31m\u202e"
    write_nnunet(folder, cases=2)
    assert main(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "a\\udcff\\x1b[31m\\u202e: layout nnunet" in said and "\x1b" not in said
    assert main(["prepare", "phantom", str(tmp_path / "b\udcff"), "--cases", "2", "--size", "32"]) == 0
    assert "b\\udcff" in capsys.readouterr().out
