"""`samzoo leaderboard`: run the cells of a suite that have no result yet, then write the board. No torch."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samzoo.cli_config import UsageError
from samzoo.cli_own import OWN_PICTURES, OWN_SUITE, own_suite, settings_of_all, with_settings
from samzoo.cli_runner import run_here, visible_gpus
from samzoo.cli_suite import Job, jobs
from samzoo.errors import SamzooError
from samzoo.leaderboard.board import Missing, TestedRun
from samzoo.leaderboard.suite import read_suite
from samzoo.paths import find_root

SUITE = "leaderboard/suite.yaml"


def main(parser: argparse.ArgumentParser, args: list[str]) -> int:
    if args[:1] == ["merge"]:
        return _merge(parser, args[1:])
    parser.epilog = "samzoo leaderboard merge OUT RUN_FOLDER ...   puts runs of other groups on one board (--help)"
    parser.add_argument(
        "--suite", metavar="FILE", help=f"default: {SUITE}; with --root {OWN_SUITE} or {OWN_PICTURES}, that come along"
    )
    parser.add_argument("--root", metavar="DIR", help="a data set of your own, for all cells: all methods on it")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="of training for each cell, at most; validations count"
    )
    parser.add_argument("--fit", action="store_true", help="fit and test the cells that have no result yet")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write the board (default: beside suite.yaml, for NAME.yaml in the folder NAME beside it; with "
        "--root in leaderboard/ROOT's name)",
    )
    parser.add_argument("--verbose", action="store_true", help="show all that the cells say, which their logs keep")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="cells side by side, each on one GPU or its share of the cores (default: as many as CUDA devices); "
        "with more than 1, times are those of a machine that has other work too",
    )
    parser.add_argument(
        "--launcher", choices=["here", "slurm"], default="here", help="slurm: a job of the cluster for each cell"
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of sbatch: partition=gpu, time=600 (minutes), gpus_per_node=1, mem=32GB ...; may be repeated",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --launcher slurm: write the board once all have ended"
    )
    options, settings = parser.parse_known_args(args)
    if options.jobs is not None and options.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if options.minutes is not None and not 0 < options.minutes < 1e6:
        raise UsageError("--minutes must be more than 0 and less than a million")
    if options.slurm and options.launcher != "slurm":
        raise UsageError("--slurm belongs to --launcher slurm")
    common = settings_of_all(settings)
    if options.root:
        suite = own_suite(options.suite, options.root, _out(Path(), options), common)
        print(f"suite {suite.path.name}; board and runs go to {_out(suite.path, options)}", flush=True)
    else:
        suite = read_suite(Path(options.suite or SUITE))
    suite = with_settings(suite, common, options.minutes)
    todo = jobs(suite)
    failures = _run(todo, suite.runs, options) if options.fit else {}
    runs, missing = load([(j.cell.name, j.seed, j.folder) for j in todo if j.complete])
    missing += [Missing(job.name, job.why_missing()) for job in todo if not job.complete]
    out = _out(suite.path, options)
    write(out, runs, missing, suite.runs)
    print(f"{out / 'leaderboard.md'}: {len(runs)} of {len(todo)} cells", flush=True)
    for lost in missing:
        print(f"no result: {lost.entry}: {lost.reason}", flush=True)
    if failures:
        lines = [f"  {job.name}: {reason} (log: {job.log})" for job, reason in failures.items()]
        raise SamzooError(
            "\n".join([f"{len(failures)} of {len(todo)} cells failed; the next call tries again", *lines])
        )
    return 0


def _out(suite: Path, options: argparse.Namespace) -> Path:
    """Where the board goes."""
    if options.out:
        return Path(options.out)
    if options.root:
        return Path("leaderboard") / find_root(options.root).resolve().name
    return suite.parent if suite.name == "suite.yaml" else suite.with_suffix("")


def _run(all_jobs: Sequence[Job], runs: Path, options: argparse.Namespace) -> dict[Job, str]:
    """Run what has no result; says why each failed job did."""
    todo = [job for job in all_jobs if not job.complete]
    if done := len(all_jobs) - len(todo):
        print(f"{done} of {len(all_jobs)} cells are complete already", flush=True)
    if options.launcher == "here":
        workers = min(options.jobs or len(visible_gpus()) or 1, len(todo) or 1)
        numbers = {job: f"{i} of {len(all_jobs)}" for i, job in enumerate(all_jobs, start=1)}
        return run_here(todo, runs, workers, options.verbose, numbers)
    from samzoo.cli_slurm import parameters, submit, wait

    submitted = submit(todo, runs, parameters(options.slurm))
    for job, handle in submitted.items():
        print(f"{job.name}: job {handle.job_id}", flush=True)
    if options.wait:
        return wait(submitted)
    print("`samzoo leaderboard` shows what has ended", flush=True)
    return {}


def load(found: Sequence[tuple[str, int | None, Path]]) -> tuple[list[TestedRun], list[Missing]]:
    """Read runs (entry, seed, folder); one that is damaged is missing, with the reason."""
    from samzoo.leaderboard.compute import load_run

    runs, missing = [], []
    for entry, seed, folder in found:
        try:
            runs.append(load_run(entry, folder, seed))
        except SamzooError as error:
            missing.append(Missing(entry, str(error)))
    return runs, missing


def write(out: Path, runs: Sequence[TestedRun], missing: Sequence[Missing], folder: Path) -> None:
    """Write the board; its reasons call files as seen from `folder`, so that they are the same on every machine."""
    from samzoo.leaderboard.compute import compute_board
    from samzoo.leaderboard.report import write_report

    board = compute_board(runs, missing)
    lost = tuple(replace(m, reason=without_folders(m.reason, folder)) for m in board.missing)
    write_report(out, replace(board, missing=lost))


def without_folders(text: str, folder: Path) -> str:
    """Without the folders of this machine: paths relative to `folder` or the working folder, else files' names."""
    for place in (folder.absolute(), folder, Path.cwd(), Path.home()):
        if place.name:
            text = re.sub(rf"(?<![\w./-]){re.escape(str(place))}/", "", text)
    return re.sub(r"(?<![\w:./-])/(?:[^\s/:;,'\"()]+/)+", "", text)


