import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_fakes import Automatic, BoxDrawer, Cases, Correctable, make_case
from lightning.pytorch import Trainer

from samzoo.errors import ConfigError, DataError
from samzoo.evaluation import EvaluationProtocol
from samzoo.evaluation.protocol import DEFAULT_REGIMES
from samzoo.evaluation.records import TIME_COLUMNS, aggregate, read_records
from samzoo.types import Case


def trainer(folder, protocol):
    return Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=[protocol],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def run_test(folder, cases, method=None, **settings):
    method = method or BoxDrawer()
    trainer(folder, EvaluationProtocol(**settings)).test(method, datamodule=Cases(cases), verbose=False)
    return read_records(folder / "records.csv")


def untimed(records):
    return [replace(r, **dict.fromkeys(TIME_COLUMNS, 0.0)) for r in records]


def test_each_slice_is_encoded_once_for_all_regimes_classes_and_steps(tmp_path):
    method = BoxDrawer()
    run_test(tmp_path, [make_case("a"), make_case("b", (7, 40, 52))], method, surface_metrics=False)
    cost = json.loads((tmp_path / "run.json").read_text())["cost"]
    assert cost["cases"]["a"]["images_encoded"] == 4 and cost["cases"]["b"]["images_encoded"] == 5
    assert cost["slices"] == 13 and cost["prompts_decoded"] > 9 * 5
    assert sum(method.seen.values()) == 9 + 1  # one more for the count of operations


def test_replayed_prompts_give_the_same_records(tmp_path):
    cases = [make_case("a"), make_case("b", (1, 30, 50), lesion=False)]
    records = run_test(tmp_path / "first", cases)
    saved = str(tmp_path / "first" / "prompts.json")
    again = run_test(tmp_path / "second", cases, prompts_file=saved, seed=99)
    assert untimed(again) == untimed(records) and len(records) > 20
    assert (tmp_path / "second" / "prompts.json").read_text() == (tmp_path / "first" / "prompts.json").read_text()


def test_the_seed_moves_the_first_clicks_only(tmp_path):
    settings = {"surface_metrics": False, "regimes": ["clicks_per_slice", "box_3d"]}
    records = [run_test(tmp_path / str(s), [make_case()], seed=s, **settings) for s in (0, 0, 1)]
    assert untimed(records[0]) == untimed(records[1]) != untimed(records[2])
    assert [r.dice for r in records[0] if r.regime == "box_3d"] == [r.dice for r in records[2] if r.regime == "box_3d"]


def test_effort_and_oracle_of_each_regime(tmp_path):
    """Organ on 4 slices, lesion on 2; the drawer misses the notch of the organ and nothing of the lesion."""
    records = run_test(tmp_path, [make_case()], surface_metrics=False)
    effort = aggregate(records, "effort")
    assert effort["box_per_slice", 0] == 8 + 4
    assert effort["box_3d", 0] == 2 + 2
    assert effort["box_3_slices", 0] == 6 + 4
    assert effort["box_clicks_3d", 0] == 4 and effort["box_clicks_3d", 5] == 4 + 5  # no click on a perfect lesion
    assert effort["clicks_per_slice", 1] == 6
    oracle = {r.regime: (r.oracle_classes, r.oracle_slices) for r in records}
    assert oracle["box_3d"] == (True, "range") and oracle["box_per_slice"] == (True, "each")


def test_values_are_those_of_the_masks_on_the_native_grid(tmp_path):
    case = make_case()
    (record,) = [r for r in run_test(tmp_path, [case], regimes=["box_3d"]) if r.class_name == "organ"]
    truth = case.label.numpy() == 1
    box = np.zeros_like(truth)
    box[1:5, 10:30, 13:39] = True
    assert (record.tp, record.fp, record.fn) == (truth.sum(), (box & ~truth).sum(), 0)
    assert record.dice == pytest.approx(2 * truth.sum() / (truth.sum() + box.sum()), abs=1e-6)
    assert record.hd95_mm is not None and 0 < record.nsd_1mm < record.nsd_2mm < 1


def test_ignored_voxels_are_neither_scored_nor_clicked(tmp_path):
    label = make_case().label.clone()
    box = label[1:5, 10:30, 13:39]
    box[box == 0] = 255  # what the box fills too much
    case = make_case()
    case = Case(case.id, case.patient, case.image, label, case.spacing, case.affine)
    records = [r for r in run_test(tmp_path, [case], regimes=["box_clicks_3d"]) if r.class_name == "organ"]
    assert [r.dice for r in records] == [1.0] * 6 and [r.effort for r in records] == [2] * 6
    assert {r.class_id for r in records} == {1}


