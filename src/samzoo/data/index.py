"""The case index: which files make up which case of a data set, before any of them is decoded.

Free of torch, like the readers and `verify`, so that `samzoo verify` starts quickly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from samzoo.data.read_settings import ReadSettings
from samzoo.errors import ConfigError, DataError
from samzoo.paths import config_folders
from samzoo.reading import load_json

Split = Literal["train", "val", "test", "predict"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUME_ENDINGS = (".nii.gz", ".nii")
ENDINGS = VOLUME_ENDINGS + PICTURE_ENDINGS

MAX_CLASSES = 254
"""Stored labels are uint8: 0 is background, 255 is ignored."""

ClassValues = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class LabelFile:
    """One label file of a case.

    Args:
        path: the file.
        class_id: None where the file's values are the data set's label values; else the file is a binary mask of one
            object of this class (1..K).
    """

    path: Path
    class_id: int | None = None


@dataclass(frozen=True)
class CaseEntry:
    """The files of one case.

    Args:
        id: unique within the data set.
        patient: cases of one patient never cross a split.
        images: one file per channel, or one file that holds all channels.
        labels: no file where there is no ground truth; several where every object has a mask of its own.
        split: what the data set itself says; None where it leaves the choice to us.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    labels: tuple[LabelFile, ...] = ()
    split: Split | None = None


@dataclass(frozen=True)
class ClassTable:
    """Label values of the files, and the contiguous class ids 1..K that samzoo works with.

    Args:
        values: class name -> the source values that belong to it; the first is the one written in predictions.
        background: source values that mean background.
        ignore: source values that are left out of training and scores (stored as 255).
        threshold: for masks with noise, of one class: source values above it are the class, all others background.
    """

    values: Mapping[str, tuple[int, ...]]
    background: tuple[int, ...] = (0,)
    ignore: tuple[int, ...] = ()
    threshold: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def source_values(self) -> tuple[int, ...]:
        """(K + 1,) source value of each class id, background first."""
        return (self.background[0], *(v[0] for v in self.values.values()))

    def ids(self) -> dict[int, int]:
        """Source value -> stored class id (0 background, 1..K, 255 ignored)."""
        table = {v: 0 for v in self.background} | {v: 255 for v in self.ignore}
        for class_id, values in enumerate(self.values.values(), start=1):
            table |= {v: class_id for v in values}
        return table


@dataclass(frozen=True)
class DatasetIndex:
    """A data set as its reader found it.

    Args:
        name: used in records and in the store's folder.
        root: its folder.
        layout: name of the reader.
        table: class table.
        channels: channel names, in file order.
        entries: sorted by id.
        notes: what the reader found odd but not wrong; `verify` reports them as warnings.
    """

    name: str
    root: Path
    layout: str
    table: ClassTable
    channels: tuple[str, ...]
    entries: tuple[CaseEntry, ...]
    notes: tuple[str, ...] = ()

    def of(self, split: Split) -> tuple[CaseEntry, ...]:
        return tuple(e for e in self.entries if e.split == split)


@dataclass
class Collector:
    """Gathers entries while a reader walks its folder, and refuses two cases of one id."""

    settings: ReadSettings
    entries: dict[str, CaseEntry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        case_id: str,
        images: Iterable[Path],
        labels: Iterable[LabelFile] = (),
        split: Split | None = None,
        patient: str | None = None,
    ) -> None:
        """Keep a case that data.include lets through; a patient_pattern of the user's goes before `patient`.

        Raises:
            DataError: the id is there already.
        """
        if self.settings.include is not None and not re.fullmatch(self.settings.include, case_id):
            return
        if patient is None or self.settings.patient_pattern is not None:
            patient = self.patient(case_id)
        entry = CaseEntry(case_id, patient, tuple(images), tuple(labels), split)
        if case_id in self.entries:
            other = self.entries[case_id]
            raise DataError(
                f"duplicate case id {case_id!r}: {other.images[0]} ({other.split or 'no split'}) and "
                f"{entry.images[0]} ({split or 'no split'}); rename one of them or remove the repetition"
            )
        self.entries[case_id] = entry

    def patient(self, case_id: str) -> str:
        pattern = self.settings.patient_pattern
        if pattern is None:
            return case_id
        match = re.search(pattern, case_id)
        if match is None or not match.groups():
            raise DataError(
                f"patient_pattern {pattern!r} finds no patient in case id {case_id!r}; it must be a regular expression "
                "with one group that matches every id"
            )
        return match.group(1)

    def finish(
        self,
        name: str,
        root: Path,
        layout: str,
        table: ClassTable,
        channels: Sequence[str],
        own_splits: Path | None = None,
    ) -> DatasetIndex:
        """The index, with the splits of the user's file, else of the data set's own (`own_splits`), else the reader's.

        Raises:
            DataError: no case is left, the splits file doesn't fit, or a patient is in two splits.
        """
        if not self.entries:
            left_out = f" that data.include {self.settings.include!r} lets through" if self.settings.include else ""
            raise DataError(f"{root}: layout {layout}, but no case{left_out} was found")
        index = DatasetIndex(
            name=self.settings.name or name,
            root=root,
            layout=layout,
            table=table,
            channels=tuple(channels),
            entries=tuple(self.entries[k] for k in sorted(self.entries)),
            notes=tuple(self.notes),
        )
        splits = Path(self.settings.splits_file) if self.settings.splits_file is not None else own_splits
        if splits is not None:
            index = apply_splits(index, splits, self.settings.fold)
        check_patients(index)
        return index


