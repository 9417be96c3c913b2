"""A full disk at any time: a message that says what to do, and the same command again goes on once there is space."""

import random
import subprocess

import pytest
from faulty import COMMANDS, Fault, content, done_twice, full_well, leftovers, prepared, run, until_done


def assert_as_undisturbed(folder, whole):
    found, expected = content(folder), content(whole)
    assert found.keys() == expected.keys()
    assert not (different := [path for path in found if found[path] != expected[path]]), different
    assert done_twice(folder) == []
    assert leftovers(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(3))
def test_files_that_may_not_grow(tmp_path, reference, tally, seed):
    """Stands for a full disk where nothing can be mounted: no file may be larger than a limit, down to some bytes."""
    whole, _ = reference
    rng, folder = random.Random(seed), prepared(tmp_path / "work")
    for name in COMMANDS:
        faults = [Fault(limit=int(10 ** rng.uniform(1, 5.5))) for _ in range(3)]
        before = tally.well.total() - tally.faults.total()
        ended = until_done(name, folder, faults, tally, full_well)
        assert ended.code == 0, f"{name} after {', '.join(map(str, faults))}: {ended.said[-3000:]}"
        assert tally.well.total() - tally.faults.total() == before, f"{name}: {', '.join(map(str, faults))}"
    assert_as_undisturbed(folder, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, and what sets its size in KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def resize(kib, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={kib}k"]), "none", str(disk)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    if (made := resize(64)).returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")
    yield disk, lambda kib: resize(kib, "remount").check_returncode()
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(2))
def test_a_disk_that_is_full(small_disk, reference, tally, seed):
    disk, resize = small_disk
    whole, _ = reference
    rng, folder = random.Random(seed), prepared(disk / "work")
    for name, command in COMMANDS.items():
        size = _used(disk) * rng.uniform(1.0, 1.1) + 8
        for _ in range(6):
            resize(int(size))
            if (ended := run(command, folder)).code == 0:
                break
            tally.faults[f"full tmpfs in {name}"] += 1
            well = full_well(name, f"{size:.0f} KiB", ended)
            tally.well[f"full tmpfs in {name}"] += well
            assert well, f"{name} on a disk of {size:.0f} KiB: {ended.code} {ended.said[-3000:]}"
            size = max(size, _used(disk)) * rng.uniform(1.02, 1.6)
        resize(1_000_000)
        ended = run(command, folder)
        assert ended.code == 0, f"{name}: {ended.said[-3000:]}"
    assert_as_undisturbed(folder, whole)


def _used(disk):
    return int(subprocess.check_output(["du", "-sk", str(disk)]).split()[0])
