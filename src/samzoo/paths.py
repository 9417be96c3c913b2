"""Where samzoo keeps what it makes or fetches for itself."""

from __future__ import annotations

import os
from pathlib import Path


def samzoo_home() -> Path:
    """Folder of downloaded weights, case stores and the phantom: `$SAMZOO_HOME`, else `~/.cache/samzoo`."""
    return Path(os.environ.get("SAMZOO_HOME") or Path.home() / ".cache" / "samzoo").expanduser().absolute()
