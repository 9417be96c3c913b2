import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from samzoo.errors import DataError
from samzoo.evaluation.records import Record, aggregate, write_records
from samzoo.leaderboard import board as contents
from samzoo.leaderboard.compute import compute_board, load_run, split_noise
from samzoo.leaderboard.statistics import holm

BASE = Record(
    dataset="amos", method="M", case_id="", patient="", class_id=1, class_name="liver", regime="auto", step=0, effort=0,
    oracle_classes=False, oracle_slices="none", tp=8, fp=2, fn=2, dice=0.5, iou=0.4, nsd_1mm=0.3, nsd_2mm=0.6,
    hd95_mm=4.0, encode_seconds=0.1, decode_seconds=0.05, voxel_mm3=1000.0,
)  # fmt: skip


def record(case, dice, **other):
    return replace(BASE, case_id=f"c{case}", dice=dice, **{"patient": f"p{case}", **other})


def prompted(case, dice, regime="clicks_3d", step=1, effort=1, **other):
    return record(case, dice, regime=regime, step=step, effort=effort, oracle_classes=True, **other)


def run(entry, records, seed=None, **info):
    info = {"dataset": "amos", "test_signature": "abc", **info}
    return contents.TestedRun(entry, seed, Path(entry), tuple(records), info)


def auto(entry, values, **other):
    return run(entry, [record(i, v) for i, v in enumerate(values)], **other)


def board(*runs, **options):
    return compute_board(runs, **{"draws": 200, **options})


def section(*runs, **options):
    (only,) = board(*runs, **options).sections
    return only


def rows(section, **wanted):
    return [r for r in section.rows if all(getattr(r, k) == v for k, v in wanted.items())]


RNG = np.random.default_rng(0)
GOOD, FAIR = RNG.uniform(0.8, 0.9, 12).round(6), RNG.uniform(0.5, 0.85, 12).round(6)


def test_rows_hold_the_means_of_records():
    records = [record(c, d, class_id=k, class_name=f"k{k}") for c in range(7) for k, d in ((1, 0.1 * c), (2, 0.9))]
    records += [record(0, None, class_id=3, class_name="k3", tp=0, fn=0, fp=0)]
    records += [record(1, 0.0, class_id=3, class_name="k3", tp=0, fn=0, fp=5)]
    records += [prompted(c, 0.2 * c, step=s, effort=s, class_id=k, class_name=f"k{k}")
                for c in range(5) for s in (1, 3) for k in (1, 2)]  # fmt: skip
    found = section(run("a", records))
    expected = {m: aggregate(records, m) for m in ("dice", "nsd_2mm", "hd95_mm", "effort")}
    assert [(r.regime, r.step, r.last) for r in found.rows] == [
        ("auto", 0, True), ("clicks_3d", 1, False), ("clicks_3d", 3, True)]  # fmt: skip
    for row in found.rows:
        for metric in ("dice", "nsd_2mm", "hd95_mm"):
            assert getattr(row, metric).mean == pytest.approx(expected[metric][row.regime, row.step])
        assert row.effort == pytest.approx(expected["effort"][row.regime, row.step])
    first = found.rows[0]
    assert (first.cases, first.patients, first.false_positives, first.seeds, first.seed_sd) == (7, 7, 1, 1, None)
    assert first.by_class == {"k1": pytest.approx(0.3), "k2": pytest.approx(0.9), "k3": 0.0}
    assert found.rows[1].oracle == "classes" and first.oracle == ""
    assert found.entry("a").automatic


def test_seeds_are_averaged_case_by_case_before_the_test():
    a = [auto("a", GOOD + d, seed=s) for s, d in ((0, 0.03), (1, -0.03))]
    found = section(*a, auto("b", FAIR))
    (row,) = rows(found, entry="a")
    assert (row.seeds, row.cases, row.patients) == (2, 12, 12)
    assert row.dice.mean == pytest.approx(GOOD.mean()) and row.seed_sd == pytest.approx(0.03 * math.sqrt(2))
    (pair,) = found.rankings[0].comparisons
    assert pair.p == pytest.approx(stats.wilcoxon(GOOD - FAIR).pvalue) and pair.patients == 12


