"""Which cases of a data set the workflow's script predicts with a fold's model."""

import runpy
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detpretrain import leaves, study
from detpretrain.evaluation import raw_boxes
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.files import write_json

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = "retina_unet_resenc"
CASES = {"a": "cv", "b": "cv", "c": "cv", "d": "cv", "t": "test"}


@pytest.fixture
def predicted(tmp_path, monkeypatch, cubes_model):
    """``predicted(fold)``: cases of raw_boxes.parquet for a task of which fold 0 is given; the model and its work are made up."""
    nothing = Candidates(np.zeros((0, 6)), np.zeros(0), np.zeros(0, int), np.zeros(0), np.zeros(0, int))
    model = replace(cubes_model, trained_on=("a",))
    monkeypatch.setattr("detpretrain.inference.model.load", lambda *_: model)
    monkeypatch.setattr("detpretrain.inference.predict.predict_case", lambda *_: nothing)
    case = types.SimpleNamespace(data=np.zeros((1, 2, 2, 2)), properties={})
    monkeypatch.setattr("detpretrain.preprocessing.store.read_case", lambda *_: case)

    def run(fold: dict) -> list[str]:
        lines = "".join(f"{name},{name},{test_set}\n" for name, test_set in CASES.items())
        (tmp_path / "cases.csv").write_text(f"case,patient,test_set\n{lines}")
        write_json(tmp_path / "splits.json", {"folds": [fold]})
        write_json(tmp_path / "index.json", {"cases": [{"case": c, "test_set": t} for c, t in CASES.items()]})
        config, output = ROOT / "config" / "smoke.yaml", tmp_path / "raw_boxes.parquet"
        recipe = leaves.recipe("predict", leaves.predict(study.load([config], ROOT), DETECTOR))
        command = [
            "predict",
            "--config",
            config,
            "--detector",
            DETECTOR,
            "--fold",
            0,
            "--recipe",
            recipe,
            "--device",
            "cpu",
        ]
        command += ["--model", "model.pth", "--index", tmp_path / "index.json", "--splits", tmp_path / "splits.json"]
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--output", str(output)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "workflow" / "scripts" / "predict.py"), run_name="__main__")
        assert ended.value.code == 0
        return list(raw_boxes.read(output).candidates)

    return run


def test_the_validation_part_and_the_test_sets_are_predicted(predicted):
    assert predicted({"train": ["a"], "val": ["b"]}) == ["b", "t"]


def test_so_is_a_test_part(predicted):
    assert predicted({"train": ["a"], "val": ["b"], "test": ["d"]}) == ["b", "d", "t"]
