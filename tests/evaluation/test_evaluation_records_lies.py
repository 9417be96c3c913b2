"""Records that contradict each other, or of which some are gone: found by tests/fuzz."""

from dataclasses import replace

import pytest
from test_evaluation_records import BASE

from samzoo.errors import DataError
from samzoo.evaluation.records import read_records, write_records

FIRST = replace(BASE, nsd_1mm=0.4, nsd_2mm=0.5, hd95_mm=3.0)
SECOND = replace(FIRST, step=1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dice": None}, "line 3: a Dice of nothing is not that of tp 8, fp 2, fn 2"),
        ({"iou": 0.5}, "line 3: a IoU of 0.5 is not that of tp 8, fp 2, fn 2"),
        ({"class_name": "other"}, "line 3: another name of class than in line 2"),
        ({"class_id": 2}, "line 3: another class than in line 2"),
        ({"patient": "q"}, "line 3: another patient than in line 2"),
        ({"voxel_mm3": 2.0}, "line 3: another size of a voxel than in line 2"),
        ({"tp": 6, "fp": 0, "fn": 2, "dice": 6 / 7, "iou": 0.75}, r"another ground truth \(tp \+ fn\) than in line 2"),
        ({"nsd_2mm": None}, "line 3, column nsd_2mm: nothing, where truth has 10 voxels"),
        ({"hd95_mm": None}, "line 3, column hd95_mm: nothing, where truth has 10 voxels"),
        ({"nsd_1mm": 0.6}, "line 3: NSD at 1 mm is 0.6, more than 0.5 at 2 mm"),
        ({"case_id": "b"}, "case 'a', class 1 has 1 of the 2 steps of regime box_3d"),
    ],
)
def test_rows_that_contradict_each_other(tmp_path, other, message):
    write_records(tmp_path / "records.csv", [FIRST, SECOND])
    assert len(read_records(tmp_path / "records.csv")) == 2
    write_records(tmp_path / "records.csv", [FIRST, replace(SECOND, **other)])
    with pytest.raises(DataError, match=message) as caught:
        read_records(tmp_path / "records.csv")
    assert "records.csv" in str(caught.value)


def test_a_file_without_its_end(tmp_path):
    path = tmp_path / "records.csv"
    write_records(path, [FIRST])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="its last line has no end"):
        read_records(path)


@pytest.mark.parametrize("cell", ["1_0", "\u0661\u0660"])
def test_numbers_of_python_alone(tmp_path, cell):
    path = tmp_path / "records.csv"
    write_records(path, [replace(FIRST, tp=10, fn=0, dice=20 / 22, iou=10 / 12)])
    path.write_text(path.read_text().replace(",10,2,0,", f",{cell},2,0,"))
    with pytest.raises(DataError, match="line 2, column tp"):
        read_records(path)
