"""What a fit, a resume, a test and a prediction leave behind."""

import csv
import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from cli_helpers import QUICK, WHOLE

from samzoo import run_folder
from samzoo.cli import main
from samzoo.cli_lightning import SamzooCLI
from samzoo.run_folder import Run
from samzoo.training import WholeCheckpoints

FIT = ["fit", "--config", "sam_med2d_phantom", *QUICK, *WHOLE]


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def stop_at(batch, kind):
    callback = {"class_path": "cli_helpers.StopAt", "init_args": {"batch": batch, "kind": kind}}
    return f"--trainer.callbacks=[{json.dumps(callback)}]"


def test_fit_fills_its_run_folder(trained):
    names = {p.name for p in trained.iterdir()}
    assert names >= {"config.yaml", "checkpoints", "metrics.csv", "curves.png", "training.json"}
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0.0", "1.0"]
    assert all(float(row["train/loss"]) > 0 and 0 <= float(row["val/dice"]) <= 1 for row in rows)
    training = json.loads((trained / "training.json").read_text())
    assert training["epochs"] == 2 and training["steps"] > 0 and training["training_seconds"] > 0
    assert training["peak_memory_bytes"] > 1e8 and training["device"] == "cpu"
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["data"]["batch_size"] == 4 and config["model"]["init_args"]["architecture"] == "vit_tiny"


