"""`samzoo predict`: label maps of images without labels; given again, it does what is missing."""

from __future__ import annotations

from argparse import Namespace as Options
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from tqdm import tqdm

from samzoo import __version__
from samzoo.cli_checkpoint import checkpoint_errors, load_weights_of
from samzoo.data import SamzooDataModule
from samzoo.data.restore import read_mark, write_label
from samzoo.data.store import digest
from samzoo.errors import ConfigError
from samzoo.evaluation import predict_cases
from samzoo.evaluation.adapter import Inference
from samzoo.evaluation.prediction import finished
from samzoo.evaluation.unfinished import weights_sha256
from samzoo.memory import memory_errors, without_savings
from samzoo.methods.base import Method
from samzoo.prompts.io import PromptBook, load_prompts
from samzoo.sam.weights import file_sha256


def predict(
    trainer: Trainer,
    model: Method,
    datamodule: SamzooDataModule,
    options: Options,
    settings: Callable[[], dict[str, Any]],
    inference: Inference,
) -> None:
    """Write a label map for each unlabelled case into `options.out`, and pictures if `options.overlays` asks for them.

    Args:
        options: of the command line: `ckpt` (None: the model as it is), `prompts`, `regime`, `out`, `overlays`.
        settings: all settings, nested.
        inference: how the method is run over a case.

    Raises:
        ConfigError: prompts that the method needs or can't take.
        DataError: nothing to predict, a prompts file that doesn't fit, a file that is there and was made otherwise.
        NotEnoughMemoryError: see `memory_errors`.
    """
    if model.spec.needs_prompts and not options.prompts:
        raise ConfigError(
            f"{model.spec.name} can't run without prompts: give clicks or boxes as JSON with --prompts FILE"
        )
    if options.ckpt:
        with checkpoint_errors(options.ckpt):
            load_weights_of(model, options.ckpt)
    print(f"weights: {options.ckpt or 'as configured (zero-shot)'}", flush=True)
    book = load_prompts(options.prompts) if options.prompts else None
    images = {entry.id: entry.images for entry in datamodule.predict_dataloader().dataset.entries}
    if book is not None:
        book.check_cases(images)
    common = [*_common(settings(), model, datamodule), str(trainer.precision)]
    mark = _mark(common, images, book, options.regime)
    sources = {case_id: paths[0] for case_id, paths in images.items()}
    done = finished(options.out, sources, mark, read_mark, options.overlays)
    if done:
        print(f"{len(done)} of {len(images)} are in {options.out} already", flush=True)

    def write(label: Any, source: str, target: Path, text: str) -> None:
        values, axis, canonical = datamodule.source_values, datamodule.slice_axis, datamodule.decoding.canonical
        write_label(label, source, target, values, axis, canonical, text)

    with memory_errors(trainer, model, settings) as watch, trainer.precision_plugin.forward_context():
        written = predict_cases(
            model.to(trainer.strategy.root_device),
            watch.cases(tqdm(datamodule.predict_dataloader(done), desc="predicting", unit="case")),
            options.out,
            write,
            datamodule.class_names,
            book,
            regime=options.regime,
            case_ids=list(images),
            overlays=options.overlays,
            inference=inference,
            mark=mark,
        )
    print(f"{len(written)} written to {options.out}")


def _common(settings: dict[str, Any], model: Method, data: SamzooDataModule) -> list[Any]:
    """What the label maps of all cases depend on, but for the machine that makes them."""
    kept = without_savings(settings)
    found = [kept["model"], kept["protocol"], weights_sha256(model)]
    return [*found, data.class_names, data.source_values, asdict(data.decoding)]


def _mark(
    common: list[Any], images: Mapping[str, Sequence[Path]], book: PromptBook | None, regime: str | None
) -> Callable[[str], str]:
    """Tells of a case what its label map depends on: what all share, its files' content and its prompts."""

    def mark(case_id: str) -> str:
        prompts = book and book.cases[case_id][book.regime_of(case_id, regime)]
        files = [file_sha256(path) for path in images[case_id]]
        return f"samzoo {__version__} {digest([common, files, prompts])}"

    return mark
