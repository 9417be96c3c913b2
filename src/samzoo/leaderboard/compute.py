"""From tested runs to a board: sections, tables, rankings, tests. Needs no torch.

The same runs give the same board, bit for bit on one machine: all draws derive from the seed and the section's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from samzoo.errors import DataError
from samzoo.leaderboard.board import Board, Missing, Ranking, Row, Section, TestedRun
from samzoo.leaderboard.compute_findings import break_evens, find_cases, robustness, split_noise, strata
from samzoo.leaderboard.compute_load import (
    comparable_regimes,
    dataset_and_signature,
    load_run,
    make_entry,
    notes_on_costs,
    other_training,
    part,
    tested_cases,
    without_records,
)
from samzoo.leaderboard.compute_ranking import rank_regime, too_few
from samzoo.leaderboard.compute_scores import Scores, Table, make_table, volumes_ml
from samzoo.leaderboard.statistics import MIN_PATIENTS, generator

__all__ = ["compute_board", "load_run", "split_noise"]

DRAWS = 2000


def compute_board(
    runs: Sequence[TestedRun], missing: Sequence[Missing] = (), draws: int = DRAWS, seed: int = 0
) -> Board:
    """All sections of a leaderboard, by data set.

    Runs share a section if data set, test signature and test cases are the same. Within it a regime compares the runs
    that were tested in the same way; notes name the others. Means are taken over the classes of a case, then over the
    seeds of an entry, then over cases.

    Args:
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        DataError: two runs of an entry with the same seed, or runs of a section that contradict each other.
    """
    tested, empty = without_records(runs)
    groups: dict[tuple[str, str, tuple[str, ...]], list[TestedRun]] = {}
    for run in tested:
        groups.setdefault((*dataset_and_signature(run), tuple(sorted(tested_cases(run)))), []).append(run)
    titles = _titles(sorted(groups))
    sections = (_section(titles[key], key, groups[key], draws, seed) for key in sorted(groups))
    return Board(tuple(sections), (*missing, *empty))


def _titles(keys: Sequence[tuple[str, str, tuple[str, ...]]]) -> dict[tuple, str]:
    """The data set's name, made unique by what tells its sections apart."""
    titles = {}
    for key in keys:
        dataset, signature, cases = key
        parts = []
        if len({k[1] for k in keys if k[0] == dataset}) > 1:
            parts.append(signature[:8] or "no signature")
        if len(same := [k for k in keys if k[:2] == key[:2]]) > 1:
            parts.append(f"set {same.index(key) + 1} of {len(cases)} cases")
        titles[key] = f"{dataset} ({', '.join(parts)})" if parts else dataset
    return titles


def _section(
    title: str, key: tuple[str, str, tuple[str, ...]], runs: Sequence[TestedRun], draws: int, seed: int
) -> Section:
    dataset, signature, case_ids = key
    _check_seeds(runs)
    classes, patients = _classes_and_patients(runs)
    cases = {case: i for i, case in enumerate(case_ids)}
    class_index = {k: i for i, k in enumerate(sorted(classes))}
    names = tuple(classes[k] for k in sorted(classes))
    patient = np.unique([patients.get(case, case) for case in case_ids], return_inverse=True)[1]
    kept, notes = comparable_regimes(runs)
    whole = make_table(runs, kept, cases, class_index)
    table = {regime: steps for regime, steps in whole.items() if split_noise(regime)[1] is None}
    automatic = tuple(r for r, steps in table.items() if not _effort(steps))
    rows: list[Row] = []
    rankings: list[Ranking] = []
    by_entry: dict[str, list[tuple[TestedRun, frozenset[str]]]] = {}
    for run, regimes in zip(runs, kept, strict=True):
        if regimes:
            by_entry.setdefault(run.entry, []).append((run, regimes))
    published = {name: _published(own) for name, own in by_entry.items()}
    methods = {name: own[0][0].records[0].method for name, own in by_entry.items()}
    for regime, steps in whole.items():
        rng = generator(seed, dataset, signature, regime)
        some, ranking = rank_regime(regime, steps, patient, names, draws, rng)
        for row in some:
            shown = published[row.entry].get((row.regime, row.step))
            noisy = regime not in table
            rows.append(replace(row, method=methods[row.entry], dice_published=shown, noisy=noisy))
        if regime in table:
            rankings.append(ranking)
        for name in sorted({n for by in steps.values() for n, s in by.items() if s.incomplete}):
            notes.append(f"{regime} of {name}: only the cases that all of its seeds have are counted.")
    main = _main_regimes(table, automatic)
    main_of = {name: regime for name in by_entry if (regime := _main_regime(table, main, name))}
    entries = tuple(
        make_entry(
            own,
            any(_has(table, r, name) for r in automatic),
            main_of.get(name, ""),
            [r for r in main if _has(table, r, name)],
        )
        for name, own in by_entry.items()
    )
    best, answer = _best_automatic(table, [r for r in rankings if r.regime in main and r.regime in automatic])
    notes += [*other_training(runs), *notes_on_costs(runs)]
    if not signature:
        notes.append("run.json names no signature of the data: whether the images are the same was not checked.")
    if len(set(patient)) < MIN_PATIENTS:
        notes.append(f"{too_few(len(set(patient)))}; differences are only described.")
    volumes = volumes_ml(runs, cases, class_index)
    strata_found, strata_notes = strata(table, main, volumes)
    robust, robust_notes = robustness(whole)
    return Section(
        title=title,
        dataset=dataset,
        signature=signature,
        cases=len(case_ids),
        patients=len(set(patient)),
        classes=names,
        entries=entries,
        rows=tuple(rows),
        rankings=tuple(rankings),
        break_even=break_evens(table, automatic, best, answer) if answer else (),
        strata=strata_found,
        robustness=robust,
        findings=find_cases(table, main, main_of, case_ids),
        notes=tuple([*notes, *strata_notes, *robust_notes]),
        main_regimes=main_of,
        best_automatic=best,
        automatic_regimes=automatic,
        compared=tuple(main),
    )


