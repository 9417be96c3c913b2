"""Commands of a second or two meet faults one by one: the same command again ends as if there had been none."""

import random

import pytest
from faulty import (
    COMMANDS,
    QUICK,
    Fault,
    content,
    copied,
    done_twice,
    drawn,
    full_well,
    hours_later,
    killed_well,
    leftovers,
    run,
)

FAULTS = {"kill": 20, "full disk": 6}
MOST_BYTES = {"download": 6.8}
"""Power of ten; no other of these commands writes a file of more than 100 kB."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", QUICK)
def test_one_fault_leaves_no_trace(tmp_path, reference, tally, name, kind):
    whole, usual = reference
    undisturbed = copied(name, whole, tmp_path / "undisturbed")
    assert run(COMMANDS[name], undisturbed).code == 0
    expected, rng, ill, met = content(undisturbed), random.Random(f"{name} {kind}"), [], 0
    for attempt in range(4 * FAULTS[kind]):
        folder = copied(name, whole, tmp_path / str(attempt))
        limit = Fault(limit=int(10 ** rng.uniform(1, MOST_BYTES.get(name, 5))))
        fault = drawn(rng, usual[name]) if kind == "kill" else limit
        ended = run(COMMANDS[name], folder, fault)
        if ended.code == 0:  # done before the fault came
            continue
        hours_later(folder)
        well = (killed_well if kind == "kill" else full_well)(name, fault, ended)
        wrong = [] if well else [f"ended by {ended.code}, saying {ended.said[-500:]}"]
        again = run(COMMANDS[name], folder)
        wrong += [f"not again: {again.said[-500:]}"] if again.code else []
        found = content(folder)
        wrong += [
            f"other than expected: {path}" for path in {*found, *expected} if found.get(path) != expected.get(path)
        ]
        wrong += leftovers(folder) + done_twice(folder)
        tally.count(name, fault, not wrong)
        ill += [f"{fault}: {fact}" for fact in wrong]
        if (met := met + 1) == FAULTS[kind]:
            break
    assert met > 1 and not ill, "\n".join(ill)
