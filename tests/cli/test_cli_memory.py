"""A batch size that finds itself, and runs that end for want of memory."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from cli_helpers import QUICK, WHOLE
from lightning.pytorch import Callback

from samzoo import run_folder
from samzoo.cli import main
from samzoo.memory import Watch
from samzoo.memory_use import _status
from samzoo.methods.sam_med2d import SAMMed2D

FIT = ["fit", "--config", "sam_med2d_phantom", *QUICK, *WHOLE]
CUDA_ERROR = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 512.00 MiB is "
    "free. Including non-PyTorch memory, this process has 78.14 GiB memory in use."
)


class CudaShortage(Callback):
    """Raises what CUDA does, in the second epoch."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.current_epoch == 1:
            raise torch.OutOfMemoryError(CUDA_ERROR)


class LittleMemory(Callback):
    """Leaves a process so little address space that a step or a case does not fit."""

    def _limit(self, trainer, pl_module) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 24 * 2**20, resource.RLIM_INFINITY))

    on_train_start = on_test_start = _limit


@pytest.mark.parametrize(("source", "pictures"), [("a.PNG", True), ("a.tif", True), ("a.npz", False), ("a.nii", False)])
def test_only_pictures_are_reduced_for_want_of_memory(source, pictures):
    watch = Watch()
    watch.score(SimpleNamespace(id="a", source=source))
    assert watch.pictures is pictures


def with_callback(name):
    return f"--trainer.callbacks=[{json.dumps({'class_path': f'test_cli_memory.{name}'})}]"


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_auto_trains_as_the_same_number_by_hand_does(work, capsys):
    args = [*FIT, "--data.units_per_epoch=40", "--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
    args.append("--model.init_args.refinement_passes=1")
    assert main([*args, "--run=auto", "--data.batch_size=auto"]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch size: ")]
    assert "1 takes" in told and "chosen 2: 4 are more than 5% of an epoch's 40 units" in told
    assert yaml.safe_load((work / "auto/config.yaml").read_text())["data"]["batch_size"] == 2
    assert not (work / "auto/config-1.yaml").exists()
    assert main([*args, "--run=by_hand", "--data.batch_size=2"]) == 0
    first, second = weights(work / "auto"), weights(work / "by_hand")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_ctrl_c_while_a_batch_size_is_looked_for(work, monkeypatch, capsys):
    def training_step(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(SAMMed2D, "training_step", training_step)
    assert main([*FIT, "--run=run", "--data.batch_size=auto"]) == 130
    assert "samzoo fit --resume --run run" in capsys.readouterr().err
    assert yaml.safe_load((work / "run/config.yaml").read_text())["data"]["batch_size"] == "auto"


def test_one_unit_that_does_not_fit(work, monkeypatch, capsys):
    def training_step(self, batch, batch_idx):
        raise torch.OutOfMemoryError(CUDA_ERROR)

    monkeypatch.setattr(SAMMed2D, "training_step", training_step)
    assert main([*FIT, "--data.batch_size=auto"]) == 1
    text = capsys.readouterr().err
    assert "in training, epoch 0, at a batch of 1 slice; what helps" in text and "batch_size" not in text


def test_verbs_that_do_not_train_take_auto(work, capsys):
    args = ["--config", "box_ellipse_phantom", "--zero-shot", *QUICK, "--data.batch_size=auto"]
    assert main(["test", *args, "--data.max_cases=1"]) == 0


def test_fit_without_memory_says_what_helps_and_goes_on_so(work, capsys):
    assert main([*FIT, with_callback("CudaShortage")]) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text
    lines = text[text.index("samzoo fit: out of memory") :].splitlines()
    assert lines[0] == (
        "samzoo fit: out of memory (2.50 GiB asked for, 0.50 GiB free), in training, epoch 1, at a batch of 4 slices; "
        "what helps, most first:"
    )
    proposed = [line.split()[0] for line in lines[1:4]]
    assert proposed == [f"--{name}" for name in SAMMed2D.memory_settings if name != "trainer.precision"][:3]
    assert any("--data.batch_size 2   (now 4" in line for line in lines[1:4])
    run = run_folder.newest().path
    command = lines[-1].split("   ")[0]
    assert f"samzoo fit --resume --run {run} --" in command and "goes on at the last complete epoch" in lines[-1]
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0

    assert main([*command.split()[1:], "--trainer.callbacks=null"]) == 0
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    setting, value = command.split()[-2:]
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in setting.lstrip("-").split("."):
        config = config[key]
    assert str(config) == value and (run / "config-1.yaml").is_file()


def test_a_test_without_memory_names_the_case(trained, monkeypatch, capsys):
    def encode(self, x):
        raise torch.OutOfMemoryError(CUDA_ERROR)

    monkeypatch.setattr(SAMMed2D, "encode", encode)
    for verb in ("test", "validate"):
        assert main([verb]) == 1
        text = capsys.readouterr().err
        assert "Traceback" not in text and "at case 'phantom_00" in text and "--protocol.encode_chunk 4" in text
        assert "--resume" not in text and "batch_size" not in text
    assert not (trained / "records.csv").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_main_memory_that_really_runs_out(work):
    code = (
        "import json, resource, sys\n"
        "from samzoo.cli import main\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    print('exit code', main(args))\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n"
    )
    fit = [*FIT, "--data.batch_size=8", "--run=run", with_callback("LittleMemory")]
    test = ["test", "--config=sam_phantom", "--zero-shot", *QUICK, "--model.init_args.image_size=512"]
    test += ["--run=scored", with_callback("LittleMemory"), "--data.max_cases=1"]
    resume = ["fit", "--resume", "--run=run", "--data.batch_size=4", "--trainer.callbacks=null"]
    resume.append("--trainer.max_epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([fit, test, resume])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == ["exit code 1", "exit code 1", "exit code 0"], done.stderr
    assert "Traceback" not in done.stderr
    assert "in training, epoch 0, at a batch of 8 slices" in done.stderr
    assert "GiB asked for" in done.stderr and "GiB free" in done.stderr
    assert "samzoo fit --resume --run run" in done.stderr and "starts again: no epoch was complete" in done.stderr
    assert "in the test at case" in done.stderr
