"""What the readers of pictures with masks of one class share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from samzoo.data.files import read_array
from samzoo.data.index import VOLUME_ENDINGS, ClassTable, Collector, ReadSettings, class_table
from samzoo.errors import ConfigError, DataError

LOSSLESS = (*VOLUME_ENDINGS, ".png", ".tif", ".tiff", ".bmp")
MOST_MASKS = 64
"""Evenly spread over a folder; so many are looked at for classes."""
MOST_VALUES = 64
"""More distinct values are no classes, but noise or instances."""


def mask_table(settings: ReadSettings, name: str = "foreground") -> ClassTable:
    """The user's classes, else one class whose mask is 0/1 or 0/255, with the threshold that the user gives.

    Raises:
        DataError: classes that make no table. ConfigError: a threshold below 0, or with more than one class.
    """
    given = settings.classes is not None
    table = class_table(settings.classes, "data.classes") if given else ClassTable({name: (255, 1)})
    threshold = settings.mask_threshold
    if threshold is None:
        return table
    if threshold < 0:
        raise ConfigError(f"data.mask_threshold is {threshold}; it must be a grey value of the masks, mostly 127")
    if len(table.names) > 1 or table.ignore:
        named = ", ".join([*table.names, *(["ignore"] if table.ignore else [])])
        raise ConfigError(
            f"data.mask_threshold makes masks of one class, but data.classes names {named}; set one of the two"
        )
    return replace(table, threshold=threshold)


def found_table(masks: Sequence[Path], table: ClassTable) -> ClassTable:
    """The classes that masks hold, named by their values, where these are small numbers; else the table as it is.

    Masks of 0/1 or 0/255 are of one class. Values that could mean something else are left to the error that reading
    them gives: 255 beside others (a class, or "ignore"), fractions, more than 64 values, colours.

    Args:
        masks: files that may be missing or damaged, which is told when their case is read.
        table: of binary masks.
    """
    masks = [path for path in masks if path.name.lower().endswith(LOSSLESS)]
    values: set[float] = set()
    for i in range(min(len(masks), MOST_MASKS)):
        try:
            data = read_array(masks[i * len(masks) // min(len(masks), MOST_MASKS)], "mask").data
        except DataError:
            continue
        if len(data) > 1 and (data != data[:1]).any():
            return table
        values |= set(np.unique(data[0]).tolist())
        if len(values) > MOST_VALUES:
            return table
    classes = sorted(values - {0})
    if set(classes) <= {1} or set(classes) <= {255} or any(v != int(v) or not 1 <= v <= 254 for v in classes):
        return table
    return ClassTable({f"class_{int(v)}": (int(v),) for v in classes})


def note_counts(found: Collector, usual: Mapping[str, int], counted: Mapping[str, int]) -> None:
    """Say where an archive holds another number of pictures than it usually does; not if the user chose some."""
    if found.settings.include is not None:
        return
    odd = [f"{part} {counted.get(part, 0)} (usually {n})" for part, n in usual.items() if counted.get(part, 0) != n]
    if odd:
        found.notes.append(f"other numbers of pictures than usual: {', '.join(odd)}")