def class_table(labels: ClassValues, where: str) -> ClassTable:
    """Check a name -> value(s) table and put it in order of its values.

    Names `background` and `ignore` are special. Several values under one name are merged into one class; a value under
    two names (nnU-Net's overlapping regions) can't be one label map.

    Args:
        where: file or setting that the table came from, for messages.

    Raises:
        DataError: not integers, a value given twice, no class or more than 254.
    """
    if not isinstance(labels, Mapping):
        raise DataError(f"{where}: must give label values by name, for example {{liver: 1}}, not {str(labels)[:80]!r}")
    values: dict[str, tuple[int, ...]] = {}
    owner: dict[int, str] = {}
    for name, given in labels.items():
        listed = list(given) if isinstance(given, list | tuple) else [given]
        if not listed or any(isinstance(v, bool) or not isinstance(v, int) or abs(v) >= 2**31 for v in listed):
            raise DataError(
                f"{where}: label {str(name)!r} must be an integer of 32 bit or a list of such, not {str(given)[:80]!r}"
            )
        for v in listed:
            if v in owner:
                raise DataError(
                    f"{where}: value {v} belongs to both {owner[v]!r} and {name!r}; overlapping regions are not "
                    "supported, give each value to one class with data.classes"
                )
            owner[v] = name
        values[str(name)] = tuple(listed)
    background = values.pop("background", (0,))
    ignore = values.pop("ignore", ())
    if any(0 in v for v in values.values()):
        raise DataError(f"{where}: value 0 is background and can't be a class")
    if not 1 <= len(values) <= MAX_CLASSES:
        raise DataError(f"{where}: {len(values)} classes; there must be between 1 and {MAX_CLASSES}")
    ordered = dict(sorted(values.items(), key=lambda item: item[1][0]))
    return ClassTable(ordered, background, ignore)


def choose_classes(table: ClassTable, settings: ReadSettings) -> ClassTable:
    """The table of the data set, narrowed or merged by the setting `classes`; what it leaves out becomes background.

    Raises:
        DataError: `classes` names a value that the data set doesn't have.
    """
    if settings.classes is None:
        return table
    chosen = class_table(settings.classes, "data.classes")
    known = set(table.ids())
    wanted = set(chosen.ids()) - {0}
    if wanted - known:
        raise DataError(
            f"data.classes asks for label values {sorted(wanted - known)}; the data set has {sorted(known)} "
            "(null takes the data set's own classes)"
        )
    rest = tuple(sorted(known - set(chosen.ids()) - set(table.ignore)))
    return replace(
        chosen,
        background=chosen.background + rest,
        ignore=tuple(dict.fromkeys(chosen.ignore + tuple(v for v in table.ignore if v not in wanted))),
    )


