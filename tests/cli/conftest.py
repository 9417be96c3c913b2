"""A working folder of its own for each test, and a phantom that is small enough to train on in a second."""

import sys
from pathlib import Path

import pytest
from cli_helpers import QUICK, WHOLE

sys.path.append(str(Path(__file__).parents[1] / "data"))  # the generators of tiny data sets


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def work(tmp_path, monkeypatch, home):
    """An empty working folder; the phantom and its store are made once for all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMZOO_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of processes that tests start: they must not compete for cores
    for name in ("SAMZOO_CONFIGS", "SAMZOO_DATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, home):
    """A working folder that holds one quick training; not to be changed by tests (see `trained`)."""
    from samzoo.cli import main

    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SAMZOO_HOME", str(home))
        assert main(["fit", "--config", "sam_med2d_phantom", *QUICK, *WHOLE]) == 0
    return folder


@pytest.fixture
def trained(fitted, work):
    """A copy of `fitted` as the working folder; returns its only run."""
    import shutil

    shutil.copytree(fitted / "runs", work / "runs")
    (run,) = (work / "runs").glob("*/*")
    return run.relative_to(work)
