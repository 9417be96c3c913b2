"""What only shows in a process of its own: start-up time, signals, verbs that need no torch."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from cli_helpers import QUICK

SAMZOO = [sys.executable, "-m", "samzoo.cli"]


def call(*args, **kwargs):
    return subprocess.run([*SAMZOO, *args], capture_output=True, text=True, check=False, **kwargs)


@pytest.mark.parametrize("verb", ["", "fit", "zoo", "verify", "prepare", "leaderboard"])
def test_help_is_quick(work, verb):
    best = min(_seconds(verb) for _ in range(2))
    assert best < 2


def _seconds(verb):
    start = time.perf_counter()
    result = call(*[verb] * bool(verb), "--help")
    assert result.returncode == 0 and "usage" in result.stdout
    return time.perf_counter() - start


def test_prepare_and_verify_a_phantom(work):
    done = call("prepare", "phantom", "mine", "--cases", "3", "--size", "40")
    assert done.returncode == 0, done.stderr
    done = call("verify", "mine", "--json", "report.json", "--overlays", "pictures")
    assert done.returncode == 0 and "layout nnunet" in done.stdout
    assert json.loads((work / "report.json").read_text())["ok"]
    assert len(list((work / "pictures").glob("*.png"))) == 3
    (work / "mine/labelsTr/phantom_001.nii.gz").unlink()
    done = call("verify", "mine")
    assert done.returncode == 1 and "phantom_001" in done.stdout


def test_zoo_lists_what_is_here(work):
    done = call("zoo")
    assert done.returncode == 0, done.stderr
    for word in ("SAMMed2D", "BoxEllipse", "sam_vit_b", "datasets/phantom.yaml", "missing", "sam_med2d_phantom.yaml"):
        assert word in done.stdout


@pytest.mark.slow
def test_sigkill_in_an_epoch_and_resume_end_in_the_same_weights(work):
    args = ["fit", "--config", "sam_med2d_phantom", *QUICK, "--trainer.max_epochs=4", "--data.units_per_epoch=24"]
    assert call(*args, "--run", "whole").returncode == 0
    process = subprocess.Popen(
        [*SAMZOO, *args, "--run", "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last = work / "killed/checkpoints/last.ckpt"
    while not last.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    time.sleep(0.3)  # into the next epoch
    process.kill()
    process.wait()
    steps = torch.load(last, weights_only=True)["global_step"]
    done = call("fit", "--resume", "--run", "killed")
    assert done.returncode == 0, done.stderr
    whole = torch.load(work / "whole/checkpoints/last.ckpt", weights_only=True)
    resumed = torch.load(last, weights_only=True)
    assert steps < resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.slow
def test_sigint_leaves_a_usable_run(work):
    args = ["fit", "--config", "sam_med2d_phantom", *QUICK, "--trainer.max_epochs=200", "--run", "run"]
    process = subprocess.Popen([*SAMZOO, *args], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (work / "run/training.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130 and "samzoo fit --resume --run run" in text
    assert call("test", "--run", "run").returncode == 0
