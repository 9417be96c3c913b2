"""Checkpoints that the command line is given: looked at before anything is built, and their faults in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from samzoo.errors import WeightsError
from samzoo.methods.base import Method
from samzoo.sam.checkpoint import check_tensors


def check_checkpoint(path: Path) -> None:
    """Before anything is built: whether a file is a checkpoint of plain tensors and numbers.

    Raises:
        WeightsError: it is damaged, holds code, or is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # broken files fail in as many ways as there are bytes
        raise WeightsError(
            f"{path} is not loaded: it is damaged, no checkpoint, or holds Python objects that could run code; only "
            "plain tensors and numbers are accepted"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise WeightsError(f"{path} is not a checkpoint of samzoo: it holds no state_dict")
    if not isinstance(content["state_dict"], dict):
        raise WeightsError(f"{path} is not a checkpoint of samzoo: its state_dict is no mapping of names to tensors")
    check_tensors(path, content["state_dict"])


@contextmanager
def checkpoint_errors(path: Path | None) -> Iterator[None]:
    """What torch says of a checkpoint that does not fit, for people."""
    try:
        yield
    except RuntimeError as error:
        if path is None or "loading state_dict" not in str(error):
            raise
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise WeightsError(
            f"{path} does not fit the model that the config describes (other method, architecture or image size?): "
            f"{lines[:600]}"
        ) from error


def load_weights_of(model: Method, path: Path) -> None:
    """Put a checkpoint's weights into the model, as the trainer does before a test."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