def test_tests_pair_patients_and_are_corrected_within_a_regime():
    """Two cases of each patient; p from scipy on the patients' mean differences."""
    values = {name: RNG.random(24).round(6) for name in "abc"}
    runs = [run(n, [record(i, v, patient=f"p{i // 2}") for i, v in enumerate(vs)]) for n, vs in values.items()]
    ranking = section(*runs).rankings[0]
    means = {n: v.mean() for n, v in values.items()}
    assert ranking.entries == tuple(sorted(means, key=lambda n: -means[n]))
    raw = []
    for c in ranking.comparisons:
        difference = values[c.first] - values[c.second]
        raw.append(stats.wilcoxon(difference.reshape(12, 2).mean(axis=1)).pvalue)
        assert c.difference.mean == pytest.approx(difference.mean()) and c.difference.mean >= 0
        assert c.difference.low < c.difference.mean < c.difference.high and c.patients == 12
    assert [c.p for c in ranking.comparisons] == pytest.approx(raw)
    assert [c.p_holm for c in ranking.comparisons] == pytest.approx(holm(raw))
    assert [sum(ranking.shares[n]) for n in "abc"] == pytest.approx([1, 1, 1])


def test_five_patients_give_a_table_without_tests_and_say_so():
    found = section(auto("a", GOOD[:5]), auto("b", FAIR[:5]))
    ranking = found.rankings[0]
    assert ranking.comparisons == () and ranking.shares == {} and ranking.entries == ("a", "b")
    assert "Fewer than 6 patients (5)" in ranking.note and any("Fewer than 6" in n for n in found.notes)
    assert {(r.dice.low, r.dice.high) for r in found.rows} == {(None, None)} and found.rows[0].dice.mean
    six = section(auto("a", GOOD[:6]), auto("b", FAIR[:6]))
    assert six.rankings[0].comparisons[0].p is not None and six.notes == ()


def test_what_is_not_the_same_test_is_another_section():
    other_cases = run("c", [record(i + 1, 0.5) for i in range(12)])
    same = [auto("a", GOOD), auto("b", FAIR)]
    found = board(*same, auto("d", FAIR, test_signature="xyz"), other_cases, auto("e", GOOD, dataset="kits"))
    assert [({e.name for e in s.entries}, s.dataset) for s in found.sections] == [
        ({"a", "b"}, "amos"), ({"c"}, "amos"), ({"d"}, "amos"), ({"e"}, "kits")]  # fmt: skip
    titles = [s.title for s in found.sections]
    assert len(set(titles)) == 4 and titles[2:] == ["amos (xyz)", "kits"]


def test_cases_without_any_class_don_t_part_prompted_from_automatic_entries():
    cases = {"cost": {"cases": {f"c{i}": {} for i in range(8)}}}
    clicks = run("sam", [prompted(i, 0.5) for i in range(7)], **cases)
    found = section(auto("unet", GOOD[:8], **cases), clicks)
    assert found.cases == 8 and {e.name: e.automatic for e in found.entries} == {"unet": True, "sam": False}
    (answer,) = [b for b in found.break_even if b.metric == "dice"]
    assert answer.automatic_value == pytest.approx(GOOD[:7].mean())


def protocol(seed=0, file=None, steps=(1,), sha256=None):
    how = {"steps_scored": list(steps), "effort_rule": "1 a click", "oracle_classes": True, "oracle_slices": "none"}
    return {
        "protocol": {
            "seed": seed,
            "prompts_file": file,
            "prompts_sha256": sha256,
            "regimes": {"clicks_3d": how, "auto": {"oracle": False}},
        }
    }


@pytest.mark.parametrize(
    "other, words",
    [({"seed": 1}, "seed: 1, not 0"), ({"file": "p.json"}, "prompts_file"), ({"steps": (1, 2)}, "steps")],
)
def test_regimes_tested_in_another_way_never_mix(other, words):
    records = [r for i in range(8) for r in (record(i, 0.4), prompted(i, 0.5))]
    runs = [run(n, records, **protocol()) for n in "ab"] + [run("odd", records, **protocol(**other))]
    found = section(runs[2], *runs[:2])
    assert {r.entry for r in rows(found, regime="clicks_3d")} == {"a", "b"}
    assert {r.entry for r in rows(found, regime="auto")} == {"a", "b", "odd"}
    (note,) = found.notes
    assert note.startswith("clicks_3d of odd is left out") and words in note


