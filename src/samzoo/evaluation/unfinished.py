"""What a test has scored and not yet written as its result, so that a test that was stopped goes on where it was.

`.unfinished/<signature>/<case>.json` of a result folder holds all of a case's result but pictures, which are written
beside it in `slices/`. The signature is that of everything that scores and costs depend on: files of another one are
never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samzoo import __version__
from samzoo.evaluation.adapter import Cost
from samzoo.evaluation.published import PublishedRow
from samzoo.evaluation.records import Record, file_name
from samzoo.evaluation.scoring import CaseResult
from samzoo.evaluation.slices import FOLDER, slice_path
from samzoo.run_folder import RESULT, UNFINISHED
from samzoo.types import Box, CasePrompt, Click
from samzoo.writing import keep_older, write_atomically


class Unfinished:
    """The cases that a test has scored.

    Args:
        result: its folder.
        settings: what scores and costs depend on beside the weights, as json can write it.
        method: its weights count.
    """

    def __init__(self, result: Path, settings: Mapping[str, Any], method: nn.Module) -> None:
        content = {"samzoo": __version__, "weights": weights_sha256(method), **settings}
        signature = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.result, self.folder = result, result / UNFINISHED / signature

    def begin(self) -> int:
        """Forget what another test has left. Returns how many cases are scored already."""
        slices = self.result / FOLDER
        if slices.exists() and not (self.result / RESULT).exists():  # killed while the result was written
            if self.folder.exists() and not (self.folder / FOLDER).exists():
                os.replace(slices, self.folder / FOLDER)
            else:
                keep_older(slices)
        for other in (self.result / UNFINISHED).glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        return len(list(self.folder.glob("*.json")))

    def keep(self, result: CaseResult) -> None:
        """Raises DataError: the file can't be written."""
        content = {
            "case_id": result.case_id,
            "cost": asdict(result.cost),
            "records": [asdict(r) for r in result.records],
            "published": [asdict(r) for r in result.published],
            "prompts": {
                regime: {class_id: [asdict(p) for p in steps] for class_id, steps in classes.items()}
                for regime, classes in result.prompts.items()
            },
        }
        text = json.dumps(content, default=lambda number: number.item())
        write_atomically(self._path(result.case_id), lambda file: file.write(text))

    def kept(self, case_id: str, slices: bool) -> CaseResult | None:
        """The result of a case without its pictures; None if it must be scored (again).

        Args:
            slices: whether its slice must be there, too.
        """
        try:
            content = json.loads(self._path(case_id).read_text(encoding="utf-8"))
            if content["case_id"] != case_id or (slices and not slice_path(self.folder, case_id).is_file()):
                return None
            return CaseResult(
                case_id,
                Cost(**content["cost"]),
                [Record(**r) for r in content["records"]],
                [PublishedRow(**r) for r in content["published"]],
                prompts={
                    regime: {int(class_id): [_prompt(p) for p in steps] for class_id, steps in classes.items()}
                    for regime, classes in content["prompts"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def end(self) -> None:
        """The result is written: nothing of this is needed any more."""
        shutil.rmtree(self.result / UNFINISHED, ignore_errors=True)

    def _path(self, case_id: str) -> Path:
        return self.folder / f"{file_name(case_id)}.json"


def _prompt(content: dict[str, Any]) -> CasePrompt:
    focus = content["focus"]
    parts = {"boxes": tuple(Box(**b) for b in content["boxes"]), "clicks": tuple(Click(**c) for c in content["clicks"])}
    return CasePrompt(**content | parts | {"focus": Box(**focus) if focus else None})


def weights_sha256(method: nn.Module) -> str:
    """Of all parameters and buffers by name, wherever they came from."""
    found = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        found.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()
