"""Which case is for what: given splits are kept, missing ones are drawn by patient."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.errors import ConfigError

SCORED_OR_TRAINED = ("train", "val", "test")

KFOLD_SEED = 12345
"""nnU-Net's, so that its default folds and ours are the same (nnunetv2, `generate_crossval_split`)."""

NO_TRAINING = "add cases, or train on what is there with --data.test_fraction 0 --data.val_fraction 0"
"""What helps where no case is left for training: a single patient is tested."""


def assign_splits(
    index: DatasetIndex,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    folds: int | None = None,
    fold: int = 0,
) -> DatasetIndex:
    """Give every labelled case a split.

    A data set's own val and test sets stay as they are. Where one is missing, its share of all training patients
    is drawn, in an order that depends on (seed, patient) alone: a patient who joins the data set moves few others. A
    drawn validation set leaves at least one patient for training: of two, one is tested and one trained on.

    Args:
        folds: validate on one of so many folds of the training patients instead of a share, see `kfold`.
        fold: which.

    Raises:
        ConfigError: fractions outside [0, 1]; folds that don't fit, or beside a validation set that is given.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction > 1:
        raise ConfigError(
            f"data.val_fraction {val_fraction} and data.test_fraction {test_fraction} must be at least 0 and sum to "
            "at most 1"
        )
    given = {e.split for e in index.entries}
    pool = sorted({e.patient for e in index.entries if e.split in (None, "train")}, key=lambda p: _rank(p, seed))
    taken: dict[str, str] = {}
    if folds is not None and "val" in given:
        raise ConfigError(
            f"data.folds is {folds}, but {index.root} or data.splits_file has a validation set of its own; remove "
            "data.folds, or use the own set as test (data.validation_as, layouts msd and isic)"
        )
    for split, fraction in (("test", test_fraction), ("val", val_fraction if folds is None else 0)):
        if split in given or fraction == 0 or not pool:
            continue
        wanted = max(1, round(fraction * (len(pool) + len(taken))))
        if split == "val" and fraction + test_fraction < 1:
            wanted = min(wanted, len(pool) - 1)
        chosen, pool = pool[:wanted], pool[wanted:]
        taken |= dict.fromkeys(chosen, split)
    if folds is not None:
        taken |= dict.fromkeys(kfold(sorted(pool), folds, fold), "val")

    def settled(entry: CaseEntry) -> CaseEntry:
        if entry.split in (None, "train"):
            return replace(entry, split=taken.get(entry.patient, "train"))
        return entry

    return replace(index, entries=tuple(settled(e) for e in index.entries))


def look_alike(index: DatasetIndex) -> str:
    """A warning where names look as if cases of one patient were in several splits; else empty.

    That is so for names such as p07_012 and p07_013, the same up to the last part with a number in it, where each case
    counts as a patient.
    """
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in index.entries:
        if entry.patient != entry.id:
            return ""
        if entry.split in SCORED_OR_TRAINED and (match := re.fullmatch(r"(.*\d.*?)[_\-. ]+[^_\-. ]*", entry.id)):
            groups[match.group(1)][entry.id] = entry.split
    torn = {name: cases for name, cases in groups.items() if len(set(cases.values())) > 1}
    if not torn or len(groups) == 1:  # what all names begin with is that of the data set
        return ""
    name, cases = next(iter(sorted(torn.items())))
    return (
        f"{len(torn)} names stand for several cases that are in different splits, first {name!r} "
        f"({', '.join(f'{case} {split}' for case, split in sorted(cases.items())[:4])}); if these are of one patient, "
        "scores come out too good: keep them together with --data.patient_pattern '(.+)[_. -].*'"
    )


def kfold(names: Sequence[str], folds: int, fold: int) -> list[str]:
    """Validation names of one fold: nnU-Net's default split, scikit-learn's shuffled KFold with seed 12345.

    Args:
        names: sorted.

    Raises:
        ConfigError: fewer than 2 folds or more than names; no such fold.
    """
    if not 2 <= folds <= len(names):
        raise ConfigError(f"data.folds is {folds}; it must be from 2 to the number of training patients, {len(names)}")
    if not 0 <= fold < folds:
        raise ConfigError(f"data.fold is {fold}, but data.folds {folds} makes folds 0 to {folds - 1}")
    order = np.random.RandomState(KFOLD_SEED).permutation(len(names))
    return [names[i] for i in sorted(np.array_split(order, folds)[fold])]


def limit_cases(index: DatasetIndex, most: int | None, seed: int) -> DatasetIndex:
    """At most so many cases of each split, chosen by seed."""
    if most is None:
        return index
    kept: set[str] = set()
    for split in {e.split for e in index.entries}:
        cases = sorted((e.id for e in index.entries if e.split == split), key=lambda i: _rank(i, seed))
        kept |= set(cases[:most])
    return replace(index, entries=tuple(e for e in index.entries if e.id in kept))


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).hexdigest()
