"""Files and folders appear whole or not at all, and none that was there before is lost. No torch."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO

from samzoo.errors import DataError
from samzoo.locks import lock

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
SUFFIX = ".unfinished"
"""Of temporary files and folders, which are called `.<name>.<random>.unfinished`."""
LIVE_SECONDS = 3600.0
"""Written to within that time, they may be another machine's, whose locks are not seen on every shared disk."""


def write_atomically(path: str | Path, write: Callable, mode: str = "w") -> None:
    """Let `write(file)` fill a file that appears whole or not at all; what was there before survives a failure.

    It is on the disk before it takes the place of an older one. What killed processes have left in this folder
    goes after an hour.

    Raises:
        DataError: the file can't be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        with _temporary(path, mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that can't be written, also through a library, into a DataError.

    Raises:
        DataError: names the file, the reason and what to do.
    """
    try:
        yield
    except Exception as error:
        fault = next(filter(_counts, _chain(error)), None)  # torch.save tells of its file's only in passing
        if isinstance(fault, KeyboardInterrupt):
            raise fault from None
        fault = error if isinstance(error, OSError) else fault
        if fault is None:
            raise
        raise DataError(unwritable(path, fault)) from error


@contextlib.contextmanager
def disk_errors(folder: Path, remedy: str = "name another folder") -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into a DataError; others may come from what is read.

    Args:
        folder: where it is written.
        remedy: what else the user can do than free some space.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*DISK_FULL, *NOT_ALLOWED):
            raise DataError(unwritable(folder, error, remedy)) from None
        raise


def unwritable(path: Path, fault: OSError, remedy: str = "") -> str:
    """What to tell of a file or folder that can't be written: the reason and what to do."""
    reason, also = fault.strerror or str(fault), "; "
    if fault.errno in DISK_FULL:
        existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(existing).free / 2**20
        reason, also = f"{no_space(f'({free:.0f} MiB free there)')}: what was written before is kept", "; or "
    return f"{path}: can't be written: {reason}{also * bool(remedy)}{remedy}"


def no_space(place: str) -> str:
    return f"no space left {place}; free some and give the same command again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _counts(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, OSError) and error.errno in DISK_FULL)


@contextlib.contextmanager
def _temporary(path: Path, mode: str) -> Iterator[IO]:
    """A file beside `path` that is gone in the end, unless it was renamed; locked, so that nobody takes it as left."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    while True:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            mode, dir=path.parent, prefix=_prefix(path), suffix=SUFFIX, delete=False, **text
        )
        try:
            lock(file)
            if os.fstat(file.fileno()).st_nlink:
                break
            file.close()  # swept between its making and its lock
        except BaseException:
            _unlink(file.name)
            raise
    try:
        with file:
            yield file
    finally:
        _unlink(file.name)


def _prefix(path: Path) -> str:
    return f".{path.name.encode(errors='ignore')[:100].decode(errors='ignore')}."  # names end at 255 bytes


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` in the end, whole or not at all; one that others have put there stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(target.parent.absolute())
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target), suffix=SUFFIX))
    try:
        with _opened(building) as number:
            lock(number)
            yield building
            building.chmod(0o777 & ~_umask())
            try:
                os.replace(building, target)
            except OSError:
                if not target.is_dir():
                    raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder that is no longer needed. Killed in between, no part of it is left under its name."""
    with contextlib.suppress(OSError):
        unfinished = tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder), suffix=SUFFIX)
        os.replace(folder, unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)


def sweep(folder: Path, live_seconds: float = LIVE_SECONDS) -> None:
    """Remove what killed processes have left half-written in a folder, unless written to within that time."""
    for path in folder.glob(f".*.*{SUFFIX}"):
        with contextlib.suppress(OSError), _opened(path) as number:
            if time.time() - os.fstat(number).st_mtime >= live_seconds and lock(number):
                _unlink(path)
                shutil.rmtree(path, ignore_errors=True)


_sweep_once = cache(sweep)
"""Once is enough: this process tidies up after itself."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The number of an open file or folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def _unlink(path: str | Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def keep_older(path: Path) -> None:
    """Rename an existing file to the first free `<stem>-<n><suffix>`, so that a new one can take its place."""
    if path.exists():
        number = 1
        while (kept := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            number += 1
        os.replace(path, kept)
