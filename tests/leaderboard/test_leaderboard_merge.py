"""Runs of other groups: which are found, which are refused and why, what is written."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from samzoo.cli import main
from samzoo.errors import DataError
from samzoo.evaluation.records import Record, read_records, write_records
from samzoo.leaderboard.board import Board, TestedRun
from samzoo.leaderboard.merge import check, find_runs

TestedRun.__test__ = False  # no test, whatever its name

RECORD = Record(
    dataset="phantom",
    method="SAM",
    case_id="a",
    patient="p",
    class_id=1,
    class_name="liver",
    regime="box_3d",
    step=0,
    effort=2,
    oracle_classes=True,
    oracle_slices="range",
    tp=80,
    fp=20,
    fn=20,
    dice=0.8,
    iou=2 / 3,
    nsd_1mm=0.5,
    nsd_2mm=0.9,
    hd95_mm=3.0,
    encode_seconds=0.1,
    decode_seconds=0.1,
    voxel_mm3=2.0,
)
BOX = {"steps_scored": [0], "effort_rule": "2 for the 3D box", "oracle_classes": True, "oracle_slices": "range"}
INFO = {
    "versions": {"samzoo": "0.1.0"},
    "test_signature": "abc",
    "config": {"model": {"class_path": "SAM"}, "data": {"root": "/here"}},
    "protocol": {"seed": 0, "prompts_file": None, "prompts_sha256": "ff", "regimes": {"box_3d": BOX}},
}


def run(entry, folder="f", seed=0, info=None, **changes):
    records = tuple(replace(RECORD, **{"case_id": case} | changes) for case in ("a", "b"))
    return TestedRun(entry, seed, Path(folder), records, INFO | (info or {}))


def protocol(**changes):
    return {"protocol": INFO["protocol"] | changes}


def test_what_can_be_compared_has_no_problem():
    other_method = {"tp": 0, "fn": 100, "fp": 0, "dice": 0.0, "regime": "auto", "oracle_classes": False}
    other_regime = protocol(regimes={"auto": {"steps_scored": [0]}})
    elsewhere = {"config": {"model": {"class_path": "SAM"}, "data": {"root": "/there"}}}
    runs = [
        run("sam"),
        run("sam", seed=1, info=elsewhere),
        run("unet", info=other_regime, **other_method),
        run("sam", dataset="amos", patient="q", info={"test_signature": "def"}),
    ]
    assert check(runs) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (run("b", case_id="c"), "other test cases than first: a, b, c only in one of them"),
        (run("b", patient="q"), "other patients than first, in a, b"),
        (run("b", fn=21), "another ground truth than first, in a, b"),
        (run("b", class_name="spleen"), "another ground truth"),
        (run("b", voxel_mm3=1.0), "another ground truth"),
        (run("b", info={"test_signature": "def"}), "another signature of the test cases than first: def, abc there"),
        (run("b", info=protocol(seed=1)), "other first prompts than first: protocol.seed is 1, 0 there"),
        (run("b", info=protocol(prompts_file="p.json")), "only one of them took them from a file"),
        (
            run("b", info=protocol(prompts_sha256="00")),
            "their prompts files differ",
        ),
        (run("b", info=protocol(regimes={"box_3d": None})), "another protocol of regime box_3d than first"),
        (
            run("b", info=protocol(regimes={"box_3d": BOX | {"steps_scored": [0, 1], "effort_rule": "1"}})),
            "another protocol of regime box_3d than first: effort_rule, steps_scored",
        ),
        (run("a", folder="g"), "the same seed: 'a' is first already; .*: NAME=g"),
        (
            run("a", folder="g", seed=1, info={"config": {"model": {"class_path": "UNet"}}}),
            "the same name for another method or other settings",
        ),
        (run("b", info={"versions": None}), "does not say which version"),
        (run("b", info={"protocol": None}), "does not say how it was tested"),
        (replace(run("b"), records=()), "holds no record"),
    ],
)
def test_what_is_refused(changed, reason):
    (problem,) = check([run("a", folder="first"), changed, run("last")])
    assert (problem.entry, problem.folder) == (changed.entry, changed.folder)
    assert re.search(reason, problem.reason), problem.reason


def test_a_refused_run_is_no_measure_for_others():
    first, wrong = run("a"), run("b", fn=21)
    assert [p.entry for p in check([first, wrong, run("c"), run("d", fn=21)])] == ["b", "d"]


def write_run(folder, info=INFO, **changes):
    write_records(folder / "records.csv", run("", **changes).records)
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_names_of_the_runs_below_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("all/m_sam-0123456789", "all/m_sam-0123456789-seed2", "all/unet_phantom/20260101-000000"):
        write_run(tmp_path / name)
    write_run(tmp_path / "all/m_sam-0123456789/test-20260101-000000")
    write_run(tmp_path / "retested/test-20260101-000000-02")
    assert [name for name, _ in find_runs(["all"])] == ["m_sam", "m_sam", "unet_phantom"]
    assert find_runs(["theirs=all/m_sam-0123456789"]) == [("theirs", Path("all/m_sam-0123456789"))]
    assert [name for name, _ in find_runs(["retested"])] == ["retested"]
    with pytest.raises(DataError, match="nothing: no run is there"):
        find_runs(["nothing"])
    overlapping = ["all", "theirs=all/m_sam-0123456789", str(tmp_path / "all/unet_phantom")]
    assert sorted(name for name, _ in find_runs(overlapping)) == ["m_sam", "theirs", "unet_phantom"]
    with pytest.raises(DataError, match="is given as 'a' and as 'b'"):
        find_runs(["a=retested", "b=retested"])


@pytest.fixture
def board(tmp_path, monkeypatch):
    """What would be written, and a working folder."""
    seen = {}
    compute, report = ModuleType("samzoo.leaderboard.compute"), ModuleType("samzoo.leaderboard.report")

    def load_run(entry, folder, seed=None):
        info = json.loads((folder / "run.json").read_text())
        return TestedRun(entry, seed, folder, tuple(read_records(folder / "records.csv")), info)

    compute.load_run, compute.compute_board = load_run, lambda runs, missing=(): Board(runs, tuple(missing))
    report.write_report = lambda folder, content: seen.update(runs=content.sections, missing=content.missing)
    for module in (compute, report):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return seen


def test_refusals_write_nothing_unless_they_are_skipped(tmp_path, board, capsys):
    write_run(tmp_path / "ours")
    write_run(tmp_path / "theirs", fn=30, dice=160 / 210, iou=80 / 130)
    (write_run(tmp_path / "damaged") / "records.csv").write_text("what?")
    args = ["leaderboard", "merge", "out", "ours", str(tmp_path / "theirs"), "damaged", "ours"]
    assert main(args) == 1
    err = capsys.readouterr().err
    assert "2 runs are refused, nothing is written" in err and not board
    assert "theirs: another ground truth than ours, in a, b" in err and "damaged/records.csv: column missing" in err
    assert main([*args, "--skip-refused"]) == 0
    assert [r.entry for r in board["runs"]] == ["ours"]
    assert {m.entry for m in board["missing"]} == {"theirs", "damaged"}
    assert not any(str(tmp_path) in m.reason for m in board["missing"])
    assert f"refused: {tmp_path}/theirs: another ground truth" in capsys.readouterr().out
    board.clear()
    assert main(["leaderboard", "merge", "out", "damaged", "--skip-refused"]) == 1 and not board


def test_two_sources_of_one_name_need_names(tmp_path, board, capsys):
    for group in ("here", "there"):
        write_run(tmp_path / group / "sam-0123456789")
    assert main(["leaderboard", "merge", "out", "here", "there"]) == 1
    assert "NAME=there/sam-0123456789" in capsys.readouterr().err
    assert main(["leaderboard", "merge", "out", "here", "sam_there=there"]) == 0
    assert [r.entry for r in board["runs"]] == ["sam", "sam_there"]
