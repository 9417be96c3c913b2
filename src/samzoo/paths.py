"""Where samzoo keeps what it makes or fetches for itself, and where it looks for configs and data sets."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from samzoo.errors import ConfigError, DataError

OTHER_HOME = "set SAMZOO_HOME to a folder of yours on another disk"
FINGERPRINT = "fingerprint.json"
"""In a run's folder: what was found in its data."""
SHIPPED = Path(__file__).parent / "configs"
"""The configs that come with the package."""


def samzoo_home() -> Path:
    """Folder of downloaded weights, case stores and the phantom: `$SAMZOO_HOME`, else `~/.cache/samzoo`."""
    return Path(os.environ.get("SAMZOO_HOME") or Path.home() / ".cache" / "samzoo").expanduser().absolute()


def config_folders() -> list[Path]:
    """Where bare names of configs and splits are looked up, in order; the working folder is the first."""
    own = os.environ.get("SAMZOO_CONFIGS")
    return [Path(), Path("configs"), *([Path(own)] if own else []), SHIPPED]


def find_root(root: str | None, source: str | None = None, command: str | None = None) -> Path:
    """Folder of a data set: relative to the working folder, else to $SAMZOO_DATA.

    Args:
        root: as given.
        source: where it comes from, for the message.
        command: what fetches it, for the message.

    Raises:
        DataError: it is in neither; says what to fetch, where to put it and how to check it.
        ConfigError: no root given.
    """
    if root is None:
        raise ConfigError("data.root is not set; give the data set's folder, or set data.layout to phantom")
    given = Path(root).expanduser()
    places = [given.absolute()]
    if not given.is_absolute() and os.environ.get("SAMZOO_DATA"):
        places.append(Path(os.environ["SAMZOO_DATA"]).expanduser().absolute() / given)
    for place in places:
        with contextlib.suppress(OSError):  # a name that is too long
            if place.is_dir():
                return place
            if place.is_file():
                raise DataError(f"{place} is a file; give the folder of the data set (an archive has to be unpacked)")
    hint = "" if len(places) > 1 or given.is_absolute() else ", or into a folder that $SAMZOO_DATA names"
    raise DataError(
        f"data set not found, looked for {' and '.join(str(p) for p in places)}\n"
        f"  what to fetch: {source or 'the data set that this configuration is for'}\n"
        + (f"  what fetches it: {command}\n" if command else "")
        + f"  where to put it: {places[-1]}{hint}\n"
        f"  how to check it: samzoo verify {places[-1]}\n"
        "  where it lies elsewhere: --data.root PATH"
    )
