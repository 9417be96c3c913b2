"""Two processes train as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("method", ["MaskSAM", pytest.param("MSAM", marks=pytest.mark.slow)])
def test_two_processes_end_with_the_weights_of_one(tmp_path, method):
    """Gradients are averaged over ranks, and so is what losses are divided by; plain DDP, no unused parameters."""
    script = Path(__file__).with_name("train_alike_on_two.py")
    command = [sys.executable, str(script), str(tmp_path), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    alone = torch.load(tmp_path / "alone.pt", weights_only=True)
    for key in alone:
        torch.testing.assert_close(one[key], alone[key], atol=2e-4, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}")
