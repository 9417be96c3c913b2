"""Fixtures: a data set of every layout, and a home of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_sets import write_amos, write_nnunet, write_pictures, write_sam_med2d


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Nothing of a test is kept in the user's own folders."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SAMZOO_HOME", str(folder))
    monkeypatch.delenv("SAMZOO_DATA", raising=False)
    return folder


@pytest.fixture
def nnunet(tmp_path) -> Path:
    return write_nnunet(tmp_path / "Dataset001_Tiny")


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_pictures(tmp_path / "cells")


@pytest.fixture
def sam_med2d(tmp_path) -> Path:
    return write_sam_med2d(tmp_path / "renamed_demo")


@pytest.fixture
def amos(tmp_path) -> Path:
    return write_amos(tmp_path / "amos22")
