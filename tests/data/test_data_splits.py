"""Splits are drawn by patient, never by slice, and those that a data set gives are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from samzoo.data.index import CaseEntry, ClassTable, DatasetIndex
from samzoo.data.splits import assign_splits, limit_cases


def index_of(*entries: CaseEntry) -> DatasetIndex:
    return DatasetIndex("x", Path("."), "nnunet", ClassTable({"a": (1,)}), ("CT",), entries)


def scans(patients: int, each: int = 3, split=None, prefix: str = "p") -> list[CaseEntry]:
    return [
        CaseEntry(f"{prefix}{p}_{s}", f"{prefix}{p}", (Path("x.nii.gz"),), split=split)
        for p in range(patients)
        for s in range(each)
    ]


def patients(index: DatasetIndex, split: str) -> set[str]:
    return {e.patient for e in index.of(split)}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_crosses_a_split(seed):
    index = assign_splits(index_of(*scans(20)), 0.15, 0.2, seed)
    parts = [patients(index, s) for s in ("train", "val", "test")]
    assert [len(p) for p in parts] == [13, 3, 4]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(index.entries) == 60 and all(e.split for e in index.entries)


def test_split_is_decided_by_seed_alone():
    index = index_of(*scans(20))
    shuffled = index_of(*reversed(index.entries))
    one, same, other = (assign_splits(i, 0.15, 0.2, s) for i, s in ((index, 1), (shuffled, 1), (index, 2)))
    assert patients(one, "test") == patients(same, "test") != patients(other, "test")


def test_given_test_and_validation_sets_stay():
    given = scans(6, split="train") + scans(3, split="val", prefix="v") + scans(2, split="test", prefix="t")
    index = assign_splits(index_of(*given), 0.5, 0.5, 0)
    assert patients(index, "val") == {"v0", "v1", "v2"} and patients(index, "test") == {"t0", "t1"}
    assert len(patients(index, "train")) == 6


def test_validation_is_carved_from_training_patients_where_it_is_missing():
    given = scans(10, split="train") + scans(2, split="test", prefix="t")
    index = assign_splits(index_of(*given), 0.2, 0.3, 0)
    assert len(patients(index, "val")) == 2 and len(patients(index, "train")) == 8
    assert patients(index, "test") == {"t0", "t1"}


def test_no_fraction_draws_nothing():
    index = assign_splits(index_of(*scans(4)), 0, 0, 0)
    assert len(index.of("train")) == 12


def test_at_most_so_many_cases_of_each_split():
    index = limit_cases(assign_splits(index_of(*scans(20)), 0.15, 0.2, 0), 2, 0)
    assert [len(index.of(s)) for s in ("train", "val", "test")] == [2, 2, 2]
