"""Config files by bare name, without torch."""

import pytest

from samzoo.cli_config import UsageError, explain, find_config, near, read_config
from samzoo.paths import SHIPPED


def test_order_of_places(work, monkeypatch):
    monkeypatch.setenv("SAMZOO_CONFIGS", str(work / "own"))
    assert find_config("sam_phantom.yaml") == (SHIPPED / "sam_phantom.yaml").absolute()
    for folder in ("own", "configs", "."):
        path = work / folder / "sam_phantom.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("seed_everything: 1")
        assert find_config("sam_phantom.yaml") == path.absolute()
        assert find_config("sam_phantom") == path.absolute()


def test_part_by_bare_name(work):
    assert find_config("phantom", "datasets") == (SHIPPED / "datasets/phantom.yaml").absolute()


def test_unknown_name_lists_places_and_near_names(work):
    with pytest.raises(UsageError, match=r"no config file 'sam_fantom'.*did you mean sam_phantom.yaml") as error:
        find_config("sam_fantom")
    assert str(work) in str(error.value)
    with pytest.raises(UsageError, match=r"did you mean methods/sam_tiny\.yaml"):
        find_config("methods/sam_tinny.yaml")


def test_parts_beside_the_file_win_over_shipped_ones(work):
    (work / "deep/methods").mkdir(parents=True)
    (work / "deep/methods/sam_tiny.yaml").write_text("class_path: SAM")
    (work / "deep/mine.yaml").write_text("model: methods/sam_tiny.yaml\ndata: datasets/phantom.yaml\n")
    content = read_config(work / "deep/mine.yaml")
    assert content["model"] == str(work / "deep/methods/sam_tiny.yaml")
    assert content["data"] == str((SHIPPED / "datasets/phantom.yaml").absolute())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1", "is not valid YAML"),
        ("- a\n- b", "must hold settings"),
        ("modell: x", "no setting 'modell'; did you mean model"),
        ("model: methods/sem.yaml", "mine.yaml: model: there is no config file 'methods/sem.yaml'.*methods/sam.yaml"),
    ],
)
def test_bad_files_are_named(work, text, message):
    (work / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_config(find_config("mine.yaml"))
    assert "mine.yaml" in str(error.value)


def test_near_matches_by_last_part():
    known = ["data.batch_size", "trainer.max_epochs", "model.init_args.lr"]
    assert near("data.batchsize", known) == ["data.batch_size"]
    assert near("max_epoch", known) == ["trainer.max_epochs"]
    assert near("zzz", known) == []


def test_unforeseen_message_is_one_line():
    assert explain("something\n   odd\n", [], []) == "something odd"
