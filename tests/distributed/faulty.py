"""samzoo with a fault: python faulty.py FAULT RANK PLACE VERB ...

Args:
    FAULT: kill, raise, refuse (a DataError), stall (until the test does something), preempt (SIGUSR1, and on) or
        uneven (each process would find a batch size of its own; this one tells what it was given).
    RANK: the process that has it.
    PLACE: scoring (the second case of that process), training (its second batch) or loader (its second reading);
        training:6 is the sixth.

The file `died` is made just before.
"""

import os
import signal
import sys
import time
from pathlib import Path

FAULT, RANK, PLACE = sys.argv[1:4]
PLACE, _, COUNT = PLACE.partition(":")


def fail(*args):
    Path("died").touch()
    if FAULT == "uneven":
        return print(f"process {RANK} trains {len(args[1].case_id)} units", file=sys.stderr)
    if FAULT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "preempt":
        return os.kill(os.getpid(), signal.SIGUSR1)
    if FAULT == "stall":
        time.sleep(600)
    if FAULT == "refuse":
        from samzoo.errors import DataError

        raise DataError("labels/x.png: this file is broken")
    raise RuntimeError("boom")


def failing(function, place):
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if place == PLACE and os.environ.get("LOCAL_RANK", "0") == RANK and calls == int(COUNT or 2):
            fail(*args)
        return function(*args, **kwargs)

    return wrapped


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore

    from samzoo import batch_size
    from samzoo.cli import main as samzoo
    from samzoo.data.store import StoredCase
    from samzoo.evaluation import protocol
    from samzoo.methods import SAMMed2D

    protocol.score_case = failing(protocol.score_case, "scoring")
    SAMMed2D.training_step = failing(SAMMed2D.training_step, "training")
    if FAULT == "uneven":
        batch_size._search = lambda *_: 1 if "LOCAL_RANK" in os.environ else 2
    StoredCase.image = failing(StoredCase.image, "loader")
    return samzoo(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
