"""Records: one row per case, class, regime and step. Needs no torch.

In a file an undefined value is an empty cell, never 0 or -1. Means are taken over the classes of a case first, then
over cases; undefined values are left out of both.
"""

from __future__ import annotations

import csv
import difflib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from samzoo.errors import DataError
from samzoo.writing import write_atomically

ORDER_OF_AVERAGING = "mean over the classes of a case, then over cases; undefined values are left out"


@dataclass(frozen=True)
class Record:
    """What one method achieved on one class of one case after one step of one regime.

    Args:
        effort: human actions spent on this class so far; the effort of a case is the sum over its classes.
        oracle_classes: the regime was told which classes are present.
        oracle_slices: what it was told about where: none, range (first and last slice), each (slice), crop (where the
            middle of the structure lies).
        tp, fp, fn: voxels on the native grid, ignored ones left out.
        dice, iou, nsd_1mm, nsd_2mm: in [0, 1]; None is undefined (both empty) or not asked for.
        hd95_mm: mm; None where truth or prediction is empty, or not asked for.
        encode_seconds, decode_seconds: spent on this step by the case, all classes together (each class repeats them);
            slices encoded for an earlier regime cost nothing again.
        voxel_mm3: volume of a voxel of the native grid in mm^3 (of pictures, the area of a pixel times 1 mm); None in
            files of before there was that column.
    """

    dataset: str
    method: str
    case_id: str
    patient: str
    class_id: int
    class_name: str
    regime: str
    step: int
    effort: int
    oracle_classes: bool
    oracle_slices: str
    tp: int
    fp: int
    fn: int
    dice: float | None
    iou: float | None
    nsd_1mm: float | None
    nsd_2mm: float | None
    hd95_mm: float | None
    encode_seconds: float
    decode_seconds: float
    voxel_mm3: float | None = None

    @property
    def key(self) -> tuple[str, int, str, int]:
        """(case, class, regime, step): unique within a file."""
        return self.case_id, self.class_id, self.regime, self.step

    @property
    def false_positive(self) -> bool:
        """Something was found of a class that the case does not have."""
        return self.tp + self.fn == 0 and self.fp > 0

    @property
    def sort_key(self) -> tuple[str, str, int, int]:
        return self.case_id, self.regime, self.step, self.class_id


COLUMNS = tuple(f.name for f in fields(Record))
NEWER_COLUMNS = ("voxel_mm3",)
"""Older files lack them."""
METRICS = ("dice", "iou", "nsd_1mm", "nsd_2mm", "hd95_mm")
SHARES = ("dice", "iou", "nsd_1mm", "nsd_2mm")
"""At most 1."""
TOLERANCE = 1e-4
"""Between a Dice or IoU and its counts."""
TIME_COLUMNS = ("encode_seconds", "decode_seconds")
"""The only columns that differ when an evaluation is repeated."""


def deduplicate(records: Iterable[Record]) -> list[Record]:
    """The first record of each key, in the order of files: a distributed sampler may have repeated cases."""
    unique: dict[tuple, Record] = {}
    for record in records:
        unique.setdefault(record.key, record)
    return sorted(unique.values(), key=lambda r: r.sort_key)


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write a CSV, whole or not at all.

    Raises:
        DataError: two records with the same key, or the file can't be written.
    """
    seen: set[tuple] = set()
    for record in records:
        if record.key in seen:
            raise DataError(f"{path}: two records for case, class, regime, step {record.key}")
        seen.add(record.key)

    def write(file) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(r, name)) for name in COLUMNS] for r in records)

    write_atomically(path, write)


def read_records(path: str | Path) -> list[Record]:
    """Read a CSV written by `write_records`.

    Raises:
        DataError: missing file, missing or unknown column, a cell of the wrong type or out of range, a Dice or IoU that
            is not that of its counts, rows that contradict each other, a duplicate key, a file cut short.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: records can't be read: {error}") from error
    header = rows[0] if rows else []
    if missing := [c for c in COLUMNS if c not in header and c not in NEWER_COLUMNS]:
        near = [f"{c} (found {m[0]!r})" if (m := difflib.get_close_matches(c, header, n=1)) else c for c in missing]
        raise DataError(f"{path}: column missing: {', '.join(near)}; was the file written by another version?")
    if unknown := [c for c in header if c not in COLUMNS] or len(header) != len(set(header)):
        raise DataError(f"{path}: unknown or repeated columns: {unknown if isinstance(unknown, list) else header}")
    if not text.endswith("\n"):
        raise DataError(f"{path}: its last line has no end, so that it was cut short; test the run again")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: {len(row)} cells, the header has {len(header)}")
    columns = {
        name: _column(path, name, cells) for name, cells in zip(header, zip(*rows[1:], strict=True), strict=False)
    }
    absent = [None] * (len(rows) - 1)
    records = [Record(*values) for values in zip(*(columns.get(name, absent) for name in COLUMNS), strict=True)]
    lines: dict[tuple, int] = {}
    for number, record in enumerate(records, start=2):
        if (first := lines.setdefault(record.key, number)) != number:
            raise DataError(f"{path}, line {number}: same case, class, regime and step as line {first}")
        for name, metric in (("Dice", "dice"), ("IoU", "iou")):
            if not _agrees(record, metric):
                counts = f"tp {record.tp}, fp {record.fp}, fn {record.fn}"
                value = _cell(getattr(record, metric)) or "nothing"
                raise DataError(f"{path}, line {number}: a {name} of {value} is not that of {counts}")
    _check_together(path, records)
    return records