def test_automatic_methods_answer_for_every_class_and_pay_for_what_is_not_there(tmp_path):
    records = run_test(tmp_path, [make_case("a", lesion=False)], Automatic())
    assert [(r.regime, r.class_name, r.effort, r.oracle_classes) for r in records] == [
        ("auto", "organ", 0, False),
        ("auto", "lesion", 0, False),
    ]
    organ, lesion = records
    assert organ.dice is not None and lesion.dice is None and lesion.iou is None and lesion.nsd_1mm is None
    empty = make_case("a")
    empty = Case("a", "p", empty.image, torch.zeros_like(empty.label), empty.spacing, empty.affine)
    organ, lesion = run_test(tmp_path, [empty], Automatic())
    assert organ.dice == 0 and organ.nsd_1mm == 0 and organ.hd95_mm is None and organ.false_positive
    assert lesion.dice is None and not lesion.false_positive


def test_regimes_beyond_a_method_are_left_out_with_a_note(tmp_path, capsys, caplog):
    with caplog.at_level("INFO"):
        records = run_test(tmp_path, [make_case()], Automatic(), surface_metrics=False)
    assert {r.regime for r in records} == {"auto"}
    text = caplog.text + capsys.readouterr().err
    assert "regime box_3d is left out: Automatic does not understand box" in text
    with pytest.raises(ConfigError, match=r"can't be scored with any of the regimes box_3d"):
        run_test(tmp_path, [make_case()], Automatic(), regimes=["box_3d"])


def test_a_method_that_can_not_be_validated_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"protocol.regimes or protocol.val_regimes"):
        trainer(tmp_path, EvaluationProtocol(val_regimes=["box_3d"])).fit(Automatic(), datamodule=Cases([make_case()]))


def _test_in_two_processes(folder, repeated):
    cases = [make_case("a"), make_case("b", (1, 30, 50)), make_case("c", lesion=False), *repeated]
    protocol = EvaluationProtocol(surface_metrics=False, val_regimes=["box_per_slice"])
    two = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        use_distributed_sampler=False,
        logger=False,
        default_root_dir=folder,
        callbacks=[protocol],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    two.test(BoxDrawer(), datamodule=Shares(cases), verbose=False)


class Shares(Cases):
    """Every second case for each of two processes."""

    def test_dataloader(self):
        mine = self.cases[self.trainer.global_rank :: self.trainer.world_size]
        return torch.utils.data.DataLoader(mine, batch_size=None)


def test_two_processes_write_the_records_of_one(tmp_path):
    repeated = [make_case("a")]  # as a sampler that pads would hand it out
    _test_in_two_processes(tmp_path / "two", repeated)
    one = run_test(
        tmp_path / "one",
        [make_case("a"), make_case("b", (1, 30, 50)), make_case("c", lesion=False)],
        surface_metrics=False,
    )
    two = read_records(tmp_path / "two" / "records.csv")
    assert untimed(two) == untimed(one)
    assert (tmp_path / "two" / "prompts.json").read_text() == (tmp_path / "one" / "prompts.json").read_text()
    assert set(json.loads((tmp_path / "two" / "run.json").read_text())["cost"]["cases"]) == {"a", "b", "c"}


def test_a_repeated_case_is_recorded_once(tmp_path):
    once = run_test(tmp_path / "a", [make_case("a"), make_case("b")], surface_metrics=False)
    twice = run_test(tmp_path / "b", [make_case("a"), make_case("b"), make_case("a")], surface_metrics=False)
    assert untimed(once) == untimed(twice)


def test_an_earlier_result_is_kept(tmp_path):
    run_test(tmp_path, [make_case()], surface_metrics=False, regimes=["box_3d"])
    before = (tmp_path / "records.csv").read_text()
    run_test(tmp_path, [make_case()], surface_metrics=False, regimes=["box_per_slice"])
    assert (tmp_path / "records-1.csv").read_text() == before
    assert {r.regime for r in read_records(tmp_path / "records.csv")} == {"box_per_slice"}


def test_run_json_says_where_the_records_come_from(tmp_path):
    (tmp_path / "config.yaml").write_text("model: methods/x.yaml\n")
    (tmp_path / "training.json").write_text('{"training_seconds": 12.5}')
    run_test(tmp_path, [make_case()], surface_metrics=False, overlays=1)
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["config"] == {"model": "methods/x.yaml"} and info["training"]["training_seconds"] == 12.5
    assert info["method"] == "BoxDrawer" and info["dataset"] == "made-up"
    assert info["records"] == len(read_records(tmp_path / "records.csv"))
    assert info["parameters_total"] == info["parameters_trained"] == 1
    assert info["peak_memory_bytes"] > 1e6 and info["cost"]["ms_per_encode"] > 0 and info["flops"]["encode"] == 0
    assert info["versions"]["torch"] and info["device"]["type"] == "cpu"
    regimes = {r for r in DEFAULT_REGIMES if not r.startswith("auto")} - {"clicks_3d"}
    assert set(info["protocol"]["regimes"]) == regimes
    overlays = sorted(p.name for p in (tmp_path / "overlays").iterdir())
    assert overlays == sorted(f"a_{r}.png" for r in regimes)


