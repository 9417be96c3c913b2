"""`samzoo leaderboard`: fit and test the cells of a suite that have no result yet, then write the tables. No torch.

Each fit and each test is a process of its own, so that peak memory and failures stay with their cell.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

from samzoo.cli_config import PARTS, SUFFIXES, find_config, read_config
from samzoo.errors import SamzooError
from samzoo.leaderboard import Cell, Suite, entry_rows, read_suite, write_leaderboard
from samzoo.run_folder import Run


def signature(cell: Cell) -> str:
    """Hash of all that a cell's result depends on except code: its settings and every config file in it."""
    path = find_config(cell.config)
    files = [path] + [find_config(s.split("=")[-1]) for s in cell.settings if s.endswith(SUFFIXES)]
    files += [Path(part) for name in PARTS if isinstance(part := read_config(path).get(name), str)]
    parts = [json.dumps([cell.config, cell.fit, cell.settings]), *(file.read_text() for file in files)]
    return hashlib.sha256("\n---\n".join(parts).encode()).hexdigest()[:10]


def cell_folder(suite: Suite, cell: Cell) -> Path:
    """Where a cell's run is; other settings are another folder, so that no result is overwritten or mistaken."""
    return suite.runs / f"{cell.name}-{signature(cell)}"


def complete(folder: Path) -> bool:
    return (folder / "records.csv").is_file() and (folder / "run.json").is_file()


def commands(cell: Cell, folder: Path) -> list[list[str]]:
    """The samzoo commands that are still to be run for a cell; an interrupted run is taken up again."""
    begun = Run(folder).config.is_file()
    config = [] if begun else ["--config", cell.config, *cell.settings]
    where = ["--run", str(folder)]
    if not cell.fit:
        return [["test", *config, "--zero-shot", *where]]
    return [["fit", *config, *["--resume"] * begun, *where], ["test", *where]]


def main(parser: argparse.ArgumentParser, args: list[str]) -> int:
    parser.add_argument("--suite", default="leaderboard/suite.yaml", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--fit", action="store_true", help="fit and test the cells that have no result yet")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write leaderboard.md and .csv (default: beside the suite)"
    )
    options = parser.parse_args(args)
    suite = read_suite(Path(options.suite))
    folders = {cell: cell_folder(suite, cell) for cell in suite.cells}
    failed = []
    for cell, folder in folders.items():
        if complete(folder):
            print(f"{cell.name}: complete, in {folder}", flush=True)
        elif options.fit and not _run(cell, folder):
            failed.append(cell.name)
    rows, missing = [], []
    for cell, folder in folders.items():
        if complete(folder):
            rows += entry_rows(cell.name, folder)
        else:
            missing.append(cell.name)
    out = Path(options.out) if options.out else suite.path.parent
    write_leaderboard(out, rows, missing)
    print(f"{out / 'leaderboard.md'}: {len(folders) - len(missing)} of {len(folders)} cells", flush=True)
    if failed:
        raise SamzooError(f"these cells failed (see above): {', '.join(failed)}")
    return 0


def _run(cell: Cell, folder: Path) -> bool:
    """Run what is missing; False if a command failed. Ctrl-C goes on to the caller."""
    for command in commands(cell, folder):
        print(f"{cell.name}: samzoo {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "samzoo.cli", *command], check=False).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code:
            return False
    return True
