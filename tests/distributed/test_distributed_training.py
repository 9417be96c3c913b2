"""Two processes train every method, whatever parts of it a step leaves out, with one batch size."""

import subprocess
import sys

import pytest
import yaml
from distributed_helpers import FIT, SMALL, TWO, faulty

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]


@pytest.mark.parametrize("config", ["promise_phantom", "masksam_phantom", "m_sam_phantom"])
def test_the_number_of_processes_is_all_to_be_asked_for(work, config):
    """No strategy is given: the one that is chosen looks for parameters without a gradient."""
    command = ["fit", "--config", config, *SMALL, *STEPS, "--trainer.devices=2", "--run", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "samzoo.cli", *command], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "trained: run" in done.stdout and (work / "run/checkpoints/last.ckpt").is_file()


def test_all_processes_train_with_the_batch_size_that_the_first_has_found(work):
    command = [*FIT, *STEPS, *TWO, "--data.batch_size=auto", "--run", "run"]
    process = faulty("uneven", 1, "training:1", *command)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "process 1 trains 2 units" in said, said
    assert yaml.safe_load((work / "run/config.yaml").read_text())["data"]["batch_size"] == 2
