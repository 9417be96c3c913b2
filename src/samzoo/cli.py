"""The command line: `samzoo VERB ...`. Torch is imported only by verbs that need it, and only once they run."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from samzoo import __version__, run_folder
from samzoo.cli_config import PARTS, SUFFIXES, UsageError, did_you_mean, find_config, read_yaml
from samzoo.errors import ConfigError, SamzooError
from samzoo.reading import printable
from samzoo.run_folder import Run
from samzoo.termination import END_WITH_PARENT, EXIT_CODE, Terminated, end_with_parent, terminations_raised
from samzoo.writing import DISK_FULL, no_space

SETTINGS_HELP = """
Every setting of a config can be overridden: --model.init_args.lr 1e-3, --data.batch_size 4, --trainer.max_epochs 2,
--protocol.seed 1; whole parts by name: --model methods/sam.yaml, --data datasets/phantom.yaml.
`samzoo %(verb)s --help-all` lists all settings."""


class _Parser(argparse.ArgumentParser):
    """Ends in one message instead of a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def option_names(self) -> list[str]:
        return [option.lstrip("-") for action in self._actions for option in action.option_strings]

    def error(self, message: str) -> NoReturn:
        if "unrecognized arguments: " in message:
            word = (message.split(": ", 1)[1].split() or ["''"])[0].split("=")[0]
            message = f"there is no option {word}{did_you_mean(word.lstrip('-'), self.option_names())}"
        raise UsageError(f"{message} (see `{self.prog} --help`)")


# --- fit, validate, test, predict ----------------------------------------------------------------------


def _training_parser(verb: str, description: str) -> _Parser:
    parser = _Parser(prog=f"samzoo {verb}", description=description, epilog=SETTINGS_HELP % {"verb": verb})
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="NAME", help="config file, also by bare name"
    )
    parser.add_argument("--run", metavar="DIR", help="run folder to use" + (" or to make" if verb == "fit" else ""))
    if verb == "fit":
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue the newest run (of --config, if given) at its last epoch; with --run DIR that one, which is "
            "begun if there is nothing yet",
        )
        parser.add_argument("--tensorboard", action="store_true", help="write a TensorBoard log as well")
    else:
        parser.add_argument("--ckpt", "--ckpt_path", metavar="FILE", help="checkpoint instead of the run's best")
        parser.add_argument("--zero-shot", action="store_true", help="use the method as --config has it, untrained")
    if verb == "predict":
        parser.add_argument(
            "--images", metavar="PATH", help="an image, or a folder of images (default: the data set's unlabelled ones)"
        )
        parser.add_argument("--prompts", metavar="FILE", help="clicks and boxes as JSON (see README.md)")
        parser.add_argument("--regime", metavar="NAME", help="which of the prompts file's regimes, if it has several")
        parser.add_argument("--out", default="predictions", metavar="DIR", help="where to write (default: predictions)")
        parser.add_argument("--overlays", action="store_true", help="write pictures of the result as well")
    parser.add_argument("--help-all", action="store_true", help="list every setting")
    return parser


def _resolve_run(options: argparse.Namespace, verb: str) -> None:
    """Fill in `run`, `ckpt` and `config` of the options from what is there under runs/."""
    options.run_dir, options.run = options.run, None
    options.name = "_".join(Path(n).stem for n in [*options.config, *options.part_files]) or "run"
    options.tensorboard = getattr(options, "tensorboard", False)
    ckpt = Path(options.ckpt) if getattr(options, "ckpt", None) else None
    if ckpt and not ckpt.is_file():
        raise UsageError(f"there is no checkpoint {ckpt}")
    options.ckpt = ckpt
    if verb == "fit":
        if options.resume and not (options.run_dir and run_folder.holds_nothing(Path(options.run_dir))):
            options.run = _find_run(options)
            options.ckpt = options.run.last
        return
    if options.zero_shot:
        if ckpt:
            raise UsageError("--zero-shot scores the method without a checkpoint: leave --ckpt out")
        if not (options.config or options.part_files):
            if not options.run_dir:
                raise UsageError("--zero-shot needs --config NAME.yaml to know the method")
            options.run = _find_run(options)
            options.config = [str(options.run.config)]
        return
    if ckpt and not options.run_dir:
        folder = ckpt.parent.parent
        if (folder / run_folder.CONFIG).is_file():
            options.run = Run(folder)
        elif options.config or options.part_files:
            return  # the config as given, in a run folder of its own
        else:
            raise UsageError(f"{ckpt} lies in no run folder: give the --config that it belongs to")
    else:
        options.run = _find_run(options)
    options.ckpt = ckpt or options.run.best
    if options.ckpt is None:
        folder = options.run.path
        raise ConfigError(
            f"{folder} holds no checkpoint yet: continue it with `samzoo fit --resume --run {folder}`, "
            "name another with --run or --ckpt, or score the method as configured with --config ... --zero-shot"
        )
    options.config = [str(options.run.config)]


