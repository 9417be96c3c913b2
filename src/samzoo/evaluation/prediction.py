"""Segment cases without labels, from prompts that a user wrote down or without any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samzoo.errors import ConfigError, DataError
from samzoo.evaluation.adapter import DEFAULT_INFERENCE, Answer, Inference
from samzoo.evaluation.overlay import save_overlay
from samzoo.evaluation.records import file_name
from samzoo.evaluation.session import CaseSession
from samzoo.methods.base import Method
from samzoo.prompts.io import PromptBook, load_prompts
from samzoo.types import Case, CasePrompt

Writer = Callable[[np.ndarray, str, Path], None]
"""write(label uint8 (D, H, W) of class ids, source file, target file)."""


def predict_cases(
    method: Method,
    cases: Iterable[Case],
    out_dir: str | Path,
    write: Writer,
    class_names: Sequence[str],
    prompts_path: str | Path | None = None,
    regime: str | None = None,
    case_ids: Sequence[str] | None = None,
    overlays: bool = False,
    inference: Inference = DEFAULT_INFERENCE,
) -> list[Path]:
    """Write one label map for each case: `<case id>.nii.gz`, or `.png` for pictures.

    The steps of a case's prompts are answered one after the other, as in a test. A voxel gets the class of the highest
    logit among those above 0; of equal logits, the class that comes first.

    Args:
        method: on its device; put into eval mode meanwhile.
        cases: labels, where there are any, are not looked at.
        write: puts a label map onto the source's geometry and label values.
        class_names: in the order of class ids, from 1.
        prompts_path: prompts file, see `samzoo.prompts.io`; None lets an automatic method answer alone. With a file it
            answers alone where the file says `"auto": true`.
        regime: which of the prompts file's regimes; needed only where a case has several.
        case_ids: of all cases, so that a prompts file that names others, or lacks some, is refused before any work.
        overlays: write pictures to `overlays/` as well.
        inference: how the method is run over a case: chunks, windows, mirroring.

    Returns:
        the files written, without overlays.

    Raises:
        ConfigError: the method needs prompts and there are none, or takes none; it does not understand their kind.
        DataError: a prompts file that does not fit the cases; a file that exists already.
    """
    spec = method.spec
    if prompts_path is None and spec.needs_prompts:
        raise ConfigError(
            f"{spec.name} can't run without prompts: give a prompts file (boxes or clicks) with --prompts"
        )
    if prompts_path is not None and not spec.prompts & {"box", "click"}:
        raise ConfigError(f"{spec.name} takes no prompts; leave --prompts out")
    book = load_prompts(prompts_path) if prompts_path is not None else None
    if book is not None and case_ids is not None:
        book.check_cases(case_ids)
        for case_id in case_ids:
            book.regime_of(case_id, regime)
    out_dir, written = Path(out_dir), []
    with _evaluating(method):
        for case in cases:
            target = out_dir / (file_name(case.id) + (".png" if _is_picture(case) else ".nii.gz"))
            if target.exists():
                raise DataError(f"{target}: exists already and is not overwritten; choose another --out, or remove it")
            session = CaseSession(method, case, inference, keep_logits=True)
            labels = session.label_map(None if book is None else _answer(method, session, book, regime, class_names))
            write(labels, case.source, target)
            written.append(target)
            if overlays:
                path = out_dir / "overlays" / f"{file_name(case.id)}.png"
                save_overlay(path, case, labels, session.own_points())
    return written


def _answer(
    method: Method, session: CaseSession, book: PromptBook, regime: str | None, class_names: Sequence[str]
) -> list[Answer]:
    """Walk through the saved steps of all classes; a class with fewer steps waits at its last."""
    case = session.case
    name = book.regime_of(case.id, regime)
    steps = book.steps(case.id, name, class_names, case.shape)
    if not steps:
        raise DataError(f"{book.path}: cases.{case.id}.{name}: names no class")
    _check_kinds(method, book, case.id, [prompts[-1] for prompts in steps.values()])
    answers: list[Answer] | None = None
    for i in range(max(len(prompts) for prompts in steps.values())):
        answers = session.segment([prompts[min(i, len(prompts) - 1)] for prompts in steps.values()], answers)
    return answers


def _check_kinds(method: Method, book: PromptBook, case_id: str, prompts: Sequence[CasePrompt]) -> None:
    used = {"box" for p in prompts if p.boxes} | {"click" for p in prompts if p.clicks}
    used |= {"auto" for p in prompts if p.automatic}
    if unknown := used - method.spec.prompts:
        raise ConfigError(
            f"{book.path}: cases.{case_id} holds {' and '.join(sorted(unknown))} prompts, which {method.spec.name} "
            f"does not understand; it takes {', '.join(sorted(method.spec.prompts & {'auto', 'box', 'click'}))}"
        )


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)


def _is_picture(case: Case) -> bool:
    return not case.source.lower().endswith((".nii", ".nii.gz"))
