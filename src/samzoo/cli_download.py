"""`samzoo download`: public data sets by name. No torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from samzoo.cli_config import UsageError, did_you_mean
from samzoo.data.archives import ARCHIVES, LICENCE, Archive, fetch
from samzoo.paths import config_folders


def main(parser: argparse.ArgumentParser, args: list[str]) -> int:
    """Raises UsageError: no such data set. DataError: it can't be fetched or unpacked."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="data set (default: list them)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: $SAMZOO_DATA, else here)")
    parser.add_argument("--url", metavar="URL", help="another address of the same archive")
    options = parser.parse_args(args)
    if options.name is None:
        print("\n".join(f"{name:<20}{archive.url}" for name, archive in ARCHIVES.items()) + f"\n{LICENCE}")
        return 0
    name, archive = _find(options.name)
    out = options.out or Path(os.environ.get("SAMZOO_DATA") or ".")
    print(f"{name}: {LICENCE}", flush=True)
    root, was_there = fetch(archive, out.expanduser(), options.url)
    print(f"{'already in' if was_there else 'unpacked to'} {root}\ncheck it with: samzoo verify {root}{_config(name)}")
    return 0


def _find(wanted: str) -> tuple[str, Archive]:
    """By the data set's name or the task's (Task06_Lung, Task06)."""
    for name, archive in ARCHIVES.items():
        if wanted.lower() in (name, archive.folder.lower(), archive.folder.split("_")[0].lower()):
            return name, archive
    known = [*ARCHIVES, *(a.folder for a in ARCHIVES.values())]
    otherwise = f"; known are {', '.join(ARCHIVES)}. Of other data sets `samzoo zoo` tells the source"
    raise UsageError(f"there is no archive {wanted!r} to download{did_you_mean(wanted, known, otherwise)}")


def _config(name: str) -> str:
    """What else of the command lines that come next depends on the data set's configs."""
    folders = config_folders()
    if not any((folder / "datasets" / f"{name}.yaml").is_file() for folder in folders):
        return ""
    whole = sorted({path.name for folder in folders for path in folder.glob(f"*_{name}.yaml")})
    settings = whole[0] if whole else f"CONFIG --data datasets/{name}.yaml"
    return f" --data {name}.yaml\ntrain on it with: samzoo fit --config {settings}"
