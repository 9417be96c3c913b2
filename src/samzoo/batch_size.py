"""`data.batch_size: auto`: the largest power of two whose training steps fit into memory.

Lightning's BatchSizeFinder is not used: it trains the real model and restores what it knows of it from a checkpoint on
disk (not the random state), it learns of too large a batch from an error, where on CPU the kernel kills the process,
and it knows no strategy of several processes.
"""

from __future__ import annotations

import copy
import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from samzoo.data import SamzooDataModule
from samzoo.errors import ConfigError
from samzoo.memory import Watch, is_out_of_memory
from samzoo.memory_use import GIB, available_bytes, peak_resident_bytes, reset_peak, resident_bytes
from samzoo.methods.base import Method

BATCH_VARIABLE = "SAMZOO_BATCH_SIZE"
"""Tells the processes that Lightning starts for DDP what the first one found."""

SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARE_OF_EPOCH = 0.05
"""A batch holds at most this share of an epoch's training units, as in nnU-Net of a data set's voxels."""
HOST_SHARE, CUDA_FREE = 0.7, 0.1
"""Of what is available, at most so much is used on CPU; of a CUDA device, so much stays free."""
STEPS = 2
"""The optimiser's state is there from the second on."""


class HostMemory:
    """Main memory, where whoever takes too much is killed: sizes are predicted before they are tried.

    Args:
        processes: that share it.
    """

    predicts = True

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.base: int | None = None

    def begin(self) -> None:
        """Just before the first step of a trial. What is there at the very first is not counted."""
        if self.base is None:
            self.base = resident_bytes()
            self.limit = HOST_SHARE * available_bytes() / self.processes
        reset_peak()

    def used(self) -> int:
        """Bytes at the peak since `begin`."""
        return peak_resident_bytes() - self.base


class CudaMemory:
    """A device's, with all that its allocator keeps; too large a batch ends in an error that does no harm."""

    predicts = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        free, total = torch.cuda.mem_get_info(device)
        self.base = torch.cuda.memory_reserved(device)
        self.limit = free - CUDA_FREE * total

    def begin(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def used(self) -> int:
        return torch.cuda.max_memory_reserved(self.device) - self.base


def find_batch_size(trainer: Trainer, method: Method, datamodule: SamzooDataModule) -> int:
    """Try 1, 2, 4, ... with two training steps each, on copies: model, random state and data order stay as they are.

    It ends at what does not fit or leaves too little free (see the constants above), at a twentieth of the epoch (but
    not below 2 for methods on slabs), and at 64. Sizes that a method refuses are passed over.

    Args:
        trainer: of the training, not yet started; the trials have its device, precision and gradient settings.

    Returns:
        the batch size of each process.

    Raises:
        ConfigError: an external launcher has started several processes, or a device that can't be measured.
        Whatever a batch of the least size raises, out of memory included.
    """
    if trainer.global_rank > 0 and (found := os.environ.get(BATCH_VARIABLE)):
        return int(found)
    _check_launcher(trainer)
    device = trainer.strategy.root_device
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"data.batch_size auto can't measure the memory of {device.type}: give a number")
    memory = CudaMemory(device) if device.type == "cuda" else HostMemory(trainer.num_devices)
    # each process of several keeps the gradients once more, to send them
    copies = 0 if trainer.world_size == 1 else sum(p.nbytes for p in method.trainable_parameters())
    with _quiet(), isolate_rng(include_cuda=device.type == "cuda"):
        size = _search(trainer, method, datamodule, memory, copies)
    os.environ[BATCH_VARIABLE] = str(size)
    return size


def _search(trainer: Trainer, method: Method, datamodule: SamzooDataModule, memory: Any, copies: int) -> int:
    least = 2 if method.spec.unit == "slab" else 1
    fitting, units, reason = 0, 0, f"more than {SIZES[-1]} are not tried"
    points, told = [(0, 0)], []  # (size, bytes) of what was measured
    refusal: ConfigError | None = None
    for size in SIZES:
        if fitting and size > max(least, units * SHARE_OF_EPOCH):
            reason = f"{size} are more than {SHARE_OF_EPOCH:.0%} of an epoch's {units} units"
            break
        if fitting and memory.predicts and (need := _predict(points, size)) > memory.limit:
            reason = f"{size} would take {need / GIB:.2f} GiB of the {memory.limit / GIB:.2f} that may be used"
            break
        try:
            units, used = _try(trainer, method, datamodule, memory, size)
        except ConfigError as error:
            refusal = error
            continue
        except Exception as error:
            if not fitting or not is_out_of_memory(error):
                raise
            reason = f"{size} run out of memory"
            break
        finally:
            _release()
        used += copies
        told.append(f"{size} take{'s' * (size == 1)} {used / GIB:.2f} GiB")
        points.append((size, used))
        if fitting and used > memory.limit:
            reason = f"only {memory.limit / GIB:.2f} may be used"
            break
        fitting = size
    if not fitting:
        raise refusal
    print(f"batch size: {', '.join(told)}; chosen {fitting}: {reason}", flush=True)
    return fitting


def _predict(points: list[tuple[int, int]], size: int) -> float:
    """Bytes of a size, along the line through the last two points."""
    (size_0, used_0), (size_1, used_1) = points[-2:]
    return used_1 + (size - size_1) * max(0, used_1 - used_0) / (size_1 - size_0)


class _Begin(Callback):
    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.memory.begin()


def _try(trainer: Trainer, method: Method, datamodule: SamzooDataModule, memory: Any, size: int) -> tuple[int, int]:
    """Training units of each process's epoch, and bytes that two steps take."""
    device = trainer.strategy.root_device
    trial = Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=trainer.precision,
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[_Begin(memory), *(c for c in trainer.callbacks if isinstance(c, Watch))],
    )
    data = copy.copy(datamodule)
    data.batch_size, data.num_workers = size, 0
    try:
        trial.fit(copy.deepcopy(method), datamodule=data)
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        trainer.state.status = trial.state.status  # whoever asks the training's own trainer learns of it
        raise
    return len(trial.train_dataloader.sampler) // trainer.world_size, memory.used()


def _check_launcher(trainer: Trainer) -> None:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    external = environment is not None and environment.creates_processes_externally
    if trainer.world_size > 1 and (external or trainer.num_nodes > 1):
        raise ConfigError(
            "data.batch_size auto can't be found by processes that torchrun, SLURM or several machines have started: "
            "find it with one process first (samzoo fit with the same settings, --data.batch_size auto and "
            "--trainer.devices 1, without the launcher; Ctrl-C once the line `batch size:` has told it), then give "
            "this number to all"
        )


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """The trials' trainers say nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
