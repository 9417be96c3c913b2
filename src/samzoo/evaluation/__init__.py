"""Evaluation: one evaluator on the native grid, with the human effort counted.

`EvaluationProtocol` and `predict_cases` are loaded on first use, so that `samzoo.evaluation.records` needs no torch.
"""

from typing import Any

_LAZY = {
    "CaseSession": "samzoo.evaluation.session",
    "EvaluationProtocol": "samzoo.evaluation.protocol",
    "predict_cases": "samzoo.evaluation.prediction",
}
__all__ = ["CaseSession", "EvaluationProtocol", "predict_cases"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
