"""Options of the whole suite; fixtures live in the folders that use them."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks of tests are small, and workers must not compete for cores


def pytest_configure():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs are begun ignoring it


def pytest_addoption(parser):
    parser.addoption(
        "--golden-root",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder with golden vectors of the originals; every set below it is compared (default: tests/golden)",
    )
    parser.addoption(
        "--update-regression",
        action="store_true",
        help="write the stored losses and records anew; tests/regression/test_regression.py says when that is honest",
    )


@pytest.fixture(scope="session")
def realdata() -> Path:
    default = Path(__file__).parents[2] / "shared" / "realdata"
    folder = Path(os.environ.get("SAMZOO_REALDATA", default))
    if not folder.is_dir():
        pytest.skip("no real data here ($SAMZOO_REALDATA)")
    return folder
