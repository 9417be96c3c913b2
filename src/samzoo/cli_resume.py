"""The same command again: what `samzoo fit --resume` makes of it, and how a stopped one says that it can be given."""

from __future__ import annotations

import signal
from argparse import Namespace as Options
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

from samzoo.cli_config import UsageError
from samzoo.cli_parser import Parser
from samzoo.run_folder import read_fingerprint
from samzoo.termination import Terminated


def check_resumed(parser: Parser, options: Options, config: Any) -> None:
    """Before a training is resumed: whether it was begun as the command line says, and whether it has ended already.

    Args:
        options: of the command line, see `cli.py`.
        config: the run's settings, parsed.

    Raises:
        UsageError: the command line says something else than the run's config.yaml.
        SystemExit: with 0, where nothing is left to be trained.
    """
    run = options.run
    if asked := getattr(options, "asked", None):
        _check_asked(parser, "fit", run.path, config, *asked)
    if getattr(options, "unchanged", False) and run.complete:
        print(f"{run.path} is trained already\ntest it with: samzoo test --run {run.path}", flush=True)
        raise SystemExit(0)


def interruption(trainer: Trainer, end: SystemExit, kept: Callable[[], str]) -> BaseException:
    """What Ctrl-C or SIGTERM was before Lightning made an exit of it, with a word on what is kept."""
    if not trainer.interrupted:
        return end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning had it ignored for the shutdown
    said = kept()
    return (Terminated if isinstance(end.__context__, Terminated) else KeyboardInterrupt)(*[said] * bool(said))


def _check_asked(parser: Parser, verb: str, run: Path, own: Any, args: list[str], replaced: frozenset[str]) -> None:
    """Whether a command is the one that began a run.

    Args:
        verb: of the command.
        run: the run's folder.
        own: the run's settings, parsed.
        args, replaced: the command, as for `Line`.

    Raises:
        UsageError: it says something else than the run's config.yaml; names what.
    """
    lines = {id(p): p.line for p in (parser, parser._subcommands_action._name_parser_map[verb])}
    kept = [(line, line.replaced) for line in lines.values()]
    for line, _ in kept:
        line.replaced = replaced
    try:
        asked = _plain(parser, parser.parse_args([verb, *args], defaults=False), verb)
    finally:
        for line, before in kept:
            line.replaced = before
    known = _plain(parser, own, verb)
    known |= _as_asked(run, known)
    differing = [
        f"  {key}: {_shown(known.get(key))} in the run, {_shown(value)} on this line"
        for key, value in asked.items()
        if value not in (None, "auto") and known.get(key) != value  # these are to be found; the run says what was
    ]
    if differing:
        raise UsageError(
            "\n".join(
                [
                    f"{run} was begun with other settings, and a run keeps its own:",
                    *differing[:12],
                    *([f"  and {len(differing) - 12} more"] if len(differing) > 12 else []),
                    f"`samzoo fit --resume --run {run}` goes on with it as it was begun (single settings after that, "
                    "without --config, change them); another --run DIR begins anew",
                ]
            )
        )


def _as_asked(run: Path, known: dict[str, Any]) -> dict[str, Any]:
    """What the run's command said of what was planned then, unless it was changed since."""
    try:
        content = read_fingerprint(run)
        planned, asked = (
            {f"model.init_args.{name}": value for name, value in content[part].items()} for part in ("planned", "asked")
        )
    except (TypeError, KeyError, AttributeError):
        return {}
    return {key: value for key, value in asked.items() if known.get(key) == planned.get(key)}


def _plain(parser: Parser, config: Any, verb: str) -> dict[str, Any]:
    """Dotted names and plain values."""
    content = yaml.safe_load(parser.dump(config, skip_unset=False, skip_validation=True)).get(verb) or {}
    return {key: value for key, value in _flat(content) if key != "config"}


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and "auto" in (value.get("kind") or ()):  # of all channels or of some
            yield f"{prefix}{key}", "auto"
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."
