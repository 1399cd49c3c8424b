import json

import nndet_standin
import numpy as np
import pytest
import SimpleITK as sitk
from nndet_tasks import CASES, TESTS

from detpretrain.engines import nndet_predict, nndet_predictions, nndet_train
from detpretrain.errors import InputError
from detpretrain.evaluation import raw_boxes

ENTRY = {
    "engine": "nndet",
    "backbone": "plainconv_v001",
    "plan": "nndet_v002",
    "config": "retinaunet_v001",
    "module": "RetinaUNetV001",
    "overrides": ["trainer_cfg.max_num_epochs=1"],
}
NAME = "RetinaUNetV001_D3V002_3d_scratch"


@pytest.fixture(scope="module")
def model(ready, tmp_path_factory, on_path):
    """``model.pth`` of fold 0, trained in a work folder that no prediction sees."""
    cell = nndet_train.NnDetCell(
        name="far/d/scratch/fold0-seed0", detector=ENTRY, init="scratch", fold=0, seed=0, checkpoint=None,
        pretrained=None, signature="recipe1",
    )  # fmt: skip
    place = tmp_path_factory.mktemp("model")
    with on_path(place):
        nndet_train.finetune(
            cell, ready / "preprocessed", ready / "task" / "splits.json", place / "work", place / "model.pth",
            place / "log.csv", nndet_train.Limits(),
        )  # fmt: skip
    return place / "model.pth"


def predict_in(place, task, prepared, model, fold=0):
    places = (model, fold, prepared, task / "splits.json", place / "works", place / "raw_boxes.parquet")
    nndet_predict.predict(*places, "recipe2", nndet_train.Limits(workers=2))
    return raw_boxes.read(place / "raw_boxes.parquet")


@pytest.fixture
def predict(prepared, task, tmp_path, model, diary):
    return lambda fold=0: predict_in(tmp_path, task, prepared, model, fold)


@pytest.fixture(scope="module")
def predicted(ready, tmp_path_factory, model, on_path):
    """(raw boxes, what the stand-in tells, folder) of one prediction."""
    place = tmp_path_factory.mktemp("predicted")
    with on_path(place):
        raw = predict_in(place, ready / "task", ready / "preprocessed", model)
    return raw, nndet_standin.read_diary(place / "diary.jsonl"), place


def found_by_the_standin(lines, task):
    """Case -> boxes (z1, y1, x1, z2, y2, x2) from the corners in mm, through SimpleITK and the task's own image."""
    boxes = {}
    for line in lines:
        if "world" in line:
            (path,) = (task / "raw_splitted").glob(f"images*/{line['case']}_0000.nii.gz")
            image = sitk.ReadImage(str(path))
            sides = [
                [image.TransformPhysicalPointToContinuousIndex(corner)[::-1] for corner in box] for box in line["world"]
            ]
            boxes[line["case"]] = np.reshape(sides, (-1, 6))
    return boxes


def test_the_sweep_predicts_the_fold_and_the_last_weights_everything_else(predicted):
    raw, lines, place = predicted
    state = place / "works" / "far" / "d" / "scratch" / "fold0-seed0" / "nndet_predict"
    assert [[line["command"], *line["argv"]] for line in lines if "command" in line] == [
        ["nndet_sweep", "Task100_far", NAME, "0"],
        [
            "nndet_predict_with_task", str(state / "images" / "set_test"), str(state / "predictions" / "set_test"),
            "Task100_far", NAME, "0", "--load_models", "last", "--save_preprocessed_in_output", "-npp", "2",
        ],
    ]  # fmt: skip
    assert list(raw.candidates) == [*CASES[:3][::-1], *TESTS]
    assert {case: about["test_set"] for case, about in raw.properties.items()} == {
        **dict.fromkeys(CASES[:3], "cv"),
        **dict.fromkeys(TESTS, "test"),
    }
    assert (raw.final, raw.models, raw.classes) == (True, 1, 2)
    assert not state.exists()
    assert (state.parent / "nndet_predict.log").exists()


def test_boxes_are_those_that_nndetection_found_in_the_patient(predicted, ready):
    raw, lines, _ = predicted
    expected = found_by_the_standin(lines, ready / "task")
    assert set(raw.candidates) == set(expected)
    for case, candidates in raw.candidates.items():
        assert len(candidates.scores) >= 3
        np.testing.assert_allclose(candidates.boxes, expected[case], atol=2e-3)


def test_provenance_holds_both_stages(predicted):
    provenance = predicted[0].provenance
    assert provenance["finetune"]["engine"]["name"] == "nnDetection"
    assert (provenance["predict"]["recipe"], provenance["predict"]["device"]) == ("recipe2", "cuda")


def test_a_test_part_is_predicted_as_what_it_is(predict, splits, commands):
    folds = [{"train": CASES[3:], "val": CASES[:1], "test": CASES[1:3]}]
    splits.write_text(json.dumps({"folds": folds}))
    raw = predict()
    assert set(raw.candidates) == {*CASES[:3], *TESTS}
    assert [words[1].rsplit("/")[-1] for words in commands()] == ["Task100_far", "test", "set_test"]


def test_a_model_is_not_scored_on_what_it_was_trained_on(predict):
    with pytest.raises(InputError, match="fold 1: "):
        predict(fold=1)


def test_case_without_a_prediction_is_one_line(predict, monkeypatch, tmp_path):
    true = nndet_predictions.read_case
    monkeypatch.setattr(nndet_predictions, "read_case", lambda path, *rest: true(path.with_name("x_boxes.pkl"), *rest))
    with pytest.raises(InputError, match=r"val_predictions/x_boxes\.pkl: file not found"):
        predict()
    assert not (tmp_path / "raw_boxes.parquet").exists()


@pytest.mark.parametrize("name", ["nndet_sweep", "nndet_predict_with_task"])
def test_failure_is_one_line_and_writes_nothing(predict, monkeypatch, tmp_path, name):
    monkeypatch.setenv("NNDET_FAIL", name)
    with pytest.raises(
        InputError, match=f"nndet_predict.log: {name} ended with status 1: RuntimeError: CUDA out of memory"
    ):
        predict()
    assert not (tmp_path / "raw_boxes.parquet").exists()


def test_another_model_is_refused(prepared, splits, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="not a model of nnDetection: train the cell again"):
        nndet_predict.predict(
            tmp_path / "model.pth", 0, prepared, splits, tmp_path, tmp_path / "o", "r", nndet_train.Limits()
        )
