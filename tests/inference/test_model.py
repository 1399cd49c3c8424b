import numpy as np
import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.inference.model import load
from detpretrain.inference.predict import InferenceSettings, predict_case
from detpretrain.training import checkpoints
from detpretrain.training import precision as precision_of
from detpretrain.training.finetune import Cell, write_model

CPU = torch.device("cpu")


@pytest.fixture
def written(retina, tmp_path):
    cell = Cell(
        name="cubes/retina/scratch/fold0-seed0",
        detector=retina.entry,
        backbone=retina.backbone,
        recipe={"precision": "fp32"},
        recipe_name="none",
        fold=0,
        seed=0,
        checkpoint=None,
        signature="abc",
    )
    path = tmp_path / "model.pth"
    write_model(path, retina.network, cell, retina.plan, [], {"recipe": "abc"}, ["one", "two"])
    return path


def test_a_model_that_was_written_predicts_the_same(retina, written):
    model = load(written, CPU)
    assert model.settings == InferenceSettings(**retina.entry["inference"])
    assert model.precision is None
    assert model.plan == retina.plan
    assert model.provenance == {"recipe": "abc"}
    assert model.trained_on == ("one", "two")
    assert not model.detector.training
    data = np.random.default_rng(0).normal(size=(1, 20, 18, 25)).astype(np.float32)
    before, after = (
        predict_case(network, data, retina.plan["patch"], model.settings, CPU, None)
        for network in (retina.network, model.detector)
    )
    assert len(after.scores) > 100
    for name in ("boxes", "scores", "labels", "weights", "model"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("chosen", [{"overlap": 0.0, "mirror_axes": []}, {}])
def test_other_settings_replace_those_of_the_training(written, chosen):
    """None at all are the defaults: a study that sets nothing does not inherit what an old training had."""
    assert load(written, CPU, chosen).settings == InferenceSettings(**chosen)


def test_lower_precision_is_used(retina, written, monkeypatch):
    monkeypatch.setattr(precision_of, "cpu_has_bf16", lambda: True)
    content = checkpoints.load(written)
    checkpoints.save(written, content | {"precision": "bf16"})
    model = load(written, CPU)
    assert model.precision == torch.bfloat16
    data = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    exact, rough = (
        predict_case(model.detector, data, retina.plan["patch"], model.settings, CPU, precision)
        for precision in (None, model.precision)
    )
    difference = np.abs(exact.scores[:50] - rough.scores[:50]).max()
    assert 1e-5 < difference < 0.05
    assert rough.boxes.dtype == np.float32


@pytest.mark.parametrize("key", ["weights", "detector", "backbone", "plan", "precision"])
def test_another_file_is_refused(written, key):
    content = checkpoints.load(written)
    del content[key]
    checkpoints.save(written, content)
    with pytest.raises(InputError, match=rf"no {key}: give a model\.pth"):
        load(written, CPU)