class Attentive(BoxDrawer):
    """4 heads of 16 numbers on 64 tokens, then a product of 8 x 16 with 16 x 32."""

    def encode(self, x):
        q = torch.zeros(len(x), 4, 64, 16)
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        return super().encode(x)

    def decode(self, embedding, prompts, state=None):
        torch.zeros(8, 16) @ torch.zeros(16, 32)
        return super().decode(embedding, prompts, state)


def test_operations_of_one_encode_and_one_prompt(tmp_path):
    """Fused attention counts too: two products of 64 x 64 x 16 for each head."""
    run_test(tmp_path, [make_case()], Attentive(), surface_metrics=False, regimes=["box_3d"])
    flops = json.loads((tmp_path / "run.json").read_text())["flops"]
    assert flops == {"encode": 4 * 2 * (2 * 64 * 64 * 16), "prompt": 2 * 8 * 16 * 32}


def test_validation_logs_the_mean_over_classes_then_cases(tmp_path):
    cases = [make_case("a"), make_case("b", (3, 30, 50), lesion=False), make_case("c")]
    protocol = EvaluationProtocol(val_regimes=["box_per_slice", "box_3d"], val_cases=2)
    (values,) = trainer(tmp_path, protocol).validate(BoxDrawer(), datamodule=Cases(cases), verbose=False)
    records = run_test(tmp_path, cases[:2], surface_metrics=False, regimes=["box_per_slice", "box_3d"])
    means = aggregate(records, "dice")
    assert values["val/dice/box_3d"] == pytest.approx(means["box_3d", 0])
    assert values["val/dice"] == pytest.approx((means["box_3d", 0] + means["box_per_slice", 0]) / 2)


@pytest.mark.parametrize(
    "method, prompts, regime",
    [
        (Automatic, None, "auto"),
        (Correctable, None, "auto"),
        (BoxDrawer, None, "box_per_slice"),
        (BoxDrawer, {"click"}, "clicks_per_slice"),
    ],
)
def test_validation_asks_what_the_method_can_answer(tmp_path, method, prompts, regime):
    method = method()
    if prompts:
        method.spec = replace(method.spec, prompts=frozenset(prompts))
    validate = trainer(tmp_path, EvaluationProtocol()).validate
    (values,) = validate(method, datamodule=Cases([make_case()]), verbose=False)
    assert set(values) == {"val/dice", f"val/dice/{regime}"} and values["val/dice"] == values[f"val/dice/{regime}"]


def test_cases_that_can_not_be_scored_are_refused(tmp_path):
    with pytest.raises(DataError, match="case x has no ground truth"):
        run_test(tmp_path, [make_case("x", label=False)])
    with pytest.raises(DataError, match="case a: label value 2, but there are 1 classes"):
        run_test(tmp_path, [make_case()], BoxDrawer(1, ("organ",)))
    assert not (tmp_path / "records.csv").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"regimes": ["box3d"]}, "unknown regime 'box3d'; did you mean box_3d"),
        ({"val_regimes": ["nothing like it"]}, "unknown regime"),
        ({"val_cases": 0}, "protocol.val_cases must be at least 1, got 0"),
        ({"overlays": -1}, "protocol.overlays must be at least 0"),
        ({"decode_chunk": 0}, "protocol.decode_chunk must be at least 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationProtocol(**settings)


def test_replay_needs_complete_prompts(tmp_path):
    run_test(tmp_path, [make_case()], surface_metrics=False, regimes=["box_clicks_3d"])
    path = tmp_path / "saved.json"
    content = json.loads((tmp_path / "prompts.json").read_text())
    classes = content["cases"]["a"]["box_clicks_3d"]

    def replay(case=None):
        path.write_text(json.dumps(content))
        settings = {"regimes": ["box_clicks_3d"], "prompts_file": str(path), "surface_metrics": False}
        run_test(tmp_path / "again", [case or make_case()], **settings)

    with pytest.raises(DataError, match="holds no prompts for case 'b'"):
        replay(make_case("b"))
    short = classes["organ"].pop()
    with pytest.raises(DataError, match=r"cases.a.box_clicks_3d.organ: holds 5 steps, the regime needs 6"):
        replay()
    classes["organ"].append(short)
    del classes["lesion"]
    with pytest.raises(DataError, match="holds no prompts for lesion, which the ground truth has"):
        replay()
