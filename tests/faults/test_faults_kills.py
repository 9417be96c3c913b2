"""Killed at any time, the same command again ends as if nothing had happened: nothing is lost, nothing done twice."""

import random
import signal

import pytest
from faulty import COMMANDS, content, done_twice, drawn, leftovers, prepared, until_done

AGAIN = {"fit": 3, "test": 3, "features": 3, "leaderboard": 3}


def is_well_ended(name, fault, ended):
    """A kill says nothing; SIGTERM ends at once, with 143 and a line on what is kept."""
    if name == "leaderboard" and ended.code == 1:  # it was a cell that got it
        how = "samzoo test: terminated; " if fault.number == signal.SIGTERM else "ended by SIGKILL"
        return "cell 1 of 1 (ellipse): failed after" in ended.said and how in ended.said
    if fault.number == signal.SIGKILL:
        return ended.code == -signal.SIGKILL
    early = ended.code == -signal.SIGTERM and not ended.said  # before `main`
    told = ended.code == 143 and f"samzoo {COMMANDS[name][0]}: terminated; " in ended.said
    well = (early or told) and "Traceback" not in ended.said
    if not well:
        print(f"{name}, {fault}: {ended.code}\n{ended.said[-3000:]}")
    return well


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(6))
def test_the_same_command_again_ends_as_an_undisturbed_one(tmp_path, reference, tally, seed):
    whole, seconds = reference
    rng, folder = random.Random(seed), prepared(tmp_path / "work")
    for name, again in AGAIN.items():
        faults = [drawn(rng, name, seconds[name]) for _ in range(again)]
        before = tally.well.total() - tally.faults.total()
        ended = until_done(name, folder, faults, tally, is_well_ended)
        assert ended.code == 0, f"{name} after {', '.join(map(str, faults))}: {ended.said[-3000:]}"
        assert tally.well.total() - tally.faults.total() == before, f"{name}: {', '.join(map(str, faults))}"
    found, expected = content(folder), content(whole)
    assert found.keys() == expected.keys()
    assert not (different := [path for path in found if found[path] != expected[path]]), different
    assert done_twice(folder) == []
    assert leftovers(folder) == []
