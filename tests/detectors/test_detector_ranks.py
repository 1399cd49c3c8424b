"""Whole detectors with draws in their forward pass: two processes with half a batch each take the step of one with the whole."""

from pathlib import Path

import pytest
import torch
from processes import RANKS, run_together
from torch import distributed

from detpretrain import study
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.factory import build_detector
from detpretrain.files import read_yaml
from detpretrain.models import ranks
from detpretrain.models.draws import DropPath

CONFIG = Path(__file__).resolve().parents[2] / "config"
PATCH = (16, 24, 24)
PLAN = {
    "patch": list(PATCH),
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 3]] * 3,
    "detection_levels": [1, 2],
    "channels": 1,
    "classes": 2,
}
# unevenly on the ranks, which hold the images 0, 2 and 1, 3: the second one has none at all
COUNTS = {"uneven": (1, 0, 3, 0), "more than fit": (30, 2, 1, 60)}
DETECTORS = {
    "deformable_detr_resenc_dn": ({"denoising": 20}, {}),
    "deformable_detr_primus": ({}, {"drop_path": 0.5}),
    "deformable_detr_resenc": ({"dropout": 0.3}, {}),
}
CASES = [(name, counts) for name in DETECTORS for counts in COUNTS]


def detector_of(name):
    entries = study.Study({"size": "smoke"}, {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in study.KINDS}, {})
    entry, (changes, backbone) = entries.entry("detectors", name), DETECTORS[name]
    torch.manual_seed(0)
    detector = build_detector(entry | changes, entries.entry("backbones", entry["backbone"]) | backbone, PLAN)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # as if trained: boxes that differ, so that no two matchings cost the same
        for parameter in detector.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return detector


def batch_of(counts):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(len(counts), 1, *PATCH, generator=generator)
    lows = [8 * torch.rand(count, 3, generator=generator) for count in counts]
    boxes = [torch.cat([low, low + 3 + 5 * torch.rand(low.shape, generator=generator)], dim=1) for low in lows]
    return images, boxes, [torch.randint(2, (count,), generator=generator) for count in counts]


def step(name, counts):
    """Mean losses and mean gradients of all ranks, and what comes next from the generator."""
    detector, part = detector_of(name), slice(ranks.own(), None, ranks.number())
    images, boxes, labels = (values[part] for values in batch_of(COUNTS[counts]))
    torch.manual_seed(3)
    losses = detector(images, Targets(boxes, labels, torch.zeros(len(images), *PATCH, dtype=torch.bool)))
    sum(losses.values()).backward()
    found = {f"loss {key}": value.detach() for key, value in losses.items()}
    found |= {key: torch.zeros(()) if p.grad is None else p.grad for key, p in detector.named_parameters()}
    if ranks.number() > 1:
        for value in found.values():
            distributed.all_reduce(value)
    return {key: value / ranks.number() for key, value in found.items()}, torch.rand(2)


def every_step():
    return {case: step(*case) for case in CASES}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return run_together(tmp_path_factory.mktemp("together"), every_step)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_take_the_step_of_one(together, case):
    alone, after = step(*case)
    gradient = torch.cat([value.flatten() for key, value in alone.items() if not key.startswith("loss ")]).norm()
    for rank in range(RANKS):
        found, next_draws = together[rank][case]
        assert list(found) == list(alone)
        for key, value in alone.items():
            if key.startswith("loss "):
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=key)
            else:
                # of a bias before a norm rounding is all that there is
                assert (found[key] - value).norm() <= 1e-5 * value.norm() + 1e-7 * gradient, key
        assert torch.equal(next_draws, after)


def test_something_is_drawn_in_each_of_them():
    assert any(isinstance(part, DropPath) for part in detector_of("deformable_detr_primus").modules())
    for name in DETECTORS:
        detector, (images, boxes, labels) = detector_of(name), batch_of(COUNTS["uneven"])
        targets = Targets(boxes, labels, torch.zeros(len(images), *PATCH, dtype=torch.bool))
        losses = []
        for seed in range(2):
            torch.manual_seed(seed)
            losses.append(sum(detector(images, targets).values()))
        assert losses[0] != losses[1], name
