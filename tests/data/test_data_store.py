"""The store: decoded once, rebuilt when it must be, whole or absent whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from data_sets import SHAPE, label_array, save_nifti, write_nnunet

from samzoo.data import SamzooDataModule, store
from samzoo.data.decode import DecodeSettings, Intensity
from samzoo.data.readers import read_index
from samzoo.data.store import Store, save_array


def make_store(root, **settings) -> Store:
    return Store(read_index(root), DecodeSettings(channels=(0, 1), **settings))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Ids of the cases that were decoded, in order."""
    seen = []
    decode = store.decode
    monkeypatch.setattr(store, "decode", lambda entry, *a: (seen.append(entry.id), decode(entry, *a))[1])
    return seen


def test_cases_are_decoded_once(nnunet, decoded):
    for _ in range(2):
        kept = make_store(nnunet)
        kept.build(kept.index.entries)
    assert decoded == ["case_00", "case_01", "case_02", "case_03"]


def test_arrays_are_mapped_and_counts_are_voxels_per_class_and_slice(nnunet):
    kept = make_store(nnunet)
    kept.build(kept.index.entries)
    case = kept.open(kept.index.entries[1])
    assert isinstance(case.image(), np.memmap) and case.image().dtype == np.float16
    assert isinstance(case.label(), np.memmap) and case.label().dtype == np.uint8
    truth = label_array(1)
    np.testing.assert_array_equal(case.counts(), np.stack([(truth == k).sum((0, 1)) for k in (1, 2)], 1))
    assert case.shape == (6, 8, 9)


def test_a_changed_file_costs_one_case_and_the_old_one_goes(nnunet, decoded):
    kept = make_store(nnunet)
    kept.build(kept.index.entries)
    save_nifti(nnunet / "labelsTr/case_02.nii.gz", label_array(5)[::-1])
    kept.build(kept.index.entries)
    assert decoded[4:] == ["case_02"]
    assert len(list(kept.folder.glob("case_*"))) == 4
    np.testing.assert_array_equal(kept.open(kept.index.entries[2]).label(), label_array(5)[::-1].transpose(2, 1, 0))


def test_settings_change_the_store(nnunet):
    windows = [{"intensity": Intensity("window", 0, high)} for high in (8, 9)]
    assert len({make_store(nnunet, **s).folder for s in ({}, {"slice_axis": 0}, *windows)}) == 4


def test_signature_follows_data_settings_and_split(nnunet):
    def signature(**settings):
        return SamzooDataModule(root=str(nnunet), **settings).signature

    first = signature()
    assert first == signature(batch_size=2, num_workers=1)
    assert first != signature(seed=5) or signature(seed=5) != signature(seed=6)
    assert first != signature(channels=["T1"])
    save_nifti(nnunet / "labelsTr/case_02.nii.gz", label_array(5)[::-1])
    assert first != signature()


def test_names_that_look_alike_do_not_share_a_folder(tmp_path):
    root = write_nnunet(tmp_path / "d", cases=1, channels=("CT",))
    for name in ("a b", "a_b", "a-b"):
        save_nifti(root / f"imagesTr/{name}_0000.nii.gz", np.full(SHAPE, len(name), np.float32))
        save_nifti(root / f"labelsTr/{name}.nii.gz", label_array(0))
    kept = Store(read_index(root), DecodeSettings())
    kept.build(kept.index.entries)
    assert {kept.open(e).labelled for e in kept.index.entries} == {True}
    assert len({kept.case_folder(e) for e in kept.index.entries}) == 4


BUILD = """
import sys, time
from samzoo.data import store
from samzoo.data.decode import DecodeSettings
from samzoo.data.readers import read_index
from pathlib import Path
root, log, slow = sys.argv[1:]
decode = store.decode
def noted(entry, *a):
    with open(log, "a") as f:
        f.write(entry.id + "\\n")
    time.sleep(float(slow))
    return decode(entry, *a)
store.decode = noted
if slow == "10":  # dies while a case is half written
    save = store.save_array
    def save_slowly(path, array):
        save(path, array)
        time.sleep(10)
    store.save_array, store.decode = save_slowly, decode
kept = store.Store(read_index(Path(root)), DecodeSettings(channels=(0, 1)))
kept.build(kept.index.entries, progress=False)
"""


def start_build(root, log, slow: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(root), str(log), str(slow)], env=os.environ.copy())


def test_two_processes_that_start_together_share_the_work(nnunet, tmp_path):
    log = tmp_path / "log"
    builders = [start_build(nnunet, log, 0.1) for _ in range(2)]
    assert [b.wait(60) for b in builders] == [0, 0]
    assert sorted(log.read_text().split()) == ["case_00", "case_01", "case_02", "case_03"]
    kept = make_store(nnunet)
    assert all(kept.open(e).image().shape == (2, 6, 8, 9) for e in kept.index.entries)


def test_a_killed_build_leaves_nothing_half_written_and_can_go_on(nnunet, tmp_path, decoded):
    kept = make_store(nnunet)
    builder = start_build(nnunet, tmp_path / "log", 10)
    deadline = time.time() + 60
    while not list(kept.folder.glob(".case*.unfinished/image.npy")) and time.time() < deadline:
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    builder.wait(10)
    assert list(kept.folder.glob(".case*.unfinished")) and not list(kept.folder.glob("case_*"))
    kept.build(kept.index.entries)
    assert not list(kept.folder.glob(".case*.unfinished")) and len(decoded) == 4
    assert kept.open(kept.index.entries[0]).labelled


def test_failed_case_keeps_those_before_it(nnunet, decoded):
    (nnunet / "labelsTr/case_02.nii.gz").write_bytes(b"x")
    kept = make_store(nnunet)
    with pytest.raises(Exception, match="case_02"):
        kept.build(kept.index.entries)
    assert len(list(kept.folder.glob("case_*"))) == 2
    save_nifti(nnunet / "labelsTr/case_02.nii.gz", label_array(2))
    kept.build(kept.index.entries)
    assert decoded == ["case_00", "case_01", "case_02", "case_02", "case_03"]


def test_tampered_store_is_told(nnunet):
    kept = make_store(nnunet)
    kept.build(kept.index.entries)
    (kept.case_folder(kept.index.entries[0]) / "meta.json").write_text("{")
    with pytest.raises(Exception, match=r"case 'case_00' can't be opened .* delete"):
        kept.open(kept.index.entries[0])


def test_saved_arrays_are_plain_npy(tmp_path):
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(2, 0, 1)
    save_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
