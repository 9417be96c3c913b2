"""Images without labels, for prediction: a folder or single files of NIfTI or pictures, no dataset.json needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samzoo.data.foreign import foreign_files
from samzoo.data.index import CaseEntry, DatasetIndex, list_files, repeated, stem
from samzoo.errors import DataError


def read_unlabelled(sources: Sequence[Path], index: DatasetIndex) -> DatasetIndex:
    """Cases to predict, which take channels, classes and intensities from a known data set.

    Where the data set has one file per channel, files are grouped by their ending _0000, _0001, ...

    Args:
        sources: files and folders; of a folder every image in it (or in its imagesTs), not in its sub-folders.

    Raises:
        DataError: nothing there, a channel missing, two cases of one name.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            found = list_files(source) or list_files(source / "imagesTs")
            if not found:
                why = foreign_files(source, deep=True) or "name the folder that holds the images themselves"
                raise DataError(f"{source}: no NIfTI file or picture in this folder; {why}")
            files += found
        elif source.is_file():
            files.append(source)
        else:
            raise DataError(
                f"{source}: does not exist; --images (data.predict_root) must name a folder or an image file"
            )
    numbered = {p: re.fullmatch(r"(.+)_(\d{4})", stem(p)) for p in files}
    by_channel = all(m is not None for m in numbered.values()) and any(
        m is not None and m.group(2) == "0000" for m in numbered.values()
    )
    if not by_channel:
        if doubled := repeated(stem(p) for p in files):
            raise DataError(f"duplicate case id {doubled[0]!r} among the images to predict; rename one of them")
        entries = [CaseEntry(stem(p), stem(p), (p,), split="predict") for p in files]
        return _only(index, entries)
    cases: dict[str, dict[int, Path]] = {}
    for path, match in numbered.items():
        channels = cases.setdefault(match.group(1), {})
        if int(match.group(2)) in channels:
            raise DataError(f"duplicate case id {match.group(1)!r}: {path} and {channels[int(match.group(2))]}")
        channels[int(match.group(2))] = path
    entries = []
    for case_id, channels in cases.items():
        if sorted(channels) != list(range(len(channels))) or len(channels) not in (1, len(index.channels)):
            raise DataError(
                f"case {case_id!r} has channel files {sorted(channels)}; data set {index.name} has "
                f"{len(index.channels)} channels ({', '.join(index.channels)}), numbered from 0000"
            )
        entries.append(CaseEntry(case_id, case_id, tuple(channels[c] for c in sorted(channels)), split="predict"))
    return _only(index, entries)


def _only(index: DatasetIndex, entries: list[CaseEntry]) -> DatasetIndex:
    return replace(index, entries=tuple(sorted(entries, key=lambda e: e.id)), notes=())
