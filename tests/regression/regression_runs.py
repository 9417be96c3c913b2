"""Tiny trainings and tests of every method, the same each time: what the regression set is made of."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, Trainer, seed_everything

import samzoo.methods  # noqa: F401  makes every method known by its class name
from samzoo.cli_lightning import fingerprint_of
from samzoo.cli_parser import Parser
from samzoo.data import SamzooDataModule
from samzoo.evaluation import EvaluationProtocol
from samzoo.evaluation.records import METRICS, SHARES, Record, read_records
from samzoo.methods.base import Method

METHODS = Path(__file__).parents[2] / "configs/methods"
DATA = {
    "layout": "phantom",
    "name": "phantom",
    "phantom": {"cases": 4, "size": 32, "slices": [10, 10]},
    "intensity": {"kind": "window", "low": -160, "high": 240},
    "classes": {"liver": [1, 7], "others": [2, 3, 4, 5]},
    "val_fraction": 0.25,
    "test_fraction": 0.25,
    "batch_size": 2,
    "foreground_fraction": 1.0,
}
REGIMES = ["auto", "auto_clicks_3d", "box_per_slice", "clicks_per_slice", "box_3d", "box_clicks_3d", "clicks_3d"]
PROTOCOL = {"regimes": REGIMES, "click_steps": 2, "extensions": 2, "slices": 0}
CROPS = {"refinement": {"steps": 3, "loss": "dice_ce", "box_fraction": 0.3}, "spacing": 5.0}
SLABS = {"patch": [4, 32, 32], "spacing": [None, None, None], "lr": 1.0e-2}
LOSS = {"points": 512, "no_object": 0.0, "mask": 20.0, "dice": 20.0}  # else so few steps find nothing
QUERIES = SLABS | {"image_size": 32, "queries": 4, "lr": 3.0e-3, "loss": LOSS}
CELLS: dict[str, dict[str, Any]] = {
    "box_ellipse": {"method": "box_ellipse"},
    "sam": {"method": "sam_tiny"},
    "sam_finetuned": {"method": "sam_finetuned_tiny", "steps": 2},
    "sam_med2d": {"method": "sam_med2d_tiny", "steps": 2},
    "promise": {"method": "promise_tiny", "steps": 1, "init": {"lr": 1.0e-5}},
    "sam_med3d": {"method": "sam_med3d_tiny", "init": CROPS},
    "m_sam": {"method": "m_sam_tiny", "init": CROPS},
    "m_sam_fixed": {"method": "m_sam_fixed_tiny", "init": CROPS},
    "unet": {"method": "unet_tiny", "steps": 8, "init": SLABS},
    "masksam": {"method": "masksam_tiny", "steps": 3, "init": QUERIES},
    "masksam_fixed": {"method": "masksam_fixed_tiny", "steps": 3, "init": QUERIES},
}

SAME = ("dataset", "method", "patient", "effort", "oracle_classes", "oracle_slices", "voxel_mm3")
"""Columns of records without tolerance."""


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss_now"]))


def make_parser() -> Parser:
    """Method, data and protocol are put together from configs as the command line does."""
    parser = Parser()
    parser.add_lightning_class_args(Method, "model", subclass_mode=True)
    parser.add_lightning_class_args(SamzooDataModule, "data")
    parser.add_lightning_class_args(EvaluationProtocol, "protocol")
    for name in ("num_classes", "class_names", "file_zero"):
        parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
    parser.link_arguments("data", "model.init_args.fingerprint", compute_fn=fingerprint_of, apply_on="instantiate")
    return parser


def run(
    parser: Parser, cell: dict[str, Any], folder: Path, **changed: dict[str, Any]
) -> tuple[list[float], list[Record]]:
    """Train for a few steps, then test.

    Args:
        cell: of CELLS.
        folder: where records are written.
        changed: settings of model, data or protocol, over those of the cell.

    Returns:
        the loss of each step, and the records.
    """
    steps = cell.get("steps", 0)
    model = yaml.safe_load((METHODS / f"{cell['method']}.yaml").read_text(encoding="utf-8"))
    model["init_args"] = model.get("init_args", {}) | cell.get("init", {}) | changed.get("model", {})
    data = DATA | {"units_per_epoch": 2 * max(steps, 1)} | changed.get("data", {})
    protocol = PROTOCOL | changed.get("protocol", {})
    seed_everything(0, verbose=False)
    settings = {"model": model, "data": data, "protocol": protocol}
    built = parser.instantiate_classes(parser.parse_object(json.loads(json.dumps(settings))))
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[built.protocol, losses],
    )
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if steps:
            trainer.fit(built.model, datamodule=built.data)
        trainer.test(built.model, datamodule=built.data, verbose=False)
    records = read_records(folder / "records.csv")
    return losses.values, [replace(r, encode_seconds=0.0, decode_seconds=0.0) for r in records]


LOSS_TOLERANCE = 2e-3
"""Relative, of each step's loss."""
SCORE_TOLERANCE = 0.02
"""Of Dice, IoU and NSD of one record; and of its voxels found, in shares of truth and prediction together."""
DISTANCE_TOLERANCE = 0.1
"""Relative, of HD95, but at least one voxel of 10 mm."""


def differences(
    losses: Sequence[float],
    records: Sequence[Record],
    stored_losses: Sequence[float],
    stored_records: Sequence[Record],
) -> list[str]:
    """What is not as it was stored, beyond the tolerances; one line each."""
    if len(losses) != len(stored_losses):
        return [f"{len(losses)} steps, {len(stored_losses)} were stored"]
    if [r.key for r in records] != [r.key for r in stored_records]:
        return ["other cases, classes, regimes or steps than were stored"]
    found = []
    for step, (now, stored) in enumerate(zip(losses, stored_losses, strict=True)):
        if not abs(now - stored) <= LOSS_TOLERANCE * abs(stored):
            found.append(f"loss of step {step}: {now:.6f}, stored {stored:.6f}")
    for now, stored in zip(records, stored_records, strict=True):
        place = f"class {now.class_name}, {now.regime} step {now.step}"
        for name in SAME:
            if getattr(now, name) != getattr(stored, name):
                found.append(f"{place}: {name} {getattr(now, name)}, stored {getattr(stored, name)}")
        size = stored.tp + stored.fn
        if now.tp + now.fn != size:
            found.append(f"{place}: {now.tp + now.fn} voxels of truth, stored {size}")
        volumes = now.tp + now.fp, stored.tp + stored.fp
        if abs(volumes[0] - volumes[1]) > SCORE_TOLERANCE * (size + volumes[1]):
            found.append(f"{place}: {volumes[0]} voxels found, stored {volumes[1]}")
        for name in METRICS:
            value, was = getattr(now, name), getattr(stored, name)
            if (value is None) != (was is None):
                found.append(f"{place}: {name} {value}, stored {was}")
            elif was is not None:
                limit = SCORE_TOLERANCE if name in SHARES else max(10.0, DISTANCE_TOLERANCE * was)
                if not abs(value - was) <= limit:
                    found.append(f"{place}: {name} {value:.4f}, stored {was:.4f}")
    return found
