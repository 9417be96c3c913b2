"""From files to cases and batches. The data module needs torch, the rest doesn't, so it is imported on demand."""

from __future__ import annotations

from typing import Any

__all__ = ["SamzooDataModule"]


def __getattr__(name: str) -> Any:
    if name == "SamzooDataModule":
        from samzoo.data.datamodule import SamzooDataModule

        return SamzooDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
