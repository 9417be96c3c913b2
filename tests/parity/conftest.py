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
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samzoo.sam import Sam3dConfig, SamConfig


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

    def sam3d_config(self, **changes) -> Sam3dConfig:
        sizes = {k.removeprefix("encoder_"): v for k, v in self.config["hyper_parameters"].items()}
        assert sizes["layer_norm_eps"] == {
            "encoder_blocks": 1e-6,
            "channel_norms": 1e-6,
            "decoder_transformer": 1e-5,
        }
        known = {f.name for f in fields(Sam3dConfig)}
        return Sam3dConfig(**{k: v for k, v in sizes.items() if k in known} | changes)

    @property
    def tolerance(self) -> float:
        """atol = rtol of outputs, as the set's own text states it."""
        text = self.config.get("tolerance") or self.config["suggested_tolerance"]
        return float(re.search(r"atol\s+([0-9.e-]+)", text)[1])

    @cached_property
    def full_size_io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "full_size_io.safetensors")

    def full_size_weights(self) -> dict[str, Tensor]:
        """Weights of the real size by the rule in full_size.json, with the names in full_size_keys.json."""
        shapes = self.json("full_size_keys.json")
        weights = {}
        for j, key in enumerate(sorted(shapes)):
            u, shape = hashed(j, prod(shapes[key])), shapes[key]
            if key.endswith("pos_embed"):
                values = u
            elif len(shape) >= 2:
                values = u * np.sqrt(12 / prod(shape[1:]))
            else:
                values = (1 if key.endswith("weight") else 0) + 0.2 * u
            weights[key] = torch.from_numpy(values.astype(np.float32)).view(shape)
        return weights

    def full_size_volume(self) -> Tensor:
        side = self.json("full_size.json")["image_size"]
        return torch.from_numpy((3 * hashed(1_000_000, side**3)).astype(np.float32)).view(1, 1, side, side, side)

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


def hashed(j: int, n: int) -> np.ndarray:
    """n numbers in [-0.5, 0.5) that follow from j alone, float64."""
    wrap = 2**64 - 1
    x = np.arange(n, dtype=np.uint64)
    x *= np.uint64(6364136223846793005)
    x += np.uint64((j + 1) * 1442695040888963407 & wrap)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(33)
    return (x >> np.uint64(40)) / 2**24 - 0.5


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
