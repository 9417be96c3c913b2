"""Configs, suites and command lines: wrong ones end in one message and exit code 1 or 2, and run nothing."""

import logging
import re
import warnings

import pytest
import yaml
from data_sets import write_nnunet
from fuzz_harness import Mutant, both, fuzz
from fuzz_mutants import JUNK, object_mutants, yaml_mutants
from hypothesis import strategies as st

from samzoo.cli import main
from samzoo.cli_config import find_config, read_config
from samzoo.cli_suite import jobs
from samzoo.errors import SamzooError
from samzoo.leaderboard.suite import read_suite

CONFIG = """model: methods/box_ellipse.yaml
data:
  root: data
  layout: nnunet
  batch_size: 2
  intensity: {kind: window, low: -160, high: 240}
  num_workers: 0
data.fold: 0
trainer: trainer/cpu.yaml
trainer.max_epochs: 2
protocol:
  regimes: [box_3d, box_per_slice]
  seed: 3
protocol.slices: 0
seed_everything: 1
"""
SUITE = """data: mine.yaml
settings: [--trainer=trainer/cpu.yaml, --trainer.max_epochs=30]
seeds: [0, 1]
runs: there
cells:
  sam: {method: sam_tiny.yaml, fit: false}
  unet: {method: unet_tiny.yaml, seeds: [0, 2], settings: ["--protocol.regimes=[auto]"]}
  own: {config: box_ellipse_phantom.yaml, data: phantom.yaml, fit: false}
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("layout: phantom\n")
    return tmp_path


@both
def test_read_configs(work, scale):
    path = work / "a.yaml"

    def read(content):
        path.write_bytes(content)
        return read_config(path)

    whole = yaml.safe_load(CONFIG)
    fuzz("configs", yaml_mutants(CONFIG, whole), read, read(CONFIG.encode()), "a.yaml", int(1500 * scale))

    def named(content):
        return find_config(content, "methods").name

    odd = st.sampled_from([j for j in JUNK if isinstance(j, str)]) | st.text(max_size=12)
    words = odd.filter(lambda w: not re.fullmatch(r"\w[\w.-]*", w)).map(lambda w: Mutant(repr(w), w, True))
    fuzz("names of configs", words, named, None, "no config file", int(300 * scale))


@both
def test_suites(work, scale):
    path = work / "a.yaml"

    def read(content):
        path.write_bytes(content)
        suite = read_suite(path)
        return suite.runs, suite.cells, [j.folder for j in jobs(suite)]

    whole = yaml.safe_load(SUITE)
    fuzz("suites", yaml_mutants(SUITE, whole), read, read(SUITE.encode()), "a.yaml", int(1200 * scale))


@pytest.fixture
def lines(work, monkeypatch, capfd):
    """Runs command lines up to the point where the first case would be scored."""
    from lightning.pytorch.cli import LightningCLI

    from samzoo import cli_lightning

    def reached(*_, **__):
        raise SystemExit(0)

    monkeypatch.setattr(LightningCLI, "_run_subcommand", reached)
    monkeypatch.setattr(cli_lightning.SamzooCLI, "instantiate_trainer", reached)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # lightning's log goes where an earlier test's errors went
    monkeypatch.setattr("samzoo.data.phantom.write_phantom", reached)  # where no data are named
    write_nnunet(work / "data")
    (work / "a.yaml").write_text(CONFIG)
    (work / "suite.yaml").write_text(SUITE)
    (work / "prompts.json").write_text('{"format": "samzoo-prompts", "version": 1, "cases": {}}')

    def run(args):
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = main(args)
        captured = capfd.readouterr()
        text = captured.err.strip()
        if code == 0:
            return code
        if args[:1] == ["verify"] and "NOT USABLE" in captured.out:
            raise SamzooError(captured.out)
        assert code in (1, 2), f"exit code {code}"
        said = [line for line in text.splitlines() if line.startswith("samzoo ")]
        assert len(said) == 1 and "Traceback" not in text and "usage:" not in text, text
        raise SamzooError(text)

    return run


TEST = ["test", "--config", "a.yaml", "--zero-shot"]
WORDS = (
    *(
        "--config",
        "--model",
        "--data",
        "--trainer",
        "--protocol",
        "--run",
        "--ckpt",
        "--zero-shot",
        "--images",
        "--out",
    ),
    *("--data.root", "--data.fold", "--data.classes", "--data.intensity.kind", "--data.batch_size", "--data.features"),
    *("--model.init_args", "--model.class_path", "--trainer.precision", "--trainer.devices", "--protocol.regimes"),
    *("--protocol.prompts_file", "--protocol.mirror_axes", "--seed_everything", "--print_config", "--", "-", "-c"),
    *("--suite", "--root", "--minutes", "--jobs", "--launcher", "--slurm", "--prompts", "--regime", "--json", "merge"),
)
VALUES = (
    *("a.yaml", "none.yaml", "methods/box_ellipse.yaml", "data", "nowhere", "suite.yaml", "prompts.json", "/dev/null"),
    *(
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "9" * 400,
        "[",
        "{}",
        "[1, 2]",
        "{a: b}",
        "null",
        "true",
        "!!python/name:x",
    ),
    *(
        "[" * 200,
        "*a",
        "&a [*a]",
        "\udcff",
        "\u202ex",
        "\n",
        "x" * 5000,
        "..",
        "/",
        "BoxEllipse",
        "os.system",
        "box_3d",
    ),
)


def described(args):
    return " ".join(a if len(a) < 60 else f"{a[:10]}...({len(a)})" for a in map(repr, args))


@both
def test_command_lines(lines, scale):
    """Words that lie in a wrong place or mean nothing."""
    word = st.sampled_from(WORDS) | st.sampled_from(VALUES) | st.text(max_size=5).filter(lambda t: "\0" not in t)
    pair = st.tuples(st.sampled_from(WORDS), st.sampled_from(VALUES)).map(lambda d: "=".join(d))
    some = st.lists(word | pair, min_size=1, max_size=3)
    starts = (TEST, ["validate", "--config", "a.yaml", "--zero-shot"], ["predict", "--config", "a.yaml", "--zero-shot"])
    starts = (*starts, ["test"], ["predict"], ["verify"], ["verify", "data"], ["zoo"], ["prepare", "phantom"])
    starts = (*starts, ["leaderboard"], ["leaderboard", "--suite", "suite.yaml"], ["leaderboard", "merge"], [])
    mutants = st.tuples(st.sampled_from(starts), some).map(lambda d: [*d[0], *d[1]])
    mutants = mutants.filter(lambda a: "--fit" not in a).map(lambda a: Mutant(described(a), a))
    named = ("samzoo", "NOT USABLE")  # what verify says of a data set and of settings to read it with is a report
    fuzz("command lines", mutants, lines, lines(TEST), named, int(600 * scale))


@pytest.mark.slow
def test_configs_of_a_command(work, lines):
    """Whole configs, as far as their parts are built."""

    def read(content):
        (work / "a.yaml").write_bytes(content)
        return lines(TEST)

    whole = yaml.safe_load(CONFIG)
    whole = whole | {"data": {**whole["data"], "classes": {"organ": [1], "tumour": 2}}}
    text = yaml.safe_dump(whole).encode()
    mutants = object_mutants(whole).map(lambda m: Mutant(m.what, dumped(m.content)))
    fuzz("configs of a command", mutants, read, read(text), "samzoo", 300)


def dumped(value):
    return yaml.safe_dump(value).encode("utf-8", "surrogatepass")