def test_tensorboard_by_a_switch(work):
    pytest.importorskip("tensorboard")
    assert main([*FIT, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--tensorboard"]) == 0
    assert list((work / "runs").glob("*/*/tensorboard/events*"))


def test_test_takes_the_newest_run_and_writes_into_it(trained, capsys):
    assert main(["test"]) == 0
    out = capsys.readouterr().out
    assert f"weights: {trained / 'checkpoints/best.ckpt'}" in out and f"results: {trained}" in out
    run = json.loads((trained / "run.json").read_text())
    assert run["training"]["epochs"] == 2 and run["config"]["data"]["batch_size"] == 4
    first = (trained / "records.csv").read_text()
    assert main(["test"]) == 0
    assert (trained / "records.csv").read_text() == first, "nothing written before is lost"
    (second,) = trained.glob("test-*")
    assert (second / "records.csv").is_file()


def test_command_line_wins_over_run_and_checkpoint_at_test(trained):
    args = ["--protocol.regimes=[box_3d]", "--protocol.seed=7", "--data.phantom.seed=3"]
    assert main(["test", *args]) == 0
    (folder,) = trained.glob("test-*")
    assert {row["regime"] for row in csv.DictReader((folder / "records.csv").open())} == {"box_3d"}
    run = json.loads((folder / "run.json").read_text())
    assert run["protocol"]["seed"] == 7 and run["config"]["data"]["phantom"]["seed"] == 3
    assert not (trained / "records.csv").exists(), "a test with other settings is not taken for the run's own"


def test_part_given_as_file_replaces_the_part(work, capsys):
    (work / "base.yaml").write_text(
        "model: methods/box_ellipse.yaml\ndata: {root: nowhere, layout: nnunet, slice_axis: 1}\ntrainer.max_epochs: 3\n"
    )
    assert main(["fit", "--config", "base", "--data", "datasets/phantom.yaml", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["layout"] == "phantom" and config["data"]["root"] is None
    assert config["data"]["slice_axis"] == 2, "nothing of the replaced part is left"
    assert config["trainer"]["max_epochs"] == 3


def test_single_values_win_wherever_they_stand(work, capsys):
    assert main(["fit", "--data.batch_size=3", "--config", "sam_med2d_phantom", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["batch_size"] == 3


def test_crash_in_an_epoch_and_resume_end_in_the_same_weights(trained, work):
    with pytest.raises(OSError, match="went down"):
        main([*FIT, stop_at(3, "crash")])
    crashed = run_folder.newest()
    assert json.loads((crashed.path / "training.json").read_text())["epochs"] == 1
    assert main(["fit", "--resume", "--trainer.callbacks=null"]) == 0
    assert_equal(weights(crashed.path), weights(trained))
    rows = list(csv.DictReader((crashed.path / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0.0", "1.0"]
    assert (crashed.path / "config-1.yaml").is_file(), "the config before the resume is kept"


def test_ctrl_c_leaves_a_usable_run(work, trained, capsys):
    assert main([*FIT, stop_at(1, "ctrl_c")]) == 130
    run = run_folder.newest().path
    text = capsys.readouterr().err
    assert f"samzoo fit --resume --run {run}" in text and f"samzoo test --run {run}" in text
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["interrupted.ckpt"]
    assert main(["test"]) == 0
    assert (run / "records.csv").is_file()
    assert main(["fit", "--resume", "--trainer.callbacks=null"]) == 0
    assert_equal(weights(run), weights(trained))
    assert not (run / "checkpoints/interrupted.ckpt").exists()


def test_the_same_fit_again_does_what_is_left_of_it(trained, work, capsys):
    before = (trained / "checkpoints/last.ckpt").stat().st_mtime_ns
    again = [*FIT, "--resume", "--run", str(trained)]
    assert main(again) == 0 and main(["fit", "--resume"]) == 0
    assert capsys.readouterr().out.count(f"{trained} is trained already") == 2
    assert main([*again, "--trainer.max_epochs=3", "--data.batch_size=2"]) == 2
    text = capsys.readouterr().err
    assert "trainer.max_epochs: 2 in the run, 3 on this line" in text and "data.batch_size: 4 in the run" in text
    assert (trained / "checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert main(["fit", "--resume", "--run", str(trained), "--trainer.max_epochs=3"]) == 0
    assert json.loads((trained / "training.json").read_text())["epochs"] == 3
    assert main(["fit", "--resume", "--run", "nowhere"]) == 2


def test_a_resume_that_is_refused_or_killed_early_leaves_the_run_as_it_says(trained, capsys, monkeypatch):
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    resume = ["fit", "--resume", "--run", str(trained)]
    assert main([*resume, "--trainer.max_epochs=400", "--trainer.strategy=nonsense"]) == 2
    assert before == {path.name: path.read_bytes() for path in trained.iterdir() if path.name in before}
    with monkeypatch.context() as patch:
        patch.setattr(SamzooCLI, "fit", lambda *_, **__: None)  # killed before its first epoch
        assert main([*resume, "--trainer.max_epochs=3"]) == 0
    assert (trained / "fingerprint.json").read_bytes() == before["fingerprint.json"]
    assert main(resume) == 0
    assert "trained already" not in capsys.readouterr().out
    assert json.loads((trained / "training.json").read_text())["epochs"] == 3


def test_the_same_fit_again_with_what_was_planned_and_found(work, monkeypatch, capsys):
    monkeypatch.setattr(SamzooCLI, "fit", lambda *_, **__: None)
    ct = ["--data.intensity={kind: auto, low: -1000, high: 1000}"]
    args = ["fit", "--config", "masksam_tiny", "--data=datasets/phantom.yaml", *QUICK, "--resume", "--run", "mine", *ct]
    assert main(args) == 0
    found = json.loads((work / "mine/fingerprint.json").read_text())
    own = yaml.safe_load((work / "mine/config.yaml").read_text())
    assert own["model"]["init_args"]["spacing"] == found["planned"]["spacing"] and found["why"]
    assert own["model"]["init_args"]["patch"] == found["planned"]["patch"] != found["asked"]["patch"]
    assert main(args) == 0, capsys.readouterr().err
    assert main(["fit", "--resume", "--run", "mine"]) == 0
    assert json.loads((work / "mine/fingerprint.json").read_text()) == found
    assert main([*args, "--model.init_args.spacing=[2,2,2]", "--data.intensity={kind: range}"]) == 2
    text = capsys.readouterr().err
    assert (
        "model.init_args.spacing: fingerprint in the run, [2.0, 2.0, 2.0] on this line" in text
        and "data.intensity.kind" in text
    )
    assert "patch" not in text


@pytest.mark.parametrize("begun", ["nothing", "folder", "no checkpoint"])
def test_the_same_fit_again_begins_what_was_killed_early(trained, work, begun, capsys):
    args = [*FIT, "--resume", "--run", "mine"]
    if begun != "nothing":
        (work / "mine/checkpoints").mkdir(parents=True)
    if begun == "no checkpoint":
        (work / "mine/config.yaml").write_text((trained / "config.yaml").read_text())
    (work / "full").mkdir()
    (work / "full/thesis.tex").touch()
    assert main([*FIT, "--resume", "--run", "full"]) == 1
    assert main(args) == 0
    assert_equal(weights(work / "mine"), weights(trained))


def test_sigterm_ends_a_fit_at_once_and_says_how_to_go_on(work, trained, monkeypatch, capsys):
    save = WholeCheckpoints.save_checkpoint

    def terminated(self, checkpoint, path, storage_options=None):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self, checkpoint, path, storage_options)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(WholeCheckpoints, "save_checkpoint", terminated)
        assert main([*FIT, "--run", "mine"]) == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    text = capsys.readouterr().err
    assert "samzoo fit: terminated; mine is kept\n  samzoo fit --resume --run mine" in text
    assert not list((work / "mine/checkpoints").iterdir())
    assert main(["fit", "--resume", "--run", "mine"]) == 0
    assert_equal(weights(work / "mine"), weights(trained))


def test_zero_shot_makes_a_run_that_resume_and_test_do_not_take(work, capsys):
    args = ["--config", "box_ellipse_phantom", "--zero-shot", *QUICK]
    assert main(["test", *args]) == 0
    (run,) = (work / "runs/box_ellipse_phantom").iterdir()
    assert (run / "records.csv").is_file() and (run / "config.yaml").is_file()
    assert json.loads((run / "run.json").read_text())["checkpoint"] is None
    capsys.readouterr()
    assert main(["test"]) == 1
    assert "no trained run" in capsys.readouterr().err


def test_a_trainer_that_cant_be_built_removes_only_a_folder_of_its_own(work, capsys):
    args = ["test", "--config", "box_ellipse_phantom", "--zero-shot", *QUICK, "--run", "mine"]
    wrong = "--trainer.strategy=nonsense"
    assert main([*args, wrong]) == 2 and not (work / "mine").exists()
    assert main(args) == 0
    (work / "mine/.unfinished/x").mkdir(parents=True)
    (work / "mine/.unfinished/x/a.json").touch()
    (work / "mine/records.csv").unlink()
    config = yaml.safe_load((work / "mine/config.yaml").read_text())
    config["trainer"]["strategy"] = "nonsense"
    (work / "mine/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main([*args, wrong]) == 2
    assert (work / "mine/.unfinished/x/a.json").exists()


def test_validate(trained, capsys):
    assert main(["validate"]) == 0
    assert "val/dice" in capsys.readouterr().out


def test_predict_writes_on_the_source_geometry(trained, home, work, capsys):
    image = sorted(home.glob("phantom-*/imagesTr/phantom_*.nii.gz"))[0]
    case = image.name.split("_0000")[0]
    data = json.loads((image.parents[1] / "dataset.json").read_text())
    organ = next(name for name in data["labels"] if name != "background")
    prompts = {"cases": {case: {"mine": {organ: [{"boxes": [[8, 8, 1, 40, 40, 3]]}]}}}}
    (work / "p.json").write_text(json.dumps({"format": "samzoo-prompts", "version": 1} | prompts))
    args = ["predict", "--images", str(image), "--prompts", "p.json", "--out", "out", "--overlays"]
    assert main(args) == 0
    written, source = nib.load(work / f"out/{case}.nii.gz"), nib.load(image)
    assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
    assert set(np.unique(written.dataobj)) <= {0, data["labels"][organ]}
    assert list((work / "out/overlays").glob("*.png"))


def test_predict_again_does_what_is_missing_and_never_mixes(trained, home, work, capsys):
    (work / "scans").mkdir()
    for path in sorted(home.glob("phantom-*/imagesTr/phantom_*.nii.gz"))[:2]:
        shutil.copy2(path, work / "scans")
    one, two = ids = [path.name.split("_0000")[0] for path in sorted((work / "scans").iterdir())]
    prompts = {case: {"mine": {"liver": [{"boxes": [[8, 8, 1, 40, 40, 3]]}]}} for case in ids}
    (work / "p.json").write_text(json.dumps({"format": "samzoo-prompts", "version": 1, "cases": prompts}))
    args = ["predict", "--images", "scans", "--prompts", "p.json", "--out", "out"]
    assert main(args) == 0
    whole = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (work / "out").iterdir()}
    assert "2 written to out" in capsys.readouterr().out and len(whole) == 2
    (work / f"out/{two}.nii.gz").unlink()
    (work / "scans").rename(work / "elsewhere")
    args[2] = "elsewhere"
    assert main([*args, "--protocol.decode_chunk", "1"]) == 0, "memory may be saved meanwhile, and images moved"
    assert "1 of 2 are in out already" in capsys.readouterr().out
    again = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (work / "out").iterdir()}
    assert again[f"{one}.nii.gz"] == whole[f"{one}.nii.gz"], "it was not made twice"
    assert again[f"{two}.nii.gz"][0] == whole[f"{two}.nii.gz"][0], "nor otherwise"

    def refused(path, *settings):
        before = path.read_bytes()
        assert main([*args, *settings]) == 1
        assert f"{path.relative_to(work)}: exists already and is not overwritten" in capsys.readouterr().err
        assert path.read_bytes() == before

    first, second = work / f"out/{one}.nii.gz", work / f"out/{two}.nii.gz"
    refused(first, "--data.intensity={kind: window, low: 0, high: 100}")
    other = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    next(value for value in other["state_dict"].values() if value.is_floating_point()).add_(1)
    torch.save(other, trained / "checkpoints/other.ckpt")
    refused(first, "--ckpt", str(trained / "checkpoints/other.ckpt"))
    shutil.copyfile(work / f"elsewhere/{one}_0000.nii.gz", work / f"elsewhere/{two}_0000.nii.gz")
    refused(second)
    prompts[one]["mine"]["liver"][0]["boxes"][0][0] = 9
    (work / "p.json").write_text(json.dumps({"format": "samzoo-prompts", "version": 1, "cases": prompts}))
    refused(first)


def test_newest_run_is_the_one_started_last(work):
    for name in ("b/20250101-000000", "a/20260101-000000", "a/20260101-000000-02", "z/20240101-000000"):
        (work / "runs" / name / "checkpoints").mkdir(parents=True)
        (work / "runs" / name / "config.yaml").write_text("")
    (work / "runs/zero/20270101-000000").mkdir(parents=True)
    (work / "runs/zero/20270101-000000/config.yaml").write_text("")
    assert str(run_folder.newest().path) == "runs/a/20260101-000000-02"
    assert str(run_folder.newest("b").path) == "runs/b/20250101-000000"


def test_best_checkpoint_has_precedence(work):
    run = Run(work)
    run.checkpoints.mkdir()
    assert run.best is None
    for name in ("interrupted", "last", "best"):
        (run.checkpoints / f"{name}.ckpt").touch()
        assert run.best.stem == name


def test_new_runs_never_share_a_folder(work):
    assert len({run_folder.create("x").path for _ in range(3)}) == 3
    (work / "full").mkdir()
    (work / "full/file").touch()
    with pytest.raises(Exception, match="never overwritten"):
        run_folder.new("full", "x")
