"""The leaderboard of 100,000 records: seconds of reading, computing and writing, and the peak memory.

Entries are random numbers; one process, as `samzoo leaderboard` without --fit.

python benchmarks/bench_leaderboard.py                                      100,000 records, 10 entries, CPU
python benchmarks/bench_leaderboard.py --cases 200 --entries 20
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from samzoo.evaluation.records import Record, write_records
from samzoo.leaderboard.compute import compute_board, load_run

STEPS = {"auto": (0,), "box_3d": (0,), "box_3d_jitter10": (0,), "clicks_3d": (1, 3, 5), "box_clicks_3d": (0, 1, 2, 3)}


def write_run(folder: Path, entry: int, cases: int, classes: int) -> int:
    """A run folder of random scores; how many records it holds."""
    rng = np.random.default_rng(entry)
    records = []
    for c in range(cases):
        for regime, steps in STEPS.items():
            for step in steps:
                for k in range(1, classes + 1):
                    nsd = rng.beta(6 + entry / 4 + step, 3, size=2).tolist()
                    tp = int(1000 * rng.beta(6 + entry / 4 + step, 3))
                    fp = fn = 1000 - tp
                    effort = 0 if regime == "auto" else 2 + step
                    oracle = "none" if regime in ("auto", "clicks_3d") else "range"
                    where = ("random", f"entry_{entry}", f"case_{c:04d}", f"patient_{c // 2:04d}", k, f"organ_{k}")
                    counts = (tp, fp, fn)
                    overlap = (2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn))
                    rest = (*overlap, *nsd, float(rng.gamma(4)), 0.01, 0.02, 1.5)
                    records.append(Record(*where, regime, step, effort, regime != "auto", oracle, *counts, *rest))
    write_records(folder / "records.csv", records)
    regimes = {name: {"steps_scored": list(steps)} for name, steps in STEPS.items()}
    info = {"dataset": "random", "test_signature": "0", "protocol": {"seed": 0, "regimes": regimes}}
    (folder / "run.json").write_text(json.dumps(info))
    return len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"entry_{i}" for i in range(options.entries)]
        count = sum(write_run(folder, i, options.cases, options.classes) for i, folder in enumerate(folders))
        times = [time.perf_counter()]
        runs = [load_run(folder.name, folder) for folder in folders]
        times.append(time.perf_counter())
        board = compute_board(runs)
        times.append(time.perf_counter())
        print(f"{count} records, {options.entries} entries: reading {times[1] - times[0]:.1f} s", flush=True)
        print(f"computing {times[2] - times[1]:.1f} s", flush=True)
        try:
            from samzoo.leaderboard.report import write_report
        except ImportError as error:
            print(f"writing was not measured: {error}")
        else:
            write_report(Path(name) / "out", board)
            print(f"writing {time.perf_counter() - times[2]:.1f} s")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
