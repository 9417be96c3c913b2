"""What run.json says of a run: reading it, what it cost, and whether two runs may be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samzoo.errors import DataError
from samzoo.evaluation.records import read_records
from samzoo.leaderboard.board import Cost, Entry, Missing, TestedRun
from samzoo.leaderboard.compute_scores import ms_per_case
from samzoo.reading import load_json

TYPES: Mapping[str, type] = {
    "dataset": str,
    "dataset_signature": str,
    "test_signature": str,
    "records": float,
    "train_signature": str,
    "tested_on_trained": float,
    "config": dict,
    "config.model": dict,
    "config.model.init_args": dict,
    "weights": dict,
    "weights.seen": list,
    "parameters_total": float,
    "parameters_trained": float,
    "training": dict,
    "training.training_seconds": float,
    "training.peak_memory_bytes": float,
    "protocol": dict,
    "protocol.prompts_sha256": str,
    "protocol.regimes": dict,
    "protocol.regimes.*": dict,
    "flops": dict,
    "flops.encode": float,
    "flops.prompt": float,
    "peak_memory_bytes": float,
    "cost": dict,
    "cost.ms_per_encode": float,
    "cost.ms_per_prompt": float,
    "cost.cases": dict,
    "cost.cases.*": dict,
    "cost.cases.*.images_encoded": float,
    "cost.cases.*.prompts_decoded": float,
    "device": dict,
    "device.type": str,
    "device.name": str,
    "device.threads": float,
    "side_by_side": float,
    "published": dict,
    "published.*": dict,
    "published.*.*": dict,
    "published.*.*.dice": float,
}
"""What is read of run.json; float is any number from 0 to 1e30. Everything may be absent or null."""

PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")
"""Older run.json, and systems that don't tell the model of their CPU, have these names."""

WORDS = {str: "a text", dict: "an object", list: "a list", float: "a number of at least 0"}


