"""Weights that were trained on the data set say so: before a run, and in its run.json."""

import json
from types import SimpleNamespace

from cli_helpers import QUICK

from samzoo.cli import main


def test_seen_data_is_told_before_a_test_and_in_run_json(work, monkeypatch, capsys, tmp_path):
    def loads(sam, source, **_):
        return SimpleNamespace(source=source, sha256="0" * 64, new=(), seen=("lits", "phantom"))

    monkeypatch.setattr("samzoo.methods.promptable.load_weights", loads)
    args = ["--model", "methods/sam.yaml", "--data", "datasets/phantom.yaml", *QUICK]
    args += ["--model.init_args.architecture=vit_tiny", "--model.init_args.image_size=64"]
    args += ["--trainer.accelerator=cpu", "--model.init_args.weights=w"]
    assert main(["test", *args, "--zero-shot", "--run", str(tmp_path / "run")]) == 0
    assert "warning: w was trained on the public training part of phantom" in capsys.readouterr().err
    run = json.loads(next((tmp_path / "run").rglob("run.json")).read_text())
    assert run["weights"] == {"source": "w", "sha256": "0" * 64, "seen": ["lits", "phantom"]}