def _find_run(options: argparse.Namespace) -> Run:
    if options.run_dir:
        return run_folder.given(Path(options.run_dir))
    return run_folder.newest("_".join(Path(n).stem for n in options.config) or None)


def _train_or_score(verb: str, description: str, args: list[str]) -> None:
    if "--help-all" in args:
        _lightning(verb, argparse.Namespace(run=None, ckpt=None, known=[]), ["--help"], {})
        return
    part_parser = _Parser(prog=f"samzoo {verb}", add_help=False)
    for part in PARTS:
        part_parser.add_argument(f"--{part}")
    given, args = part_parser.parse_known_args(args)
    parser = _training_parser(verb, description)
    options, settings = parser.parse_known_args(args)
    options.known = parser.option_names()
    parts = {part: value for part, value in vars(given).items() if value is not None}
    files = {p: str(find_config(v, PARTS[p])) for p, v in parts.items() if v.endswith(SUFFIXES)}
    options.part_files = list(files.values())
    for name in options.config:
        find_config(name)
    _resolve_run(options, verb)
    if not (options.config or "model" in parts or options.run):
        raise UsageError(f"nothing says what to {verb}: give --config NAME.yaml (see `samzoo zoo`)")
    # config files first, so that single settings win over them wherever they stand on the line
    configs = [f"--config={name}" for name in options.config]
    whole = bool(configs or parts)
    if getattr(options, "images", None):
        settings.append(f"--data.predict_root={options.images}")
        if options.run and "data" not in parts and not any(s.startswith("--data.root") for s in settings):
            from samzoo.cli_found import without_data

            settings += without_data(options.run.path, read_yaml(options.run.config))
    args = [*configs, *(f"--{p}={files.get(p, v)}" for p, v in parts.items()), *settings]
    if verb == "fit" and options.run:
        own = f"--config={options.run.config}"
        if options.run_dir and whole:  # the command that began it; single settings alone are what is to be changed
            options.asked, args, files = (args, frozenset(files)), [own], {}
        else:
            args = [own, *args[len(configs) :]]
        options.unchanged = args == [own]
    _lightning(verb, options, args, files)


def _lightning(verb: str, options: argparse.Namespace, args: list[str], files: dict[str, str]) -> None:
    from samzoo.cli_lightning import run

    run(options, [verb, *args], frozenset(files))


# --- the other verbs -----------------------------------------------------------------------------------


def _zoo(args: list[str]) -> int:
    parser = _Parser(prog="samzoo zoo", description=VERBS["zoo"][1])
    parser.parse_args(args)
    from samzoo.cli_zoo import listing

    print(listing())
    return 0


def _verify(args: list[str]) -> int:
    parser = _Parser(
        prog="samzoo verify",
        description=VERBS["verify"][1],
        epilog="Settings that say how to read the data are those of fit: --data.mask_threshold 127, "
        "--data.classes '{liver: 1}', ...",
    )
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument("--data", metavar="NAME", help="config of configs/datasets that says how to read it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON as well")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="draw a slice of each case with its label")
    options, rest = parser.parse_known_args(args)
    settings = read_yaml(find_config(options.data, "datasets")) if options.data else {}
    from samzoo.cli_own import data_settings, settings_of_all
    from samzoo.data.verify import known_settings, verify

    words = settings_of_all(rest, "verify")
    known = [f"data.{n}" for n in known_settings()]
    for name in (word.split("=")[0].removeprefix("--") for word in words):
        if name not in known:
            raise UsageError(
                f"verify looks at no setting {name!r}" + did_you_mean(name, known, f"; it takes {', '.join(known)}")
            )
    settings |= data_settings(words)
    report = verify(options.root, settings, options.overlays, options.json)
    print(report.text())
    if report.ok and not options.data and any(case.split == "train" for case in report.cases):
        line = ["samzoo", "fit", "--config", "sam_med2d_tiny.yaml", "--data.root", options.root, *words]
        print(f"  next: {printable(shlex.join(line))}")
    return 0 if report.ok else 1


