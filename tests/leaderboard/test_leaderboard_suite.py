"""What a suite asks for, and under which signature."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samzoo import cli_leaderboard, cli_suite
from samzoo.cli import main
from samzoo.cli_suite import commands, jobs, signature
from samzoo.errors import ConfigError
from samzoo.leaderboard.suite import Cell, read_suite

QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with a config of two parts, one of which names a split."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "methods/m.yaml": "class_path: SAM",
        "datasets/d.yaml": "root: there\nsplits_file: split.json",
        "splits/split.json": "[]",
        "m_d.yaml": "model: methods/m.yaml\ndata: datasets/d.yaml",
    }.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def suite(text):
    Path("suite.yaml").write_text(text)
    return read_suite(Path("suite.yaml"))


def test_the_suite_of_the_repository_asks_for_a_folder_for_each_run(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    found = jobs(read_suite(Path("leaderboard/suite.yaml")))
    assert len(found) > 5 and len({job.folder for job in found}) == len(found)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("m_d.yaml", "model: methods/m.yaml\ndata: datasets/d.yaml\ndata.seed: 1"),
        ("methods/m.yaml", "class_path: UNet"),
        ("datasets/d.yaml", "root: elsewhere"),
        ("splits/split.json", "[1]"),
    ],
)
def test_signature_follows_every_file(work, file, text):
    by_config = Cell("a", config="m_d.yaml")
    by_method = Cell("a", method="m.yaml", data="d.yaml")
    before = signature(by_config), signature(by_method)
    (work / "configs" / file).write_text(text)
    assert signature(by_config) != before[0]
    assert (signature(by_method) == before[1]) == (file == "m_d.yaml")


def test_comments_change_no_signature(work):
    cell = Cell("a", config="m_d.yaml")
    before = signature(cell)
    file = work / "configs/m_d.yaml"
    file.write_text("# a comment\n" + file.read_text())
    assert signature(cell) == before


@pytest.mark.parametrize("how", ["config", "setting", "words"])
def test_signature_follows_weights_and_the_code_of_ones_own_method(work, how):
    (work / "w.pth").write_bytes(b"1")
    (work / "mine.py").write_text("class M: ...")
    if how == "config":
        (work / "configs/methods/m.yaml").write_text("class_path: mine.M\ninit_args: {weights: w.pth}")
        cell = Cell("a", config="m_d.yaml")
    else:
        words = ("--model", "mine.M", "--model.weights", "w.pth")
        joined = ("--model=mine.M", "--model.init_args={weights: w.pth}")
        cell = Cell("a", data="d.yaml", settings=joined if how == "setting" else words)
    seen = {signature(cell)}
    (work / "w.pth").write_bytes(b"22")
    seen.add(signature(cell))
    (work / "mine.py").write_text("class M: pass")
    seen.add(signature(cell))
    (work / "mine.py").unlink()
    (work / "mine").mkdir()
    (work / "mine/__init__.py").write_text("from mine.network import M")
    seen.add(signature(cell))
    (work / "mine/network.py").write_text("class M: ...")
    seen.add(signature(cell))
    (work / "w.pth").unlink()
    assert len({*seen, signature(cell)}) == 6


def test_signature_follows_the_weights_that_come_along(work, monkeypatch):
    (work / "configs/methods/m.yaml").write_text("class_path: SAM\ninit_args: {weights: sam_tiny}")
    cell = Cell("a", config="m_d.yaml")
    before = signature(cell)
    assert (cli_suite.SHIPPED_WEIGHTS / "sam_tiny.safetensors").is_file()
    monkeypatch.setattr(cli_suite, "SHIPPED_WEIGHTS", work)
    (work / "sam_tiny.safetensors").write_bytes(b"others")
    assert signature(cell) != before


def test_settings_name_files_that_need_not_be_configs(work):
    cell = suite("settings: [--data.splits_file=theirs.json]\ncells: {a: {config: m_d.yaml}}").cells[0]
    before = signature(cell)
    (work / "theirs.json").write_text("[]")
    assert signature(cell) != before
    with pytest.raises(ConfigError, match=r"cell 'a': there is no config file 'gone\.yaml'"):
        jobs(suite("settings: [--data=gone.yaml]\ncells: {a: {config: m_d.yaml}}"))


def test_signature_follows_settings_and_versions_but_not_the_name(work, monkeypatch):
    cell = Cell("a", config="m_d.yaml")
    before = signature(cell)
    assert signature(Cell("b", config="m_d.yaml", seeds=(3,))) == before
    assert signature(Cell("a", config="m_d.yaml", settings=("--data.seed=1",))) != before
    assert signature(Cell("a", config="m_d.yaml", fit=False)) != before
    with monkeypatch.context() as patch:
        patch.setattr("samzoo.data.phantom.VERSION", 99)
        assert signature(cell) == before, "it is not on the phantom"
    (work / "configs/datasets/d.yaml").write_text("layout: phantom")
    before = signature(cell)
    monkeypatch.setattr("samzoo.data.phantom.VERSION", 99)
    assert signature(cell) != before
    before = signature(cell)
    monkeypatch.setattr(cli_suite, "__version__", "99")
    assert signature(cell) != before


def test_methods_on_data_of_ones_own(work):
    (work / "mine.yaml").write_text("root: mine")
    read = suite(
        "data: mine.yaml\nsettings: [--trainer.max_epochs=3]\nseeds: [0, 1]\ncells:\n"
        "  a: {method: m.yaml, settings: [--trainer.max_epochs=9]}\n"
        "  b: {method: m.yaml, fit: false, data: d.yaml}\n"
        "  c: {config: m_d.yaml, seeds: [2]}\n"
    )
    first, second, zero, third = jobs(read)
    assert [j.name for j in (first, second, zero, third)] == ["a, seed 0", "a, seed 1", "b", "c"]
    assert (first.seed, second.seed, zero.seed, third.seed) == (0, 1, None, 2)
    assert second.folder == Path(f"{first.folder}-seed1") and third.folder.name.endswith("-seed2")
    fit, test = commands(second)
    where = ["--run", str(second.folder)]
    settings = ["--trainer.max_epochs=3", "--trainer.max_epochs=9", "--seed_everything=1"]
    assert fit == ["fit", "--model", "m.yaml", "--data", "mine.yaml", QUIET, *settings, *where]
    assert test == ["test", *where]
    (only,) = commands(zero)
    assert only[:5] == ["test", "--model", "m.yaml", "--data", "d.yaml"] and "--zero-shot" in only
    assert not any("seed" in word for word in only)
    assert commands(third)[0][:3] == ["fit", "--config", "m_d.yaml"]


def test_files_beside_the_suite_are_found_from_elsewhere(work):
    (work / "study").mkdir()
    (work / "study/mine.yaml").write_text("root: mine")
    text = "data: mine.yaml\ncells: {a: {method: m.yaml}, b: {config: m_d.yaml, settings: [--data=mine.yaml]}}"
    (work / "study/suite.yaml").write_text(text)
    read = read_suite(Path("study/suite.yaml"))
    assert (read.cells[0].data, read.runs) == ("study/mine.yaml", Path("study/runs"))
    assert read.cells[1].settings == ("--data=study/mine.yaml",)
    absolute = read_suite(work / "study/suite.yaml")
    assert [job.folder.name for job in jobs(read)] == [job.folder.name for job in jobs(absolute)]


def test_what_was_interrupted_is_taken_up(work):
    trained, zero = jobs(suite("cells: {a: {config: m_d.yaml}, b: {config: m_d.yaml, fit: false}}"))
    for job in (trained, zero):
        job.folder.mkdir(parents=True)
        (job.folder / "config.yaml").touch()
    where = ["--run", str(trained.folder)]
    assert commands(trained) == [["fit", "--resume", *where], ["test", *where]]
    assert commands(zero) == [["test", "--zero-shot", "--run", str(zero.folder)]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: {a: {config: x.yaml, method: y.yaml}}", "cell 'a' must say which `config`.* not both"),
        ("cells: {a: {method: y.yaml}}", "cell 'a' must say on which `data`"),
        ("cells: {a: {config: x.yaml, seeds: 3}}", "cell 'a': seeds must be a list"),
        ("cells: {a: {config: x.yaml, seeds: [1, 1]}}", "cell 'a': a seed is there twice"),
        ("cells: {a: {config: x.yaml, seeds: [-1]}}", "cell 'a': seeds must be"),
        ("cells: {a: {config: x.yaml, fit: false, seeds: [0, 1]}}", "cell 'a': seeds are of a training"),
        ("seeds: []\ncells: {a: {config: x.yaml}}", "suite.yaml: seeds must be"),
        ("settings: --x=1\ncells: {a: {config: x.yaml}}", "suite.yaml: settings must be a list"),
        ("data: {root: x}\ncells: {a: {config: x.yaml}}", "suite.yaml: data must be the name of a file"),
        ("runs: 3\ncells: {a: {config: x.yaml}}", "suite.yaml: runs must be the name of a folder"),
    ],
)
def test_what_a_suite_refuses(work, text, message):
    with pytest.raises(ConfigError, match=message):
        suite(text)


def test_a_config_that_is_not_there_names_its_cell(work):
    with pytest.raises(ConfigError, match=r"suite\.yaml: cell 'a': there is no config file 'm_e\.yaml'.*m_d\.yaml"):
        jobs(suite("cells: {a: {config: m_e.yaml}}"))


@pytest.fixture
def started(work, monkeypatch):
    """What `samzoo leaderboard` starts, instead of starting it."""
    jobs_started = []
    monkeypatch.setattr(cli_leaderboard, "run_here", lambda todo, *_: jobs_started.extend(todo) or {})
    monkeypatch.setattr(cli_leaderboard, "write", lambda *_: None)
    return jobs_started


def test_all_methods_on_data_of_ones_own(work, started):
    (work / "scans").mkdir()
    line = ["leaderboard", "--fit", "--root", "scans", "--minutes", "90.5", "--data.mask_threshold", "127"]
    assert main(line) == 0
    root = f"--data.root={work / 'scans'}"
    assert len(started) == 12 and all(root in job.cell.settings for job in started)
    assert all("--data.mask_threshold=127" in job.cell.settings for job in started)
    trained = {job.cell.name for job in started if "--trainer.max_time=00:01:30:30" in job.cell.settings}
    assert trained == {job.cell.name for job in started if job.cell.fit}
    assert {job.folder.parent for job in started} == {Path("leaderboard/scans/runs/unread")}


def test_pictures_have_a_suite_without_clicks_in_3d(work, started):
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(work / "a.png")
    for folder in ("images", "masks"):
        (work / "cells" / folder).mkdir(parents=True)
        shutil.copy(work / "a.png", work / "cells" / folder)
    assert main(["leaderboard", "--fit", "--root", "cells"]) == 0
    assert {"masksam", "promise", "sam_med2d", "unet"} <= {job.cell.name for job in started}
    assert not any(job.cell.name.startswith(("m_sam", "sam_med3d")) for job in started)
    before = {job.folder for job in started}
    started.clear()
    assert main(["leaderboard", "--fit", "--root", "../" + work.name + "/cells"]) == 0
    assert {job.folder for job in started} == before, "another way to say the same"
    started.clear()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(work / "cells/masks/a.png")
    assert main(["leaderboard", "--fit", "--root", "cells"]) == 0
    assert not before & {job.folder for job in started}, "a changed mask is another data set"


def test_boards_of_two_data_sets_of_one_name_keep_apart(work, started, capsys):
    for place in ("a", "b"):
        (work / place / "data").mkdir(parents=True)
    assert main(["leaderboard", "--fit", "--root", "a/data"]) == 0
    assert main(["leaderboard", "--fit", "--root", "b/data"]) == 2
    assert "name another folder with --out" in capsys.readouterr().err
    assert main(["leaderboard", "--fit", "--root", "b/data", "--out", "other"]) == 0
    assert main(["leaderboard", "--fit", "--root", "b/data", "--out", "configs"]) == 2
    assert not (work / "configs/runs/root.txt").exists()


@pytest.mark.parametrize(("minutes", "said"), [(0.995, "00:00:01:00"), (0.004, "00:00:00:01"), (1500, "01:01:00:00")])
def test_minutes_are_rounded_to_seconds(work, started, minutes, said):
    (work / "scans").mkdir()
    assert main(["leaderboard", "--fit", "--root", "scans", "--minutes", str(minutes)]) == 0
    assert any(f"--trainer.max_time={said}" in job.cell.settings for job in started)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--rooot", "scans"], "no option --rooot"),
        (["--data.batch_size"], "no option --data.batch_size"),
        (["scans"], "what is 'scans'"),
        (["--root", "nowhere"], "data set not found"),
    ],
)
def test_a_wrong_line_is_told(work, started, capsys, words, said):
    assert main(["leaderboard", "--fit", *words]) != 0
    assert said in capsys.readouterr().err and not started