def apply_splits(index: DatasetIndex, file: Path, fold: int) -> DatasetIndex:
    """Give the labelled cases the splits of a JSON file.

    The file is nnU-Net's splits_final.json (a list of folds, each {"train": [ids], "val": [ids]}) or one object with
    any of train, val and test. A name that is no case's id may be a patient: it stands for all cases of the patient.
    Labelled cases that the file doesn't name are left out; a test set found by the reader stays, unless the file has
    one.

    Raises:
        DataError: unreadable, unknown name, case in two splits. ConfigError: no such fold.
    """
    file = find_splits(file, index.root)
    content = read_json(file)
    if isinstance(content, list):
        if not 0 <= fold < len(content):
            raise ConfigError(f"data.fold is {fold}, but {file} has folds 0 to {len(content) - 1}")
        content = content[fold]
    if (
        not isinstance(content, dict)
        or not set(content) <= {"train", "val", "test"}
        or not content
        or not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in content.values())
    ):
        raise DataError(f"{file}: expected an object with lists train, val (, test) of names, or a list of such folds")
    known: dict[str, list[str]] = defaultdict(list)
    for entry in index.entries:
        known[entry.patient].append(entry.id)
    known |= {e.id: [e.id] for e in index.entries}
    if missing := sorted({name for names in content.values() for name in names} - set(known)):
        raise DataError(f"{file}: {len(missing)} ids are not in the data set, first {missing[0]!r}")
    split_of: dict[str, Split] = {}
    for split, names in content.items():
        for case_id in (i for name in names for i in known[name]):
            if split_of.get(case_id, split) != split:
                raise DataError(f"{file}: case {case_id!r} is in both {split_of[case_id]} and {split}")
            split_of[case_id] = split
    kept, dropped = [], 0
    for entry in index.entries:
        if entry.id in split_of:
            kept.append(replace(entry, split=split_of[entry.id]))
        elif entry.split == "predict" or (entry.split == "test" and "test" not in content):
            kept.append(entry)
        else:
            dropped += 1
    notes = index.notes + (
        (f"{dropped} labelled cases are in no split of {file.name} and left out",) if dropped else ()
    )
    return replace(index, entries=tuple(kept), notes=notes)


def find_splits(file: Path, root: Path) -> Path:
    """The file as given, else in the data set's folder, else by its bare name among the configs (configs/splits)."""
    if file.is_absolute():
        return file
    folders = config_folders()[1:]
    places = [file, root / file, *(f / file for f in folders), *(f / "splits" / file for f in folders)]
    return next((p for p in places if p.is_file()), root / file)


def check_patients(index: DatasetIndex) -> None:
    """Raises DataError: a patient has cases in two of the splits that the data set gives."""
    split_of: dict[str, str] = {}
    for e in index.entries:
        if e.split in ("train", "val", "test") and split_of.setdefault(e.patient, e.split) != e.split:
            raise DataError(
                f"{index.root}: patient {e.patient!r} has cases in both {split_of[e.patient]} and {e.split} "
                f"(case {e.id!r}); correct the data set's split, or data.patient_pattern if it groups too much"
            )


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ConfigError: a setting of the data module that lies outside."""
    if not low <= value <= high:
        most = f" and at most {high}" if high < 1e9 else ""
        raise ConfigError(f"data.{key} must be at least {low}{most}, not {value}")


def read_json(path: Path) -> Any:
    """Raises DataError: missing, or not JSON, see `load_json`."""
    try:
        return load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON: {error}") from None


def require(content: Mapping[str, Any], key: str, file: Path, example: str) -> Any:
    """A key of dataset.json. Raises DataError: it is missing."""
    if key not in content:
        raise DataError(f"{file} has no key {key!r}; expected for example {example}")
    return content[key]


def channel_names(content: Mapping[str, Any], key: str, file: Path) -> list[str]:
    """Channels of dataset.json in the order of their numbers. Raises DataError: no number, or no name."""
    if not all(k.isdecimal() and isinstance(name, str) for k, name in content.items()):
        raise DataError(f'{file}: {key} must name channels by number, such as {{"0": "CT"}}, not {str(content)[:80]}')
    return [content[k] for k in sorted(content, key=int)]


def stem(path: Path) -> str:
    """File name without its ending, `.nii.gz` counting as one; umlauts and the like as one letter, as macOS has two."""
    name = path.name
    return unicodedata.normalize("NFC", name[: len(name) - len(ending_of(path))])


def ending_of(path: Path) -> str:
    """Of a file's name, as it is written there, `.nii.gz` counting as one."""
    known = next((e for e in ENDINGS if path.name.lower().endswith(e)), path.suffix)
    return path.name[len(path.name) - len(known) :]


def list_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Files of a folder with one of the endings, sorted; hidden files (macOS's `._*`) are skipped."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(tuple(endings)) and not p.name.startswith("."))


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once."""
    return [n for n, count in Counter(names).items() if count > 1]
