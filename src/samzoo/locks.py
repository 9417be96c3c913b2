"""Locks: what only one process at a time may do. No torch.

An open file holds a lock, so the kernel drops those of a process that dies and none goes stale: that a lock's file is
there says nothing. Where the system has no such locks, everybody goes ahead: renames keep what is written whole, and
work may be done twice. (filelock fails there or, worse, waits for files that killed processes have left.)
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:
    fcntl = None

POLL_SECONDS = 0.1
_HELD: set[IO] = set()


def lock(file: int | IO, wait_seconds: float = 0.0) -> bool | None:
    """Whether an open file or folder is its opener's until it is closed; None where there are no locks.

    By `flock`: of `lockf`, this process would lose the lock with any other file object of the same file that it closes.
    """
    last = time.monotonic() + wait_seconds
    while fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return None
        if time.monotonic() >= last:
            return False
        time.sleep(POLL_SECONDS)
    return None


def hold(path: Path, wait_seconds: float = math.inf) -> IO | None:
    """What holds the lock of a file that serves for nothing else, until it is closed; None: another process has it.

    Forked children don't hold it, so that a data loader's workers can't outlive a killed training with its lock.

    Raises:
        OSError: the file can't be written.
    """
    while True:
        file = open(path, "a")  # noqa: SIM115  held
        if lock(file, wait_seconds) is False:
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink:
            _HELD.add(file)
            return file
        file.close()  # whoever had it has removed it


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float = math.inf) -> Iterator[bool]:
    """Whether this process is, within, the only one that has the lock `path`, a file that is there only meanwhile.

    Raises:
        OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = hold(path, wait_seconds)
    try:
        yield file is not None
    finally:
        if file in _HELD:  # not in a forked child
            with contextlib.suppress(OSError):
                path.unlink()
            _HELD.remove(file)
            file.close()


def _let_go() -> None:
    while _HELD:
        _HELD.pop().close()


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