def _prepare(args: list[str]) -> int:
    parser = _Parser(
        prog="samzoo prepare",
        description=VERBS["prepare"][1],
        usage="samzoo prepare phantom OUT [--cases N] [--size N] [--seed N]\n"
        "       samzoo prepare --config NAME | --data NAME",
    )
    if args and not args[0].startswith("-"):
        parser.add_argument("what", choices=["phantom"])
        parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the data set")
        parser.add_argument("--cases", type=int, default=24, help="number of volumes (default: %(default)s)")
        parser.add_argument("--size", type=int, default=96, help="height and width in voxels (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
        options = parser.parse_args(args)
        from samzoo.data.phantom import PhantomSettings, write_phantom

        settings = PhantomSettings(cases=options.cases, size=options.size, seed=options.seed)
        print(f"the phantom is in {write_phantom(options.out, settings)}")
        return 0
    parser.add_argument("-c", "--config", metavar="NAME", help="a config; its data set is prepared")
    parser.add_argument("--data", metavar="NAME", help="a config of configs/datasets")
    options = parser.parse_args(args)
    name = options.config or options.data
    if not name:
        raise UsageError("say what to prepare: phantom OUT, --config NAME or --data NAME")
    find_config(name, "" if options.config else "datasets")
    from samzoo.cli_lightning import prepare

    prepare(name, part=not options.config)
    return 0


def _leaderboard(args: list[str]) -> int:
    from samzoo.cli_leaderboard import main as leaderboard

    return leaderboard(_Parser(prog="samzoo leaderboard", description=VERBS["leaderboard"][1]), args)


def _download(args: list[str]) -> int:
    from samzoo.cli_download import main as download

    return download(_Parser(prog="samzoo download", description=VERBS["download"][1]), args)


VERBS: dict[str, tuple[Callable[[list[str]], int] | None, str]] = {
    "fit": (None, "Train a method on a data set."),
    "validate": (None, "Score the validation cases."),
    "test": (None, "Score the test cases of the newest run's best checkpoint, and write its records."),
    "predict": (None, "Segment images without labels."),
    "zoo": (_zoo, "List methods, weights and data sets, and what of them is present here."),
    "download": (_download, "Fetch a public data set: resumed, checked, unpacked."),
    "verify": (_verify, "Check a data set: layout, files, shapes, affines, labels, splits."),
    "prepare": (_prepare, "Write the phantom as a data set, or decode a data set's cases ahead of training."),
    "leaderboard": (_leaderboard, "Fit and test a suite, and rank the methods by their records."),
}


GOING_ON = {
    "fit": "; if --run names the folder, the same command with --resume begins it or goes on",
    "test": "; scored cases are kept: the same command again goes on",
    "validate": "; nothing is written: give the same command again",
    "predict": "; label maps that are written are kept: the same command again goes on",
    "download": "; what was fetched is kept: the same command again goes on",
    "verify": "; the data are as they were: give the same command again",
    "prepare": "; finished cases are kept: the same command again goes on",
    "prepare phantom": "; nothing of it is kept: give the same command again",
    "leaderboard": "; finished cells, epochs and scored cases are kept: the same command again goes on",
}
"""What a command that was interrupted has kept, where it does not say more itself."""


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        [
            "samzoo: which SAM adaptation works best on my medical images, and at what cost?",
            "\nusage: samzoo VERB ...   (samzoo VERB --help says more)\n",
            *lines,
            "\nFirst steps: samzoo fit --config sam_med2d_phantom.yaml; samzoo test",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        the exit code: 0, 1 for a SamzooError, 2 for a wrong command line, 130 for Ctrl-C, 143 for SIGTERM.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    verb, *rest = args or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what a terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminations_raised():
            if os.environ.pop(END_WITH_PARENT, None):
                end_with_parent()
            return _main(verb, rest, bool(args))
    except SamzooError as error:
        print(f"samzoo {verb}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        word = "terminated" if terminated else "interrupted"
        kept = GOING_ON.get(" ".join(args[:2]), GOING_ON.get(verb, ""))
        print(f"\nsamzoo {verb}: {word}{interrupt if interrupt.args else kept}", file=sys.stderr)
        return EXIT_CODE if terminated else 130
    except SystemExit as done:  # --help
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        place = no_space(f"on {error.filename or 'the disk'}")
        print(f"samzoo {verb}: {place}", file=sys.stderr)
        return 1


def _main(verb: str, rest: list[str], given: bool) -> int:
    if verb in ("-h", "--help", "help"):
        print(_help(), flush=True)
        return 0 if given else 2
    if verb == "--version":
        print(f"samzoo {__version__}")
        return 0
    if verb not in VERBS:
        raise UsageError(f"there is no verb {verb!r}{did_you_mean(verb, VERBS, ';')} Known are {', '.join(VERBS)}")
    act, description = VERBS[verb]
    if act is not None:
        return act(rest) or 0
    _train_or_score(verb, description, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
