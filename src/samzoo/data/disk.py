"""Faults of the disk as messages that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from samzoo.errors import DataError
from samzoo.writing import DISK_FULL

BUILDING = ".building-"
"""What names of unfinished folders begin with."""
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def disk_errors(folder: Path, remedy: str = "name another folder") -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into a DataError.

    Args:
        folder: where it is written.
        remedy: what else the user can do than free some space.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            existing = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
            free = shutil.disk_usage(existing).free / 2**20
            raise DataError(f"no space left in {folder} ({free:.0f} MiB free); free some, or {remedy}") from None
        if error.errno in NOT_ALLOWED:
            raise DataError(f"{folder} can't be written ({error.strerror}); {remedy}") from None
        raise


def sweep_building(folder: Path) -> None:
    """Remove unfinished folders that killed processes have left; to be called by whoever holds the lock."""
    for leftover in folder.glob(f"{BUILDING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder that is no longer needed. Killed in between, no part of it is left under its name."""
    with contextlib.suppress(OSError):
        unfinished = tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent)
        os.replace(folder, unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, remedy: str) -> Iterator[None]:
    """One builder at a time. The kernel drops the lock of a process that dies, so it can't go stale.

    Args:
        path: a file for the lock; it stays.
        remedy: see `disk_errors`.
    """
    try:
        import fcntl
    except ImportError:  # no such locks here: renames keep folders whole, work may be done twice
        yield
        return
    with disk_errors(path.parent, remedy), open(path, "w") as file:
        with contextlib.suppress(OSError):  # file systems without locks, as above
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
