"""fit, validate, test and predict on stock LightningCLI; imported only when one of them really runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from argparse import Namespace as Options
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from samzoo import run_folder
from samzoo.batch_size import find_batch_size
from samzoo.cli_checkpoint import check_checkpoint, checkpoint_errors
from samzoo.cli_config import SETTINGS, UsageError, find_config, read_config
from samzoo.cli_found import check_trained, describe
from samzoo.cli_parser import ConfigFile, Line, Parser, check_groups
from samzoo.cli_predict import predict
from samzoo.cli_resume import check_resumed, interruption
from samzoo.data import SamzooDataModule
from samzoo.data.fingerprint import Fingerprint, measure
from samzoo.errors import ConfigError, SamzooError
from samzoo.evaluation import EvaluationProtocol
from samzoo.memory import NotEnoughMemoryError, is_out_of_memory, memory_errors
from samzoo.methods.base import Method
from samzoo.preemption import heed_preemption
from samzoo.processes import Notes, together
from samzoo.run_folder import Run
from samzoo.training import RunLog, guard, mark_complete, training_callbacks
from samzoo.writing import write_atomically


class SamzooCLI(LightningCLI):
    """LightningCLI with run folders.

    Args:
        options: samzoo's own options (see `cli.py`), resolved: `run` is the Run that is used or None for a new one,
            `name` what a new one is called, `ckpt` the checkpoint to load or None.
        args: LightningCLI's arguments.
        replaced: see `Line`.
    """

    def __init__(self, options: Options, args: list[str], replaced: frozenset[str]) -> None:
        line = Line(args, replaced, options.known)
        self.options = options
        self.run: Run | None = options.run
        super().__init__(
            Method,
            SamzooDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_class=Parser,
            # samplers of the data module shard by rank themselves; a sanity check would score cases before any training
            trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0},
            parser_kwargs={
                "prog": "samzoo",
                "allow_abbrev": False,
                "line": line,
                **{verb: {"line": line} for verb in self.subcommands()},
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's own arguments about checkpoints are left out: `cli.py` has options for them."""
        own = {"ckpt_path", "weights_only", "verbose", "return_predictions"}
        return {verb: skipped | own for verb, skipped in LightningCLI.subcommands().items()}

    # --- parsing ---------------------------------------------------------------------------------------------------

    def init_parser(self, **kwargs: Any) -> Parser:
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="config file, also by bare name")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(EvaluationProtocol, "protocol")
        for name in ("num_classes", "class_names", "file_zero"):  # methods without one of them are passed over
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("data.num_channels", "model.init_args.in_channels", apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.fingerprint", compute_fn=fingerprint_of, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)
        check_groups(self.config[self.config.subcommand].data)
        check_resumed(parser, self.options, self.config)

    # --- building --------------------------------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """What a method or the data module refuses is told in its own words, not in those of the parser around it."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            inner: BaseException | None = error
            while inner is not None and not isinstance(inner, SamzooError):
                inner = inner.__cause__ or inner.__context__
            if inner is None:
                raise
            raise inner from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """With the run folder, which is made only now that data and model have proved sound."""
        if self.subcommand == "fit" and type(self.model).training_step is Method.training_step:
            raise ConfigError(
                f"{self.model.spec.name} is not trained: score it with `samzoo test --config ... --zero-shot`"
            )
        split = {"fit": "train", "validate": "val", "test": "test"}.get(self.subcommand)
        if split:
            self.datamodule.needed(split)
        if self.options.ckpt and self.run is not None and self.subcommand != "fit" and _rank() == 0:
            check_trained(self.run.path, self.datamodule, self.model, split or "predict")
        made = False
        if self.run is None and self.subcommand != "predict":
            made = self._make_run()
        try:
            trainer = guard(super().instantiate_trainer(**self._outputs(), **kwargs))
        except (MisconfigurationException, ValueError, TypeError) as error:
            if made:
                shutil.rmtree(self.run.path)
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
        if self.subcommand == "fit" and _rank() == 0:  # only now: what can't be trained changes no run
            describe(self.run.path, self.datamodule, self.model, self._asked(), trains=True)
            run_folder.begin(self.run, self._config_text())
        trainer.callbacks.insert(0, Notes())
        if isinstance(trainer.strategy, DDPStrategy):  # prompts decide which parts of a model a step needs
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        return trainer

    def _outputs(self) -> dict[str, Any]:
        """The trainer's arguments that say what is written where; a fit also gets its callbacks."""
        if self.subcommand == "predict":
            return {"logger": False, "enable_checkpointing": False}
        if self.subcommand != "fit":
            self.result = self._result_folder() if self.subcommand == "test" else self.run.path
            return {"default_root_dir": str(self.result), "logger": False, "enable_checkpointing": False}
        settings = self.config_init[self.subcommand].trainer
        run_folder.take(self.run, first=_rank() == 0)
        validates = settings.limit_val_batches != 0 and bool(self.datamodule.entries("val"))
        self.trainer_defaults["callbacks"] = training_callbacks(self.run, validates)
        loggers = [RunLog(self.run.path), *self._tensorboard()]
        if settings.logger not in (None, True, False):
            loggers += settings.logger if isinstance(settings.logger, list) else [settings.logger]
        return {"default_root_dir": str(self.run.path), "logger": loggers}

    def _make_run(self) -> bool:
        """A new run folder; the further processes of a DDP fit use the one that the first has made.

        Returns:
            whether there is nothing in it but what this process has made.
        """
        if _rank() > 0:
            made = os.environ.get(run_folder.RUN_VARIABLE) or self.options.run_dir
            if not made:
                raise ConfigError(
                    "with an external launcher, give --run DIR so that all processes share one run folder"
                )
            self.run = Run(Path(made))
            return False
        self.run = run_folder.new(self.options.run_dir, self.options.name, self.subcommand, self._config_text())
        os.environ[run_folder.RUN_VARIABLE] = str(self.run.path.absolute())
        anew = not self.run.config.exists()
        if self.subcommand != "fit":
            describe(self.run.path, self.datamodule, self.model, self._asked())
            run_folder.write_beside(self.run.config, self._config_text())
        return anew

    def _asked(self) -> dict[str, Any]:
        """What the config says of what the method has planned."""
        arguments = self.config[self.subcommand].model.init_args
        return {name: arguments.get(name) for name in self.model.planned}

    def _result_folder(self) -> Path:
        """The same for all processes of a test; see `run_folder.result_folder`."""
        if _rank() > 0:  # an external launcher leaves no word of it; the protocol asks the first process then
            return Path(os.environ.get(run_folder.RESULT_VARIABLE) or self.run.path)
        folder = run_folder.result_folder(self.run, self._config_text())
        os.environ[run_folder.RESULT_VARIABLE] = str(folder.absolute())
        return folder

    def _config_text(self) -> str:
        """The whole configuration, valid for every verb."""
        dumped = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, skip_validation=True))[self.subcommand]
        kept = {key: dumped[key] for key in SETTINGS if key in dumped}
        kept["data"]["batch_size"] = self.datamodule.batch_size  # the number, once "auto" has found it
        # what was found in the data, so that a later test or resume takes the same, also on other data
        kept["data"] |= self.datamodule.found_settings
        if self.model.planned:
            kept["model"]["init_args"] |= self.model.planned
        return yaml.safe_dump(kept, sort_keys=False)

    def _tensorboard(self) -> list[Any]:
        if not self.options.tensorboard:
            return []
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            return [TensorBoardLogger(self.run.path, name="tensorboard", version="")]
        except ModuleNotFoundError as error:
            raise ConfigError("--tensorboard needs the package: pip install 'samzoo[tensorboard]'") from error

    # --- running ---------------------------------------------------------------------------------------------------

    def fit(self, model: Method, datamodule: SamzooDataModule, **_: Any) -> None:
        ckpt = self.options.ckpt
        if self.trainer.is_global_zero:
            print(f"{'resuming' if ckpt else 'run folder:'} {self.run.path}", flush=True)
            tell_seen(model, datamodule)
        try:
            with (
                together(self.trainer, self.run.path),
                checkpoint_errors(ckpt),
                memory_errors(self.trainer, model, self._settings, self._after_shortage),
            ):
                if datamodule.batch_size == "auto":
                    self._find_batch_size(model, datamodule)
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt, weights_only=True)
        except SystemExit as end:
            raise interruption(self.trainer, end, self._after_interrupt) from None
        if self.trainer.is_global_zero:
            mark_complete(self.run)
            print(f"trained: {self.run.path}\ntest it with: samzoo test --run {self.run.path}")

    def _find_batch_size(self, model: Method, datamodule: SamzooDataModule) -> None:
        datamodule.batch_size = find_batch_size(self.trainer, model, datamodule)
        if self.trainer.is_global_zero:  # in place of "auto", so that --resume takes the same
            write_atomically(self.run.config, lambda file: file.write(self._config_text()))

    def _settings(self) -> dict[str, Any]:
        return yaml.safe_load(self._config_text())

    def _after_shortage(self, setting: str) -> str:
        state = "goes on at the last complete epoch" if self.run.last else "starts again: no epoch was complete"
        return f"{self.run.path} is kept\n  samzoo fit --resume --run {self.run.path} {setting}   {state}"

    def _after_interrupt(self) -> str:
        run = self.run.path
        state = "resumes at the last complete epoch" if self.run.last else "starts again: no epoch was complete"
        usable = f"samzoo test --run {run}   tests what is there" if self.run.best else "there is no checkpoint yet"
        return f"; {run} is kept\n  samzoo fit --resume --run {run}   {state}\n  {usable}"

    def validate(self, model: Method, datamodule: SamzooDataModule, **_: Any) -> None:
        self._score(self.trainer.validate, model, datamodule)

    def test(self, model: Method, datamodule: SamzooDataModule, **_: Any) -> None:
        self._score(self.trainer.test, model, datamodule)
        if self.trainer.is_global_zero:
            print(f"results: {self.result}")

    def _score(self, verb: Any, model: Method, datamodule: SamzooDataModule) -> None:
        ckpt = self.options.ckpt
        if self.trainer.is_global_zero:
            print(f"weights: {ckpt or 'as configured (zero-shot)'}", flush=True)
            tell_seen(model, datamodule)
        try:
            with (
                together(self.trainer, self.run.path),
                checkpoint_errors(ckpt),
                memory_errors(self.trainer, model, self._settings),
            ):
                shown = self.subcommand == "validate"  # a test prints its own table
                verb(model, datamodule=datamodule, ckpt_path=ckpt, weights_only=True, verbose=shown)
        except BaseException as error:
            run_folder.drop_empty_result(self.run, self.result)
            if isinstance(error, SystemExit):
                raise interruption(self.trainer, error, partial(run_folder.kept_cases, self.result)) from None
            raise

    def predict(self, model: Method, datamodule: SamzooDataModule, **_: Any) -> None:
        inference = self.config_init[self.subcommand].protocol.inference
        predict(self.trainer, model, datamodule, self.options, self._settings, inference)


