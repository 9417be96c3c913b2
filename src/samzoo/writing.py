"""Files appear whole or not at all, and none that was there before is lost. No torch."""

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

try:
    import fcntl
except ImportError:  # no such locks here: what a killed process leaves stays, and is never read
    fcntl = None

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SUFFIX = ".unfinished"
"""Of temporary files, which are called `.<name>.<random>.unfinished`."""
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
        raise DataError(f"{path}: can't be written: {_reason(path, fault)}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _counts(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, OSError) and error.errno in DISK_FULL)


def _reason(path: Path, fault: OSError) -> str:
    if fault.errno not in DISK_FULL:
        return fault.strerror or str(fault)
    existing = next(p for p in path.absolute().parents if p.is_dir())
    free = shutil.disk_usage(existing).free / 2**20
    return (
        f"no space left ({free:.0f} MiB free there); free some and give the same command again: "
        "what was written before is kept"
    )


@contextlib.contextmanager
def _temporary(path: Path, mode: str) -> Iterator[IO]:
    """A file beside `path` that is gone in the end, unless it was renamed; locked, so that nobody takes it as left."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    short = path.name.encode(errors="ignore")[:100].decode(errors="ignore")  # names end at 255 bytes
    while True:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            mode, dir=path.parent, prefix=f".{short}.", suffix=SUFFIX, delete=False, **text
        )
        try:
            _lock(file.fileno())
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


def _lock(number: int) -> bool:
    """Whether the file is ours now. The kernel drops the lock of a process that dies."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # another process has it, or a file system without locks
        return False


def sweep(folder: Path, live_seconds: float = LIVE_SECONDS) -> None:
    """Remove the temporary files that killed processes have left in a folder, unless written to within that time."""
    for path in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime >= live_seconds and _lock(file.fileno()):
                _unlink(path)


_sweep_once = cache(sweep)
"""Once is enough: this process tidies up after itself."""


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