def load_run(entry: str, folder: Path, seed: int | None = None) -> TestedRun:
    """Read the result in a run folder.

    Args:
        seed: of the training; None takes that of run.json if something was trained.

    Raises:
        DataError: records.csv or run.json is missing, damaged or empty, or run.json holds something of another type
            than expected.
    """
    path = folder / "run.json"
    try:
        info = load_json(path.read_text(encoding="utf-8"), constants=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if not isinstance(info, dict):
        raise DataError(f"{path} must hold a JSON object")
    for name, kind in TYPES.items():
        _check(path, "", info, name.split("."), kind)
    records = read_records(folder / "records.csv")
    if not records:
        raise DataError(f"{folder / 'records.csv'} holds no records: was the test interrupted? Test again")
    if info.get("records") not in (None, len(records)):
        raise DataError(
            f"{folder / 'records.csv'} has {len(records)} rows, {path.name} tells of {info['records']}: rows were lost "
            "or added; test again"
        )
    there = {r.case_id for r in records}
    answered = {name for name, case in part(info, "cost", "cases").items() if (case or {}).get("prompts_decoded")}
    if lost := sorted(answered - there):
        raise DataError(
            f"{folder / 'records.csv'}: {len(lost)} cases that {path.name} has were lost, first {lost[0]!r}; test again"
        )
    if seed is None and info.get("training") and info.get("seed_everything") is not None:
        if not re.fullmatch(r"\d{1,20}", str(info["seed_everything"]), re.ASCII):
            raise DataError(f"{path}: seed_everything is {info['seed_everything']!r:.80}, not a whole number")
        seed = int(info["seed_everything"])
    return TestedRun(entry, seed, folder, tuple(records), info)


def _check(path: Path, place: str, value: Any, names: Sequence[str], kind: type) -> None:
    if value is None:
        return
    if not names:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30
        if not (number if kind is float else isinstance(value, kind)):
            raise DataError(f"{path}: {place} is {str(value)[:80]!r}, expected {WORDS[kind]}; test the run again")
        return
    for name in list(value) if names[0] == "*" else [names[0]]:
        _check(path, f"{place}.{name}".lstrip("."), value.get(name), names[1:], kind)


def tested_cases(run: TestedRun) -> frozenset[str]:
    """Ids of all cases tested: records lack those without any class in a method that is only prompted."""
    return frozenset(part(run.info, "cost", "cases")) | {r.case_id for r in run.records}


def dataset_and_signature(run: TestedRun) -> tuple[str, str]:
    """Name of the data set, and of what the test cases are; "" where run.json does not say."""
    signature = run.info.get("test_signature") or run.info.get("dataset_signature") or ""
    return run.info.get("dataset") or run.records[0].dataset, signature


def part(info: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """An object within run.json, {} if there is none."""
    for name in names:
        info = info.get(name) or {}
    return info


def comparable_regimes(runs: Sequence[TestedRun]) -> tuple[list[frozenset[str]], list[str]]:
    """The regimes of each run that were tested as most entries were, and a note on each of the others.

    Prompted regimes must agree in the description of the regime in run.json, in the seed of the first prompts and in
    the prompts file; automatic ones in the description. Of equally many entries the first stand.
    """
    described = [_described(run) for run in runs]
    kept: list[set[str]] = [set() for _ in runs]
    notes = []
    for regime in sorted({name for own in described for name in own}):
        votes: dict[str, set[str]] = {}
        for run, own in zip(runs, described, strict=True):
            if regime in own:
                votes.setdefault(_text(own[regime]), set()).add(run.entry)
        usual = json.loads(max(votes, key=lambda key: len(votes[key])))
        for run, own, regimes in zip(runs, described, kept, strict=True):
            if regime not in own:
                continue
            if _text(own[regime]) == _text(usual):
                regimes.add(regime)
                continue
            names = sorted(k for k in {*own[regime], *usual} if own[regime].get(k) != usual.get(k))
            differences = "; ".join(f"{k}: {own[regime].get(k)}, not {usual.get(k)}" for k in names)
            seed = "" if run.seed is None else f", seed {run.seed}"
            notes.append(
                f"{regime} of {run.entry}{seed} is left out: tested in another way than others ({differences})."
            )
    return [frozenset(regimes) for regimes in kept], notes


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)


def _described(run: TestedRun) -> dict[str, dict[str, Any]]:
    """How each regime was tested; from records alone where run.json does not say."""
    protocol, steps, oracle = part(run.info, "protocol"), {}, {}
    for r in run.records:
        steps.setdefault(r.regime, set()).add(r.step)
        oracle.setdefault(r.regime, {"oracle_classes": r.oracle_classes, "oracle_slices": r.oracle_slices})
    prompted = {r.regime for r in run.records if r.effort}
    found = {}
    for regime, own in steps.items():
        how = dict(part(protocol, "regimes", regime)) or {"steps_scored": sorted(own), **oracle[regime]}
        if regime in prompted:
            given = protocol.get("prompts_sha256") or protocol.get("prompts_file")
            how |= {"seed": protocol.get("seed"), "prompts_file": given}
        found[regime] = how
    return found


def other_training(runs: Sequence[TestedRun]) -> list[str]:
    """A note on the entries that were trained on other cases than most; of equally many the first are usual."""
    signatures = [run.info.get("train_signature") if run.info.get("training") else None for run in runs]
    votes: dict[str, set[str]] = {}
    for run, signature in zip(runs, signatures, strict=True):
        if signature:
            votes.setdefault(signature, set()).add(run.entry)
    if len(votes) < 2:
        return []
    usual = max(votes, key=lambda key: len(votes[key]))
    others = [
        run.entry if run.seed is None else f"{run.entry} (seed {run.seed})"
        for run, signature in zip(runs, signatures, strict=True)
        if signature and signature != usual
    ]
    return [f"Trained or validated on other cases than most entries: {', '.join(others)}."]


def notes_on_costs(runs: Sequence[TestedRun]) -> list[str]:
    """Why times can't be compared."""
    notes = []
    if len(devices := distinct_devices(map(_device, runs))) > 1:
        notes.append(f"Times and memory were measured on several devices: {'; '.join(sorted(devices))}.")
    if several := dict.fromkeys(run.entry for run in runs if _processes_beside(run) > 1):
        most = max(map(_processes_beside, runs))
        notes.append(f"Up to {most} tests ran side by side, which makes times longer: {', '.join(several)}.")
    return notes


def make_entry(
    runs: Sequence[tuple[TestedRun, frozenset[str]]], automatic: bool, regime: str, compared: Sequence[str]
) -> Entry:
    """The runs of one entry.

    Args:
        runs: each with its regimes that may be compared; records of others are left out.
        regime: that ranks it; "" for none.
        compared: those of its regimes for which a cost is asked.
    """
    first = runs[0][0]
    model, weights = part(first.info, "config", "model", "init_args"), part(first.info, "weights")
    dataset = dataset_and_signature(first)[0]
    return Entry(
        name=first.entry,
        method=first.records[0].method,
        architecture=str(model.get("architecture") or ""),
        base=str(model.get("weights") or ("random" if first.info.get("parameters_total") else "")),
        seen=any(run.info.get("tested_on_trained") for run, _ in runs)
        or bool(weights.get("seen_this", dataset in (weights.get("seen") or ()))),
        automatic=automatic,
        cost=_cost(runs, regime),
        runs=tuple(replace(r, records=tuple(x for x in r.records if x.regime in regimes)) for r, regimes in runs),
        costs={name: _cost(runs, name) for name in compared},
    )


def _cost(pairs: Sequence[tuple[TestedRun, frozenset[str]]], regime: str) -> Cost:
    runs = [run for run, _ in pairs]

    def average(get, of: Sequence[TestedRun] = runs) -> float | None:
        values = [v for v in map(get, of) if v is not None]
        return sum(values) / len(values) if values else None

    def whole(get) -> int | None:
        return None if (value := average(get)) is None else round(value)

    def giga(name: str) -> float | None:
        value = average(lambda run: part(run.info, "flops").get(name))
        return None if value is None else value / 1e9

    encodings, gflop = average(_encodings_per_case), giga("encode")
    return Cost(
        parameters=whole(lambda run: run.info.get("parameters_total")),
        trained=whole(lambda run: run.info.get("parameters_trained") if run.info.get("training") else 0),
        gflop_encode=gflop,
        gflop_prompt=giga("prompt"),
        training_seconds=average(
            lambda run: run.info["training"].get("training_seconds") if run.info.get("training") else 0.0
        ),
        ms_per_encode=average(lambda run: part(run.info, "cost").get("ms_per_encode")),
        ms_per_prompt=average(lambda run: part(run.info, "cost").get("ms_per_prompt")),
        ms_per_case=average(  # with the records of all regimes: what is left out may have encoded for the others
            lambda run: ms_per_case(run.records, regime), [run for run, regimes in pairs if regime in regimes]
        ),
        peak_memory_bytes=whole(lambda run: run.info.get("peak_memory_bytes")),
        training_memory_bytes=whole(lambda run: part(run.info, "training").get("peak_memory_bytes")),
        device=", ".join(sorted({_device(run) for run in runs} - {""})),
        regime=regime,
        encodings_per_case=encodings,
        gflop_per_case=None if encodings is None or gflop is None else encodings * gflop,
        processes_beside=max(map(_processes_beside, runs)),
    )


def _encodings_per_case(run: TestedRun) -> float | None:
    counts = [(case or {}).get("images_encoded") for case in part(run.info, "cost", "cases").values()]
    known = [count for count in counts if count is not None]
    return sum(known) / len(known) if known else None


def _processes_beside(run: TestedRun) -> int:
    return max(1, int(run.info.get("side_by_side") or 1))


def _device(run: TestedRun) -> str:
    device = part(run.info, "device")
    kind, name, threads = device.get("type") or "", device.get("name"), device.get("threads")
    if kind == "cuda" or not name or name in PROCESSORS:
        return name if kind == "cuda" and name else kind
    return f"{kind} ({name}" + (f", {threads:g} threads" if threads else "") + ")"


def distinct_devices(names: Iterable[str]) -> set[str]:
    """Without unknown ones, and without the CPU of unknown model beside one that is known: it may be the same."""
    found = set(names) - {""}
    return found - {"cpu"} if any(name.startswith("cpu (") for name in found) else found


def without_records(runs: Sequence[TestedRun]) -> tuple[list[TestedRun], list[Missing]]:
    """The runs with records, and why the others have no result."""
    empty = [Missing(run.entry, f"{run.folder / 'records.csv'} holds no records") for run in runs if not run.records]
    return [run for run in runs if run.records], empty
