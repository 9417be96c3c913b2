"""Small methods and batches, random but fixed."""

from __future__ import annotations

import pytest
import torch
from tiny_methods import TINY, make_batch

from samzoo.methods import SAMMed2D


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def build(tiny):
    """SAM-Med2D of laptop size; the same weights at each call."""

    def make(**settings) -> SAMMed2D:
        torch.manual_seed(7)
        defaults = {"freeze_encoder": False, "refinement_passes": 3, "masks_per_picture": 2, "lr": 1e-3}
        return SAMMed2D(tiny, image_size=None, **(defaults | settings))

    return make


@pytest.fixture
def base_file(tmp_path, build):
    """Weights of a plain SAM of that size, and their path."""
    path = tmp_path / "base.pth"
    torch.save(build(adapters=False).sam.state_dict(), path)
    return str(path)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose by sharing work
    yield
    torch.set_num_threads(threads)
