"""The leaderboard from records alone."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from samzoo.cli import main
from samzoo.errors import ConfigError, DataError
from samzoo.evaluation.records import Record, write_records
from samzoo.leaderboard import entry_rows, read_suite, write_leaderboard

RECORD = Record(
    dataset="phantom",
    method="SAM",
    case_id="a",
    patient="a",
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
)
EMPTY = {"iou": None, "nsd_1mm": None, "nsd_2mm": None, "hd95_mm": None}


def make_run(folder, training=True, **changes):
    """Two cases; the first has two classes, so that the order of averaging shows."""
    records = [
        replace(RECORD, **changes),
        replace(RECORD, class_id=2, class_name="spleen", dice=0.4, **changes),
        replace(RECORD, case_id="b", patient="b", tp=0, fn=0, fp=9, dice=0.0, effort=4, **EMPTY, **changes),
        replace(
            RECORD, case_id="b", patient="b", class_id=2, tp=0, fn=0, fp=0, dice=None, effort=0, **EMPTY, **changes
        ),
    ]
    folder.mkdir(parents=True)
    write_records(folder / "records.csv", records)
    run = {
        "parameters_total": 1200,
        "parameters_trained": 200,
        "cost": {"ms_per_encode": 10.5, "ms_per_prompt": 1.25},
        "training": {"training_seconds": 77.0} if training else None,
        "config": {"model": {"init_args": {"architecture": "vit_tiny", "weights": "sam_vit_b"}}},
        "device": {"type": "cpu"},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_rows_average_classes_then_cases(tmp_path):
    (row,) = entry_rows("mine", make_run(tmp_path / "run"))
    assert row.dice == pytest.approx((0.6 + 0.0) / 2)
    assert row.nsd_2mm == pytest.approx(0.9), "undefined values are left out"
    assert row.effort_per_case == pytest.approx((4 + 4) / 2)
    assert (row.false_positives, row.cases) == (1, 2)
    assert (row.parameters_total, row.parameters_trained, row.training_seconds) == (1200, 200, 77.0)
    assert (row.ms_per_encode, row.ms_per_prompt, row.base, row.oracle_slices) == (10.5, 1.25, "sam_vit_b", "range")


def test_zero_shot_has_trained_nothing(tmp_path):
    (row,) = entry_rows("mine", make_run(tmp_path / "run", training=False))
    assert row.parameters_trained == 0 and row.training_seconds == 0


def test_tables(tmp_path):
    rows = entry_rows("low", make_run(tmp_path / "a")) + entry_rows("high", make_run(tmp_path / "b"))
    rows[1] = replace(rows[1], dice=0.95, hd95_mm=None)
    write_leaderboard(tmp_path, rows, missing=["third"])
    text = (tmp_path / "leaderboard.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| box_3d")]
    assert "| high |" in lines[0] and "| low |" in lines[1], "ordered by Dice"
    assert "| 0.950 |" in lines[0] and "| - |" in lines[0], "undefined is a dash"
    assert (
        "classes, range" in lines[0] and "classes of a case, then over cases" in text and "No result yet: third" in text
    )
    table = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["entry"] for row in table] == ["high", "low"]
    assert table[0]["hd95_mm"] == "" and float(table[1]["dice"]) == pytest.approx(0.3)
    (figure,) = tmp_path.glob("effort_*.png")
    assert f"]({figure.name})" in text and figure.read_bytes().startswith(b"\x89PNG")


def test_dice_as_published_is_shown_where_some_entry_has_it_and_ranks_nothing(tmp_path):
    run = make_run(tmp_path / "a")
    info = json.loads((run / "run.json").read_text())
    published = {"box_3d": {"0": {"dice": 0.999, "mae": 0.1}}, "auto": {"0": {"dice": 0.5}}}
    (run / "run.json").write_text(json.dumps(info | {"published": published}))
    low, high = entry_rows("low", run) + entry_rows("high", make_run(tmp_path / "b"))
    assert (low.dice_published, high.dice_published) == (0.999, None)
    write_leaderboard(tmp_path, [low, replace(high, dice=0.95)])
    text = (tmp_path / "leaderboard.md").read_text()
    first, second = (line for line in text.splitlines() if line.startswith("| box_3d"))
    assert "| high |" in first and first.endswith("| - |") and second.endswith("| 0.999 |")
    assert "| oracle | Dice as published |" in text and "it ranks nothing" in text
    table = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["dice_published"] for row in table] == ["", "0.999"]
    write_leaderboard(tmp_path, [high])
    assert "published" not in (tmp_path / "leaderboard.md").read_text() + (tmp_path / "leaderboard.csv").read_text()


def test_base_weights_that_saw_the_data_set_are_marked(tmp_path):
    run = make_run(tmp_path / "a", oracle_slices="crop")
    info = json.loads((run / "run.json").read_text()) | {"weights": {"source": "w", "seen": ["phantom", "lits"]}}
    (run / "run.json").write_text(json.dumps(info))
    rows = entry_rows("knows", run) + entry_rows("new", make_run(tmp_path / "b"))
    for known in (True, False):  # what the test itself found out goes before names
        info["weights"] |= {"seen": ["kits"] if known else ["phantom"], "seen_this": known}
        (run / "run.json").write_text(json.dumps(info))
        assert all(row.seen == known for row in entry_rows("knows", run))
    write_leaderboard(tmp_path, rows)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| knows † | SAM |" in text and "| sam_vit_b † |" in text and "| new | SAM |" in text
    assert "- † its base weights were trained on this data set's public training part" in text
    assert "| classes, crop |" in text and "`crop` where the middle" in text
    table = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert {row["entry"]: row["seen"] for row in table} == {"knows": "1", "new": "0"}
    write_leaderboard(tmp_path, rows[1:])
    assert "†" not in (tmp_path / "leaderboard.md").read_text()
    assert "seen" not in (tmp_path / "leaderboard.csv").read_text()


def test_damaged_run_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json can't be read"):
        entry_rows("mine", run)


def test_rendering_imports_no_torch(tmp_path):
    make_run(tmp_path / "run")
    code = (
        "import sys, pathlib, samzoo.cli_leaderboard; from samzoo.leaderboard import entry_rows, write_leaderboard;"
        "write_leaderboard(pathlib.Path('.'), entry_rows('mine', pathlib.Path('run')));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: [", "not valid YAML"),
        ("cels: {}", "must hold `cells`"),
        ("cells: {a: {config: x.yaml}}\nrun: y", "unknown key 'run'"),
        ("cells: {a: {fit: true}}", "cell 'a' must say which `config`"),
        ("cells: {a: {config: x.yaml, setings: []}}", "unknown key 'setings'"),
        ("cells: {a: {config: x.yaml, fit: often}}", "fit true or false"),
        ("cells: {a/b: {config: x.yaml}}", "a name is made of"),
    ],
)
def test_bad_suites(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_suite(path)
    assert "suite.yaml" in str(error.value)


def test_missing_suite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard"]) == 1
    assert "no suite leaderboard/suite.yaml" in capsys.readouterr().err
