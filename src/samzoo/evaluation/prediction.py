"""Segment cases without labels, from prompts that a user wrote down or without any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samzoo.errors import ConfigError, DataError
from samzoo.evaluation.adapter import DEFAULT_INFERENCE, Answer, Inference
from samzoo.evaluation.overlay import save_overlay
from samzoo.evaluation.records import file_name
from samzoo.evaluation.session import CaseSession
from samzoo.methods.base import Method
from samzoo.prompts.io import PromptBook
from samzoo.types import Case, CasePrompt

Writer = Callable[[np.ndarray, str, Path, str], None]
"""write(label uint8 (D, H, W) of class ids, source file, target file, mark)."""


def predict_cases(
    method: Method,
    cases: Iterable[Case],
    out_dir: str | Path,
    write: Writer,
    class_names: Sequence[str],
    book: PromptBook | None = None,
    regime: str | None = None,
    case_ids: Sequence[str] | None = None,
    overlays: bool = False,
    inference: Inference = DEFAULT_INFERENCE,
    mark: Callable[[str], str] | None = None,
) -> list[Path]:
    """Write one label map for each case: see `target_of`.

    The steps of a case's prompts are answered one after the other, as in a test. A voxel gets the class of the highest
    logit among those above 0; of equal logits, the class that comes first.

    Args:
        method: on its device; put into eval mode meanwhile.
        cases: labels, where there are any, are not looked at.
        write: puts a label map onto the source's geometry and label values, and the case's mark into the file.
        class_names: in the order of class ids, from 1.
        book: prompts file, see `samzoo.prompts.io`; None lets an automatic method answer alone. With a file it answers
            alone where the file says `"auto": true`.
        regime: which of the prompts file's regimes; needed only where a case has several.
        case_ids: of all cases, so that a prompts file that names others, or lacks some, is refused before any work.
        overlays: write pictures to `overlays/` as well.
        inference: how the method is run over a case: chunks, windows, mirroring.
        mark: case id -> what its label map depends on, as a short text to keep in the file. Without
            it no file is overwritten; with it, `finished` tells before which ones must not be.

    Returns:
        the files written, without overlays.

    Raises:
        ConfigError: the method needs prompts and there are none, or takes none; it does not understand their kind.
        DataError: a prompts file that does not fit the cases; a file that exists already.
    """
    spec = method.spec
    if book is None and spec.needs_prompts:
        raise ConfigError(
            f"{spec.name} can't run without prompts: give a prompts file (boxes or clicks) with --prompts"
        )
    if book is not None and not spec.prompts & {"box", "click"}:
        raise ConfigError(f"{spec.name} takes no prompts; leave --prompts out")
    if book is not None and case_ids is not None:
        book.check_cases(case_ids)
        for case_id in case_ids:
            book.regime_of(case_id, regime)
    written = []
    with _evaluating(method):
        for case in cases:
            target = target_of(out_dir, case.id, case.source)
            if mark is None and target.exists():
                raise _other_prediction(target)
            session = CaseSession(method, case, inference, keep_logits=True)
            labels = session.label_map(None if book is None else _answer(method, session, book, regime, class_names))
            marked = mark(case.id) if mark else ""
            if overlays:
                save_overlay(overlay_of(target), case, labels, session.own_points(), marked)
            write(labels, case.source, target, marked)  # the last of a case, which is finished by it
            written.append(target)
    return written


def finished(
    out_dir: str | Path,
    sources: Mapping[str, str | Path],
    mark: Callable[[str], str],
    read_mark: Callable[[Path], str],
    overlays: bool,
) -> set[str]:
    """The cases that an earlier call has written with the same marks, with their overlays where these are asked for.

    Args:
        sources: case id -> source file.
        mark: see `predict_cases`.
        read_mark: file -> the mark that it was written with.

    Raises:
        DataError: a label map is there that was made otherwise; it is not overwritten.
    """
    done = set()
    for case_id, source in sources.items():
        target = target_of(out_dir, case_id, source)
        if not target.exists():
            continue
        if read_mark(target) != (marked := mark(case_id)):
            raise _other_prediction(target)
        if not overlays or read_mark(overlay_of(target)) == marked:
            done.add(case_id)
    return done


def target_of(out_dir: str | Path, case_id: str, source: str | Path) -> Path:
    """The file of a case's label map: `<case id>.nii.gz`, or `.png` for pictures."""
    volume = str(source).lower().endswith((".nii", ".nii.gz"))
    return Path(out_dir) / (file_name(case_id) + (".nii.gz" if volume else ".png"))


def overlay_of(target: Path) -> Path:
    return target.parent / "overlays" / f"{target.name.removesuffix('.png').removesuffix('.nii.gz')}.png"


def _other_prediction(target: Path) -> DataError:
    return DataError(
        f"{target}: exists already and is not overwritten, as it was not made of this image by this samzoo with these "
        "weights, settings and prompts; choose another --out, or remove it"
    )


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
