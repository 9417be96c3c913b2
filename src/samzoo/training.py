"""What a training leaves in its run folder: metrics.csv, curves.png, checkpoints, training.json."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from samzoo.errors import DataError
from samzoo.memory_use import peak_bytes
from samzoo.run_folder import TRAINING, Run
from samzoo.termination import Terminated
from samzoo.writing import write_atomically

MONITOR = "val/dice"


class RunLog(Logger):
    """Writes every logged value to metrics.csv, and redraws curves.png at each validation and at the end.

    A resumed run keeps the rows of the epochs that it does not repeat.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.rows = _read_rows(folder / "metrics.csv")
        self._started = False
        self._draw_after = 0.0

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> None:
        return None

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        if not self._started:  # what an interrupted epoch had logged is about to be repeated
            self.rows = [row for row in self.rows if float(row["step"]) < step]
            self._started = True
        values = {key: float(value) for key, value in metrics.items()}
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= values
        else:
            self.rows.append({"step": step} | values)
        if MONITOR in metrics:  # Lightning asks for `save` at every step, which would be too often
            self._write(draw=time.perf_counter() > self._draw_after)

    @rank_zero_only
    def end_epoch(self, metrics: dict[str, float], step: int) -> None:
        """Write what is known of an epoch before its checkpoint is, after which it is not repeated."""
        self.log_metrics(metrics, step)
        self._write(draw=False)

    def _write(self, draw: bool) -> None:
        if not self.rows:
            return
        keys = ["step", "epoch", *sorted({k for row in self.rows for k in row} - {"step", "epoch"})]

        def write(file: Any) -> None:
            writer = csv.DictWriter(file, keys, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

        write_atomically(self.folder / "metrics.csv", write)
        if draw:
            start = time.perf_counter()
            draw_curves(self.rows, self.folder / "curves.png", f"{self.name} {self.folder.name}")
            end = time.perf_counter()
            self._draw_after = end + 20 * (end - start)  # so that drawing never takes more than 5 % of the time

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with contextlib.suppress(*(() if status == "success" else (DataError,))):  # the first fault counts
            self._write(draw=True)


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows]


def draw_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss (left) and validation Dice (right) over the optimiser's steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    scores = losses.twinx()
    keys = sorted({k for row in rows for k in row})
    for axis, wanted, style in ((losses, "train/loss", ".-"), (scores, MONITOR, "o--")):
        for number, key in enumerate(k for k in keys if k.startswith(wanted)):
            points = [(row["step"], row[key]) for row in rows if key in row and math.isfinite(row[key])]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=key, color=f"C{number + (axis is scores) * 5}", ms=4)
    losses.set(xlabel="step", ylabel="loss", title=title)
    scores.set(ylabel="Dice", ylim=(0, 1))
    handles = [*losses.get_lines(), *scores.get_lines()]
    if handles:
        losses.legend(handles=handles, loc="upper center", ncols=4, fontsize="small", frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"), "wb")


class TrainingRecord(Callback):
    """Counts what the training cost, over all resumes, into training.json at the end of each epoch and of the fit.

    Seconds are wall time between the first and the last step, with the validations counted apart. They travel in the
    checkpoint, so that an epoch that was lost and repeated is counted once.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.train_seconds = 0.0
        self.validation_seconds = 0.0
        self._since: float | None = None

    def state_dict(self) -> dict[str, float]:
        self._lap("train")
        return {"train_seconds": self.train_seconds, "validation_seconds": self.validation_seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.train_seconds = state_dict["train_seconds"]
        self.validation_seconds = state_dict["validation_seconds"]

    def _lap(self, kind: str) -> None:
        now = time.perf_counter()
        if self._since is not None:
            setattr(self, f"{kind}_seconds", getattr(self, f"{kind}_seconds") + now - self._since)
            self._since = now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lap("train")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lap("validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, trainer.current_epoch + 1)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # as Lightning counts the row of the epoch
        for log in trainer.loggers:
            if isinstance(log, RunLog):
                metrics = {key: float(value) for key, value in trainer.logged_metrics.items()}
                log.end_epoch(metrics | {"epoch": trainer.current_epoch}, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, trainer.current_epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._since is not None:
            with contextlib.suppress(DataError):  # the first fault counts
                self._write(trainer, trainer.current_epoch)

    def _write(self, trainer: Trainer, epochs: int) -> None:
        self._lap("train")
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        cuda = device.type == "cuda"
        record = {
            "training_seconds": round(self.train_seconds, 3),
            "validation_seconds": round(self.validation_seconds, 3),
            "epochs": epochs,
            "steps": trainer.global_step,
            "device": torch.cuda.get_device_name(device) if cuda else "cpu",
            "processes": trainer.world_size,
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
            "peak_memory_bytes": peak_bytes(device),
        }
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(self.run.path / TRAINING, lambda file: file.write(text))


def mark_complete(run: Run) -> None:
    """Say in training.json that all is done and written, so that nothing is trained when the fit is given again."""
    record = json.loads((run.path / TRAINING).read_text(encoding="utf-8")) | {"complete": True}
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(run.path / TRAINING, lambda file: file.write(text))


class SaveOnInterrupt(Callback):
    """Ctrl-C leaves the weights of that moment as checkpoints/interrupted.ckpt, for testing.

    Resuming starts from the last complete epoch instead, so that the data order and the result stay those of a run that
    was never interrupted.
    """

    def __init__(self, run: Run) -> None:
        self.path = run.checkpoints / "interrupted.ckpt"

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        hurried = isinstance(exception, Terminated) or trainer.world_size > 1  # then other processes may be anywhere
        if isinstance(exception, KeyboardInterrupt) and not hurried and trainer.global_step > 0:
            trainer.save_checkpoint(self.path, weights_only=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:  # a resumed run that has ended does not need it any more
            self.path.unlink(missing_ok=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, and a full disk leaves the older one as it was.

    Lightning's own go through the system's folder for temporary files, often on another disk, and all of a checkpoint
    through memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises DataError: the file can't be written."""
        write_atomically(path, lambda file: torch.save(checkpoint, file), "wb")


def guard(trainer: Trainer) -> Trainer:
    """Have a trainer write its checkpoints whole, unless the user writes them otherwise."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def training_callbacks(run: Run, validates: bool) -> list[Callback]:
    """Best and last checkpoint, the cost record, and what Ctrl-C leaves.

    Args:
        run: where they write.
        validates: whether `val/dice` will be there to choose the best by.
    """
    last = ModelCheckpoint(
        run.checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False, every_n_epochs=1
    )
    best = ModelCheckpoint(run.checkpoints, filename="best", monitor=MONITOR, mode="max", enable_version_counter=False)
    return [TrainingRecord(run), SaveOnInterrupt(run), *([best] if validates else []), last]
