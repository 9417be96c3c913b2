"""Every YAML of configs/ is parsed and instantiated, and run for two steps on a small phantom."""

import csv
import re
from pathlib import Path

import data_sets
import pytest
import yaml
from cli_helpers import PHANTOM, QUICK

from samzoo.cli import main
from samzoo.cli_config import find_config, read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
WHOLE = sorted(p.name for p in CONFIGS.glob("*.yaml") if "data" in read_yaml(p))
OWN = sorted(p.name for p in CONFIGS.glob("*.yaml") if "data" not in read_yaml(p))
METHODS = sorted(p.name for p in (CONFIGS / "methods").glob("*.yaml"))
DATASETS = sorted(p.name for p in (CONFIGS / "datasets").glob("*.yaml"))
TRAINERS = sorted(p.name for p in (CONFIGS / "trainer").glob("*.yaml"))

LAPTOP = [
    "--model.init_args.architecture=vit_tiny",
    "--model.init_args.image_size=64",
    "--model.init_args.weights=null",
]
SLABS = {
    "masksam.yaml": ["spacing=null", "patch=[2,32,32]", "widths=[16,8,8,8]", "loss.points=64", "query_chunk=6"],
    "masksam_fixed.yaml": ["spacing=null", "patch=[2,32,32]", "widths=[16,8,8,8]", "loss.points=64", "query_chunk=6"],
    "masksam_upsampled.yaml": ["spacing=null", "patch=[2,32,32]", "widths=[16,8,8,8,8]", "loss.points=64", "queries=9"],
    "masksam_tiny.yaml": ["patch=[2,32,32]", "loss.points=64"],
    "masksam_fixed_tiny.yaml": ["patch=[2,32,32]", "loss.points=64"],
    "unet.yaml": ["patch=[4,32,32]", "spacing=null", "width=4"],
    "unet_tiny.yaml": ["patch=[4,32,32]", "width=4"],
}
"""Settings that make methods on slabs small."""
CROPS = ("sam_med3d", "m_sam")
IN_CROPS = ["architecture=vit_tiny_3d", "image_size=16", "weights=null", "spacing=16", "refinement.steps=2"]
"""Methods on crops, and what makes them small."""

HERE = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.num_workers=0"]
TWO_STEPS = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.units_per_epoch=8"]


def smaller(config):
    """What makes the model of a config fit for a test; nothing for those that have no size."""
    text = yaml.safe_dump(read_yaml(config))
    if config.name.startswith(CROPS):
        return [f"--model.init_args.{setting}" for setting in IN_CROPS]
    slabs = [f"--model.init_args.{setting}" for setting in SLABS.get(config.name, ())]
    return (LAPTOP if "architecture" in text else []) + slabs


def run(config, model):
    """Two training steps and a test if it is trained, else a test as it is."""
    args = [*config, "--data", "datasets/phantom.yaml", *QUICK, *HERE, *smaller(model)]
    if model.name in SLABS:
        args += ["--protocol.regimes=[auto]", "--protocol.encode_chunk=32"]
    if model.name.startswith(CROPS):
        args += ["--protocol.regimes=[clicks_3d]", "--protocol.click_steps=2"]
    if not any(f"class_path: {name}\n" in model.read_text() + "\n" for name in ("SAM", "BoxEllipse")):
        assert main(["fit", *args, *TWO_STEPS]) == 0
        assert main(["test"]) == 0
    else:
        assert main(["test", *args, "--zero-shot"]) == 0
    (records,) = Path("runs").glob("*/*/records.csv")
    rows = list(csv.DictReader(records.open()))
    assert rows and all(0 <= float(row["dice"]) <= 1 for row in rows if row["dice"])


@pytest.mark.parametrize("name", WHOLE)
def test_whole_config(work, capsys, name):
    assert main(["fit", "--config", name, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    data = read_yaml(CONFIGS / read_yaml(CONFIGS / name)["data"])
    assert config["data"]["layout"] == data["layout"] and config["data"]["name"] == data["name"]
    assert config["model"]["class_path"].startswith("samzoo.methods.")


@pytest.mark.parametrize("name", [n for n in WHOLE if not (n.endswith("_phantom.yaml") or n.startswith("pretrain_"))])
def test_whole_config_names_its_method_and_data_set(name):
    content = read_yaml(CONFIGS / name)
    data = re.sub(r"(kits|brats)\d+", r"\1", Path(content["data"]).stem)  # the newest of its years
    assert name.endswith(f"_{data}.yaml")
    assert Path(content["model"]).stem.startswith(name.removesuffix(f"_{data}.yaml"))


@pytest.mark.parametrize("name", OWN)
def test_config_for_own_data_is_that_of_its_method(work, capsys, name):
    root = data_sets.write_nnunet(work / "mine")
    assert main(["fit", "--config", name, f"--data.root={root}", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    method = read_yaml(find_config(name, "methods"))
    assert config["model"]["class_path"].endswith(f".{method['class_path']}")
    assert config["data"]["root"] == str(root) and config["data"]["intensity"]["kind"] == "auto"


def test_every_method_has_a_config_for_own_data():
    variants = {"masksam_upsampled.yaml", "promise_ips.yaml"}
    assert set(METHODS) - variants == set(OWN)


VARIANTS = {
    "m_sam_fixed.yaml",
    "m_sam_fixed_tiny.yaml",
    "masksam_fixed.yaml",
    "masksam_fixed_tiny.yaml",
    "masksam_upsampled.yaml",
    "promise.yaml",
    "promise_ips.yaml",
}
"""They run the code of others, which are run by the default suite, and take long."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in VARIANTS else n for n in METHODS])
def test_method_runs(work, name):
    run(["--model", f"methods/{name}", "--trainer", "trainer/default.yaml"], CONFIGS / "methods" / name)


def test_gpu_config_runs_where_there_is_none(work):
    run(["--config", "sam_med2d_amos.yaml"], find_config("methods/sam_med2d.yaml"))


@pytest.mark.parametrize("name", TRAINERS)
def test_trainer(work, name):
    args = ["--config", "sam_med2d_phantom", "--trainer", f"trainer/{name}", *PHANTOM, *HERE, *TWO_STEPS]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"]
    assert main(["fit", *args, *quiet]) == 0
    (run,) = Path("runs").glob("*/*")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"], "nothing to choose the best by"


def make_data(root, content):
    """A tiny data set of the same form."""
    if content["layout"] == "nnunet":
        data_sets.write_nnunet(root, cases=4, channels=tuple(content.get("channels", ["CT"])))
    else:
        data_sets.ARCHIVES[content["name"]](root)


@pytest.mark.parametrize("name", DATASETS)
def test_data_set(work, monkeypatch, capsys, name):
    content = read_yaml(CONFIGS / "datasets" / name)
    monkeypatch.setenv("SAMZOO_DATA", str(work / "sets"))
    args = ["test", "--model", "methods/box_ellipse.yaml", "--data", f"datasets/{name}", "--zero-shot", *QUICK]
    if content["layout"] != "phantom":
        make_data(work / "sets" / content["root"], content)
        args = [a for a in args if a not in PHANTOM] + ["--data.patient_pattern=null"]
    assert main(args) == 0, capsys.readouterr().err
    assert list(Path("runs").glob("*/*/records.csv"))
