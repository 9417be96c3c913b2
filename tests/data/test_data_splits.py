"""Splits are drawn by patient, never by slice, and those that a data set gives are kept."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from samzoo.data.index import CaseEntry, ClassTable, DatasetIndex, apply_splits
from samzoo.data.splits import assign_splits, kfold, limit_cases
from samzoo.errors import ConfigError, DataError


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


@pytest.mark.parametrize(("count", "sizes"), [(1, (0, 0, 1)), (2, (1, 0, 1)), (3, (1, 1, 1)), (7, (5, 1, 1))])
def test_of_few_patients_one_is_tested_and_one_trained_on_before_any_validates(count, sizes):
    index = assign_splits(index_of(*scans(count)), 0.15, 0.2, 0)
    assert tuple(len(patients(index, s)) for s in ("train", "val", "test")) == sizes


def test_a_single_training_patient_beside_a_given_test_set_is_trained_on():
    index = assign_splits(index_of(*scans(1), *scans(1, split="test", prefix="t")), 0.15, 0.2, 0)
    assert patients(index, "train") == {"p0"}
    everything = assign_splits(index_of(*scans(2)), 1.0, 0, 0)
    assert len(patients(everything, "val")) == 2, "as asked for"


def test_no_fraction_draws_nothing():
    index = assign_splits(index_of(*scans(4)), 0, 0, 0)
    assert len(index.of("train")) == 12


def test_at_most_so_many_cases_of_each_split():
    index = limit_cases(assign_splits(index_of(*scans(20)), 0.15, 0.2, 0), 2, 0)
    assert [len(index.of(s)) for s in ("train", "val", "test")] == [2, 2, 2]


# --- folds ------------------------------------------------------------------------------------------------------------


def reference_folds(count: int, folds: int) -> list[list[int]]:
    """Shuffled K-fold as scikit-learn defines it, on MT19937 as its authors do (masks with rejection, Fisher-Yates)."""
    key = [12345]
    for i in range(1, 624):
        key.append((1812433253 * (key[-1] ^ (key[-1] >> 30)) + i) & 0xFFFFFFFF)
    source = random.Random()
    source.setstate((3, (*key, 624), None))
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        mask = (1 << i.bit_length()) - 1
        while (j := source.getrandbits(32) & mask) > i:
            pass
        order[i], order[j] = order[j], order[i]
    sizes = [count // folds + (k < count % folds) for k in range(folds)]
    return [sorted(order[sum(sizes[:k]) : sum(sizes[: k + 1])]) for k in range(folds)]


@pytest.mark.parametrize(("count", "folds"), [(200, 5), (240, 5), (13, 5), (7, 3)])
def test_folds_are_those_of_nnunet(count, folds):
    names = [f"amos_{i:04d}" for i in range(count)]
    for fold, expected in enumerate(reference_folds(count, folds)):
        assert kfold(names, folds, fold) == [names[i] for i in expected]


def test_folds_cover_the_training_patients_and_leave_the_test_set_alone():
    given = scans(11, split="train") + scans(2, split="test", prefix="t")
    folds = [assign_splits(index_of(*given), 0.15, 0.2, 0, 5, k) for k in range(5)]
    held = [patients(i, "val") for i in folds]
    assert [len(h) for h in held] == [3, 2, 2, 2, 2] and set.union(*held) == {f"p{k}" for k in range(11)}
    for index, val in zip(folds, held, strict=True):
        assert patients(index, "test") == {"t0", "t1"} and not val & patients(index, "train")
        assert len(index.entries) == len(given)
    drawn = [assign_splits(index_of(*scans(20)), 0.15, 0.2, 0, 5, k) for k in (0, 1)]
    assert patients(drawn[0], "test") == patients(drawn[1], "test") and len(patients(drawn[0], "test")) == 4


@pytest.mark.parametrize(
    ("entries", "folds", "fold", "message"),
    [
        (scans(3), 4, 0, "data.folds is 4; it must be from 2 to the number of training patients, 3"),
        (scans(3), 1, 0, "data.folds is 1"),
        (scans(5), 5, 5, "data.fold is 5, but data.folds 5 makes folds 0 to 4"),
        (scans(5) + scans(1, split="val", prefix="v"), 5, 0, "has a validation set of its own"),
    ],
)
def test_folds_that_make_no_sense(entries, folds, fold, message):
    with pytest.raises(ConfigError, match=message):
        assign_splits(index_of(*entries), 0.15, 0, 0, folds, fold)


# --- splits files -----------------------------------------------------------------------------------------------------


def write_splits(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_splits_file_names_cases_or_patients(tmp_path):
    file = write_splits(tmp_path / "s.json", {"train": ["p0"], "val": ["p1_0", "p1_1"], "test": ["p2"]})
    index = apply_splits(index_of(*scans(4, each=2)), file, 0)
    assert {e.id: e.split for e in index.entries} == {
        "p0_0": "train",
        "p0_1": "train",
        "p1_0": "val",
        "p1_1": "val",
        "p2_0": "test",
        "p2_1": "test",
    }
    assert index.notes == ("2 labelled cases are in no split of s.json and left out",)
    write_splits(file, {"train": ["p0"], "val": ["p0_1"]})
    with pytest.raises(DataError, match="case 'p0_1' is in both train and val"):
        apply_splits(index, file, 0)


def test_splits_file_by_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMZOO_CONFIGS", str(tmp_path / "own"))
    index = replace(index_of(*scans(2)), root=tmp_path / "data")
    with pytest.raises(DataError, match=r"data/mine.json does not exist"):
        apply_splits(index, Path("mine.json"), 0)
    for place, patient in (("own/splits", "p0"), ("data", "p1")):
        write_splits(tmp_path / place / "mine.json", {"train": [patient]})
        assert patients(apply_splits(index, Path("mine.json"), 0), "train") == {patient}
