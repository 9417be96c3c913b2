"""A test that was stopped goes on: what was scored is not scored again; the result is that of an undisturbed one."""

import json
from collections import Counter

import numpy as np
import pytest
from evaluation_fakes import Cases, Correctable, make_case
from lightning.pytorch import Trainer

from samzoo.errors import DataError
from samzoo.evaluation import EvaluationProtocol, protocol
from samzoo.evaluation.records import TIME_COLUMNS

REGIMES = ["auto", "auto_clicks_3d", "box_clicks_3d", "clicks_per_slice"]


@pytest.fixture
def scored(monkeypatch):
    """Counts which case was scored how often, and stops a test before those of `stop`."""
    counts, score = Counter(), protocol.score_case
    counts.stop = set()

    def counted(method, case, *given):
        if case.id in counts.stop:
            raise KeyboardInterrupt
        counts[case.id] += 1
        return score(method, case, *given)

    monkeypatch.setattr(protocol, "score_case", counted)
    return counts


def run_test(folder, method=None, **settings):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=EvaluationProtocol(**{"regimes": REGIMES, "published": True, "surface_metrics": False} | settings),
        default_root_dir=folder,
    )
    trainer.test(method or Correctable(), datamodule=Cases([make_case(i) for i in "abc"]))


def stopped(folder, scored, before, **settings):
    scored.stop = {before}
    with pytest.raises(SystemExit):  # what Lightning makes of Ctrl-C
        run_test(folder, **settings)
    scored.stop = set()


def result(folder):
    records = [line.split(",") for line in (folder / "records.csv").read_text().splitlines()]
    timeless = [i for i, name in enumerate(records[0]) if name not in TIME_COLUMNS]
    info = json.loads((folder / "run.json").read_text())
    counts = {case: {k: v for k, v in c.items() if "seconds" not in k} for case, c in info["cost"]["cases"].items()}
    return [
        [[row[i] for i in timeless] for row in records],
        [(folder / name).read_bytes() for name in ("prompts.json", "published.csv")],
        {path.name: path.read_bytes() for path in (folder / "slices").iterdir()},
        [info["protocol"], info["flops"], info["published"], counts],
        sorted(path.name for path in folder.iterdir()),
    ]


def test_goes_on_and_ends_as_an_undisturbed_one(tmp_path, scored):
    run_test(tmp_path / "whole")
    for before in "bc":
        stopped(tmp_path / "stopped", scored, before)
        assert not (tmp_path / "stopped/records.csv").exists() and not (tmp_path / "stopped/slices").exists()
    run_test(tmp_path / "stopped")
    assert dict(scored) == {"a": 2, "b": 2, "c": 2}, "once for each of the two tests"
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")
    run_test(tmp_path / "stopped")
    assert scored["a"] == 3, "a test that has ended begins anew"


@pytest.mark.parametrize("other", ["weights", "settings", "machine", "damaged", "slice"])
def test_what_another_test_has_scored_is_not_taken(tmp_path, scored, other, monkeypatch):
    stopped(tmp_path, scored, "c")
    method, settings = Correctable(), {}
    if other == "weights":
        method.weight.data += 1
    elif other == "settings":
        settings["seed"] = 5
    elif other == "machine":
        monkeypatch.setattr(protocol, "device_info", lambda device: {"type": "cpu", "name": "another", "threads": 1})
    elif other == "damaged":
        (kept,) = tmp_path.glob(".unfinished/*/a.json")
        kept.write_text(kept.read_text()[:-9])
    else:
        (kept,) = tmp_path.glob(".unfinished/*/slices/a.npz")
        kept.unlink()
    run_test(tmp_path, method, **settings)
    assert scored["a"] == 2 and scored["b"] == (2 if other in ("weights", "settings", "machine") else 1)
    assert len(list((tmp_path / "slices").iterdir())) == 3


@pytest.mark.parametrize("last", ["prompts.json", "run.json", "published.csv", "records.csv"])
def test_stopped_while_the_result_is_written(tmp_path, scored, monkeypatch, last):
    def fails(path, *_):
        raise DataError(f"{path}: no space left")

    targets = {"records.csv": "write_records", "published.csv": "write_published"}
    with monkeypatch.context() as patch:
        if last in targets:
            patch.setattr(protocol, targets[last], fails)
        else:
            write = protocol.write_atomically
            patch.setattr(protocol, "write_atomically", lambda p, w: fails(p) if p.name == last else write(p, w))
        with pytest.raises(DataError, match="no space left"):
            run_test(tmp_path / "stopped")
    scored.clear()
    run_test(tmp_path / "stopped")
    assert not scored, "nothing is scored again"
    run_test(tmp_path / "other")
    assert result(tmp_path / "stopped") == result(tmp_path / "other")


def test_numbers_come_back_as_they_were(tmp_path, scored):
    for name in ("one", "two"):
        if name == "two":
            stopped(tmp_path / name, scored, "c", surface_metrics=True)
        run_test(tmp_path / name, surface_metrics=True)
    assert result(tmp_path / "one") == result(tmp_path / "two")
    assert np.load(tmp_path / "two/slices/a.npz")["truth"].any()
