import subprocess
import sys
from dataclasses import replace

import pytest

from samzoo.errors import DataError
from samzoo.evaluation.records import (
    COLUMNS,
    Record,
    aggregate,
    area_under_clicks,
    deduplicate,
    read_records,
    write_records,
)
from samzoo.evaluation.summary import summary
from samzoo.writing import write_atomically

BASE = Record(
    dataset="d",
    method="m",
    case_id="a",
    patient="p",
    class_id=1,
    class_name="organ, left",
    regime="box_3d",
    step=0,
    effort=2,
    oracle_classes=True,
    oracle_slices="range",
    tp=8,
    fp=2,
    fn=2,
    dice=0.8,
    iou=0.666667,
    nsd_1mm=None,
    nsd_2mm=0.0,
    hd95_mm=None,
    encode_seconds=0.125,
    decode_seconds=0.5,
    voxel_mm3=0.75,
)


def with_dice(case, class_id, dice, **other):
    return replace(BASE, case_id=case, class_id=class_id, dice=dice, **other)


def test_round_trip_keeps_undefined_as_empty(tmp_path):
    path = tmp_path / "records.csv"
    nothing = replace(BASE, class_id=2, class_name="b", tp=0, fp=0, fn=0, dice=None, iou=None, nsd_2mm=None)
    records = [BASE, nothing, with_dice("b", 1, 0.0, tp=0, fn=10, iou=0.0)]
    write_records(path, records)
    assert read_records(path) == records
    row = dict(zip(COLUMNS, path.read_text().splitlines()[2].replace('"organ, left"', "organ").split(","), strict=True))
    assert row["dice"] == "" and row["nsd_1mm"] == "" and row["nsd_2mm"] == "" and row["fp"] == "0"


def test_records_of_before_there_were_volumes_are_read(tmp_path):
    path = tmp_path / "records.csv"
    write_records(path, [BASE])
    path.write_text(path.read_text().replace(",voxel_mm3\n", "\n").replace(",0.75\n", "\n"))
    assert read_records(path) == [replace(BASE, voxel_mm3=None)]


def test_classes_are_averaged_within_a_case_first():
    records = [with_dice("a", 1, 1.0), with_dice("a", 2, 0.0), with_dice("a", 3, 0.5), with_dice("b", 1, 0.9)]
    assert aggregate(records, "dice") == {("box_3d", 0): pytest.approx((0.5 + 0.9) / 2)}


def test_undefined_values_are_left_out():
    records = [with_dice("a", 1, 0.8), with_dice("a", 2, None), with_dice("b", 1, None)]
    assert aggregate(records, "dice") == {("box_3d", 0): pytest.approx(0.8)}
    assert aggregate([with_dice("b", 1, None)], "dice") == {("box_3d", 0): None}


def test_effort_is_summed_over_the_classes_of_a_case():
    records = [with_dice("a", k, 1.0, effort=10 * k) for k in (1, 2, 3)] + [with_dice("b", 1, 1.0, effort=20)]
    assert aggregate(records, "effort") == {("box_3d", 0): 40}


def test_area_under_clicks_leaves_the_box_out():
    records = [with_dice("a", 1, d, step=s) for s, d in enumerate((0.1, 0.4, 0.6, 1.0))]
    assert area_under_clicks(records, "dice") == {"box_3d": pytest.approx(0.5 + 0.8)}
    uneven = [with_dice("a", 1, d, step=s) for s, d in ((1, 0.0), (3, 0.5), (5, 1.0))]
    assert area_under_clicks(uneven, "dice") == {"box_3d": pytest.approx(0.5 + 1.5)}


def test_repeated_cases_are_counted_once():
    again = replace(BASE, decode_seconds=9.0)
    assert deduplicate([BASE, again, with_dice("0", 1, 1.0)]) == [with_dice("0", 1, 1.0), BASE]


def test_false_positives():
    assert replace(BASE, tp=0, fn=0, fp=3).false_positive
    assert not replace(BASE, tp=0, fn=0, fp=0).false_positive and not BASE.false_positive


