"""The example of docs/add-a-method.md, as it stands there, on a small phantom."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from cli_helpers import QUICK

from samzoo import cli_runner
from samzoo.cli import main

TEXT = (Path(__file__).parents[2] / "docs/add-a-method.md").read_text()
FILES = {name: code for name, code in re.findall(r"^`(\w+\.\w+)`[^`]*?:\n\n```\w+\n(.*?)```", TEXT, re.S | re.M)}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]


def test_the_example_is_short():
    assert set(FILES) == {"small_fcn.py", "small_fcn.yaml", "suite.yaml"}
    assert sum(len(code.splitlines()) for code in FILES.values()) <= 150


@pytest.fixture
def example(work, monkeypatch):
    for name, code in FILES.items():
        (work / name).write_text(code)
    monkeypatch.syspath_prepend(work)
    yield work
    sys.modules.pop("small_fcn", None)


def test_fit_test_leaderboard_and_merge(example, monkeypatch, capsys):
    quick = [*(word for word in QUICK if not word.startswith("--protocol.regimes")), "--trainer.max_epochs=1"]
    suite = (example / "suite.yaml").read_text()
    settings = ", ".join(f"'{word}'" for word in [*quick, "--protocol.regimes=[auto,box_3d]"])
    (example / "suite.yaml").write_text(suite.replace("max_epochs=4]", f"max_epochs=4, {settings}]"))
    monkeypatch.setattr("samzoo.leaderboard.report.save_figures", lambda *_: [])  # seconds, and tests of their own
    monkeypatch.setattr("samzoo.leaderboard.report.save_overlays", lambda *_: ([], []))
    monkeypatch.setattr(cli_runner.Children, "call", lambda self, command, *_: main(list(command)))
    export, fit, test, leaderboard, merge = COMMANDS
    assert export == "export PYTHONPATH=$PWD"
    assert main([*shlex.split(fit)[1:], *quick]) == 0
    assert main(shlex.split(test)[1:]) == 0
    assert "SmallFCN" in next((example / "runs").glob("*/*/records.csv")).read_text()
    assert main(shlex.split(leaderboard)[1:]) == 0
    capsys.readouterr()
    table = (example / "leaderboard.md").read_text()
    assert "small_fcn" in table and "box_ellipse" in table and (example / "index.html").is_file()
    runs = {path.name: path for path in (example / "runs").glob("*-*") if path.is_dir()}
    assert len(runs) == 3 and sum(name.endswith("-seed1") for name in runs) == 1
    assert merge.startswith("samzoo leaderboard merge board/")
    assert main(["leaderboard", "merge", "board", *map(str, runs.values())]) == 0
    assert "small_fcn" in (example / "board/leaderboard.md").read_text()