def _check_seeds(runs: Sequence[TestedRun]) -> None:
    seen: dict[tuple[str, int | None], TestedRun] = {}
    for run in runs:
        if (other := seen.setdefault((run.entry, run.seed), run)) is not run:
            where = f"{other.folder} and {run.folder}"
            raise DataError(f"{where}: two results of {run.entry} with seed {run.seed}; give one another name")


def _classes_and_patients(runs: Sequence[TestedRun]) -> tuple[dict[int, str], dict[str, str]]:
    """Class id -> name and case id -> patient, on which all runs must agree."""
    classes: dict[int, str] = {}
    patients: dict[str, str] = {}
    for run in runs:
        for r in run.records:
            if classes.setdefault(r.class_id, r.class_name) != r.class_name:
                other = classes[r.class_id]
                raise DataError(f"{run.folder}: class {r.class_id} is {r.class_name!r}, other runs call it {other!r}")
            if patients.setdefault(r.case_id, r.patient) != r.patient:
                other = patients[r.case_id]
                raise DataError(f"{run.folder}: case {r.case_id} is of patient {r.patient!r}, elsewhere of {other!r}")
    return classes, patients


def _effort(steps: Mapping[int, Mapping[str, Scores]]) -> bool:
    """Whether any human action was spent."""
    return any(np.nansum(s.effort) > 0 for by_entry in steps.values() for s in by_entry.values())


def _has(table: Table, regime: str, entry: str) -> bool:
    return any(entry in by_entry for by_entry in table[regime].values())


def _main_regimes(table: Table, automatic: Sequence[str]) -> list[str]:
    """The automatic and the prompted regime that most entries share; the first by name of equals."""
    found = []
    for group in (automatic, [r for r in table if r not in automatic]):
        if group:
            found.append(max(sorted(group), key=lambda r: len({n for by in table[r].values() for n in by})))
    return found


def _main_regime(table: Table, main: Sequence[str], entry: str) -> str | None:
    """The regime that ranks an entry."""
    return next((r for r in [*main, *sorted(table)] if _has(table, r, entry)), None)


def _best_automatic(table: Table, rankings: Sequence[Ranking]) -> tuple[str, Scores | None]:
    """The first of the automatic ranking; "" where none has a Dice."""
    for ranking in rankings:
        scores = table[ranking.regime][ranking.step][name := ranking.entries[0]]
        if not np.isnan(scores.metrics["dice"]).all():
            return name, scores
    return "", None


def _published(runs: Sequence[tuple[TestedRun, frozenset[str]]]) -> dict[tuple[str, int], float]:
    """(regime, step) -> Dice as published, mean over seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for run, regimes in runs:
        for regime, steps in part(run.info, "published").items():
            for step, values in (steps or {}).items():
                known = regime in regimes and step.isascii() and step.isdigit() and len(step) < 10
                if known and (dice := (values or {}).get("dice")) is not None:
                    found.setdefault((regime, int(step)), []).append(dice)
    return {key: sum(values) / len(values) for key, values in found.items()}
