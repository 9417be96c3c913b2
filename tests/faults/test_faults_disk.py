"""A full disk at any time: a message that says what to do, and the same command again goes on once there is space."""

import random
import subprocess

import pytest
from faulty import COMMANDS, Fault, content, done_twice, leftovers, prepared, run, until_done


def is_well_ended(name, fault, ended):
    """An error for people, that names a file or a folder."""
    told = "no space left" in ended.said or ("GB are free; free some" in ended.said and name == "features")
    well = ended.code == 1 and told and "Traceback" not in ended.said
    if not well:
        print(f"{name}, {fault}: {ended.code}\n{ended.said[-3000:]}")
    return well


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
        ended = until_done(name, folder, faults, tally, is_well_ended)
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
            well = is_well_ended(name, f"{size:.0f} KiB", ended)
            tally.well[f"full tmpfs in {name}"] += well
            assert well, f"{name} on a disk of {size:.0f} KiB: {ended.code} {ended.said[-3000:]}"
            size = max(size, _used(disk)) * rng.uniform(1.02, 1.6)
        resize(1_000_000)
        ended = run(command, folder)
        assert ended.code == 0, f"{name}: {ended.said[-3000:]}"
    assert_as_undisturbed(folder, whole)


def _used(disk):
    return int(subprocess.check_output(["du", "-sk", str(disk)]).split()[0])
