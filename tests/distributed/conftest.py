"""A working folder for each test, and the phantom made once."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))  # cli_helpers


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def work(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMZOO_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("SAMZOO_CONFIGS", "SAMZOO_DATA", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
