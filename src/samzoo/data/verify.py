"""Is this data set fit for use? Every file is read and checked; nothing of it needs torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from tqdm import tqdm

from samzoo.data import archives
from samzoo.data.axes import Axes, axis_order
from samzoo.data.decode import DecodeSettings, Intensity, Loaded, load
from samzoo.data.found import Measured, doubt_of_ct, in_words, measured_entries
from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.data.overlays import save_overlay
from samzoo.data.read_settings import ReadSettings, check_setting
from samzoo.data.readers import read_index
from samzoo.data.splits import NO_TRAINING, assign_splits, look_alike
from samzoo.errors import SamzooError
from samzoo.paths import find_root
from samzoo.reading import printable, some
from samzoo.writing import write_atomically

MAX_ANISOTROPY = 2.0
SPACING_RANGE_MM = (0.01, 20.0)
MOST_SHOWN = 8
"""Errors, and warnings, of single cases in the terminal, and classes in one of them."""

SETTINGS = {
    **dict.fromkeys(("val_fraction", "test_fraction"), float),
    **dict.fromkeys(("fold", "seed", "slice_axis"), int),
    "folds": int | None,
    "source": str | None,
    "canonical": bool,
}
"""Of the data module, beside `ReadSettings`."""


def known_settings() -> list[str]:
    """Names of the data module's settings that `verify` heeds."""
    return sorted({f.name for f in fields(ReadSettings)} | set(SETTINGS))


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (error: the data can't be used) or odd (warning)."""

    level: Literal["error", "warning"]
    message: str
    case: str | None = None


@dataclass(frozen=True)
class CaseFacts:
    """What was read of a case: shape and spacing in the file's axis order, voxels of each class that it holds."""

    id: str
    patient: str
    split: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    intensity: tuple[float, float]
    voxels: dict[str, int] | None
    orientation: str = ""
    content: str = ""


@dataclass
class Report:
    """The result of `verify`."""

    root: str
    layout: str | None = None
    name: str | None = None
    channels: tuple[str, ...] = ()
    classes: dict[str, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    cases: list[CaseFacts] = field(default_factory=list)
    presence: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> class -> number of cases that hold it."""
    intensity: str = ""
    """How the images would become [0, 1] without data.intensity, and why so."""

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "warning"]

    @property
    def ok(self) -> bool:
        """No errors; warnings are allowed."""
        return not self.errors

    def error(self, message: str, case: str | None = None) -> None:
        self.findings.append(Finding("error", message, case))

    def warn(self, message: str, case: str | None = None) -> None:
        self.findings.append(Finding("warning", message, case))

    def text(self) -> str:
        """For the terminal."""
        lines = [f"{self.root}: layout {self.layout or 'not read'}"]
        if self.cases:
            splits = Counter(c.split for c in self.cases)
            lines.append(
                f"  data set {self.name}: {len(self.cases)} cases read "
                f"({', '.join(f'{s} {n}' for s, n in splits.items())}), channels {', '.join(self.channels)}, "
                f"{len(self.classes)} classes"
            )
            lines.append(f"  classes {some(list(self.classes), 20)}")
            shapes, spacings = np.array([c.shape for c in self.cases]), np.array([c.spacing_mm for c in self.cases])
            lines.append(f"  shapes {_span(shapes)}, spacing {_span(spacings)} mm")
        lines += [f"  intensity {self.intensity}"] if self.intensity else []
        shown: Counter[str] = Counter()
        for f in self.findings:
            shown[f.level] += f.case is not None
            if f.case is None or shown[f.level] <= MOST_SHOWN:
                lines.append(f"  {f.level}: {f'case {f.case}: ' if f.case else ''}{f.message}")
        lines += [
            f"  and {count - MOST_SHOWN} more {level}s of single cases; --json FILE lists all"
            for level, count in shown.items()
            if count > MOST_SHOWN
        ]
        lines.append(f"  {'ok' if self.ok else 'NOT USABLE'}: {len(self.errors)} errors, {len(self.warnings)} warnings")
        return "\n".join(map(printable, lines))

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all. Raises DataError: it can't be written."""
        content = {"ok": self.ok} | asdict(self)
        write_atomically(path, lambda file: json.dump(content, file, indent=1))


def verify(
    root: str | Path,
    settings: Mapping[str, Any] | None = None,
    overlays: str | Path | None = None,
    report: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Check a data set. Faults of the data become findings, not exceptions.

    Args:
        root: its folder; relative to the working folder, or to $SAMZOO_DATA.
        settings: arguments of the data module (a YAML of configs/datasets), as far as they say how to read and split.
        overlays: folder for one PNG per labelled case, the middle slice of its foreground.
        report: JSON file to write.
    """
    settings = settings or {}
    result = Report(str(root))
    try:
        for name, kind in SETTINGS.items():
            if name in settings:
                check_setting(name, settings[name], kind)
        folder = find_root(str(root), settings.get("source"), archives.command(str(root)))
        index = read_index(folder, ReadSettings.pick(settings))
        fractions = settings.get("val_fraction", 0.15), settings.get("test_fraction", 0.2)
        folds = settings.get("folds"), settings.get("fold", 0)
        index = assign_splits(index, *fractions, settings.get("seed", 0), *folds)
    except SamzooError as error:
        result.error(str(error).replace("\n  ", "; "))
    else:
        _verify_index(result, index, settings, Path(overlays) if overlays is not None else None, progress)
    if report is not None:
        result.write(Path(report))
    return result


def _verify_index(
    result: Report, index: DatasetIndex, settings: Mapping[str, Any], overlays: Path | None, progress: bool
) -> None:
    result.layout, result.name, result.channels = index.layout, index.name, index.channels
    result.classes = {name: list(values) for name, values in index.table.values.items()}
    for note in (*index.notes, *filter(None, [look_alike(index)])):
        result.warn(note)
    decoding = DecodeSettings(slice_axis=settings.get("slice_axis", 2), canonical=settings.get("canonical", False))
    measured, measuring = Measured(index.channels), {e.id for e in measured_entries(index)}
    lowest: list[list[float]] = []
    shown = f"verifying {printable(index.name)}"
    for entry in tqdm(index.entries, desc=shown, unit="case", disable=not progress, leave=False):
        try:
            loaded = load(entry, index, settings.get("pictures", "auto"))
        except SamzooError as error:
            result.error(str(error), entry.id)
            continue
        if not loaded.parts[0].flat:
            lowest.append([float(channel.min()) for part in loaded.parts for channel in part.data])
        if entry.id in measuring:
            measured.add(loaded, range(len(index.channels)))
        facts = _facts(entry, loaded, index)
        result.cases.append(facts)
        axes = decoding.axes(loaded.parts[0])
        _check_case(result, facts, loaded, axes, decoding.slice_axis)
        if overlays is not None and loaded.label is not None:
            save_overlay(overlays / f"{entry.id}.png", loaded, index.table.names, axes)
    if measured.cases:
        found = measured.decide(Intensity())
        why = dict.fromkeys(reason.partition(": ")[2] for reason in found.reasons)
        result.intensity = f"{in_words(found.intensity, index.channels)} ({'; '.join(why)})"
    for name, values in zip(index.channels, zip(*lowest, strict=True), strict=False):
        if doubt := doubt_of_ct(name, values):
            result.warn(f"channel {name}: {doubt}")
    _check_whole(result, index, decoding.canonical)


def _facts(entry: CaseEntry, loaded: Loaded, index: DatasetIndex) -> CaseFacts:
    first = loaded.parts[0]
    voxels = None
    if loaded.label is not None:
        counts = np.bincount(loaded.label.ravel(), minlength=256)
        voxels = {name: int(counts[i]) for i, name in enumerate(index.table.names, start=1) if counts[i]}
    content = hashlib.blake2b(digest_size=16)
    for part in loaded.parts:
        content.update(np.ascontiguousarray(part.data))
    return CaseFacts(
        id=entry.id,
        patient=entry.patient,
        split=entry.split or "train",
        shape=first.data.shape[1:],
        spacing_mm=first.spacing,
        intensity=(min(float(p.data.min()) for p in loaded.parts), max(float(p.data.max()) for p in loaded.parts)),
        voxels=voxels,
        orientation="" if first.flat else "".join(nib.aff2axcodes(first.affine)),
        content=content.hexdigest(),
    )


def _check_case(result: Report, facts: CaseFacts, loaded: Loaded, axes: Axes, slice_axis: int) -> None:
    if facts.voxels == {}:
        result.warn("label is empty: no voxel of any class", facts.id)
    if facts.intensity[0] == facts.intensity[1]:
        result.warn(f"image is constant ({facts.intensity[0]:g} everywhere)", facts.id)
    if loaded.overlap:
        result.warn(
            f"objects of two classes overlap on {loaded.overlap} pixels; the smaller object keeps them", facts.id
        )
    low, high = SPACING_RANGE_MM
    if not loaded.parts[0].flat:
        if min(facts.spacing_mm) < low or max(facts.spacing_mm) > high:
            result.warn(f"spacing {facts.spacing_mm} mm is unusual; is it in mm?", facts.id)
        if max(facts.spacing_mm) > MAX_ANISOTROPY * facts.spacing_mm[axes.order[0]]:
            thick = int(np.argmax(facts.spacing_mm))
            better = axis_order(slice_axis)[axes.order.index(thick)]
            result.warn(
                f"slices are cut along file axis {axes.order[0]}, but axis {thick} has the thick slices (spacing "
                f"{facts.spacing_mm} mm); consider data.slice_axis: {better}",
                facts.id,
            )


def _check_whole(result: Report, index: DatasetIndex, canonical: bool) -> None:
    """What only shows over all cases: presence of classes, equal images, orientations, patients."""
    labelled = [c for c in result.cases if c.voxels is not None]
    names = index.table.names
    for split in ("train", "val", "test"):
        cases = [c for c in labelled if c.split == split]
        if cases:
            result.presence[split] = {n: sum(n in c.voxels for c in cases) for n in names}
    absent = [n for n in names if not any(n in c.voxels for c in labelled)]
    if labelled and len(absent) == len(names):
        result.error("no label holds any class")
    elif labelled and absent:
        result.warn(f"{len(absent)} of {len(names)} classes are in no case: {some(absent, MOST_SHOWN)}")
    for split, presence in result.presence.items():
        if lacking := [n for n, count in presence.items() if not count and n not in absent]:
            result.warn(f"{len(lacking)} classes are in no {split} case: {some(lacking, MOST_SHOWN)}")
    if labelled and not any(c.split == "train" for c in labelled):
        result.warn(f"no case is left for training (fit is not possible, test is): {NO_TRAINING}")

    same: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in result.cases:
        same[case.content].append(case)
    for group in same.values():
        if len(group) > 1:
            listed = ", ".join(f"{c.id} ({c.split})" for c in group)
            if len({c.split for c in group}) > 1:
                result.error(f"the same image is in more than one split: {listed}")
            else:
                result.warn(f"cases hold the same image: {listed}")
    orientations = Counter(c.orientation for c in result.cases if c.orientation)
    if len(orientations) > 1 and not canonical:
        listed = ", ".join(f"{o} {n}" for o, n in orientations.items())
        result.warn(
            f"voxel axes point different ways ({listed}): slices are not the same anatomical plane in all cases; "
            "data.canonical: true brings all to the same one"
        )


def _span(rows: np.ndarray) -> str:
    low, high = rows.min(0).tolist(), rows.max(0).tolist()
    form = " x ".join(f"{v:g}" for v in low)
    return form if low == high else f"{form} to {' x '.join(f'{v:g}' for v in high)}"
