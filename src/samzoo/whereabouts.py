"""Where each process of a run is: a line in a small file, which tells of a process that was killed what it was at.

A process that the kernel kills can't say anything. So each one, data loading ones too, keeps a line in
`<run>/.processes.unfinished/<host>-<pid>` up to date and removes it at its end; what is there of a process that is
gone is its last word. No torch.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from samzoo.errors import SamzooError

FOLDER = ".processes.unfinished"
STALE_SECONDS = 600
"""A note from another machine that is older is one of an earlier run: whether its process lives can't be seen here."""


@dataclass(frozen=True)
class Place:
    """What one process is at.

    Args:
        name: of the process, for people: "process 1 of 2".
        parent: pid of the process that started it, if it loads data; else 0.
        doing: "test case phantom_003".
        failed: the error that it ends with; empty while it runs.
    """

    name: str
    host: str
    pid: int
    parent: int = 0
    doing: str = "start"
    failed: str = ""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid} on {self.host}) at: {self.doing}"


class _Note:
    """The file of this process, kept open: a note is one write, also where the folder is far away."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self.place = folder, place
        self.path = folder / f"{place.host}-{place.pid}"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self.write()

    def write(self, **changed: str) -> None:
        self.place = Place(**asdict(self.place) | changed)
        line = json.dumps(asdict(self.place)).encode() + b"\n"
        os.pwrite(self.file, line, 0)  # what is left of a longer line stands behind the end of this one


_note: _Note | None = None


def begin(folder: Path, name: str, parent: int = 0) -> None:
    """From now on this process notes where it is. Where nothing can be written, it goes on without."""
    global _note
    try:
        _note = _Note(folder, Place(name, socket.gethostname(), os.getpid(), parent))
    except OSError:
        _note = None


def doing(what: str) -> None:
    """Note what this process is at; nothing happens before `begin`."""
    if _note is not None and _note.place.pid == os.getpid():
        with suppress(OSError):  # a full disk is found out by what has to be written
            _note.write(doing=what)


def here() -> Place | None:
    """What this process noted last."""
    return None if _note is None else _note.place


class Loader:
    """`worker_init_fn` of a DataLoader: its processes note where they are, too."""

    def __init__(self) -> None:
        self.folder = None if _note is None else _note.folder
        self.name = "" if _note is None else _note.place.name
        self.parent = os.getpid()

    def __call__(self, worker: int) -> None:
        if self.folder is not None:
            begin(self.folder, f"data loader {worker} of {self.name}", self.parent)
            multiprocessing.util.Finalize(None, end, exitpriority=0)


@contextmanager
def at(what: str) -> Iterator[None]:
    """Note it, and put it below the traceback of an error that is not for users."""
    doing(what)
    try:
        yield
    except SamzooError:
        raise
    except Exception as error:
        error.add_note(f"samzoo was at: {what}")
        raise


def end(failed: str = "") -> None:
    """Remove the notes of this process and of those that load its data; one that `failed` leaves its own, saying so."""
    global _note
    if _note is None or _note.place.pid != os.getpid():
        return
    try:
        if failed:
            _note.write(failed=failed)
        os.close(_note.file)
        for path, place in _read(_note.folder):
            mine = place.host == _note.place.host and _note.place.pid in (place.pid, place.parent)
            if mine and not (failed and place.pid == os.getpid()):
                path.unlink(missing_ok=True)
        _note.folder.rmdir()
    except OSError:  # notes of others are still there
        pass
    _note = None


def lost(folder: Path) -> list[Place]:
    """What the notes say of processes of this machine that have failed or are gone, this one left out."""
    places = [place for _, place in _read(folder) if place.host == socket.gethostname() and place.pid != os.getpid()]
    return [place for place in places if place.failed or not _lives(place.pid)]


def place_of(folder: Path, pid: int) -> Place | None:
    """The note of a process of this machine."""
    found = (place for _, place in _read(folder) if place.host == socket.gethostname() and place.pid == pid)
    return next(found, None)


def take_last_words(folder: Path) -> list[Place]:
    """What a run that was killed has left, and forget it. Notes of processes that may live still are left alone."""
    left = []
    for path, place in _read(folder):
        try:
            elsewhere = place.host != socket.gethostname() and time.time() - path.stat().st_mtime > STALE_SECONDS
            if elsewhere or (place.host == socket.gethostname() and not _lives(place.pid)):
                path.unlink()
                left.append(place)
        except OSError:  # another process was faster
            pass
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()
    return left


def _read(folder: Path) -> list[tuple[Path, Place]]:
    found = []
    for path in sorted(folder.glob("*")):
        with suppress(OSError, ValueError, TypeError, IndexError):  # just being written, or removed
            found.append((path, Place(**json.loads(path.read_text().splitlines()[0]))))
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # one that has ended but was not waited for
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
