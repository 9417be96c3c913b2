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
SLABS = {"patch": [4, 32, 32], "spacing": [None, None, None], "adam_eps": 1.0e-4}
LOSS = {"points": 512, "ce": 5.0, "mask": 5.0, "dice": 5.0}
QUERIES = SLABS | {"image_size": 32, "queries": 4, "loss": LOSS}
ORGANS = {  # to tell organs apart is learned in few steps, to find them is not: no voxel around them counts
    "classes": {"liver": [1, 7], "others": [2, 3, 4], "background": [5, 6], "ignore": [0]},
    "batch_size": 4,
}
CELLS: dict[str, dict[str, Any]] = {
    "box_ellipse": {"method": "box_ellipse"},
    "sam": {"method": "sam_tiny"},
    "sam_finetuned": {"method": "sam_finetuned_tiny", "steps": 2},
    "sam_med2d": {"method": "sam_med2d_tiny", "steps": 2},
    # one step: 34 layers of batch norm, the last ones over a token for each picture, make 1e-2 of 1e-7 in two more
    "promise": {"method": "promise_tiny", "steps": 1, "data": {"batch_size": 8}},
    "promise_cross": {"method": "promise_tiny", "steps": 3, "init": {"apm": "cross"}},
    "sam_med3d": {"method": "sam_med3d_tiny", "steps": 4, "init": CROPS},
    "m_sam": {"method": "m_sam_tiny", "steps": 4, "init": CROPS},
    "m_sam_fixed": {"method": "m_sam_fixed_tiny", "steps": 3, "init": CROPS},
    "unet": {
        "method": "unet_tiny",
        "steps": 8,
        "init": SLABS | {"lr": 1.0e-2},
        "tolerance": {"loss": 1e-3, "score": 0.01},
    },
    "unet_resampled": {
        "method": "unet_tiny",
        "steps": 6,
        "init": SLABS | {"lr": 1.0e-2, "spacing": [6.0, 8.0, 8.0]},
        "tolerance": {"loss": 3e-3, "score": 0.02},
    },
    "masksam": {"method": "masksam_tiny", "steps": 4, "init": QUERIES, "data": ORGANS},
    "masksam_fixed": {"method": "masksam_fixed_tiny", "steps": 3, "init": QUERIES, "data": ORGANS},
    "masksam_background": {
        "method": "masksam_tiny",
        "steps": 14,
        "init": QUERIES | {"lr": 2.0e-3},
        "data": {"batch_size": 4},
        "tolerance": {"loss": 3e-3, "score": 0.02},
    },
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
    data = DATA | cell.get("data", {}) | changed.get("data", {})
    data["units_per_epoch"] = data["batch_size"] * max(steps, 1)
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


LOSS_TOLERANCE = 5e-4
"""Relative, of each step's loss. Each cell was run with two sets of torch's kernels, on one and two threads, without
oneDNN and with its oldest kernels, with MKL's compatible ones, with torch 2.13 and 2.14 (not masksam_fixed), and from
weights that were moved by 1e-7 of themselves. Losses differed by at most 2.1e-5, records by one voxel and 0.0007, but
for cells with a tolerance of their own, which is two to seven times what was seen. Where rounding turns a decision, as
to click at the next voxel, a loss changed by 4e-4 and a score by 0.0034."""
SCORE_TOLERANCE = 0.005
"""Of Dice, IoU and NSD of one record; and of its voxels found, in shares of truth and prediction together."""
DISTANCE_TOLERANCE = 0.05
"""Relative, of HD95, but at least half a voxel of 10 mm."""


def differences(
    cell: dict[str, Any],
    losses: Sequence[float],
    records: Sequence[Record],
    stored_losses: Sequence[float],
    stored_records: Sequence[Record],
) -> list[str]:
    """What is not as it was stored, beyond the tolerances of the cell; one line each."""
    tolerance = {"loss": LOSS_TOLERANCE, "score": SCORE_TOLERANCE} | cell.get("tolerance", {})
    if len(losses) != len(stored_losses):
        return [f"{len(losses)} steps, {len(stored_losses)} were stored"]
    if [r.key for r in records] != [r.key for r in stored_records]:
        return ["other cases, classes, regimes or steps than were stored"]
    found = []
    for step, (now, stored) in enumerate(zip(losses, stored_losses, strict=True)):
        if not abs(now - stored) <= tolerance["loss"] * abs(stored):
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
        if abs(volumes[0] - volumes[1]) > tolerance["score"] * (size + volumes[1]):
            found.append(f"{place}: {volumes[0]} voxels found, stored {volumes[1]}")
        for name in METRICS:
            value, was = getattr(now, name), getattr(stored, name)
            if (value is None) != (was is None):
                found.append(f"{place}: {name} {value}, stored {was}")
            elif was is not None:
                limit = tolerance["score"] if name in SHARES else max(5.0, DISTANCE_TOLERANCE * was)
                if not abs(value - was) <= limit:
                    found.append(f"{place}: {name} {value:.4f}, stored {was:.4f}")
    return found
