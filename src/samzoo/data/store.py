"""The case store: every case is decoded from its files once, into memory-mapped arrays.

One folder per data set and decoding settings, in it one folder per case, whose name holds a signature of the case's
source files. A case folder appears by a rename, so it is whole or absent; a build that was killed goes on where it
ended, and a changed source file costs one case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from samzoo.data.decode import Decoded, DecodeSettings, decode
from samzoo.data.index import CaseEntry, ClassTable, DatasetIndex
from samzoo.errors import DataError
from samzoo.locks import locked
from samzoo.paths import OTHER_HOME, samzoo_home
from samzoo.writing import discard, disk_errors, sweep, whole_folder

FORMAT = 1
"""Raise it when the arrays change their meaning: older stores are then left alone and rebuilt."""


@dataclass(frozen=True)
class StoredCase:
    """One case of the store; arrays are opened on access and not held, so that any number of cases may be in use.

    Args:
        folder: its folder.
        shape: (D, H, W).
        spacing: (3,) mm along D, H, W.
        affine: float64 (4, 4) of the source file.
        labelled: whether there is a label.
    """

    folder: Path
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: np.ndarray
    labelled: bool
    overlap: int

    def image(self) -> np.ndarray:
        """(C, D, H, W) float16 or float32 in [0, 1], memory-mapped, read-only."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self) -> np.ndarray | None:
        """(D, H, W) uint8 class ids, memory-mapped, read-only."""
        return np.load(self.folder / "label.npy", mmap_mode="r") if self.labelled else None

    def counts(self) -> np.ndarray:
        """(D, K) int32: voxels of each class on each slice."""
        return np.load(self.folder / "counts.npy")


class Store:
    """Decoded cases of one data set under given settings.

    Args:
        index: its case index.
        settings: decoding settings.
        dtype: "float16" or "float32" for images.
        home: folder of stores; default `$SAMZOO_HOME/store`.
    """

    def __init__(
        self, index: DatasetIndex, settings: DecodeSettings, dtype: str = "float16", home: Path | None = None
    ) -> None:
        self.index, self.settings, self.dtype = index, settings, dtype
        content = {
            "format": FORMAT,
            "root": str(index.root.resolve()),
            "table": table_meaning(index.table),
            "channels": index.channels,
            "settings": _decoding(settings),
            "dtype": dtype,
        }
        self.signature = digest(content)
        self.folder = (home or samzoo_home() / "store") / f"{slug(index.name)}-{self.signature}"

    def case_folder(self, entry: CaseEntry) -> Path:
        """Raises DataError: a source file is missing."""
        return self.folder / f"{_folder_stem(entry.id)}-{source_signature(entry)}"

    def build(self, entries: Iterable[CaseEntry], progress: bool = True) -> None:
        """Decode the cases that aren't there yet. Several processes may call it at once: one works, the others wait.

        Raises:
            DataError: a broken case, a missing file, no space, no permission. What was built before stays valid.
        """
        folders = {e.id: self.case_folder(e) for e in entries}
        if not all(f.is_dir() for f in folders.values()):
            self._build(folders, progress)
        self._tell_doubts(folders)

    def _build(self, folders: Mapping[str, Path], progress: bool) -> None:
        by_id = {e.id: e for e in self.index.entries}
        with disk_errors(self.folder, OTHER_HOME), locked(self.folder / "lock"):
            sweep(self.folder, live_seconds=0)
            missing = [i for i, f in folders.items() if not f.is_dir()]
            bar = tqdm(missing, desc=f"decoding {self.index.name}", unit="case", disable=not progress or not missing)
            for case_id in bar:
                self._build_case(by_id[case_id], folders[case_id])

    def _tell_doubts(self, folders: Mapping[str, Path]) -> None:
        """One warning for all cases whose values may not be those that the window is for."""
        doubts: dict[str, str] = {}
        for case_id, folder in folders.items():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # told when the case is opened
                doubts[case_id] = _meta(folder)["doubt"]
        doubts = {case_id: doubt for case_id, doubt in doubts.items() if doubt}
        if doubts:
            first = next(iter(doubts))
            warnings.warn(
                f"{self.index.root}: intensities of {len(doubts)} of {len(folders)} cases, first {first}: "
                f"{doubts[first]}",
                stacklevel=2,
            )

    def _build_case(self, entry: CaseEntry, target: Path) -> None:
        decoded = decode(entry, self.index, self.settings)
        with whole_folder(target) as building:
            self._write(building, entry, decoded)
        for old in self.folder.glob(f"{_folder_stem(entry.id)}-*"):
            if old != target:
                discard(old)

    def _write(self, folder: Path, entry: CaseEntry, decoded: Decoded) -> None:
        save_array(folder / "image.npy", decoded.image.astype(self.dtype))
        classes = len(self.index.table.names)
        counts = np.zeros((decoded.image.shape[1], classes), dtype=np.int32)
        if decoded.label is not None:
            save_array(folder / "label.npy", decoded.label)
            for z, plane in enumerate(decoded.label):
                counts[z] = np.bincount(plane.ravel(), minlength=256)[1 : classes + 1]
        save_array(folder / "counts.npy", counts)
        meta = {
            "id": entry.id,
            "shape": decoded.image.shape[1:],
            "spacing": decoded.spacing,
            "affine": decoded.affine.tolist(),
            "labelled": decoded.label is not None,
            "overlap": decoded.overlap,
            "doubt": decoded.doubt,
        }
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def open(self, entry: CaseEntry) -> StoredCase:
        """Raises DataError: the case isn't in the store (call `build` first), or its folder was tampered with."""
        folder = self.case_folder(entry)
        try:
            meta = _meta(folder)
            return StoredCase(
                folder,
                tuple(meta["shape"]),
                tuple(meta["spacing"]),
                np.array(meta["affine"], dtype=np.float64),
                meta["labelled"],
                meta["overlap"],
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{folder}: case {entry.id!r} can't be opened ({error}); delete {self.folder}, it is built again"
            ) from None

    def truth_signature(self, entries: Iterable[CaseEntry]) -> str:
        """Hash of what scores are taken against: ids, patients, grids and labels of these cases, on whatever machine
        they lie and whatever is made of their intensities.

        Raises:
            DataError: a case isn't in the store.
        """
        content: list[object] = [self.index.table.names]
        for entry in sorted(entries, key=lambda e: e.id):
            case = self.open(entry)
            label = hashlib.sha256(np.ascontiguousarray(case.label())).hexdigest() if case.labelled else None
            content.append([entry.id, entry.patient, case.shape, [f"{mm:.4f}" for mm in case.spacing], label])
        return digest(content)

    def training_signature(self) -> str | None:
        """Of the training and of the validation cases, likewise; None where a case isn't in the store."""
        try:
            return digest([self.truth_signature(self.index.of(split)) for split in ("train", "val")])
        except DataError:
            return None


