"""1, 2 and 4 processes write the same records, prompts and slices, also where cases can't be shared evenly."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from distributed_helpers import HERE, SMALL

PROCESSES = (1, 2, 4)
UNITS = {  # cases are 6 for test and 3 for validation, so that four processes get other numbers of them
    "slice": ["--model=methods/sam_tiny.yaml", "--protocol.regimes=[box_per_slice,box_clicks_3d]"],
    "slab": ["--model=methods/masksam_tiny.yaml", "--protocol.regimes=[auto]"],
    "crop": [
        "--model=methods/sam_med3d_tiny.yaml",
        "--protocol.regimes=[box_clicks_3d]",
        "--protocol.click_steps=2",
    ],
}


def rows(run):
    """Records without the columns that hold times."""
    with (run / "records.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def differing(one, other):
    """Number of cells that are not the same text."""
    assert len(one) == len(other)
    return sum(a[key] != b[key] for a, b in zip(one, other, strict=True) for key in a)


def slices(run):
    return {path.name: dict(np.load(path)) for path in sorted((run / "slices").glob("*.npz"))}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("unit", UNITS)
def test_any_number_of_processes_writes_the_same(work, unit, capsys):
    settings = ["--data=datasets/phantom.yaml", *SMALL, "--zero-shot", *UNITS[unit]]
    commands = [(n, ["test", *settings, "--run", f"run{n}"], f"test{n}.txt") for n in PROCESSES]
    commands += [(n, ["validate", *settings, "--run", f"val{n}"], f"val{n}.txt") for n in (1, 2)]
    done = subprocess.run(
        [sys.executable, str(HERE / "launch.py"), json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    for (n, _, said), (codes, _) in zip(commands, ends, strict=True):
        assert codes == [0] * n, Path(said).read_text()
    first = work / "run1"
    with capsys.disabled():
        print(f"\n{unit}: processes, records, differing cells, seconds")
        for n, (_, seconds) in zip(PROCESSES, ends, strict=False):
            print(f"  {n}  {len(rows(work / f'run{n}'))}  {differing(rows(first), rows(work / f'run{n}'))}  {seconds}")
    assert len({row["case_id"] for row in rows(first)}) == 6
    scores = [re.search(r"val/dice\s*│?\s*([\d.]+)", Path(f"val{n}.txt").read_text()).group(1) for n in (1, 2)]
    assert len(set(scores)) == 1
    for n in PROCESSES[1:]:
        run = work / f"run{n}"
        assert differing(rows(first), rows(run)) == 0
        assert (run / "prompts.json").read_text() == (first / "prompts.json").read_text()
        assert json.loads((run / "run.json").read_text())["processes"] == n
        kept = slices(run)
        assert list(kept) == list(slices(first)) and len(kept) == 6
        for name, arrays in slices(first).items():
            assert arrays.keys() == kept[name].keys()
            assert all(np.array_equal(arrays[key], kept[name][key]) for key in arrays), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_torchrun_writes_the_same(work):
    test = ["test", "--config", "box_ellipse_phantom.yaml", *SMALL, "--zero-shot"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "samzoo.cli"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    for command in (["-m", "samzoo.cli", *test, "--run", "one"], [*torchrun, *test, *two, "--run", "two"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
    assert rows(work / "one") and differing(rows(work / "one"), rows(work / "two")) == 0
    assert (work / "one/prompts.json").read_text() == (work / "two/prompts.json").read_text()
    assert json.loads((work / "two/run.json").read_text())["processes"] == 2
