"""Commands of samzoo in so many processes each, started as torchrun does, but quickly: python launch.py JSON

JSON is a list of [processes, [argument, ...], file for what the processes say]. All processes are forked from this
one, which has samzoo imported already. Prints, for each command, the exit codes and the seconds, as JSON.
"""

import json
import os
import socket
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"  # no pool of threads, which a fork would lose


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def child(rank, ranks, port, args, said):
    number = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    if ranks > 1:
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "tests",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
        }
        args = [*args, f"--trainer.devices={ranks}", "--trainer.strategy=ddp"]
    import torch

    from samzoo.cli import main

    torch.set_num_threads(1)
    code = 99
    try:
        code = main(args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(commands):
    import samzoo.cli_lightning  # noqa: F401

    done = []
    for ranks, args, said in commands:
        start, port = time.perf_counter(), free_port()
        children = []
        for rank in range(ranks):
            if (pid := os.fork()) == 0:
                child(rank, ranks, port, args, said)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        done.append([codes, round(time.perf_counter() - start, 1)])
    print(json.dumps(done))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
