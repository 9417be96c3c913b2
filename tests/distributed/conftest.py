"""A working folder for each test, and the phantom made once."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))  # cli_helpers

from distributed_helpers import FIT


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


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, home):
    """A trained run that tests only read, or test."""
    from samzoo.cli import main

    folder = tmp_path_factory.mktemp("fitted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMZOO_HOME", str(home))
        assert main([*FIT, "--trainer.max_epochs=1", "--run", str(folder)]) == 0
    return folder
