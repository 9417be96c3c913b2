"""Which case is for what: given splits are kept, missing ones are drawn by patient."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.errors import ConfigError


def assign_splits(index: DatasetIndex, val_fraction: float, test_fraction: float, seed: int) -> DatasetIndex:
    """Give every labelled case a split.

    A data set's own val and test sets stay as they are. Where one is missing, its share of all training patients
    is drawn, in an order that depends on (seed, patient) alone: a patient who joins the data set moves few others.

    Raises:
        ConfigError: fractions outside [0, 1].
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction > 1:
        raise ConfigError(
            f"data.val_fraction {val_fraction} and data.test_fraction {test_fraction} must be at least 0 and sum to "
            "at most 1"
        )
    given = {e.split for e in index.entries}
    pool = sorted({e.patient for e in index.entries if e.split in (None, "train")}, key=lambda p: _rank(p, seed))
    taken: dict[str, str] = {}
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split in given or fraction == 0 or not pool:
            continue
        wanted = max(1, round(fraction * (len(pool) + len(taken))))
        chosen, pool = pool[:wanted], pool[wanted:]
        taken |= dict.fromkeys(chosen, split)

    def settled(entry: CaseEntry) -> CaseEntry:
        if entry.split in (None, "train"):
            return replace(entry, split=taken.get(entry.patient, "train"))
        return entry

    return replace(index, entries=tuple(settled(e) for e in index.entries))


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
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
