"""Files appear whole or not at all, and none that was there before is lost. No torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from samzoo.errors import DataError


def write_atomically(path: str | Path, write: Callable, mode: str = "w") -> None:
    """Let `write(file)` fill a file that appears whole or not at all; what was there before survives a failure.

    Raises:
        DataError: the file can't be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **text) as file:
            temporary = file.name
            write(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


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
