"""SIGTERM, which clusters and `kill` send, ends a command as Ctrl-C does: tidily, telling how to go on. No torch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

END_WITH_PARENT = "SAMZOO_END_WITH_PARENT"
"""Set for the commands that `samzoo leaderboard` starts."""
EXIT_CODE = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. An interrupt, so that whoever cleans up after Ctrl-C does so now."""


@contextlib.contextmanager
def terminations_raised() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated` in the main thread."""
    kept = signal.getsignal(signal.SIGTERM)
    heed()
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not kept:
            signal.signal(signal.SIGTERM, kept)


def heed() -> None:
    """Have SIGTERM raise `Terminated` from now on, unless it is ignored (nohup) or this is not the main thread."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _raise)


def end_with_parent() -> None:
    """Have this process get SIGTERM when the one that holds the other end of its standard input is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what cleans up now is left to end
    raise Terminated