def test_entries_with_part_of_the_cases_are_ranked_over_the_common_ones():
    cases = {"cost": {"cases": {f"c{i}": {} for i in range(12)}}}
    easy = run("easy", [record(i, GOOD[i]) for i in range(12) if FAIR[i] > 0.6], **cases)
    hard = auto("hard", np.maximum(FAIR, 0.2) + 0.1, **cases)
    ranking = section(easy, hard).rankings[0]
    kept = FAIR > 0.6
    assert 6 <= kept.sum() < 12 and f"Over the {kept.sum()} cases" in ranking.note
    (pair,) = ranking.comparisons
    sign = 1 if pair.first == "easy" else -1
    assert sign * pair.difference.mean == pytest.approx((GOOD[kept] - FAIR[kept] - 0.1).mean())
    assert pair.patients == kept.sum()


def test_draws_are_over_the_common_cases_too():
    cases = {"cost": {"cases": {f"c{i}": {} for i in range(12)}}}
    part = run("part", [record(i, 0.6) for i in range(8)], **cases)
    ranking = section(part, auto("all", [0.7] * 8 + [0.0] * 4, **cases)).rankings[0]
    assert ranking.entries == ("all", "part") and ranking.shares == {"all": (1, 0), "part": (0, 1)}
    difference = ranking.comparisons[0].difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))


def test_undefined_entries_rank_last_and_equal_ones_have_p_1():
    nothing = run("0", [record(i, None, iou=None, nsd_2mm=None, hd95_mm=None) for i in range(12)])
    found = section(nothing, auto("a", GOOD), auto("b", GOOD))
    ranking = found.rankings[0]
    assert ranking.entries == ("a", "b", "0") and ranking.shares["0"] == (0, 0, 1)
    assert ranking.shares["a"] == ranking.shares["b"] == (1, 0, 0)
    p = {(c.first, c.second): (c.p, c.p_holm, c.difference.mean) for c in ranking.comparisons}
    assert p == {("a", "b"): (1.0, 1.0, 0.0), ("a", "0"): (None, None, None), ("b", "0"): (None, None, None)}
    (row,) = rows(found, entry="0")
    assert row.dice.mean is None and row.cases == 12
    constant = section(auto("a", [0.5] * 8)).rows[0].dice
    assert (constant.mean, constant.low, constant.high) == (0.5, 0.5, 0.5)


def test_the_same_runs_give_the_same_board_and_another_seed_another_one():
    runs = [auto("a", GOOD), auto("b", FAIR)]
    assert board(*runs) == board(*runs)
    assert [s.rankings for s in board(*runs[::-1]).sections] == [s.rankings for s in board(*runs).sections]
    assert board(*runs).sections[0].rows != board(*runs, seed=1).sections[0].rows


@pytest.mark.parametrize(
    "regime, expected",
    [
        ("box_3d_jitter10", ("box_3d", "jitter", 10.0)),
        ("clicks_3d_shift4mm", ("clicks_3d", "shift", 4.0)),
        ("clicks_per_slice_shift2.5mm", ("clicks_per_slice", "shift", 2.5)),
        ("box_3_slices", ("box_3_slices", None, 0.0)),
        ("clicks_3d_shift4", ("clicks_3d_shift4", None, 0.0)),
    ],
)
def test_names_of_noisy_regimes(regime, expected):
    assert split_noise(regime) == expected


def test_noisy_regimes_rank_nothing():
    records = [prompted(i, 0.8 + 0.1 * (s == 3), step=s) for i in range(8) for s in (1, 3)]
    for name, dice in (("clicks_3d_shift8mm", 0.4), ("clicks_3d_shift2mm", 0.7)):
        records += [prompted(i, dice, regime=name) for i in range(8)]
    records += [prompted(i, 0.1, regime="box_3d_jitter10", step=0) for i in range(8)]
    found = section(run("sam", records))
    (curve,) = found.robustness
    assert (curve.entry, curve.regime, curve.kind) == ("sam", "clicks_3d", "shift")
    assert curve.points == tuple(pytest.approx(p) for p in ((0, 0.8), (2, 0.7), (8, 0.4)))  # all at step 1
    assert (curve.step, curve.cases) == (1, 8)
    assert {r.regime for r in found.rows if not r.noisy} == {"clicks_3d"} == {r.regime for r in found.rankings}
    assert {r.regime for r in found.rows if r.noisy} == {"clicks_3d_shift8mm", "clicks_3d_shift2mm", "box_3d_jitter10"}
    assert any("box_3d" in note for note in found.notes)


