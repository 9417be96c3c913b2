"""Golden sets: what the originals computed, found below --golden-root and described by each set's config.json.

A test function with an argument `sam_set`, `sam_med2d_set`, ... runs once per set in folders of that name; with
`sam_resize_set`, ... once per set that carries weights from one image size to another. Where a method has sets of
several forms, `@pytest.mark.golden(where=...)` names those that a test is for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samzoo.sam import SamConfig


@dataclass(frozen=True)
class GoldenSet:
    """One folder with config.json, weights.safetensors and io.safetensors (and, to resize, source.safetensors)."""

    folder: Path

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "io.safetensors")

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def source(self) -> Path:
        return self.folder / "source.safetensors"

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def sam_config(self, **changes) -> SamConfig:
        known = {f.name for f in fields(SamConfig)}
        return SamConfig(**{k: v for k, v in _flat(self.config["hyper_parameters"]).items() if k in known} | changes)

    @property
    def tolerance(self) -> float:
        """atol = rtol, as the set's own text states it."""
        return float(re.search(r"atol\s+([0-9.e-]+)", self.config["tolerance"])[1])

    def assert_close(
        self,
        name: str,
        actual: Tensor,
        expected: Tensor | None = None,
        tolerance: float | None = None,
        rtol: float | None = None,
    ):
        """`actual` against the set's tensor `name` (or `expected`), shapes included; `tolerance` is atol and rtol."""
        expected = self.io[name] if expected is None else expected
        assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        tolerance = self.tolerance if tolerance is None else tolerance
        torch.testing.assert_close(
            actual.detach().to(expected.dtype),
            expected,
            atol=tolerance,
            rtol=tolerance if rtol is None else rtol,
            equal_nan=True,
            msg=lambda m: f"{name}: {m}",
        )


def _flat(hyper_parameters: dict) -> dict:
    """Sizes under the names of `SamConfig`, where a set holds those of each part by themselves."""
    if "encoder" not in hyper_parameters:
        return hyper_parameters
    encoder, prompts, decoder = (hyper_parameters[k] for k in ("encoder", "prompt_encoder", "mask_decoder"))
    assert decoder.get("attention_downsample_rate", 2) == 2 and encoder.get("layer_norm_eps", 1e-6) == 1e-6
    return {
        **hyper_parameters,
        **{k: v for k, v in encoder.items() if k in ("embed_dim", "depth", "num_heads", "mlp_ratio", "window_size")},
        "global_attn_indexes": encoder["global_attn_indexes_0_based"],
        "prompt_embed_dim": prompts["prompt_dim"],
        "mask_in_chans": prompts["mask_in_chans"],
        "num_multimask_outputs": decoder["num_multimask_outputs"],
        "decoder_depth": decoder["depth"],
        "decoder_num_heads": decoder["num_heads"],
        "decoder_mlp_dim": decoder["mlp_dim"],
        "iou_head_depth": decoder["iou_head_depth"],
        "iou_head_hidden_dim": decoder["iou_head_hidden_dim"],
    }


def golden_sets(root: Path, method: str) -> list[GoldenSet]:
    """Every set below `root` in a folder named `method` (which may be `root` itself)."""
    root = root.resolve()
    folders = (f.parent for f in sorted(root.rglob("config.json")))
    return [GoldenSet(f) for f in folders if method in (root.name, *f.relative_to(root).parts)]


def pytest_configure(config):
    config.addinivalue_line("markers", "golden(where): run for the golden sets of which where(set) is true")


def pytest_generate_tests(metafunc):
    marks = list(metafunc.definition.iter_markers("golden"))
    for argument in metafunc.fixturenames:
        if match := re.fullmatch(r"(\w+?)(_resize)?_set", argument):
            root = metafunc.config.getoption("--golden-root")
            if not root.is_dir():
                raise pytest.UsageError(f"--golden-root: no folder {root}")
            found = [s for s in golden_sets(root, match[1]) if s.source.exists() == bool(match[2])]
            found = [s for s in found if all(mark.kwargs["where"](s) for mark in marks)]
            names = [str(s.folder.relative_to(root.resolve())) for s in found]
            metafunc.parametrize(argument, found, ids=names)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the golden numbers were made so
    yield
    torch.set_num_threads(threads)