def _check_together(path: Path, records: Sequence[Record]) -> None:
    """Raises DataError: rows that contradict each other, or that are missing among the others."""
    same: dict[tuple, tuple[int, Any]] = {}
    steps: dict[str, set[int]] = {}
    rows: dict[tuple, int] = {}
    surface = {m for m in ("nsd_1mm", "nsd_2mm", "hd95_mm") if any(getattr(r, m) is not None for r in records)}
    for number, r in enumerate(records, start=2):
        for what, key, value in (
            ("name of class", r.class_id, r.class_name),
            ("class", r.class_name, r.class_id),
            ("patient", r.case_id, r.patient),
            ("size of a voxel", r.case_id, r.voxel_mm3),
            ("ground truth (tp + fn)", (r.case_id, r.class_id), r.tp + r.fn),
        ):
            line, other = same.setdefault((what, key), (number, value))
            if other != value:
                raise DataError(f"{path}, line {number}: another {what} than in line {line}: {value}, not {other}")
        for metric in surface:
            counts = (r.tp + r.fn, r.tp + r.fp)
            empty = not (all(counts) if metric == "hd95_mm" else any(counts))
            if (getattr(r, metric) is None) != empty:
                raise DataError(
                    f"{path}, line {number}, column {metric}: {'a value' if empty else 'nothing'}, where truth has "
                    f"{counts[0]} voxels and the answer {counts[1]}"
                )
        if None not in (r.nsd_1mm, r.nsd_2mm) and r.nsd_1mm > r.nsd_2mm + TOLERANCE:
            raise DataError(f"{path}, line {number}: NSD at 1 mm is {r.nsd_1mm:g}, more than {r.nsd_2mm:g} at 2 mm")
        steps.setdefault(r.regime, set()).add(r.step)
        rows[r.case_id, r.class_id, r.regime] = rows.get((r.case_id, r.class_id, r.regime), 0) + 1
    for (case, class_id, regime), count in rows.items():
        if count != len(steps[regime]):
            raise DataError(
                f"{path}: case {case!r}, class {class_id} has {count} of the {len(steps[regime])} steps of regime "
                f"{regime}; the file was cut short or changed, test the run again"
            )


def aggregate(records: Iterable[Record], metric: str) -> dict[tuple[str, int], float | None]:
    """Mean of a metric per (regime, step): over the classes of a case, then over cases; None if undefined throughout.

    `metric` may also be "effort": summed over the classes of a case, then averaged over cases.
    """
    if metric != "effort" and metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known are effort, {', '.join(METRICS)}")
    within: Callable = sum if metric == "effort" else mean
    cases: dict[tuple[str, int], dict[str, list]] = {}
    for record in records:
        value = getattr(record, metric)
        values = cases.setdefault((record.regime, record.step), {}).setdefault(record.case_id, [])
        if value is not None:
            values.append(value)
    return {key: mean([within(v) for v in by_case.values() if v]) for key, by_case in cases.items()}


def area_under_clicks(records: Iterable[Record], metric: str) -> dict[str, float]:
    """Trapezoidal area under the mean of a metric over the click steps (step 1 and later), per regime with such steps.

    Not normalised, as in the CVPR 2025 challenge on interactive segmentation: five clicks reach 4 at most.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for (regime, step), value in sorted(aggregate(records, metric).items()):
        if step >= 1 and value is not None:
            curves.setdefault(regime, []).append((step, value))
    return {
        regime: sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(curve))
        for regime, curve in curves.items()
        if len(curve) > 1
    }


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def file_name(case_id: str) -> str:
    """A case id as the stem of a file in one folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in case_id)


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _agrees(record: Record, metric: str) -> bool:
    """Whether Dice or IoU is what its counts make it: undefined where nothing is there and nothing was found."""
    weight, value = {"dice": 2, "iou": 1}[metric], getattr(record, metric)
    both = weight * record.tp + record.fp + record.fn
    if value is None or not both:
        return value is None and not both
    return abs(value - weight * record.tp / both) <= TOLERANCE


_TYPES = get_type_hints(Record)


def _column(path: Path, name: str, cells: Sequence[str]) -> list:
    """The values of a column. Each different cell is read once: most columns have few, and files many rows."""
    values: dict[str, Any] = {}
    for cell in dict.fromkeys(cells):
        try:
            values[cell] = _parse(name, cell)
        except (ValueError, KeyError):
            line = cells.index(cell) + 2
            raise DataError(f"{path}, line {line}, column {name}: {cell!r} is not what belongs there") from None
    return [values[cell] for cell in cells]


def _parse(name: str, cell: str):
    kind = _TYPES[name]
    if kind is str:
        return cell
    if kind is bool:
        return {"0": False, "1": True}[cell]
    if cell == "" and kind == (float | None):
        return None
    if not cell.isascii() or "_" in cell:  # Python's numbers, nobody else's
        raise ValueError
    value = int(cell) if kind is int else float(cell)
    least, most = 1 if name == "class_id" else 0, 1 if name in SHARES else sys.maxsize
    if not least <= value <= most:
        raise ValueError
    return value
