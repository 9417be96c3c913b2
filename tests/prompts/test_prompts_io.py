import json

import pytest

from samzoo.errors import DataError
from samzoo.prompts.io import dump_prompts, load_prompts
from samzoo.types import Box, CasePrompt, Click

NAMES = ("liver", "spleen")
SHAPE = (5, 20, 30)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prompts.json"


def write(path, steps, case="a", regime="manual", name="liver", **other):
    content = {"format": "samzoo-prompts", "version": 1, "cases": {case: {regime: {name: steps}}}}
    path.write_text(json.dumps(content | other))
    return path


def test_what_is_saved_is_read_back(path):
    first = CasePrompt(2, boxes=(Box(1, 2, 3, 4, 15, 16), Box(4, 0, 0, 5, 20, 30)), effort=2)
    second = CasePrompt(2, boxes=first.boxes, clicks=(Click(2, 7, 8, True),), effort=3)
    third = CasePrompt(2, boxes=first.boxes, clicks=(Click(2, 7, 8, True), Click(0, 0, 0, False)), effort=4)
    prompts = {"a": {"manual": {2: [first, second, second, third]}, "none": {}}}
    path.write_text(dump_prompts(prompts, NAMES))
    book = load_prompts(path)
    assert book.steps("a", "manual", NAMES, SHAPE) == prompts["a"]["manual"]
    assert book.steps("a", "none", NAMES, SHAPE) == {}


def test_automatic_answers_are_saved_and_asked_for(path):
    first = CasePrompt(1, automatic=True)
    second = CasePrompt(1, clicks=(Click(2, 7, 8, True),), effort=1, automatic=True)
    path.write_text(dump_prompts({"a": {"manual": {1: [first, second]}}}, NAMES))
    assert path.read_text().count('"auto": true') == 1, "a step holds what it adds"
    assert load_prompts(path).steps("a", "manual", NAMES, SHAPE) == {1: [first, second]}
    write(path, [{"boxes": [[1, 2, 0, 9, 8, 2]]}, {"auto": True}])
    assert [p.automatic for p in load_prompts(path).steps("a", "manual", NAMES, SHAPE)[1]] == [False, True]


def test_an_oracles_word_is_saved_with_the_first_step(path):
    first = CasePrompt(1, clicks=(Click(2, 7, 8, True),), effort=1, focus=Box(1, 2, 3, 4, 15, 16))
    second = CasePrompt(1, clicks=(*first.clicks, Click(0, 0, 0, False)), effort=2, focus=first.focus)
    path.write_text(dump_prompts({"a": {"manual": {1: [first, second]}}}, NAMES))
    assert path.read_text().count('"focus": [3, 2, 1, 16, 15, 4]') == 1
    assert load_prompts(path).steps("a", "manual", NAMES, SHAPE) == {1: [first, second]}
    write(path, [{"clicks": [[1, 1, 1, 1]]}, {"focus": [0, 0, 0, 1, 1, 1]}])
    with pytest.raises(DataError, match=r"liver\[1\].focus: belongs into the first step"):
        load_prompts(path).steps("a", "manual", NAMES, SHAPE)


def test_a_users_file_may_leave_out_effort_and_z_of_pictures(path):
    write(path, [{"boxes": [[1, 2, 9, 8]], "clicks": [[3, 4, 1]]}, {"clicks": [[5, 6, 0]]}])
    first, second = load_prompts(path).steps("a", "manual", NAMES, (1, 20, 30))[1]
    assert first == CasePrompt(1, (Box(0, 2, 1, 1, 8, 9),), (Click(0, 4, 3, True),), 3)
    assert second.effort == 4 and second.clicks[1] == Click(0, 6, 5, False)


