"""Errors of too little memory that say which settings help."""

from __future__ import annotations

import copy
import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from samzoo.data.index import PICTURE_ENDINGS
from samzoo.errors import SamzooError
from samzoo.memory_use import GIB, available_bytes
from samzoo.methods.base import Method
from samzoo.types import Batch, Case


class NotEnoughMemoryError(SamzooError):
    """What was being done when memory ran out, and which settings help."""


# --- what helps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remedy:
    """A setting that takes less memory.

    Args:
        less: value now -> one that takes less, or None if there is none.
        changes: what it changes besides.
        keeps_weights: whether a training can go on with it.
    """

    less: Callable[[Any], Any]
    changes: str = "same result"
    keeps_weights: bool = True


def _half(least: int = 1, default: int | None = None) -> Callable[[Any], Any]:
    def less(now: Any) -> int | None:
        if now is None:
            return default
        return max(least, now // 2) if isinstance(now, int) and now > least else None

    return less


def _half_plane(now: list[int]) -> list[int] | None:
    """Of a patch (T, H, W)."""
    return now and [now[0], *(side // 2 for side in now[1:])]


OTHER_MODEL = "another model: a new fit"
REMEDIES = {
    "data.batch_size": Remedy(_half(), "another training"),
    "data.features": Remedy(lambda now: "{}" if now is None else None),
    "data.max_side": Remedy(_half(64, 512), "reduced pictures"),
    "trainer.precision": Remedy(lambda now: None if "16" in str(now) else "bf16-mixed", "rounded numbers"),
    "model.init_args.accumulate": Remedy(lambda now: (now or 1) * 2),
    "model.init_args.checkpointing": Remedy(lambda now: None if now else True, "same result, slower"),
    "model.init_args.decode_chunk": Remedy(_half(1, 16)),
    "model.init_args.query_chunk": Remedy(_half(1, 6)),
    "model.init_args.masks_per_picture": Remedy(_half(), "another training"),
    "model.init_args.training.masks_per_picture": Remedy(_half(), "another training"),
    "model.init_args.refinement.steps": Remedy(_half(), "another training"),
    "model.init_args.image_size": Remedy(_half(32), OTHER_MODEL, keeps_weights=False),
    "model.init_args.patch": Remedy(_half_plane, OTHER_MODEL, keeps_weights=False),
    "model.init_args.patch_voxels": Remedy(_half(4096), OTHER_MODEL, keeps_weights=False),
    "protocol.encode_chunk": Remedy(_half()),
    "protocol.decode_chunk": Remedy(_half()),
}
"""Every setting that methods name in `memory_settings` and `memory_settings_scoring`."""


def remedies(
    method: Method, scoring: bool, config: dict[str, Any], cuda: bool, pictures: bool = False
) -> list[tuple[str, Any, Any, Remedy]]:
    """The three first settings of a method that still have something to give: name, value now, a better one, remedy.

    Args:
        scoring: whether whole cases are scored or predicted, rather than trained on.
        config: all settings, nested.
        cuda, pictures: whether it runs there, and on pictures rather than volumes.
    """
    found = []
    for name in method.memory_settings_scoring if scoring else method.memory_settings:
        if (name == "trainer.precision" and not cuda) or (name == "data.max_side" and not pictures):
            continue
        now: Any = config
        for key in name.split("."):
            now = now.get(key) if isinstance(now, dict) else None
        if now is None and name.endswith("image_size"):
            now = method.sam.config.image_size
        remedy = REMEDIES[name]
        if (better := remedy.less(now)) is not None:
            found.append((name, now, better, remedy))
    return found[:3]


def without_savings(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of all settings, nested, without those that save memory and leave the result as it is."""
    config = copy.deepcopy(config)
    for name, remedy in REMEDIES.items():
        *groups, key = name.split(".")
        part: Any = config
        for group in groups:
            part = part.get(group) if isinstance(part, dict) else None
        if isinstance(part, dict) and remedy.changes.startswith("same result"):
            part.pop(key, None)
    return config


# --- errors -----------------------------------------------------------------------------------------------------------

_MESSAGES = re.compile(
    r"out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc|_ALLOC_FAILED|killed by signal: Killed",
    re.I,
)
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.I)
_FREE = re.compile(r"of which ([\d.]+) ([KMGT]iB) is free")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Of a device or of the machine; also of a data loader's worker."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or bool(_MESSAGES.search(str(error)))
    return isinstance(error, MemoryError)


class Watch(Callback):
    """Knows what is being done."""

    doing = "setting up"
    scoring = pictures = False

    def score(self, case: Case) -> None:
        self.doing, self.scoring = f"at case {case.id!r}", True
        self.pictures = case.source.lower().endswith(PICTURE_ENDINGS)

    def cases(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The same cases, each told when it is handed out."""
        for case in cases:
            self.score(case)
            yield case

    def on_train_batch_start(self, trainer: Trainer, pl_module: Method, batch: Batch, batch_idx: int) -> None:
        size = f"{len(batch)} {pl_module.spec.unit}{'s' * (len(batch) > 1)}"
        self.doing, self.scoring = f"in training, epoch {trainer.current_epoch}, at a batch of {size}", False

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Case, *_: int) -> None:
        self.score(batch)
        self.doing = f"in validation {self.doing}"

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Case, *_: int) -> None:
        self.score(batch)
        self.doing = f"in the test {self.doing}"


@contextmanager
def memory_errors(
    trainer: Trainer, method: Method, config: Callable[[], dict[str, Any]], resume: Callable[[str], str] | None = None
) -> Iterator[Watch]:
    """Turns what torch, numpy or the kernel say of too little memory into one error for the user.

    Args:
        config: all settings, nested.
        resume: settings -> how a training goes on with them; None: nothing to go on with.

    Raises:
        NotEnoughMemoryError: where the memory ran out, and the settings that help most.
    """
    watch = Watch()
    watch.scoring = resume is None
    trainer.callbacks.insert(0, watch)
    try:
        yield watch
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        cuda = trainer.strategy.root_device.type == "cuda"
        helping = remedies(method, watch.scoring, config(), cuda, watch.pictures)
        lines = [f"out of memory{_amount(error)}, {watch.doing}; what helps, most first:"]
        lines += [f"  --{n} {_text(v)}   (now {_text(now)}; {r.changes})" for n, now, v, r in helping]
        if not helping:
            lines = [lines[0].split(";")[0] + "; no setting of this method takes less"]
        usable = next((f"--{n} {_text(v)}" for n, _, v, r in helping if r.keeps_weights), None)
        if resume is not None and usable:
            lines.append(resume(usable))
        raise NotEnoughMemoryError("\n".join(lines)) from None
    finally:
        trainer.callbacks.remove(watch)


def _amount(error: BaseException) -> str:
    """What was asked for, and what was free."""
    text = str(error)
    free = _bytes(_FREE.search(text))
    if not isinstance(error, torch.OutOfMemoryError) and "CUDA" not in text:
        free = available_bytes()  # what was asked for so far is still held by the error's traceback
    said = [
        f"{n / GIB:.2f} GiB {what}"
        for n, what in ((_bytes(_ASKED.search(text)), "asked for"), (free, "free"))
        if n is not None
    ]
    place = "" if free is None or "CUDA" in text else " of the machine"
    return f"{place} ({', '.join(said)})" if said else ""


def _bytes(found: re.Match | None) -> int | None:
    return None if found is None else int(float(found[1]) * _UNITS[found[2]])


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return "'" + str(list(value)) + "'"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if value == "{}" else str(value)
