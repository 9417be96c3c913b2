"""What a test leaves for the report: a slice of each case, the signature of the test cases."""

import hashlib
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import Automatic, BoxDrawer, Cases, make_case
from lightning.pytorch import Trainer

from samzoo.data.datamodule import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.phantom import PhantomSettings
from samzoo.errors import ConfigError
from samzoo.evaluation import EvaluationProtocol
from samzoo.evaluation.records import TIME_COLUMNS, read_records
from samzoo.evaluation.slices import telling_slice
from samzoo.types import Case


def run_test(folder, cases, method=None, **settings):
    protocol = EvaluationProtocol(**{"surface_metrics": False} | settings)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[protocol], enable_model_summary=False, **quiet
    )
    trainer.test(method or BoxDrawer(), datamodule=Cases(cases), verbose=False)
    return [replace(r, **dict.fromkeys(TIME_COLUMNS, 0.0)) for r in read_records(folder / "records.csv")]


def read_slice(folder, name="a"):
    with np.load(folder / "slices" / f"{name}.npz") as file:
        return dict(file)


def test_a_slice_holds_image_truth_and_what_was_answered_at_each_step(tmp_path):
    case = make_case("set/a")
    records = run_test(tmp_path, [case], regimes=["box_3d", "box_clicks_3d", "clicks_per_slice"])
    assert {r.voxel_mm3 for r in records} == {3.0 * 1.0 * 0.5}
    found = read_slice(tmp_path, "set_a")
    assert found["case_id"] == "set/a" and found["z"] == 3 and found["factor"] == 1
    assert found["shape"].tolist() == [6, 40, 52] and found["spacing"].tolist() == [3.0, 1.0, 0.5]
    truth = case.label[3].numpy()
    assert (found["truth"] == truth).all() and found["truth"].dtype == np.uint8
    assert (found["image"] == round(float(case.image[0, 3, 0, 0]) * 255)).all() and found["image"].shape == (40, 52)
    drawn = np.zeros_like(truth)
    drawn[10:30, 13:39] = 1
    drawn[2:6, 2:8] = 2
    assert (found["box_3d/0"] == drawn).all() and found["box_3d/0"].dtype == np.uint8
    assert (found["box_clicks_3d/0"] == drawn).all() and (found["box_clicks_3d/5"] != drawn).any()
    steps = {f"{r.regime}/{r.step}" for r in records}
    assert steps == {name for name in found if "/" in name} and len(steps) == 1 + 6 + 3


