"""What the readers of pictures with masks of one class share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from samzoo.data.index import ClassTable, Collector, ReadSettings, class_table
from samzoo.errors import ConfigError


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


def note_counts(found: Collector, usual: Mapping[str, int], counted: Mapping[str, int]) -> None:
    """Say where an archive holds another number of pictures than it usually does; not if the user chose some."""
    if found.settings.include is not None:
        return
    odd = [f"{part} {counted.get(part, 0)} (usually {n})" for part, n in usual.items() if counted.get(part, 0) != n]
    if odd:
        found.notes.append(f"other numbers of pictures than usual: {', '.join(odd)}")