def fingerprint_of(data: SamzooDataModule) -> Callable[[], Fingerprint]:
    """What measures the training cases; only a method that plans itself by them calls it."""
    return partial(measure, data.entries("train"), data.decoding)


def tell_seen(model: Method, datamodule: SamzooDataModule) -> None:
    """One line if the pretrained weights know the data set already."""
    report, name = getattr(model, "load_report", None), datamodule.dataset_name
    if report is not None and report.has_seen(name, datamodule.layout):
        print(
            f"warning: {report.source} was trained on the public training part of {name}: this is no unseen data to it",
            file=sys.stderr,
            flush=True,
        )


def prepare(config: str, part: bool) -> None:
    """Decode all cases of a data set into the store.

    Args:
        config: name of a config file.
        part: whether it is a file of configs/datasets, rather than a whole config with a data part.
    """
    parser = Parser(prog="samzoo prepare")
    parser.add_lightning_class_args(SamzooDataModule, "data")
    if part:
        args = [f"--data={find_config(config, 'datasets')}"]
    else:
        content = {k: v for k, v in read_config(find_config(config)).items() if k.split(".")[0] == "data"}
        args = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(content.items())]
    datamodule = parser.instantiate_classes(parser.parse_args(args)).data
    for stage in ("fit", "test"):
        datamodule.setup(stage)
    counts = ", ".join(f"{split} {len(datamodule.entries(split))}" for split in ("train", "val", "test"))
    print(f"{datamodule.dataset_name}: {counts} cases decoded, in {datamodule.store.folder}")


def _rank() -> int:
    """0 for the first of all processes alone, whoever has started them."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
    return next((int(number) for name in names if (number := os.environ.get(name)) and int(number)), 0)


def run(options: Options, args: list[str], replaced: frozenset[str]) -> None:
    """Parse, build and run; the options are resolved already."""
    quiet = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    quiet.addFilter(lambda record: "Tip:" not in record.getMessage())
    for noise in (".*callbacks used to create the checkpoint.*", ".*LeafSpec.*"):  # Lightning's, not the user's
        warnings.filterwarnings("ignore", message=noise)
    if options.ckpt:
        check_checkpoint(options.ckpt)
    heed_preemption(first=_rank() == 0)
    try:
        SamzooCLI(options, args, replaced)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemoryError(f"out of memory while data and model were made ready: {error}") from None
    sys.stdout.flush()