def test_answers_on_a_slice_are_those_that_were_scored(tmp_path):
    """Of a picture the slice is all there is: its counts are those of the records."""
    case = make_case("a", (1, 40, 52))
    records = run_test(tmp_path, [case], regimes=["box_clicks_per_slice"])
    found = read_slice(tmp_path)
    for r in (r for r in records if r.class_name == "lesion"):  # the later class lies on top
        mask, truth = found[f"{r.regime}/{r.step}"] == r.class_id, found["truth"] == r.class_id
        assert (r.tp, r.fp, r.fn) == ((mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum())
    automatic = run_test(tmp_path / "auto", [case], Automatic())
    (organ,) = [r for r in automatic if r.class_name == "organ"]
    assert (read_slice(tmp_path / "auto")["auto/0"] == 1).sum() == organ.tp + organ.fp


def test_every_method_leaves_the_same_slice(tmp_path):
    cases = [make_case("a"), make_case("b", lesion=False)]
    for name, method in (("boxes", BoxDrawer()), ("auto", Automatic())):
        run_test(tmp_path / name, cases, method)
    for case in "ab":
        boxes, auto = (read_slice(tmp_path / name, case) for name in ("boxes", "auto"))
        assert all((boxes[k] == auto[k]).all() for k in ("z", "truth", "image"))


def test_the_telling_slice_has_most_classes_then_most_foreground_then_comes_first():
    counts = np.zeros((6, 256), dtype=int)
    counts[:, 0] = 100
    assert telling_slice(counts) == 3
    counts[1, 255] = 99  # ignored voxels tell nothing
    counts[2, 1] = counts[4, 1] = 50
    assert telling_slice(counts) == 2
    counts[4, 1] = 51
    assert telling_slice(counts) == 4
    counts[5, 1] = counts[5, 3] = 1
    assert telling_slice(counts) == 5


def test_large_pictures_are_thinned_by_a_whole_factor_and_keep_their_colours(tmp_path):
    image = torch.rand(3, 1, 400, 900)
    label = torch.zeros(1, 400, 900, dtype=torch.uint8)
    label[0, 100:300, 200:600] = 1
    label[0, :9] = 255
    run_test(tmp_path, [Case("a", "p", image, label, (1.0, 0.5, 0.5), np.eye(4))], regimes=["box_3d"])
    found = read_slice(tmp_path)
    assert found["factor"] == 3 and found["image"].shape == (134, 300, 3)
    assert (found["truth"] == label[0, ::3, ::3].numpy()).all() and found["truth"][0, 0] == 255
    assert (found["image"] == (image[:, 0, ::3, ::3].permute(1, 2, 0) * 255).round().byte().numpy()).all()
    assert found["box_3d/0"].shape == found["truth"].shape


def test_so_many_cases_as_asked_for_and_those_of_an_earlier_test_are_kept_aside(tmp_path):
    cases = [make_case("a"), make_case("b")]
    run_test(tmp_path, cases, regimes=["box_3d"], slices=1)
    assert [p.name for p in (tmp_path / "slices").iterdir()] == ["a.npz"]
    (tmp_path / ".unfinished/of-another-test/slices").mkdir(parents=True)
    (tmp_path / ".unfinished/of-another-test/slices/a.npz").touch()
    run_test(tmp_path, cases[1:], regimes=["box_3d"])
    assert [p.name for p in (tmp_path / "slices").iterdir()] == ["b.npz"]
    assert [p.name for p in (tmp_path / "slices-1").iterdir()] == ["a.npz"]
    run_test(tmp_path, cases, regimes=["box_3d"], slices=0)
    assert not (tmp_path / "slices").exists() and not (tmp_path / ".unfinished").exists()
    with pytest.raises(ConfigError, match=r"protocol.slices must be at least 0"):
        EvaluationProtocol(slices=-1)


def test_slices_are_written_alike_each_time(tmp_path):
    for name in ("one", "two"):
        run_test(tmp_path / name, [make_case("a")], regimes=["clicks_per_slice", "box_3d_jitter10"])
    assert (tmp_path / "one/slices/a.npz").read_bytes() == (tmp_path / "two/slices/a.npz").read_bytes()


def test_noisy_prompts_are_saved_as_given_and_replayed(tmp_path):
    names = ["box_3d", "box_3d_jitter20", "box_3_slices_jitter20", "box_clicks_3d_jitter20_shift4mm"]
    names += ["clicks_per_slice", "clicks_per_slice_shift4mm"]
    cases = [make_case("a"), make_case("b", (1, 40, 52))]
    records = run_test(tmp_path / "one", cases, regimes=names)
    saved = str(tmp_path / "one/prompts.json")
    assert run_test(tmp_path / "two", cases, regimes=names, seed=7, prompts_file=saved) == records
    assert (tmp_path / "two/prompts.json").read_text() == (tmp_path / "one/prompts.json").read_text()
    protocols = [json.loads((tmp_path / name / "run.json").read_text())["protocol"] for name in ("one", "two")]
    content = (tmp_path / "one/prompts.json").read_bytes()
    assert [p["prompts_sha256"] for p in protocols] == [None, hashlib.sha256(content).hexdigest()]

    def lesion(regime):
        return next((r.dice, r.effort, r.oracle_slices) for r in records if (r.regime, r.class_id) == (regime, 2))

    assert lesion("box_3d")[0] == 1 > lesion("box_3d_jitter20")[0]
    assert lesion("box_3d")[1:] == lesion("box_3d_jitter20")[1:] == (2, "range")


def test_the_test_signature_follows_test_cases_and_their_grid_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path))

    def module(**settings):
        return SamzooDataModule(layout="phantom", phantom=PhantomSettings(4, 32, (4, 4)), **settings)

    def signature(**settings):
        dm = module(**settings)
        dm.build_store(("test",))
        return dm.test_signature

    base = signature()
    window = Intensity("window", 0, 100)
    assert base == signature(store_dtype="float32", batch_size=2, intensity=window, channels=[0])
    assert module(intensity=window).signature != module().signature
    others = [{"slice_axis": 0}, {"pixel_mm": 0.5}, {"max_side": 12}, {"classes": {"one": 1}}, {"test_fraction": 0.5}]
    changed = [name for name in others if signature(**name) != base]
    assert changed == [o for o in others if not o.keys() & {"pixel_mm", "max_side"}], "these are for pictures"
    for split, same in (("train", True), ("test", False)):
        path = module().entries(split)[0].labels[0].path
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine, image.header), path)
        assert (signature() == base) == same


def test_the_training_signature_follows_training_and_validation_cases(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path))

    def signature(splits=("train", "val"), **settings):
        dm = SamzooDataModule(layout="phantom", phantom=PhantomSettings(8, 32, (4, 4)), **settings)
        dm.build_store(splits)
        return dm.store.training_signature()

    assert signature(("test",)) is None, "these cases are not there yet"
    assert signature() == signature(intensity=Intensity("window", 0, 100)) != signature(val_fraction=0.4)
