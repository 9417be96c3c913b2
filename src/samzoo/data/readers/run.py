"""A run folder in place of a data set that is no longer there: what its training has found of it, and no case.

It is enough to predict new images: their channels and the classes' values are known.
"""

from __future__ import annotations

from pathlib import Path

from samzoo.data.index import ClassTable, DatasetIndex, ReadSettings, read_json
from samzoo.errors import DataError
from samzoo.paths import FINGERPRINT


def recognise(root: Path) -> bool:
    """Never by itself, as there is no case in it."""
    return False


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: the run has no fingerprint, or one without what is needed."""
    file = root / FINGERPRINT
    content = read_json(file)
    try:
        values = {str(name): tuple(map(int, given)) for name, given in content["classes"].items()}
        background, channels = tuple(map(int, content["background"])), tuple(map(str, content["all_channels"]))
        if not all((*values.values(), values, background, channels)):
            raise ValueError
        return DatasetIndex(str(content["dataset"]), root, "run", ClassTable(values, background), channels, ())
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{file} does not tell the classes and channels of a training") from None
