"""What run.json says beside the scores: where they come from and what they cost."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import samzoo
from samzoo.evaluation.adapter import Cost, Inference
from samzoo.evaluation.session import ADAPTERS
from samzoo.methods.base import Method
from samzoo.paths import FINGERPRINT
from samzoo.run_folder import trained_on
from samzoo.types import Case

CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}
"""torch counts attention on CUDA, but knows no formula for the CPU's fused kernel and would take it for nothing."""

PACKAGES = ("samzoo", "torch", "lightning", "monai", "numpy", "scipy", "nibabel", "segment-anything", "timm")


def run_info(trainer: Trainer, method: Method) -> dict[str, Any]:
    """Config, versions, git state, seeds, device, parameters and training time of a run."""
    root = Path(trainer.default_root_dir)
    total, trained = method.count_parameters()
    training = _beside(root, "training.json")
    config = _beside(root, "config.yaml")
    store = getattr(trainer.datamodule, "store", None)
    return {
        "method": method.spec.name,
        "dataset": getattr(trainer.datamodule, "dataset_name", None),
        "dataset_signature": getattr(trainer.datamodule, "signature", None),
        "test_signature": getattr(trainer.datamodule, "test_signature", None),
        "train_signature": store.training_signature() if training and store else None,
        "tested_on_trained": _trained(root, trainer.datamodule) if training else 0,
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "base_sha256": method.base_sha256,
        "weights": _weights(method, trainer.datamodule),
        "config": yaml.safe_load(config.read_text()) if config else None,
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": git_state(Path(samzoo.__file__).parent),
        "device": device_info(method.device),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "side_by_side": _side_by_side(),
        "parameters_total": total,
        "parameters_trained": trained,
        "training": json.loads(training.read_text()) if training else None,
    }


def _trained(root: Path, datamodule: Any) -> int:
    """How many of the test cases the run was trained on."""
    fingerprint, index = _beside(root, FINGERPRINT), getattr(datamodule, "index", None)
    if fingerprint is None or index is None:
        return 0
    cases = (entry.id for entry in datamodule.entries("test"))
    return len(trained_on(fingerprint.parent, datamodule.dataset_name, index.root, cases))


def _side_by_side() -> int:
    """How many runs `samzoo leaderboard` ran on the machine at a time."""
    given = os.environ.get("SAMZOO_SIDE_BY_SIDE", "")
    return int(given) if given.isascii() and given.isdigit() else 1


def _weights(method: Method, datamodule: Any) -> dict[str, Any] | None:
    """The pretrained file, which data sets its makers trained it on, and if on this one; None for random weights."""
    report = getattr(method, "load_report", None)
    if report is None:
        return None
    this = report.has_seen(getattr(datamodule, "dataset_name", ""), getattr(datamodule, "layout", ""))
    return {"source": report.source, "sha256": report.sha256, "seen": list(report.seen), "seen_this": this}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the code and whether it was changed since; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", str(folder)))}
    except (OSError, subprocess.SubprocessError):
        return None


def device_info(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"type": device.type, "name": _cpu_name(), "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    """The model; the kind of processor where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, models), platform.processor() or platform.machine())


@torch.no_grad()
def count_flops(method: Method, case: Case) -> dict[str, int]:
    """Floating point operations of encoding one image of a case and of answering one prompt on it.

    A product and a sum count as two. What an image and a prompt are: see `Adapter.encode_one` and `answer_one`.
    """
    adapter = ADAPTERS[method.spec.unit](method, replace(case, features=None), Cost(), Inference())
    with torch.compiler.set_stance("force_eager"), _without_gradients(method):
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as encode:
            adapter.encode_one()
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as decode:
            adapter.answer_one()
    return {"encode": encode.get_total_flops(), "prompt": decode.get_total_flops()}


@contextmanager
def _without_gradients(method: Method) -> Iterator[None]:
    """The counter asks for the gradient function of what a module returns; a view of a parameter has none in a test."""
    trained = method.trainable_parameters()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def cost_summary(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Totals over cases, and what each case took: the encode counts show that nothing was encoded twice."""
    total = Cost()
    for cost in costs.values():
        for name, value in asdict(cost).items():
            setattr(total, name, getattr(total, name) + value)
    per = lambda seconds, count: 1000 * seconds / count if count else None  # noqa: E731
    return {
        **asdict(total),
        "ms_per_encode": per(total.encode_seconds, total.images_encoded),
        "ms_per_prompt": per(total.decode_seconds, total.prompts_decoded),
        "cases": {case_id: asdict(cost) for case_id, cost in sorted(costs.items())},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _beside(folder: Path, name: str) -> Path | None:
    """A file of the run: in its folder, or in the one above a later test's own folder."""
    return next((p for p in (folder / name, folder.parent / name) if p.is_file()), None)
