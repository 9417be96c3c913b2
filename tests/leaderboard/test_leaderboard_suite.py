"""Which cells of a suite are run, and which are complete."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from samzoo import cli_leaderboard
from samzoo.cli import main
from samzoo.cli_leaderboard import cell_folder, commands, signature
from samzoo.leaderboard import Cell, read_suite

PHANTOM = ["--data.phantom.cases=6", "--data.phantom.size=48", "--data.phantom.slices=[4,5]"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_suite_of_the_repository():
    suite = read_suite(Path(__file__).parents[2] / "leaderboard/suite.yaml")
    assert {c.name: c.fit for c in suite.cells} == {
        "box_ellipse": False,
        "sam": False,
        "sam_med2d": True,
        "promise": True,
        "unet": True,
        "masksam": True,
        "masksam_fixed": True,
        "sam_med3d": True,
        "m_sam": True,
        "m_sam_fixed": True,
    }
    assert len({cell_folder(suite, c) for c in suite.cells}) == len(suite.cells)


def test_signature_follows_settings_and_every_file(work):
    for folder in ("configs/methods", "configs/datasets"):
        (work / folder).mkdir(parents=True)
    (work / "configs/methods/m.yaml").write_text("class_path: SAM")
    (work / "configs/datasets/d.yaml").write_text("layout: phantom")
    (work / "configs/m_d.yaml").write_text("model: methods/m.yaml\ndata: datasets/d.yaml")
    cell = Cell("a", "m_d.yaml")
    before = signature(cell)
    assert signature(Cell("b", "m_d.yaml")) == before, "the name does not matter"
    assert signature(Cell("a", "m_d.yaml", settings=("--data.seed=1",))) != before
    (work / "configs/datasets/d.yaml").write_text("layout: phantom\nseed: 1")
    assert signature(cell) != before


def test_commands_take_up_what_was_interrupted(tmp_path):
    folder = tmp_path / "run"
    where = ["--run", str(folder)]
    trained, zero = Cell("a", "x.yaml", settings=("--data.seed=1",)), Cell("b", "y.yaml", fit=False)
    assert commands(trained, folder) == [["fit", "--config", "x.yaml", "--data.seed=1", *where], ["test", *where]]
    assert commands(zero, folder) == [["test", "--config", "y.yaml", "--zero-shot", *where]]
    folder.mkdir()
    (folder / "config.yaml").touch()
    assert commands(trained, folder) == [["fit", "--resume", *where], ["test", *where]]
    assert commands(zero, folder) == [["test", "--zero-shot", *where]]


def test_cells_are_run_once(work, monkeypatch, capsys):
    settings = [*PHANTOM, "--protocol.regimes=[box_3d]", "--trainer.accelerator=cpu"]
    Path("suite.yaml").write_text(
        f"cells:\n  floor: {{config: box_ellipse_phantom.yaml, fit: false, settings: {settings}}}"
    )
    calls = []

    def in_process(command, check):
        calls.append(command[3:])
        return SimpleNamespace(returncode=main(command[3:]))

    monkeypatch.setattr(cli_leaderboard, "subprocess", SimpleNamespace(run=in_process))
    assert main(["leaderboard", "--suite", "suite.yaml"]) == 0
    assert "No result yet: floor" in Path("leaderboard.md").read_text() and not calls
    assert main(["leaderboard", "--suite", "suite.yaml", "--fit"]) == 0
    assert len(calls) == 1 and "| floor | BoxEllipse |" in Path("leaderboard.md").read_text()
    assert main(["leaderboard", "--suite", "suite.yaml", "--fit"]) == 0
    assert len(calls) == 1 and "floor: complete" in capsys.readouterr().out


def test_failed_cell_is_told_and_the_rest_is_written(work, monkeypatch, capsys):
    Path("suite.yaml").write_text("cells: {floor: {config: box_ellipse_phantom.yaml, fit: false}}")
    failing = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=1))
    monkeypatch.setattr(cli_leaderboard, "subprocess", failing)
    assert main(["leaderboard", "--suite", "suite.yaml", "--fit"]) == 1
    assert "these cells failed (see above): floor" in capsys.readouterr().err
    assert "No result yet: floor" in Path("leaderboard.md").read_text()
