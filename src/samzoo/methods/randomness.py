"""Random draws that a resumed run repeats."""

from __future__ import annotations

import os

import numpy as np
import torch


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of the run's seed (`seed_everything`) and of `key`, all non-negative."""
    entropy = (int(os.environ.get("PL_GLOBAL_SEED", 0)), *key)
    state = np.random.SeedSequence(entropy).generate_state(2)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
