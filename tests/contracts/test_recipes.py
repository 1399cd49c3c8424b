"""Recipes that treat an encoder apart, on every detector of config/detectors.yaml: a new one is tested without a line here.

Entries of an engine have no class and no recipe: ``test_engines``.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detpretrain.detectors.contract import Targets
from detpretrain.files import read_yaml
from detpretrain.models.factory import pretrained_part
from detpretrain.training.loop import Run, fit
from detpretrain.training.parameter_groups import parameter_groups
from detpretrain.training.recipe import Recipe

CONFIG = Path(__file__).resolve().parents[2] / "config"
CHANNELS = 2  # of the synthetic plans
WITH_CLASS = {name: entry for name, entry in read_yaml(CONFIG / "detectors.yaml").items() if "engine" not in entry}
ALL = [(name, size) for name, entry in WITH_CLASS.items() for size in entry["sizes"]]
SMOKE = [(name, size) for name, size in ALL if size == "smoke"]


@pytest.mark.parametrize(("name", "size"), ALL)
def test_every_encoder_has_layers_and_the_first_is_the_slowest(name, size, detector_of, without_values):
    detector, _ = detector_of(name, size)
    groups = parameter_groups(detector, layer_decay=0.5)
    scales = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    assert len(scales) == len(list(detector.parameters()))
    depth = len({scale for scale in scales.values() if scale < 1})
    encoder = [scales[id(parameter)] for parameter in pretrained_part(detector.encoder).parameters()]
    assert depth >= 3
    assert min(encoder) == 0.5**depth
    first = {m for m in detector.encoder.modules() if isinstance(m, torch.nn.Conv3d) and m.in_channels == CHANNELS}
    assert {scales[id(layer.weight)] for layer in first} == {min(encoder)}
    rest = set(scales) - {id(parameter) for parameter in pretrained_part(detector.encoder).parameters()}
    assert {scales[identity] for identity in rest} == {1.0}


@pytest.mark.parametrize(("name", "size"), SMOKE)
def test_the_two_phases_freeze_and_free_the_encoder(name, size, detector_of, resolved, tmp_path):
    detector, plan = detector_of(name, size)
    recipe = replace(Recipe.from_entry(name, resolved("recipes", "retina_smoke_two_phase", size)), steps_per_epoch=1)
    foreground = torch.zeros(2, *plan["patch"], dtype=torch.bool)
    foreground[:, 4:9, 5:11, 6:13] = True
    boxes = [torch.tensor([[3.0, 4, 5, 9, 11, 13]])] * 2
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, CHANNELS, *plan["patch"], generator=generator)
    batch = images, Targets(boxes, [torch.tensor([1])] * 2, foreground)
    part = pretrained_part(detector.encoder)
    states = [{key: value.clone() for key, value in part.state_dict().items()}]

    def validate(model):
        states.append({key: value.clone() for key, value in part.state_dict().items()})
        return {}

    run = Run(
        model=detector,
        batches=lambda first: iter([batch] * (2 - first)),
        validate=validate,
        recipe=recipe,
        seed=(0, name),
        device=torch.device("cpu"),
        work=tmp_path,
        signature="s",
    )
    before = {key: value.clone() for key, value in detector.named_parameters()}
    fit(run)
    start, frozen, whole = states
    assert all(torch.equal(value, frozen[key]) for key, value in start.items())
    assert not all(torch.equal(value, whole[key]) for key, value in start.items())
    assert any(not torch.equal(value, before[key]) for key, value in detector.named_parameters() if key not in whole)
    assert all(parameter.requires_grad for parameter in detector.parameters())