def test_duplicate_keys_are_not_written(tmp_path):
    with pytest.raises(DataError, match="two records for case"):
        write_records(tmp_path / "r.csv", [BASE, BASE])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("dice,iou", "dize,iou", r"column missing: dice \(found 'dize'\)"),
        ("voxel_mm3\n", "voxel_mm3,more\n", "unknown or repeated columns"),
        ("voxel_mm3\n", "dice\n", "unknown or repeated columns"),
        (",8,2,2,", ",8,two,2,", "line 2, column fp: 'two'"),
        (",8,2,2,", ",8,-2.5,2,", "line 2, column fp"),
        (",8,2,2,", ",-5,2,2,", "line 2, column tp: '-5'"),
        (",1,range,8,", f",1,range,{'8' * 30},", "line 2, column tp"),
        (",p,1,", ",p,0,", "line 2, column class_id: '0'"),
        (",0,2,1,range", ",0,-3,1,range", "line 2, column effort: '-3'"),
        (",0.8,0.666667,", ",nan,0.666667,", "line 2, column dice: 'nan'"),
        (",0.8,0.666667,", ",-1,0.666667,", "line 2, column dice: '-1'"),
        (",0.8,0.666667,", ",85,0.666667,", "line 2, column dice: '85'"),
        (",0.8,0.666667,", ",0.8,25,", "line 2, column iou: '25'"),
        (",0.8,0.666667,,0,", ",0.8,0.666667,,1.5,", "line 2, column nsd_2mm: '1.5'"),
        (",0.8,0.666667,", ",0.85,0.666667,", "line 2: a Dice of 0.85 is not that of tp 8, fp 2, fn 2"),
        (",8,2,2,0.8,", ",0,0,0,1,", "line 2: a Dice of 1 is not that of tp 0, fp 0, fn 0"),
        (",1,range", ",yes,range", "line 2, column oracle_classes: 'yes'"),
        (",0.125,0.5,0.75\n", ",0.125,0.5\n", "line 2: 21 cells, the header has 22"),
        (",0.125,0.5,", ",,0.5,", "column encode_seconds: ''"),
        (",0.125,0.5,0.75\n", ",0.125,0.5,big\n", "line 2, column voxel_mm3: 'big'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, old, new, message):
    path = tmp_path / "records.csv"
    write_records(path, [BASE])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


def test_duplicate_missing_and_empty_files_are_refused(tmp_path):
    path = tmp_path / "records.csv"
    with pytest.raises(DataError, match="can't be read"):
        read_records(path)
    path.write_text("")
    with pytest.raises(DataError, match="column missing"):
        read_records(path)
    write_records(path, [BASE])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="line 3: same case, class, regime and step as line 2"):
        read_records(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(file):
        file.write("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"x.txt: can't be written: no space left"):
        write_atomically(path, full)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_summary_states_how_means_were_taken():
    records = [with_dice("a", 1, d, step=s) for s, d in enumerate((0.1, 0.4, 0.6))]
    text = summary([*records, replace(BASE, regime="auto", tp=0, fn=0, dice=0.0)])
    assert "mean over the classes of a case, then over cases" in text and "1 false positive" in text
    assert "area under click steps 1 to 2 (at most 1): Dice 0.5000" in text


def test_records_need_no_torch():
    code = "import sys, samzoo.evaluation.records, samzoo.evaluation.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cases_of_several_sets_get_a_line_for_each():
    records = [
        replace(BASE, case_id="Kvasir/a", dice=0.5, iou=0.4),
        replace(BASE, case_id="Kvasir/b", dice=0.7, iou=0.6),
        replace(BASE, case_id="ETIS/a", dice=0.25, iou=0.125),
        replace(BASE, case_id="ETIS/a", step=2, dice=0.75, iou=0.5),
        replace(BASE, case_id="ETIS/a", regime="auto", dice=None, iou=None),
    ]
    text = summary(records)
    assert "Kvasir, 2 cases, Dice / IoU after the last step: box_3d 0.6000 / 0.5000" in text
    assert "ETIS, 1 cases, Dice / IoU after the last step: auto - / -, box_3d 0.7500 / 0.5000" in text
    assert "after the last step" not in summary([BASE])
