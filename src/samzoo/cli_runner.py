"""Runs the cells of a suite, each fit and each test as a process of its own, one after the other or side by side.

So peak memory and failures stay with their cell. No torch.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from samzoo.cli_suite import Job, commands
from samzoo.errors import SamzooError
from samzoo.evaluation.records import aggregate, read_records
from samzoo.locks import locked
from samzoo.termination import END_WITH_PARENT, Terminated
from samzoo.writing import write_atomically, writing

COMMAND = (sys.executable, "-m", "samzoo.cli")
TIMES = "times.json"
BESIDE = "SAMZOO_SIDE_BY_SIDE"
GRACE_SECONDS = {signal.SIGINT: 60, signal.SIGTERM: 10}
"""How long a cell may take to end: to keep its state after Ctrl-C, or in a hurry."""


class JobInterruptedError(Exception):
    """Nothing more is started."""


class Children:
    """The processes of samzoo commands that run now; each has a process group, so that it is stopped as a whole."""

    def __init__(self) -> None:
        self._lock, self._stopping, self._running = threading.Lock(), False, set()

    def call(self, command: Sequence[str], environment: Mapping[str, str], log: Path, prefix: str | None) -> int:
        """Run one command; all that it says goes to the end of `log` and, after `prefix`, to the terminal (None: not).

        Returns:
            its exit code, negative if a signal ended it.

        Raises:
            JobInterruptedError: `stop` was called.
        """
        with writing(log), open(log, "a", encoding="utf-8") as file:
            print(f"$ samzoo {shlex.join(command)}", file=file, flush=True)
            with self._lock:
                if self._stopping:
                    raise JobInterruptedError
                process = subprocess.Popen(
                    [*COMMAND, *command],
                    stdin=subprocess.PIPE,  # closed when this process dies, however it does: see `end_with_parent`
                    stdout=file if prefix is None else subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment, "PYTHONUNBUFFERED": "1", END_WITH_PARENT: "1"},
                    process_group=0,
                    encoding="utf-8",
                    errors="replace",
                )
                self._running.add(process)
            try:
                for line in process.stdout or ():
                    file.write(line)
                    print(prefix + line, end="", flush=True)
                code = process.wait()
            except Terminated:  # a cluster whose time is over
                self.stop(signal.SIGTERM)
                raise
            except BaseException:
                self.stop()
                raise
        with self._lock:
            self._running.discard(process)
            if self._stopping:
                raise JobInterruptedError
        return code

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C or SIGTERM for each, as often as the user asks; after a while there is no more asking."""
        with self._lock:
            self._stopping, running = True, [*self._running]
        _signal(running, number)
        last = time.monotonic() + GRACE_SECONDS[number]
        try:
            for process in running:
                process.wait(max(0, last - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _signal(running, signal.SIGKILL)


def _signal(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue


def run_job(
    job: Job, environment: Mapping[str, str] | None = None, children: Children | None = None, prefix: str | None = None
) -> str:
    """Run what is missing of a job, unless another process does.

    Returns:
        why it failed, which `job.failure` keeps as well; "" if it has a result now.

    Raises:
        JobInterruptedError: see `Children`.
    """
    children = children or Children()
    with locked(Path(f"{job.folder}.lock"), wait_seconds=0) as ours:
        if not ours:
            return "another process is running it"
        job.failure.unlink(missing_ok=True)
        for command in [] if job.complete else commands(job):
            start = job.log.stat().st_size if job.log.exists() else 0
            code = children.call(command, environment or {}, job.log, prefix)
            if code and not job.complete:  # else it was killed after its last word
                reason = _reason(job.log, start, code)
                write_atomically(job.failure, lambda file, text=reason: file.write(text + "\n"))
                return reason
    return "" if job.complete else f"there is no result in {job.folder}, though no command failed (see {job.log})"


def _reason(log: Path, start: int, code: int) -> str:
    """What a command said last: samzoo's own message, or the last line of a traceback."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + " (out of memory?)" * (name == "SIGKILL")
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    own = [i for i, line in enumerate(lines) if line.startswith(("samzoo fit: ", "samzoo test: "))]
    said = "\n".join(lines[own[-1] :] if own else lines[-1:])
    return said[-1000:] or f"exit code {code}"


def run_here(
    todo: Sequence[Job], runs: Path, workers: int, verbose: bool, numbers: Mapping[Job, str]
) -> dict[Job, str]:
    """Run jobs on this machine, so many at a time, and tell how far they are.

    Args:
        runs: where the times of cells are kept.
        numbers: how to call each, such as "3 of 10".

    Returns:
        job -> why it failed.

    Raises:
        KeyboardInterrupt: after what runs has kept its state.
    """
    clock, children, failures = _Clock(runs / TIMES, todo, workers), Children(), {}
    slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for environment in environments(workers):
        slots.put(environment)

    def work(job: Job) -> None:
        environment = slots.get()
        name = f"cell {numbers[job]} ({job.name})"
        begun, start = job.folder.exists(), time.monotonic()
        try:
            what = "going on" if begun else "fit and test" if job.cell.fit else "test"
            print(f"{name}: {what}; {clock.estimate()}", flush=True)
            prefix = None if not verbose else f"[{job.name}] " if workers > 1 else ""
            reason = run_job(job, environment, children, prefix)
            seconds = time.monotonic() - start
            if reason:
                failures[job] = reason
                print(f"{name}: failed after {_duration(seconds)}: {reason} (log: {job.log})", flush=True)
            else:
                print(f"{name}: done in {_duration(seconds)}, {main_score(job.folder)}", flush=True)
            clock.done(job, None if begun or reason else seconds)
        except JobInterruptedError:
            print(f"{name}: interrupted", flush=True)
        finally:
            slots.put(environment)

    with _hangups_as_interrupts(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
            raise
    return failures


@contextmanager
def _hangups_as_interrupts() -> Iterator[None]:
    """A closed terminal stops the children as Ctrl-C does, instead of leaving them behind."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        yield
        return
    kept = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, kept)


def main_score(folder: Path) -> str:
    """Dice after the last step, automatic if there is such a regime, else of the best one; to see that all is well."""
    try:
        scores = aggregate(read_records(folder / "records.csv"), "dice")
    except SamzooError as error:
        return f"but {error}"
    last = {regime: value for (regime, _), value in sorted(scores.items()) if value is not None}
    if not last:
        return "Dice undefined"
    regime = "auto" if "auto" in last else max(last, key=last.get)
    return f"Dice {last[regime]:.3f} ({regime})"


# --- where, and how long -----------------------------------------------------------------------------------------


def visible_gpus() -> list[str]:
    """Of CUDA: as the environment names them, else as the driver counts them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def environments(workers: int) -> list[dict[str, str]]:
    """What each of several workers gets: a GPU of its own, else its share of the cores. One worker gets everything.

    Several are counted in `BESIDE`, for run.json: their times are those of a machine that has other work too.
    """
    if workers == 1:
        return [{}]
    beside = {BESIDE: str(workers)}
    if gpus := visible_gpus():
        return [beside | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(workers)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // workers))
    return [beside | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}] * workers


class _Clock:
    """How long cells took, kept from one call to the next, and how long the rest may take."""

    def __init__(self, path: Path, todo: Sequence[Job], workers: int) -> None:
        self.path, self.workers, self.start = path, workers, time.monotonic()
        self._lock, self._left = threading.Lock(), [*todo]
        try:
            content = json.loads(path.read_text())
            self._seconds = {str(k): float(v) for k, v in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._seconds = {}  # an estimate only

    def done(self, job: Job, seconds: float | None) -> None:
        """Seconds are None where they are not those of the whole cell."""
        with self._lock:
            self._left.remove(job)
            if seconds is not None:
                self._seconds[job.cell.name] = round(seconds, 1)
                text = json.dumps(dict(sorted(self._seconds.items())), indent=1)
                write_atomically(self.path, lambda file: file.write(text + "\n"))

    def estimate(self) -> str:
        with self._lock:
            known = [self._seconds[j.cell.name] for j in self._left if j.cell.name in self._seconds]
            unknown = len(self._left) - len(known)
            passed = f"{_duration(time.monotonic() - self.start)} passed"
            if unknown and not self._seconds:
                return f"{passed}, no estimate yet"
            usual = sum(self._seconds.values()) / len(self._seconds) if unknown else 0
            left = max((sum(known) + unknown * usual) / self.workers, max(known, default=0))
            weak = f" (a weak estimate: {unknown} cells never ran here)" if unknown else ""
            return f"{passed}, about {_duration(left)} left{weak}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
