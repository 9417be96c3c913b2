import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_fakes import Automatic, BoxDrawer, Correctable, make_case
from PIL import Image

from samzoo.errors import ConfigError, DataError
from samzoo.evaluation import predict_cases
from samzoo.evaluation.prediction import finished
from samzoo.prompts.io import load_prompts

NAMES = ("organ", "lesion")


@pytest.fixture
def prompts(tmp_path):
    def write(classes, case="a"):
        path = tmp_path / "mine.json"
        cases = {case: {"mine": classes}}
        path.write_text(json.dumps({"format": "samzoo-prompts", "version": 1, "cases": cases}))
        return load_prompts(path)

    return write


@pytest.fixture
def writer():
    """Stands for the data set's own writer; keeps the label maps."""
    kept = {}

    def write(label, source, target, mark):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(mark)
        kept[target.name] = label

    write.kept = kept
    return write


def test_users_prompts_become_a_label_map(tmp_path, prompts, writer):
    case = make_case(shape=(4, 64, 64), label=False)
    steps = {
        "organ": [{"boxes": [[4, 4, 1, 30, 30, 3]]}, {"clicks": [[10, 10, 2, 0]]}],
        "lesion": [{"clicks": [[50, 50, 3, 1]]}],
    }
    files = predict_cases(BoxDrawer(), [case], tmp_path / "out", writer, NAMES, prompts(steps), overlays=True)
    (label,) = writer.kept.values()
    assert [f.name for f in files] == ["a.png"] and label.dtype == np.uint8 and label.shape == (4, 64, 64)
    assert label[1, 10, 10] == 1 and label[2, 10, 10] == 0 and label[2, 20, 20] == 1
    assert label[3, 50, 50] == 2 and not label[0].any()
    assert (tmp_path / "out" / "overlays" / "a.png").stat().st_size > 100


def test_automatic_methods_need_no_prompts(tmp_path, prompts, writer):
    case = make_case(label=False)
    predict_cases(Automatic(), [case], tmp_path, writer, NAMES)
    (label,) = writer.kept.values()
    assert np.array_equal(label > 0, case.image[0].numpy() > 0.5)
    with pytest.raises(ConfigError, match="Automatic takes no prompts"):
        predict_cases(Automatic(), [case], tmp_path, writer, NAMES, prompts({}))


def test_volumes_and_pictures_are_segmented_without_prompts(tmp_path, writer):
    volume = replace(make_case("volume", label=False), source="some/volume.nii.gz")
    picture = replace(make_case("set/picture", (1, 30, 50), label=False), source="some/picture.jpg")
    files = predict_cases(Correctable(), [volume, picture], tmp_path, writer, NAMES)
    assert [f.name for f in files] == ["volume.nii.gz", "set_picture.png"]
    for name, case in (("volume.nii.gz", volume), ("set_picture.png", picture)):
        assert writer.kept[name].shape == case.shape and set(np.unique(writer.kept[name])) == {0, 1}


def test_automatic_answers_can_be_corrected_on_some_slices(tmp_path, prompts, writer):
    case = make_case(shape=(4, 64, 64), label=False)
    steps = {"organ": [{"auto": True}, {"clicks": [[20, 20, 2, 0]]}], "lesion": [{"clicks": [[50, 50, 3, 1]]}]}
    predict_cases(Correctable(), [case], tmp_path / "out", writer, NAMES, prompts(steps))
    (label,) = writer.kept.values()
    assert (label[:, 30, 30] == 1).all() and label[:, 20, 20].tolist() == [1, 1, 0, 1]
    assert label[:, 50, 50].tolist() == [0, 0, 0, 2]
    with pytest.raises(
        ConfigError, match=r"mine.json: cases.a holds auto prompts, which BoxDrawer does not understand"
    ):
        predict_cases(BoxDrawer(), [case], tmp_path / "other", writer, NAMES, prompts(steps))


def test_a_method_that_needs_prompts_says_so_before_any_work(tmp_path, writer):
    def cases():
        raise AssertionError("no case may be read")
        yield

    with pytest.raises(ConfigError, match="BoxDrawer can't run without prompts"):
        predict_cases(BoxDrawer(), cases(), tmp_path, writer, NAMES)


def test_prompts_for_other_cases_are_refused_before_any_work(tmp_path, prompts, writer):
    path = prompts({"organ": [{"boxes": [[4, 4, 1, 30, 30, 3]]}]}, case="case_a")
    for ids, message in (
        (["case_b"], "unknown case 'case_a'; did you mean case_b"),
        (["case_a", "z"], "no prompts for case 'z'"),
    ):
        with pytest.raises(DataError, match=message):
            predict_cases(BoxDrawer(), iter(()), tmp_path, writer, NAMES, path, case_ids=ids)


def test_prompts_that_say_nothing_or_are_not_understood(tmp_path, prompts, writer):
    case = make_case(label=False)
    with pytest.raises(DataError, match=r"cases.a.mine: names no class"):
        predict_cases(BoxDrawer(), [case], tmp_path, writer, NAMES, prompts({}))
    method = BoxDrawer()
    method.spec = type(method.spec)("Boxes", 2, "slice", frozenset({"box"}), False, "everything")
    with pytest.raises(ConfigError, match="holds click prompts, which Boxes does not understand; it takes box"):
        predict_cases(method, [case], tmp_path, writer, NAMES, prompts({"organ": [{"clicks": [[1, 1, 1, 1]]}]}))


def test_existing_predictions_are_kept(tmp_path, prompts, writer):
    (tmp_path / "a.png").write_text("old")
    path = prompts({"organ": [{"boxes": [[4, 4, 1, 30, 30, 3]]}]})
    with pytest.raises(DataError, match=r"a.png: exists already"):
        predict_cases(BoxDrawer(), [make_case(label=False)], tmp_path, writer, NAMES, path)
    assert (tmp_path / "a.png").read_text() == "old"


def test_what_an_earlier_call_has_written_is_done_and_what_is_of_other_settings_is_refused(tmp_path, writer):
    cases = [make_case(name, label=False) for name in "abc"]
    sources = {case.id: case.source for case in cases}

    def mark(case_id, settings="these settings"):
        return f"{case_id} with {settings}"

    def read_mark(path):
        if path.parent.name != "overlays":
            return path.read_text()
        with Image.open(path) as picture:
            return picture.info.get("samzoo")

    def done(overlays):
        return finished(tmp_path, sources, mark, read_mark, overlays)

    assert done(True) == set()
    predict_cases(Automatic(), cases[:1], tmp_path, writer, NAMES, overlays=True, mark=mark)
    predict_cases(
        Automatic(), cases[1:2], tmp_path, writer, NAMES, overlays=True, mark=lambda name: mark(name, "others")
    )
    with pytest.raises(DataError, match=r"b.png: exists already .* not made of this image"):
        done(False)
    (tmp_path / "b.png").write_text(mark("b"))
    assert done(False) == {"a", "b"} and done(True) == {"a"}, "b's picture is of other settings"
    predict_cases(Automatic(), cases[1:2], tmp_path, writer, NAMES, overlays=True, mark=mark)
    assert done(True) == {"a", "b"}


def test_training_mode_is_restored(tmp_path, writer):
    method = Automatic().train()
    predict_cases(method, [make_case(label=False)], tmp_path, writer, NAMES)
    assert method.training
