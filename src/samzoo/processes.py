"""Several processes end as one: whichever of them dies, the others end within seconds, and say what it was at."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from samzoo import whereabouts
from samzoo.errors import SamzooError

MAIN_VARIABLE = "SAMZOO_MAIN_PROCESS"
"""Tells the processes that Lightning starts for DDP which one started them."""
PATIENCE = 5.0
"""Seconds. A connection that breaks is noticed before the process that broke it has ended or said why."""
ENDED_ON_REQUEST = {128 + signal.SIGINT, 128 + signal.SIGTERM}


class Notes(Callback):
    """Notes the cases that a process is at, and takes SIGTERM back from Lightning, which would go on to the batch's end
    and, of several processes, wait in the signal handler for all others to come there, too.
    """

    def __init__(self) -> None:
        self.sigterm = signal.getsignal(signal.SIGTERM)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.sigterm if trainer.is_global_zero else signal.SIG_DFL)

    on_train_start = on_validation_start = on_test_start = _start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        whereabouts.doing(f"training cases {', '.join(dict.fromkeys(batch.case_id))}")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: int) -> None:
        whereabouts.doing(f"validation case {batch.id}")

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: int) -> None:
        whereabouts.doing(f"test case {batch.id}")

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whereabouts.doing("end of an epoch")

    on_train_epoch_end = on_validation_epoch_end = on_test_epoch_end = _end


@contextmanager
def together(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Around `trainer.fit` and its like.

    Args:
        folder: of the run; the notes of `whereabouts` lie in it meanwhile.

    Raises:
        SamzooError: another process, or one that loads data, has died; it says at which case.
    """
    notes, several = folder / whereabouts.FOLDER, trainer.world_size > 1
    if trainer.is_global_zero:
        killed = [place for place in whereabouts.take_last_words(notes) if not place.failed]
        for place in killed:
            print(f"note: an earlier run here ended without a word, {place}", file=sys.stderr, flush=True)
    name = f"process {trainer.global_rank} of {trainer.world_size}" if several else "the process"
    whereabouts.begin(notes, name)
    family = _Family(trainer, notes)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        family.end()
        if several and not trainer.is_global_zero:  # the first process has said it
            on_ctrl_c = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
            _leave(128 + signal.SIGINT if on_ctrl_c else error.code or 1)  # Lightning makes exit(1) of Ctrl-C
        raise
    except SamzooError as error:
        family.end(str(error))
        raise _out_of_the_loader(error) from error.__cause__
    except Exception as error:
        gone = _wait_for_lost(notes, several)
        family.end("" if gone else f"{type(error).__name__}: {error}")
        if gone:
            raise SamzooError(_epitaph(gone[0])) from error
        if family.here is not None:
            error.add_note(f"samzoo: {family.here}")
        raise
    family.end()