def _merge(parser: argparse.ArgumentParser, args: list[str]) -> int:
    parser.prog += " merge"
    parser.description = "Check runs of several groups and put those that can be compared on one board."
    parser.add_argument("out", type=Path, metavar="OUT", help="where to write the board")
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]FOLDER", help="a run folder, or one that holds several; NAME is the entry's"
    )
    parser.add_argument("--skip-refused", action="store_true", help="write the board without what is refused")
    options = parser.parse_args(args)
    from samzoo.leaderboard.merge import check, find_runs  # here, as scipy takes its time

    found = find_runs(options.runs)
    runs, missing = load([(name, None, folder) for name, folder in found])
    problems = check(runs)
    refused = {problem.folder for problem in problems}
    missing += [Missing(problem.entry, problem.reason) for problem in problems]
    lines = [f"  {problem.folder}: {problem.reason}" for problem in problems]
    lines += [f"  {lost.reason}" for lost in missing[: len(missing) - len(problems)]]
    left = [run for run in runs if run.folder not in refused]
    if missing and not (options.skip_refused and left):
        hint = "nothing is written; --skip-refused leaves these out" if left else "nothing is left to write"
        raise SamzooError("\n".join([f"{len(missing)} runs are refused, {hint}", *lines]))
    for line in lines:
        print(f"refused:{line[1:]}", flush=True)
    write(options.out, left, missing, Path(os.path.commonpath([folder.absolute().parent for _, folder in found])))
    print(f"{options.out / 'leaderboard.md'}: {len(left)} runs, {len(missing)} refused", flush=True)
    return 0