def test_break_even_with_the_best_automatic_entry():
    clicks = [
        prompted(i, d, step=s, effort=s, nsd_2mm=0.1) for i in range(6) for s, d in ((1, 0.4), (3, 0.8), (5, 0.9))
    ]
    found = section(auto("poor", [0.2] * 6), auto("best", [0.6] * 6), run("sam", clicks))
    dice, nsd = found.break_even
    assert (dice.entry, dice.regime, dice.metric, dice.automatic) == ("sam", "clicks_3d", "dice", "best")
    assert dice.automatic_value == pytest.approx(0.6) and dice.effort == pytest.approx(2.0)
    assert (nsd.metric, nsd.effort) == ("nsd_2mm", None)


def test_break_even_leaves_out_cases_without_an_automatic_answer():
    cases = {"cost": {"cases": {f"c{i}": {} for i in range(8)}}}
    clicks = run("sam", [prompted(i, 0.7 if i < 7 else 0.0) for i in range(8)], **cases)
    found = section(auto("unet", [0.65] * 7, **cases), clicks)
    assert [b.effort for b in found.break_even if b.metric == "dice"] == [1.0]


def test_break_even_counts_what_both_were_asked_and_no_automatic_answer():
    """Three cases have no spleen: only the automatic entry can find one. The first step of auto_clicks_3d is free."""
    wrong = [record(i, 0.0, class_id=2, class_name="spleen", tp=0, fn=0, fp=5) for i in range(3)]
    steps = [
        prompted(i, d, regime="auto_clicks_3d", step=s, effort=s) for i in range(6) for s, d in ((0, 0.7), (2, 0.8))
    ]
    clicks = run("sam", [prompted(i, 0.6) for i in range(6)])
    found = section(run("unet", [*(record(i, 0.7) for i in range(6)), *wrong, *steps]), clicks)
    answers = {(b.entry, b.regime): (b.automatic_value, b.effort) for b in found.break_even if b.metric == "dice"}
    assert found.best_automatic == "unet"
    assert answers == {("sam", "clicks_3d"): (pytest.approx(0.7), None),
                       ("unet", "auto_clicks_3d"): (pytest.approx(0.7), 2.0)}  # fmt: skip


def test_a_seed_that_was_tested_in_another_way_counts_nowhere():
    records = [r for i in range(8) for r in (record(i, 0.4), prompted(i, 0.9))]
    other = [replace(r, dice=0.1, encode_seconds=9.0) for r in records if r.effort]
    found = section(run("b", records, **protocol()), run("a", records, seed=0, **protocol()),
                    run("a", other, seed=1, **protocol(seed=1)))  # fmt: skip
    assert [r.seed for r in found.entry("a").runs] == [0] and found.entry("a").costs == found.entry("b").costs != {}


def test_trainings_on_other_cases_are_noted():
    def trained(entry, signature, **other):
        return auto(entry, GOOD, train_signature=signature, training={"training_seconds": 1}, **other)

    runs = [trained("odd", "x"), trained("a", "y"), trained("b", "y"), auto("untrained", GOOD, train_signature="z")]
    assert section(*runs).notes == ("Trained or validated on other cases than most entries: odd.",)
    assert section(*runs[1:]).notes == ()
    assert "b (seed 1)" in section(*runs[1:], trained("b", "x", seed=1)).notes[0]