class _Family:
    """The processes that this one has started for DDP, or the one that has started this one."""

    def __init__(self, trainer: Trainer, notes: Path) -> None:
        self.notes, self.children = notes, []
        self.here: whereabouts.Place | None = None
        self.ending, self.told = threading.Event(), threading.Lock()
        self.others = trainer.world_size - 1  # that this one can't end, but which read what it leaves
        if trainer.world_size == 1:
            return
        launcher, environment = trainer.strategy.launcher, trainer.strategy.cluster_environment
        self._listen()
        if trainer.local_rank > 0:
            self.parent, self.tells = int(os.environ.get(MAIN_VARIABLE) or os.getppid()), trainer.local_rank == 1
            threading.Thread(target=self._watch_parent, daemon=True).start()
        elif isinstance(launcher, _SubprocessScriptLauncher) and not environment.creates_processes_externally:
            os.environ[MAIN_VARIABLE] = str(os.getpid())
            threading.Thread(target=self._adopt, args=(launcher, trainer.num_devices - 1), daemon=True).start()

    def end(self, failed: str = "") -> None:
        """Nothing is watched any more, and nothing is left of it; on the way of an error, what was started is ended."""
        self.ending.set()
        self.told.acquire()  # for ever, where another thread has begun to end all
        if self.others or self.children:
            signal.set_wakeup_fd(-1)
        self.here = whereabouts.here()
        if sys.exc_info()[0] is not None:
            self._kill_children()
        whereabouts.end(failed if self.others else "")
        if sys.exc_info()[0] is not None and self.children:
            whereabouts.take_last_words(self.notes)

    def _end_all(self, text: str, code: int) -> None:
        """From a thread beside the main one, which may wait for another process for ever."""
        if not self.told.acquire(blocking=False):
            return
        self._kill_children()
        if text:
            print(f"samzoo: {text}; all processes end", file=sys.stderr, flush=True)
        whereabouts.end()
        whereabouts.take_last_words(self.notes)
        _leave(code)

    def _listen(self) -> None:
        """Python heeds a signal between two steps of the main thread; this hears of it at once."""
        if threading.current_thread() is threading.main_thread():
            heard, told = os.pipe()
            os.set_blocking(told, False)
            signal.set_wakeup_fd(told, warn_on_full_buffer=False)
            threading.Thread(target=self._hear, args=(heard,), daemon=True).start()

    def _hear(self, heard: int) -> None:
        while number := os.read(heard, 1)[0]:
            if number in (signal.SIGINT, signal.SIGTERM) and not self.ending.wait(PATIENCE):
                self._end_all(f"{signal.Signals(number).name} while one process waited for another", 128 + number)

    def _adopt(self, launcher: Any, count: int) -> None:
        """Lightning's own observer kills this process without a word; it has nobody to observe in an empty list."""
        while len(launcher.procs) < count:
            if self.ending.wait(0.05):
                return
        self.children = list(launcher.procs)
        self.others -= count
        launcher.procs.clear()
        for number, child in enumerate(self.children, 1):
            threading.Thread(target=self._await, args=(number, child), daemon=True).start()

    def _await(self, number: int, child: subprocess.Popen) -> None:
        code = child.wait()
        code = 128 - code if code < 0 else code
        on_request = code in ENDED_ON_REQUEST
        if code == 0 or self.ending.wait(PATIENCE if on_request else 0.0):
            return
        place = whereabouts.place_of(self.notes, child.pid)
        how = f"was killed by {signal.Signals(code - 128).name}" if code > 128 else f"ended with exit code {code}"
        where = f" at: {place.doing}" if place else ""
        hint = _HINT if code == 128 + signal.SIGKILL else ""
        self._end_all(f"process {number} of {len(self.children) + 1} {how}{where}{hint}", code if on_request else 1)

    def _kill_children(self) -> None:
        for child in self.children:
            child.kill()
        for child in self.children:
            child.wait()

    def _watch_parent(self) -> None:
        while os.getppid() == self.parent:
            if self.ending.wait(0.5):
                return
        place = whereabouts.place_of(self.notes, self.parent)
        if place is not None:  # else it has ended as it should
            self._end_all(f"{place.name} was killed at: {place.doing}{_HINT}" if self.tells else "", 1)


_HINT = " (the kernel does so when memory runs out: smaller batches, fewer data.num_workers)"


def _epitaph(place: whereabouts.Place) -> str:
    if place.failed:
        return f"{place.name} failed at: {place.doing}: {place.failed}"
    return f"{place.name} was killed at: {place.doing}{_HINT}"


def _wait_for_lost(notes: Path, several: bool) -> list[whereabouts.Place]:
    """Those whose end may be the reason of an error here: of one process, what loads its data."""
    until = time.monotonic() + (PATIENCE if several else 0.0)
    while True:
        multiprocessing.active_children()  # takes note of those that have ended
        gone = [place for place in whereabouts.lost(notes) if several or place.parent == os.getpid()]
        if gone or time.monotonic() > until:
            return gone
        time.sleep(0.1)


def _out_of_the_loader(error: SamzooError) -> SamzooError:
    """What a data loading process was told to say, without the traceback that torch puts into the message."""
    text, kind = str(error), type(error)
    if "in DataLoader worker process" not in text:
        return error
    return kind(text.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2].strip())


def _leave(code: int) -> NoReturn:
    """End at once, also where the main thread waits for another process for ever."""
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