def _meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def source_signature(entry: CaseEntry) -> str:
    """Hash of path, size and modification time of a case's files, and of what their labels mean.

    Raises:
        DataError: a file is missing.
    """
    content = []
    for path, class_id in [(p, -1) for p in entry.images] + [(f.path, f.class_id) for f in entry.labels]:
        try:
            stat = path.stat()
        except OSError:
            raise DataError(
                f"{path}: file of case {entry.id!r} is missing; put it there, or leave the case out (data.include)"
            ) from None
        content.append((str(path.resolve()), stat.st_size, stat.st_mtime_ns, class_id))
    return digest(content)


def _decoding(settings: DecodeSettings) -> dict[str, object]:
    """Without `canonical` as it was before there was that setting."""
    content = asdict(settings)
    if not settings.canonical:
        del content["canonical"]
    return content


def table_meaning(table: ClassTable) -> list[object]:
    """What of a class table changes stored labels; without a threshold as it was before there was one."""
    threshold = [] if table.threshold is None else [table.threshold]
    return [list(table.values.items()), table.background, table.ignore, *threshold]


def digest(content: object) -> str:
    """First 12 hex digits of the sha256 of something that json can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=False, default=str).encode()).hexdigest()[:12]


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[:80] or "unnamed"


def _folder_stem(case_id: str) -> str:
    """A name without hyphens that two ids never share."""
    return slug(case_id) if slug(case_id) == case_id else f"{slug(case_id)}.{digest(case_id)}"


def save_array(path: Path, array: np.ndarray) -> None:
    """Like `np.save`, whose `tofile` hides the reason of a failed write."""
    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(memoryview(array).cast("B"))


def voxels_per_class(cases: Sequence[StoredCase]) -> np.ndarray:
    """(cases, K) int64"""
    return np.stack([c.counts().sum(0, dtype=np.int64) for c in cases])
