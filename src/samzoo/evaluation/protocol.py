"""The evaluation protocol as a callback: methods never see it, and it knows no method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from samzoo.errors import ConfigError
from samzoo.evaluation.adapter import Cost, Inference
from samzoo.evaluation.overlay import save_overlay
from samzoo.evaluation.published import PublishedRow, deduplicate_published, published_means, write_published
from samzoo.evaluation.records import Record, aggregate, deduplicate, file_name, mean, write_records
from samzoo.evaluation.run_info import cost_summary, count_flops, device_info, run_info
from samzoo.evaluation.scoring import CaseResult, Settings, runnable, score_case
from samzoo.evaluation.slices import finish_slices, write_slice
from samzoo.evaluation.summary import published_summary, summary
from samzoo.evaluation.unfinished import Unfinished
from samzoo.memory_use import peak_bytes
from samzoo.methods.base import Method
from samzoo.prompts.io import CasePrompts, dump_prompts, load_prompts
from samzoo.prompts.regimes import Regime, make_regime
from samzoo.run_folder import RESULT
from samzoo.types import Case
from samzoo.writing import keep_older, write_atomically

DEFAULT_REGIMES = (
    "auto",
    "auto_clicks_3d",
    "box_per_slice",
    "clicks_per_slice",
    "box_3d",
    "box_3_slices",
    "box_clicks_3d",
    "clicks_3d",
)
VAL_REGIMES = ("auto", "box_per_slice", "clicks_per_slice", "clicks_3d")
"""The first of these that a method can answer validates it, unless others are chosen."""


class EvaluationProtocol(Callback):
    """Scores whole cases on their native grid: `val/dice` in validation, records in test.

    A test writes into `trainer.default_root_dir`: records.csv, prompts.json, run.json, slices/ and, on request,
    published.csv and overlays/.
    Files of an earlier test there are kept under another name. Cases that the same test had scored when it was stopped
    are not scored again, see `samzoo.evaluation.unfinished`.

    Args:
        regimes: how a test prompts; see `samzoo.prompts.REGIMES`. Those that the method can't answer are left out.
        val_regimes: how a validation prompts; `val/dice` is their mean after their last step. None: auto if the method
            answers without prompts, else box_per_slice, else clicks_per_slice; of methods that see depth, clicks_3d.
        val_cases: at most so many cases are scored in a validation; None: all.
        click_steps: rounds of clicks in the regimes with clicks.
        seed: of the first prompts.
        surface_metrics: NSD and HD95 in the test.
        val_surface_metrics: likewise in the validation, as val/nsd_2mm.
        published: the test also scores as the method's own paper or code does, if the method knows how; see
            `samzoo.evaluation.published`. These scores rank nothing.
        overlays: of so many cases the test draws pictures, one for each regime.
        slices: of so many cases the test keeps one slice with image, truth and every answer, from which a leaderboard
            draws its pictures; 0 for none. See `samzoo.evaluation.slices`.
        prompts_file: use the prompts of this file (a test's prompts.json) instead of simulated ones.
        encode_chunk: slices encoded at a time; of methods on slabs and crops, windows of so many slices in all, at
            least one.
        decode_chunk: prompts decoded at a time.
        window_step: share of the window's side by which it moves over a volume, in (0, 1]; of methods on slabs.
        mirror_axes: of methods on slabs: a test also answers every window mirrored along each set of these axes (0
            depth, 1 height, 2 width) and takes the mean; all three take 8 times as long. Mirroring from left to right
            mistakes left for right organs, unless the method was trained so. A validation never mirrors.
        extensions: of methods on crops: a structure that reaches the side of a crop is followed through at most so many
            neighbouring crops for each class; 0 never leaves the crop. See `samzoo.evaluation.crop_adapter`.

    Raises:
        ConfigError: unknown regime, number out of range.
        DataError: a prompts file that can't be used.
    """

    def __init__(
        self,
        regimes: Sequence[str] = DEFAULT_REGIMES,
        val_regimes: Sequence[str] | None = None,
        val_cases: int | None = None,
        click_steps: int = 5,
        seed: int = 0,
        surface_metrics: bool = True,
        val_surface_metrics: bool = False,
        published: bool = False,
        overlays: int = 0,
        slices: int = 60,
        prompts_file: str | None = None,
        encode_chunk: int = 8,
        decode_chunk: int = 64,
        window_step: float = 0.5,
        mirror_axes: Sequence[int] = (),
        extensions: int = 26,
    ) -> None:
        for name, value, least in (
            ("val_cases", val_cases, 1),
            ("click_steps", click_steps, 1),
            ("overlays", overlays, 0),
            ("slices", slices, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"protocol.{name} must be at least {least}, got {value}")
        self.regimes = [make_regime(name, click_steps) for name in dict.fromkeys(regimes)]
        self.val_regimes = None
        if val_regimes is not None:
            self.val_regimes = [make_regime(name, click_steps) for name in dict.fromkeys(val_regimes)]
        self.click_steps = click_steps
        self.val_cases = val_cases
        self.seed = seed
        self.surface_metrics, self.val_surface_metrics = surface_metrics, val_surface_metrics
        self.published = published
        self.overlays, self.slices = overlays, slices
        self.replay = load_prompts(prompts_file) if prompts_file else None
        self.prompts_sha256 = hashlib.sha256(self.replay.path.read_bytes()).hexdigest() if self.replay else None
        self.inference = Inference(encode_chunk, decode_chunk, window_step, tuple(mirror_axes), extensions)
        self._told: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: Method, stage: str) -> None:
        """Find out before any work whether the method can be scored."""
        if stage == "test":
            self._runnable(self.regimes, pl_module)
        elif stage == "validate" or (stage == "fit" and trainer.limit_val_batches):
            self._validating(pl_module)

    # --- validation ----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Method) -> None:
        self._able = self._validating(pl_module)
        unmirrored = replace(self.inference, mirror_axes=())
        self._settings = self._make_settings(trainer, pl_module, self.val_surface_metrics, unmirrored)
        self._results: list[CaseResult] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Case, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        position = batch_idx * trainer.world_size + trainer.global_rank
        if self.val_cases is None or position < self.val_cases:
            self._results.append(self._score(trainer, pl_module, batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        records = deduplicate(r for part in gather([r for c in self._results for r in c.records]) for r in part)
        self._results = []
        values = _final(records, self._able, "dice")
        if None in values.values():
            rank_zero_warn("val/dice is undefined: no validation case holds any of the classes")
        for name, value in values.items():
            pl_module.log(f"val/dice/{name}", _number(value), batch_size=1, rank_zero_only=False)
        pl_module.log(
            "val/dice", _number(mean([v for v in values.values() if v is not None])), prog_bar=True, batch_size=1
        )
        if self.val_surface_metrics:
            nsd = [v for v in _final(records, self._able, "nsd_2mm").values() if v is not None]
            pl_module.log("val/nsd_2mm", _number(mean(nsd)), batch_size=1)

    # --- test ----------------------------------------------------------------------------------------------------

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Method) -> None:
        self._able = self._runnable(self.regimes, pl_module)
        self._settings = replace(
            self._make_settings(trainer, pl_module, self.surface_metrics, self.inference),
            replay=self.replay,
            published=self.published,
        )
        self._records: list[Record] = []
        self._published: list[PublishedRow] = []
        self._prompts: dict[str, CasePrompts] = {}
        self._costs: dict[str, Cost] = {}
        self._flops: dict[str, int] | None = None
        self._folder = Path(gather(trainer.default_root_dir)[0])
        self._unfinished = Unfinished(self._folder, self._signed(trainer, pl_module), pl_module)
        if trainer.is_global_zero and (count := self._unfinished.begin()):
            rank_zero_info(f"protocol: {count} cases were scored before this test was stopped and are not scored again")
        trainer.strategy.barrier()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Case, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._flops is None:
            with trainer.precision_plugin.forward_context():
                self._flops = count_flops(pl_module, batch)
        position = batch_idx * trainer.world_size + trainer.global_rank
        result = self._unfinished.kept(batch.id, slices=position < self.slices)
        if result is None:
            result = self._score_test(trainer, pl_module, batch, position)
        self._records += result.records
        self._published += result.published
        self._prompts[batch.id] = result.prompts
        self._costs[batch.id] = result.cost

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        peak = max(gather(peak_bytes(pl_module.device)))
        records = deduplicate(r for part in gather(self._records) for r in part)
        published = deduplicate_published(r for part in gather(self._published) for r in part)
        prompts = {case_id: p for part in gather(self._prompts) for case_id, p in part.items()}
        costs = {case_id: c for part in gather(self._costs) for case_id, c in part.items()}
        flops = next((f for f in gather(self._flops) if f is not None), None)
        for name, value in _final(records, self._able, "dice").items():
            if value is not None:
                pl_module.log(f"test/dice/{name}", value, batch_size=1)
        if not trainer.is_global_zero:
            return
        folder = self._folder
        names = self._settings.class_names
        info = run_info(trainer, pl_module) | {
            "records": len(records),
            "protocol": self._described(),
            "flops": flops,
            "peak_memory_bytes": peak,
            "cost": cost_summary(costs),
        }
        if published:
            info["published"] = published_means(published)
        if (folder / RESULT).exists():  # the last that is written, so that without it the others are none of a result
            for name in ("published.csv", "prompts.json", "run.json", RESULT):
                keep_older(folder / name)
        finish_slices(self._unfinished.folder, folder)
        write_atomically(folder / "prompts.json", lambda f: f.write(dump_prompts(prompts, names)))
        write_atomically(folder / "run.json", lambda f: f.write(json.dumps(info, indent=1, default=str) + "\n"))
        if published:
            write_published(folder / "published.csv", published)
        write_records(folder / RESULT, records)
        self._unfinished.end()
        print(summary(records), flush=True)
        if published:
            print(published_summary(info["published"]), flush=True)
        elif self.published:
            rank_zero_info(f"protocol: {pl_module.spec.name} has no published way of scoring; nothing is added")

    def _score_test(self, trainer: Trainer, method: Method, case: Case, position: int) -> CaseResult:
        """Score a case, and keep what came out: its pictures first, as without its scores they count for nothing."""
        result = self._score(trainer, method, case, slices=position < self.slices)
        if result.slice:
            write_slice(self._unfinished.folder, result.slice)
        if position < self.overlays:
            for regime, labels in result.label_maps.items():
                path = self._folder / "overlays" / f"{file_name(case.id)}_{regime}.png"
                save_overlay(path, case, labels, result.own_points)
        self._unfinished.keep(result)
        return result

    def _signed(self, trainer: Trainer, method: Method) -> dict[str, Any]:
        """What scores and costs depend on, beside the weights; the same for all processes."""
        config = self._folder / "config.yaml"
        described = {key: value for key, value in self._described().items() if key != "prompts_file"}
        return {
            "config": config.read_text(encoding="utf-8") if config.is_file() else None,
            "protocol": described,
            "cases": getattr(trainer.datamodule, "signature", None),
            "classes": self._settings.class_names,
            "chunks": [self.inference.encode_chunk, self.inference.decode_chunk],
            "pictures": [self.published, self.slices, self.overlays],
            "device": [sorted({str(d) for d in gather(device_info(method.device))}), str(trainer.precision)],
        }

    # --- helpers -------------------------------------------------------------------------------------------------

    def _score(self, trainer: Trainer, method: Method, case: Case, slices: bool = False) -> CaseResult:
        with trainer.precision_plugin.forward_context():
            return score_case(method, case, self._able, replace(self._settings, slices=slices))

    def _runnable(self, regimes: Sequence[Regime], method: Method) -> list[Regime]:
        able, notes = runnable(regimes, method.spec)
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                rank_zero_info(f"protocol: {note}")
        return able

    def _validating(self, method: Method) -> list[Regime]:
        if self.val_regimes is not None:
            return self._runnable(self.val_regimes, method)
        known = [make_regime(name, self.click_steps) for name in VAL_REGIMES]
        return runnable(known, method.spec)[0][:1]

    def _make_settings(self, trainer: Trainer, method: Method, surface: bool, inference: Inference) -> Settings:
        names = method.class_names or tuple(f"class_{k}" for k in range(1, method.num_classes + 1))
        return Settings(
            dataset=getattr(trainer.datamodule, "dataset_name", ""),
            class_names=tuple(names),
            seed=self.seed,
            surface=surface,
            inference=inference,
        )

    def _described(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "prompts_file": str(self.replay.path) if self.replay else None,
            "prompts_sha256": self.prompts_sha256,
            "surface_metrics": self.surface_metrics,
            "window_step": self.inference.window_step,
            "mirror_axes": list(self.inference.mirror_axes),
            "extensions": self.inference.extensions,
            "regimes": {
                r.name: {
                    "steps_scored": list(r.scored),
                    "effort_rule": r.effort_rule,
                    "oracle_classes": r.oracle_classes,
                    "oracle_slices": r.oracle_slices,
                }
                for r in self._able
            },
        }


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of ranks; pickled, so for small things only."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _final(records: Sequence[Record], regimes: Sequence[Regime], metric: str) -> dict[str, float | None]:
    """Mean of a metric after the last step of each regime."""
    values = aggregate(records, metric)
    return {r.name: values.get((r.name, r.last)) for r in regimes}


def _number(value: float | None) -> float:
    """Lightning logs numbers only; NaN never becomes the best checkpoint."""
    return float("nan") if value is None else value
