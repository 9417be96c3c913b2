"""The cells of a suite as jobs of a Slurm cluster, through submitit, one for each cell and seed. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samzoo.cli_config import UsageError
from samzoo.cli_runner import run_job
from samzoo.cli_suite import Job
from samzoo.errors import ConfigError
from samzoo.writing import write_atomically

DEFAULTS = {"name": "samzoo", "slurm_time": 24 * 60}
"""submitit's own default ends every job after five minutes."""


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """Of submitit's executor, from `KEY=VALUE` as they are called for sbatch: partition, time (minutes), mem ...

    Raises:
        UsageError: not of this form, or a time that is not in minutes.
    """
    found = dict(DEFAULTS)
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"--slurm {text}: write KEY=VALUE, such as partition=gpu")
        if key == "time" and not value.isdigit():
            raise UsageError(f"--slurm {text}: the time is a number of minutes")
        found[f"slurm_{key}"] = int(value) if value.isdigit() else value
    return found


class Cell:
    """`run_job`, which submitit puts back into the queue: when pre-empted, and so often when its time is over."""

    def __call__(self, job: Job) -> str:
        return run_job(job)

    def checkpoint(self, job: Job) -> Any:
        """What is run then; a cell goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def submit(todo: Sequence[Job], runs: Path, settings: dict[str, Any], cluster: str = "slurm") -> dict[Job, Any]:
    """Hand jobs over. A job that is handed over twice runs once.

    Args:
        runs: beside them, in `submitit`, lie the scripts and the logs of the cluster's jobs.
        settings: see `parameters`.
        cluster: also "local" or "debug", for tests.

    Returns:
        job -> submitit's.

    Raises:
        ConfigError: submitit is not installed, there is no Slurm, or it refuses the jobs.
        UsageError: a parameter that submitit does not know.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError("--launcher slurm needs the package: pip install 'samzoo[slurm]'") from error
    runs.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=runs / "submitit" / "%j", cluster=cluster)
        executor.update_parameters(**settings)
        return {job: executor.submit(Cell(), job) for job in todo}
    except (NameError, AssertionError) as error:
        raise UsageError(f"--slurm: {' '.join(str(error).split())}") from error
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise ConfigError(f"Slurm can't take the jobs: {' '.join(str(error).split())}") from error


def wait(submitted: dict[Job, Any]) -> dict[Job, str]:
    """Job -> why it failed, once all have ended."""
    import submitit

    failures = {}
    for job, handle in submitted.items():
        try:
            reason = handle.result()
        except submitit.core.utils.UncompletedJobError as error:  # ended by the cluster: out of time or memory
            reason = f"job {handle.job_id} was ended: {' '.join(str(error).split())[-500:]}"
            write_atomically(job.failure, lambda file, text=reason: file.write(text + "\n"))
        if reason:
            failures[job] = reason
    return failures
