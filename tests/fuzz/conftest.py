"""The generators of tiny inputs, a home of its own for each test, and the table at the end."""

import sys
from pathlib import Path

import pytest

for folder in ("data", "leaderboard", "evaluation", "sam"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

import fuzz_harness  # noqa: E402


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path / "home"))
    for name in ("SAMZOO_DATA", "SAMZOO_CONFIGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_defects():
    """A test fails once all of its inputs were tried."""
    fuzz_harness.DEFECTS.clear()
    yield
    found = "\n".join(fuzz_harness.DEFECTS[: fuzz_harness.KEPT])
    assert not found, f"{len(fuzz_harness.DEFECTS)} defects, the first of them\n{found}"


def pytest_terminal_summary(terminalreporter):
    if fuzz_harness.TABLE:
        terminalreporter.section("bad inputs")
        for line in fuzz_harness.table():
            terminalreporter.write_line(line)
