"""Weights that were trained on the data set say so: before a run, and in its run.json."""

import json
from pathlib import Path

from cli_helpers import QUICK

from samzoo.cli import main
from samzoo.sam import LoadReport


def test_seen_data_is_told_before_a_test_and_in_run_json(work, monkeypatch, capsys, tmp_path):
    def loads(sam, source, **_):
        return LoadReport(source, Path(source), "0" * 64, False, (), {}, (), (), seen=("lits", "kits21"))

    monkeypatch.setattr("samzoo.methods.promptable.load_weights", loads)
    args = ["--model", "methods/sam.yaml", "--data", "datasets/phantom.yaml", *QUICK]
    args += ["--model.init_args.architecture=vit_tiny", "--model.init_args.image_size=64"]
    args += ["--trainer.accelerator=cpu", "--model.init_args.weights=w", "--data.name=KiTS23"]
    assert main(["test", *args, "--zero-shot", "--run", str(tmp_path / "run")]) == 0
    assert "warning: w was trained on the public training part of KiTS23" in capsys.readouterr().err
    run = json.loads(next((tmp_path / "run").rglob("run.json")).read_text())
    assert run["weights"] == {"source": "w", "sha256": "0" * 64, "seen": ["lits", "kits21"], "seen_this": True}
