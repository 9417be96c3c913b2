"""Killed at any time, the same command again ends as if nothing had happened: nothing is lost, nothing done twice."""

import random

import pytest
from faulty import COMMANDS, QUICK, content, done_twice, drawn, killed_well, leftovers, prepared, until_done

AGAIN = dict.fromkeys(QUICK, 2) | {"fit": 3, "test": 3, "features": 3, "leaderboard": 3}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(6))
def test_the_same_command_again_ends_as_an_undisturbed_one(tmp_path, reference, tally, seed):
    whole, undisturbed = reference
    rng, folder = random.Random(seed), prepared(tmp_path / "work")
    for name in COMMANDS:
        faults = [drawn(rng, undisturbed[name]) for _ in range(AGAIN[name])]
        before = tally.well.total() - tally.faults.total()
        ended = until_done(name, folder, faults, tally, killed_well)
        assert ended.code == 0, f"{name} after {', '.join(map(str, faults))}: {ended.said[-3000:]}"
        assert tally.well.total() - tally.faults.total() == before, f"{name}: {', '.join(map(str, faults))}"
    found, expected = content(folder), content(whole)
    assert found.keys() == expected.keys()
    assert not (different := [path for path in found if found[path] != expected[path]]), different
    assert done_twice(folder) == []
    assert leftovers(folder) == []
