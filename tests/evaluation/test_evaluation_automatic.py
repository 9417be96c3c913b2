"""Methods that answer alone and are then corrected, and scores as published, through whole tests."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from evaluation_fakes import Automatic, Cases, Correctable, make_case
from lightning.pytorch import Trainer
from PIL import Image

from samzoo.evaluation import EvaluationProtocol
from samzoo.evaluation.published import EMPTY_LOGIT, PublishedRow, published_means
from samzoo.evaluation.records import aggregate, read_records
from samzoo.types import Case

SETTINGS = {"surface_metrics": False, "click_steps": 2}


def run_test(folder, cases, method, **settings):
    protocol = EvaluationProtocol(**SETTINGS | settings)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=[protocol],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(method, datamodule=Cases(cases), verbose=False)
    return read_records(folder / "records.csv")


def read_published(folder):
    with open(folder / "published.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_overlays_show_the_points_that_a_method_gives_itself(tmp_path):
    class Pointing(Correctable):
        place = (5.0, 9.0)

        def own_points(self, embedding):
            x, y = self._grids[0].points_to_grid(torch.tensor(self.place)).tolist()
            return torch.tensor([[x, y, 1.0], [x, y, 0.0]]).expand(len(embedding), 2, 2, 3)

        def prepare(self, image, size, spacing):
            x, self._grids = super().prepare(image, size, spacing)
            return x, self._grids

    pictures = {}
    for method in (Correctable(), Pointing()):
        folder = tmp_path / type(method).__name__
        run_test(folder, [make_case()], method, regimes=["auto"], overlays=1)
        pictures[type(method).__name__] = np.asarray(Image.open(folder / "overlays" / "a_auto.png")).astype(int)
    changed = np.abs(pictures["Pointing"] - pictures["Correctable"]).sum(2) > 0
    rows, columns = np.nonzero(changed)
    factor = changed.shape[1] / make_case().shape[2]
    assert changed.any() and np.ptp(rows) <= 14 and np.ptp(columns) <= 14, "only around the point"
    assert abs(columns.mean() / factor - 5.5) < 1 and abs(rows.mean() / factor - 9.5) < 1


def test_corrections_start_from_the_automatic_answer_and_cost_their_clicks(tmp_path):
    regimes = ["auto", "auto_clicks_3d", "auto_clicks_per_slice", "points_per_slice"]
    records = run_test(tmp_path, [make_case()], Correctable(), regimes=regimes)
    dice, effort = aggregate(records, "dice"), aggregate(records, "effort")
    organ = {(r.regime, r.step): r for r in records if r.class_name == "organ"}
    assert organ["auto_clicks_3d", 0].dice == organ["auto", 0].dice and effort["auto_clicks_3d", 0] == 0
    assert effort["auto_clicks_3d", 2] == 2 * 2 and effort["points_per_slice", 0] == 16 * (4 + 2)
    assert effort["auto_clicks_per_slice", 1] == 6 + 2, "the organ is also corrected where it is not: 6 slices"
    for regime in regimes[1:3]:
        assert dice[regime, 0] < dice[regime, 1]
    oracle = {r.regime: (r.oracle_classes, r.oracle_slices) for r in records}
    assert oracle == {
        "auto": (False, "none"),
        "auto_clicks_3d": (True, "none"),
        "auto_clicks_per_slice": (True, "each"),
        "points_per_slice": (True, "each"),
    }
    cost = json.loads((tmp_path / "run.json").read_text())["cost"]
    assert cost["images_encoded"] == cost["slices"] == 6


def test_automatic_steps_are_saved_and_replayed(tmp_path):
    regimes = ["auto_clicks_3d", "points_per_slice"]
    first = run_test(tmp_path / "a", [make_case()], Correctable(), regimes=regimes)
    saved = tmp_path / "a" / "prompts.json"
    second = run_test(tmp_path / "b", [make_case()], Correctable(), regimes=regimes, prompts_file=str(saved), seed=9)
    assert [(r.key, r.dice, r.effort) for r in first] == [(r.key, r.dice, r.effort) for r in second]
    assert (tmp_path / "b" / "prompts.json").read_text() == saved.read_text() and '"auto": true' in saved.read_text()


def test_scores_as_published_stand_beside_the_records(tmp_path, capsys):
    """Correctable finds the organ on all 6 slices (it is on 4) and the lesion (on 2) nowhere."""
    regimes = ["auto", "auto_clicks_per_slice", "clicks_per_slice"]
    records = run_test(tmp_path, [make_case("a"), make_case("b")], Correctable(), regimes=regimes, published=True)
    rows = {(r["case_id"], r["class_name"], r["regime"], int(r["step"])): r for r in read_published(tmp_path)}
    assert set(rows) == {(r.case_id, r.class_name, r.regime, r.step) for r in records}
    organ, lesion = rows["a", "organ", "auto", 0], rows["a", "lesion", "auto", 0]
    assert organ["slices"] == lesion["slices"] == "6", "without prompts every slice counts"
    assert float(organ["dice"]) == pytest.approx(4 / 6, abs=1e-6)
    assert float(lesion["dice"]) == 0, "slices where it is undefined are left out"
    clicked = rows["a", "lesion", "clicks_per_slice", 1]
    assert clicked["slices"] == "2" and float(clicked["dice"]) == 1, "nobody was asked about the other slices"
    means = json.loads((tmp_path / "run.json").read_text())["published"]
    assert means["auto"]["0"]["dice"] == pytest.approx((4 / 6 + 0) / 2)
    text = capsys.readouterr().out
    assert "as published, ranks nothing" in text and f"auto step 0: dice {means['auto']['0']['dice']:.4f}" in text


def test_only_changed_slices_are_scored_again_as_published(tmp_path):
    method, calls = Correctable(), []
    whole = method.published_scores
    method.published_scores = lambda logits, truth, grid: calls.append(len(logits)) or whole(logits, truth, grid)
    run_test(tmp_path, [make_case()], method, regimes=["auto_clicks_3d"], published=True)
    assert sum(calls) == 2 * 6 + 2 * 2, "every slice of both classes at first, then one of each at each of two steps"


def test_slices_that_hold_the_class_and_were_not_answered_count_as_empty(tmp_path):
    run_test(tmp_path / "a", [make_case()], Correctable(), regimes=["clicks_per_slice"])
    saved = tmp_path / "saved.json"
    content = json.loads((tmp_path / "a" / "prompts.json").read_text())
    steps = content["cases"]["a"]["clicks_per_slice"]["organ"]
    for step in steps:
        step["clicks"] = [c for c in step.get("clicks", []) if c[2] == 2]
    saved.write_text(json.dumps(content))
    settings = {"regimes": ["clicks_per_slice"], "published": True, "prompts_file": str(saved)}
    run_test(tmp_path / "b", [make_case()], Correctable(), **settings)
    (row, *_) = [r for r in read_published(tmp_path / "b") if r["class_name"] == "organ"]
    assert row["slices"] == "4" and float(row["dice"]) == 0.25
    assert float(row["lowest"]) < EMPTY_LOGIT * 0.7, "three of four slices hold nothing but the lowest logit"


def test_ignored_voxels_are_background_of_the_published_truth(tmp_path):
    case = make_case()
    label = case.label.clone()
    label[4] = 255
    case = Case(case.id, case.patient, case.image, label, case.spacing, case.affine)
    run_test(tmp_path, [case], Correctable(), regimes=["auto"], published=True)
    assert float(read_published(tmp_path)[0]["dice"]) == pytest.approx(3 / 6)


def test_methods_without_a_published_way_add_nothing_but_a_note(tmp_path, caplog, capsys):
    run_test(tmp_path, [make_case()], Correctable(), regimes=["auto"], published=True)
    with caplog.at_level("INFO"):
        run_test(tmp_path, [make_case()], Automatic(), published=True)
    assert "Automatic has no published way of scoring" in caplog.text + capsys.readouterr().err
    assert "published" not in json.loads((tmp_path / "run.json").read_text())
    assert not (tmp_path / "published.csv").exists(), "the earlier one does not belong to these records"
    assert (tmp_path / "published-1.csv").exists()


def test_published_means_are_taken_over_classes_then_cases():
    def row(case, class_id, value):
        return PublishedRow(case, class_id, "x", "auto", 0, 1, {"dice": value, "other": None})

    rows = [row("a", 1, 1.0), row("a", 2, 0.5), row("a", 3, None), row("b", 1, 0.0), row("c", 1, None)]
    assert published_means(rows) == {"auto": {0: {"dice": 0.375, "other": None}}}


def test_the_highest_logit_of_several_boxes_counts(tmp_path):
    from samzoo.evaluation.published import PublishedScorer
    from samzoo.evaluation.slice_adapter import Row, RowAnswer, SliceAnswer

    case, method = make_case(shape=(1, 64, 64)), Correctable()
    low = torch.full((1, 1, 64, 64), -2.0)
    high = low.clone()
    high[..., 5, 5] = 3.0

    def answer(*logits):
        rows = {(0, i): RowAnswer(Row(1, 0, i, None, ()), None, {}, v) for i, v in enumerate(logits)}
        return SliceAnswer(case.shape, rows)

    class Session:
        grid = method.prepare(case.image, torch.tensor([[64, 64]]), None)[1][0]

    scorer = PublishedScorer(method, Session(), case.label.numpy())
    assert scorer.answered(1, answer(low, high)) == [{"dice": 1.0, "lowest": -2.0}]
    assert scorer.answered(1, answer(low, low))[0]["dice"] == 0
    (both_empty,) = scorer.answered(7, answer(low))
    assert math.isnan(both_empty["dice"])