def test_costs_are_of_a_regime_and_a_device():
    cost = {"cost": {"cases": {f"c{i}": {"images_encoded": 6} for i in range(6)}}, "flops": {"encode": 2e9}}
    device = {"device": {"type": "cpu", "name": "Slow", "threads": 2}, "side_by_side": 3}
    clicks = [prompted(i, 0.5, encode_seconds=0.0, decode_seconds=1.0) for i in range(6)]
    found = section(run("a", [*auto("a", GOOD[:6]).records, *clicks], **cost, **device),
                    auto("b", GOOD[:6], device={"type": "cuda", "name": "Fast"}))  # fmt: skip
    a = found.entry("a")
    assert found.compared == ("auto", "clicks_3d") and found.main_regimes == {"a": "auto", "b": "auto"}
    assert {r: c.ms_per_case for r, c in a.costs.items()} == {
        "auto": pytest.approx(150),
        "clicks_3d": pytest.approx(1100),
    }
    assert a.cost == a.costs["auto"] and (a.cost.regime, a.cost.device) == ("auto", "cpu (Slow, 2 threads)")
    assert (a.cost.encodings_per_case, a.cost.gflop_per_case, a.cost.processes_beside) == (6, 12, 3)
    assert any("several devices: Fast; cpu (Slow" in n for n in found.notes)
    assert any("3 tests ran side by side" in n and n.endswith(": a.") for n in found.notes)


def test_strata_are_tertiles_of_volume_and_the_same_for_all():
    def of(entry, shift):
        sized = [record(i, 0.1 * i + shift, tp=i + 1, fn=0) for i in range(6)]  # 1 to 6 ml
        return run(entry, [*sized, record(6, 0.0, tp=0, fn=0, fp=9)])

    found = section(of("a", 0.0), of("b", 0.3))
    own = [s for s in found.strata if s.entry == "a"]
    assert [s.objects for s in own] == [2, 2, 2] and [s.dice for s in own] == pytest.approx([0.05, 0.25, 0.45])
    assert [s.dice for s in found.strata if s.entry == "b"] == pytest.approx([0.35, 0.55, 0.75])
    assert own[0].low_ml == 0 and own[0].high_ml == own[1].low_ml == pytest.approx(1 + 5 / 3)
    assert len({(s.low_ml, s.high_ml) for s in found.strata}) == 3 and own[2].high_ml == math.inf
    without = section(run("a", [record(i, 0.5, voxel_mm3=None) for i in range(6)]))
    assert without.strata == () and any("voxel_mm3" in n for n in without.notes)


def test_findings_are_the_worst_cases_and_the_greatest_disagreements():
    found = section(auto("a", [0.9, 0.1, 0.3, 0.2, 0.8, 0.7]), auto("b", [0.9, 0.8, 0.3, 0.3, 0.7, 0.2]))
    worst = [(f.case_id, f.dice) for f in found.findings if f.kind == "worst" and f.entries == ("a",)]
    assert worst == [("c1", {"a": 0.1}), ("c3", {"a": 0.2}), ("c2", {"a": 0.3})]
    disputed = [f for f in found.findings if f.kind == "disagreement"]
    assert [f.case_id for f in disputed] == ["c1", "c5", "c3"]
    same = section(auto("a", [0.9, 0.1]), auto("b", [0.9, 0.8]))
    assert [f.case_id for f in same.findings if f.kind == "disagreement"] == ["c1"]  # none where both are the same
    assert disputed[0].dice == {"a": 0.1, "b": 0.8} and (disputed[0].regime, disputed[0].step) == ("auto", 0)


def test_costs_are_means_over_seeds_and_unknown_where_not_measured():
    def info(seconds):
        return {
            "parameters_total": 100, "parameters_trained": 10, "training": {"training_seconds": seconds},
            "flops": {"encode": 4e9, "prompt": 2e9}, "cost": {"ms_per_encode": seconds}, "device": {"type": "cpu"},
            "published": {"auto": {"0": {"dice": seconds / 100}}},
            "config": {"model": {"init_args": {"architecture": "vit_b", "weights": "sam_vit_b"}}},
        }  # fmt: skip

    later = [replace(r, regime="z", effort=2, encode_seconds=0.0) for r in auto("a", GOOD).records]
    found = section(*[run("a", [*auto("a", GOOD).records, *later], seed=s, **info(t)) for s, t in ((0, 20), (1, 40))])
    entry, cost = found.entries[0], found.entries[0].cost
    assert (cost.parameters, cost.trained, cost.training_seconds, cost.ms_per_encode) == (100, 10, 30, 30)
    assert (cost.gflop_encode, cost.gflop_prompt, cost.ms_per_prompt, cost.peak_memory_bytes) == (4, 2, None, None)
    assert cost.ms_per_case == pytest.approx(150) and cost.device == "cpu"
    assert (entry.architecture, entry.base, entry.seen) == ("vit_b", "sam_vit_b", False)
    assert rows(found, regime="auto")[0].dice_published == pytest.approx(0.3)
    untrained = section(auto("b", GOOD, parameters_total=5, parameters_trained=5)).entries[0]
    assert (untrained.cost.trained, untrained.cost.training_seconds, untrained.base) == (0, 0.0, "random")