@pytest.mark.parametrize(
    "steps, message",
    [
        ([{"boxes": [[0, 0, 0, 31, 5, 5]]}], r"liver\[0\].boxes\[0\]: box .* leaves the image of 30 x 20 x 5"),
        ([{"boxes": [[5, 5, 0, 5, 9, 1]]}], r"boxes\[0\]: box .* is empty"),
        ([{"boxes": [[0, 0, -1, 5, 5, 5]]}], "leaves the image"),
        ([{"clicks": [[30, 0, 0, 1]]}], r"clicks\[0\]: click \[30, 0, 0\] .* outside the image"),
        ([{"clicks": [[0, 0, 0, 1], [0, 0, 5, 1]]}], r"clicks\[1\]: .*outside"),
        ([{"clicks": [[1, 1, 1]]}], "has 5 slices, so all of x, y, z, label are needed"),
        ([{"boxes": [[1, 1, 4, 4]]}], "has 5 slices, so all of"),
        ([{"effort": 2}], "holds neither a box nor a click"),
        ([], "holds neither a box nor a click"),
        ([{"auto": False}], 'holds neither a box nor a click, nor "auto": true'),
    ],
)
def test_prompts_that_do_not_fit_the_case(path, steps, message):
    book = load_prompts(write(path, steps))
    with pytest.raises(DataError, match=message) as caught:
        book.steps("a", "manual", NAMES, SHAPE)
    assert str(path) in str(caught.value) and "cases.a.manual.liver" in str(caught.value)


@pytest.mark.parametrize(
    "steps, message",
    [
        ({"boxes": []}, r"cases.a.manual.liver: must be a list of steps"),
        ([[1, 2, 3]], r"liver\[0\]: must be an object"),
        ([{"boxes": [[1, 2, 3]]}], r"boxes\[0\]: must be whole numbers x0"),
        ([{"boxes": [[1.5, 2, 3, 4, 5, 6]]}], r"boxes\[0\]: must be whole numbers"),
        ([{"boxes": [["1", 2, 3, 4, 5, 6]]}], r"boxes\[0\]: must be whole numbers"),
        ([{"clicks": [[1, 2, True]]}], r"clicks\[0\]: must be whole numbers"),
        ([{"auto": 1}], r"liver\[0\].auto: must be true or false, got 1"),
        ([{"clicks": 7}], r"clicks: must be a list, got 7"),
        ([{"clicks": [[1, 2, 3, 2]]}], r"label must be 1 .* or 0 .*, got 2"),
        ([{"click": [[1, 2, 1]]}], r"unknown entry 'click'; did you mean clicks"),
        ([{"boxes": [[1, 1, 2, 2]], "effort": -1}], r"effort: must be a whole number from 0"),
    ],
)
def test_files_of_the_wrong_form(path, steps, message):
    with pytest.raises(DataError, match=message) as caught:
        load_prompts(write(path, steps))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not valid JSON"),
        ("[1]", "must be an object"),
        ("{}", 'must say "format": "samzoo-prompts"'),
        ('{"format": "samzoo-prompts", "version": 9, "cases": {}}', "has version 9 .* reads 1"),
        ('{"format": "samzoo-prompts", "version": 1}', "cases: must be an object"),
        ('{"format": "samzoo-prompts", "version": 1, "cases": {"a": {}, "a": {}}}', "'a' stands twice"),
        ('{"format": "samzoo-prompts", "version": 1, "cases": {}, "case": {}}', "unknown entry 'case'"),
    ],
)
def test_files_that_are_something_else(path, text, message):
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_prompts(path)


def test_missing_and_binary_files(path):
    with pytest.raises(DataError, match="can't be read: No such file"):
        load_prompts(path)
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="is not valid JSON"):
        load_prompts(path)


def test_unknown_names_are_answered_with_near_ones(path):
    book = load_prompts(write(path, [{"boxes": [[1, 1, 1, 4, 4, 2]]}], case="case_01", name="lever"))
    with pytest.raises(DataError, match=r"unknown class 'lever'; did you mean liver"):
        book.steps("case_01", "manual", NAMES, SHAPE)
    with pytest.raises(DataError, match=r"no prompts for case 'case_1'; did you mean case_01"):
        book.regime_of("case_1")
    with pytest.raises(DataError, match=r"no prompts of regime 'manua1'; did you mean manual"):
        book.regime_of("case_01", "manua1")
    with pytest.raises(DataError, match=r"unknown case 'case_01'; did you mean case_02"):
        book.check_cases(["case_02", "other"])


def test_several_regimes_need_a_choice(path):
    content = {"format": "samzoo-prompts", "version": 1, "cases": {"a": {"one": {}, "two": {}}}}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"holds 2 regimes \(one, two\); say which"):
        load_prompts(path).regime_of("a")
