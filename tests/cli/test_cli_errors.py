"""What is wrong on the command line ends in one readable message with the nearest right ones."""

import pickle

import pytest
import torch
from cli_helpers import PHANTOM

from samzoo.cli import main

FIT = ["fit", "--config", "sam_med2d_phantom", *PHANTOM]


def message(capsys, args, code=2):
    assert main(args) == code
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text and "usage:" not in text
    lines = [line for line in text.splitlines() if line.startswith("samzoo ")]
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["fitt"], ["no verb 'fitt'", "did you mean fit"]),
        (["fit"], ["nothing says what to fit", "--config"]),
        (["fit", "--config", "sam_med2d_fantom.yaml"], ["no config file", "sam_med2d_phantom.yaml"]),
        (["fit", "--model", "methods/sam_medd2.yaml"], ["no config file", "methods/sam_med2d.yaml"]),
        ([*FIT, "--data.batch_sise", "2"], ["no setting 'data.batch_sise'", "did you mean data.batch_size"]),
        ([*FIT, "--trainer.max_epohcs=2"], ["did you mean trainer.max_epochs"]),
        ([*FIT, "--protocol.regime", "[box]", "--protocol.regimess=[box]"], ["did you mean protocol.regimes"]),
        ([*FIT, "--resum"], ["no setting 'resum'", "did you mean resume"]),
        ([*FIT, "--ckpt_path", "x.ckpt"], ["no setting 'ckpt_path'"]),
        ([*FIT, "--model.init_args.lrr", "1"], ["'model.init_args.lrr'", "did you mean model.init_args.lr"]),
        ([*FIT, "--model.init_args.lr", "fast"], ["model.init_args.lr: 'fast' does not fit", "expected float"]),
        ([*FIT, "--model", "SAMMedD2"], ["no method 'SAMMedD2'", "did you mean SAMMed2D", "BoxEllipse"]),
        ([*FIT, "--data.batch_size", "two"], ["data.batch_size: 'two' does not fit", "expected int"]),
        ([*FIT, "--data.augment={blurp: 1}"], ["no setting 'data.augment.blurp'", "did you mean data.augment.blur_p"]),
        ([*FIT, "--data.augment.blur_p", "x"], ["data.augment.blur_p: 'x' does not fit; expected float"]),
        ([*FIT, "--data.features={view: 1}"], ["did you mean data.features.views"]),
        ([*FIT, "--trainer.max_epochs", "many"], ["trainer.max_epochs: 'many' does not fit", "int or null"]),
        ([*FIT, "--trainer.accelerator", "abacus"], ["trainer: ", "abacus", "cpu"]),
        (["test", "--zero-shot"], ["--zero-shot needs --config"]),
        (["test", "--ckpt", "none.ckpt"], ["no checkpoint none.ckpt"]),
        (["verify"], ["ROOT"]),
        (["zoo", "--al"], ["no option --al"]),
        (["prepare"], ["say what to prepare"]),
        (["prepare", "--data", "fantom"], ["datasets/phantom.yaml"]),
    ],
)
def test_command_line(work, capsys, args, parts):
    text = message(capsys, args)
    for part in parts:
        assert part in text
    assert not list((work / "runs").glob("*/*"))


def test_what_a_method_refuses_is_told_in_its_own_words(work, capsys):
    text = message(capsys, [*FIT, "--model.init_args.architecture", "vit_tinyy"], code=1)
    assert text.startswith("samzoo fit: unknown SAM architecture 'vit_tinyy'; did you mean vit_tiny?")
    assert not list((work / "runs").glob("*/*"))


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (
            "model: {class_path: SAMMed2D, init_args: {lrr: 1}}",
            ["mine.yaml", "model.init_args.lrr", "model.init_args.lr"],
        ),
        ("model: {class_path: SEM}", ["no method 'SEM'", "SAM"]),
        ("model: methods/sam_tiny.yaml\ndata.batch_sice: 3", ["mine.yaml", "data.batch_sice", "data.batch_size"]),
        ("model: methods/sam_tiny.yaml\ndata: {layout: dicom}", ["mine.yaml", "layout", "dicom", "nnunet"]),
        ("trainer: {max_epoch: 3}", ["max_epoch", "trainer.max_epochs"]),
        ("model: methods/sam_tiny.yaml\ndata: {intensity: [{kind: window}]}", ["data.intensity must hold settings"]),
        (f"model: {'[' * 20000}", ["mine.yaml", "too deep"]),
        ("model: !!binary aGVsbG8=", ["mine.yaml", "constructor for the tag"]),
    ],
)
def test_config_file(work, capsys, config, parts):
    (work / "mine.yaml").write_text(config)
    text = message(capsys, ["fit", "--config", "mine"])
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ([*FIT, "--data.augment={blur_p: 3}"], ["data.augment.blur_p is a probability"]),
        ([*FIT, "--data.features={views: 2}"], ["data.features.views needs data.augment"]),
        (["test"], ["no trained run", "samzoo fit --config", "--zero-shot"]),
        (["fit", "--resume"], ["no trained run"]),
        (["test", "--run", "runs/none"], ["is not a run folder", "config.yaml"]),
        (["fit", "--config", "box_ellipse_phantom", *PHANTOM], ["BoxEllipse is not trained", "samzoo test --config"]),
        (["fit", "--config", "sam_med2d_hippocampus"], ["Dataset004_Hippocampus", "not found"]),
        ([*FIT, "--data.batch_size", "0"], ["data.batch_size must be at least 1"]),
        ([*FIT, "--protocol.regimes", "[boxx]"], ["boxx", "box"]),
    ],
)
def test_what_the_user_can_put_right(work, capsys, args, parts):
    text = message(capsys, args, code=1) if "boxx" not in str(args) else None
    if text is None:
        assert main(args) in (1, 2)
        text = capsys.readouterr().err
    for part in parts:
        assert part in text
    assert not list((work / "runs").glob("*/*"))


class _Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_checkpoint_with_code_is_refused(trained, capsys):
    path = trained / "checkpoints/best.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": _Evil()}))
    for verb in (["test"], ["validate"], ["predict", "--prompts", "p.json"]):
        text = message(capsys, verb, code=1)
        assert "best.ckpt" in text and "could run code" in text
    assert "code was run" not in capsys.readouterr().out


def test_zipped_checkpoint_with_code_is_refused(trained, capsys):
    torch.save({"state_dict": {}, "x": _Evil()}, trained / "checkpoints/best.ckpt")
    assert "could run code" in message(capsys, ["test"], code=1)


def test_checkpoint_of_another_architecture(trained, capsys):
    text = message(capsys, ["test", "--model.init_args.image_size", "96"], code=1)
    assert "best.ckpt does not fit the model" in text and "size mismatch" in text
    assert not list(trained.glob("test-*")), "a test that failed leaves nothing"


def test_truncated_checkpoint(trained, capsys):
    path = trained / "checkpoints/best.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged" in message(capsys, ["test"], code=1)


def test_run_without_checkpoint(trained, capsys):
    for path in (trained / "checkpoints").iterdir():
        path.unlink()
    text = message(capsys, ["test"], code=1)
    assert "holds no checkpoint" in text and "samzoo fit --resume" in text


def test_predict_without_prompts_says_so(trained, capsys):
    assert "can't run without prompts" in message(capsys, ["predict", "--images", "."], code=1)