def test_contradictions_are_refused_and_empty_results_are_missing():
    with pytest.raises(DataError, match="two results of a with seed None"):
        board(auto("a", GOOD), auto("a", FAIR))
    with pytest.raises(DataError, match="class 1 is 'liver', other runs call it 'spleen'"):
        board(run("a", [record(0, 0.5, class_name="spleen")]), auto("b", [0.5]))
    with pytest.raises(DataError, match="case c0 is of patient 'p0', elsewhere of 'x'"):
        board(run("a", [record(0, 0.5, patient="x")]), auto("b", [0.5]))
    found = board(run("none", []), missing=(contents.Missing("other", "no result yet"),))
    assert found.sections == () and [m.entry for m in found.missing] == ["other", "none"]


def save(folder, records, info):
    folder.mkdir()
    write_records(folder / "records.csv", records)
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_a_run_is_read_with_the_seed_of_its_training(tmp_path):
    records = [record(i, 0.8, iou=0.666667) for i in range(2)]
    trained = save(tmp_path / "t", records, {"seed_everything": "3", "training": {"training_seconds": 1.5}})
    found = load_run("a", trained)
    assert (found.entry, found.seed, found.folder, list(found.records)) == ("a", 3, trained, records)
    assert load_run("a", trained, seed=5).seed == 5
    untrained = save(tmp_path / "u", records, {"seed_everything": "3", "training": None})
    assert load_run("a", untrained).seed is None


@pytest.mark.parametrize(
    "info, message",
    [
        ({"training": {"training_seconds": "long"}}, "training.training_seconds is 'long', expected a number"),
        ({"parameters_total": float("nan")}, "parameters_total is 'nan'"),
        ({"protocol": {"regimes": {"auto": 1}}}, "protocol.regimes.auto is '1', expected an object"),
        ({"cost": []}, "cost is .*expected an object"),
        ({"published": {"auto": {"0": {"dice": True}}}}, "published.auto.0.dice is 'True'"),
        ({"training": {"epochs": 1}, "seed_everything": "x"}, "seed_everything is 'x'"),
        ({"training": {"epochs": 1}, "seed_everything": float("inf")}, "seed_everything is inf"),
        ({"parameters_total": 10**400}, "parameters_total is '1000"),
        ([], "must hold a JSON object"),
    ],
)
def test_run_json_of_another_kind_is_refused(tmp_path, info, message):
    folder = save(tmp_path / "run", [record(0, 0.8, iou=2 / 3)], info)
    with pytest.raises(DataError, match=message) as caught:
        load_run("a", folder)
    assert str(folder / "run.json") in str(caught.value)


def test_records_that_lost_rows_are_refused(tmp_path):
    """A whole case less contradicts nothing within the file."""
    both = [record(0, 0.8, iou=2 / 3), record(1, 0.8, iou=2 / 3)]
    assert len(load_run("a", save(tmp_path / "run", both, {"records": 2})).records) == 2
    with pytest.raises(DataError, match=r"less/records.csv has 1 rows, run.json tells of 2: rows were lost or added"):
        load_run("a", save(tmp_path / "less", both[:1], {"records": 2}))


def test_missing_damaged_and_empty_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"run.json can't be read"):
        load_run("a", tmp_path)
    for damaged in ("{", "[" * 100_000):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(DataError, match=r"run.json can't be read"):
            load_run("a", tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"records.csv: records can't be read"):
        load_run("a", tmp_path)
    write_records(tmp_path / "records.csv", [])
    with pytest.raises(DataError, match="holds no records"):
        load_run("a", tmp_path)
