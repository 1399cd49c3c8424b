"""Plans without data, and the settings of a CPU job: what the contract tests of every entry share."""

from functools import cache
from pathlib import Path

import pytest
import torch

from detpretrain.preprocessing.fingerprint import CaseFingerprint, Fingerprint
from detpretrain.preprocessing.plan import make_plan
from detpretrain.preprocessing.plan_spec import parse_spec, read_spec

torch.set_num_threads(1)

PLANS = Path(__file__).resolve().parents[2] / "config" / "plans"
ANCHORS = {"z": [4, 6, 9], "y": [4, 6, 9], "x": [4, 6, 9]}  # given: searching them takes seconds
FOREGROUND = {"voxels": 50, "mean": 40.0, "sd": 10.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}


@cache
def _plan(name, modalities, classes):
    spec = read_spec(PLANS / f"{name}.yaml")
    if classes and spec.get("anchors") != "none":
        spec["anchors"] = ANCHORS
    boxes = [[10.0, 10, 10, 20, 22, 18]] * classes
    cases = [CaseFingerprint("a", (160,) * 3, (160,) * 3, (1.0,) * 3, boxes, list(range(classes)))]
    labels = {label: f"class {label}" for label in range(classes)}
    intensities = [FOREGROUND] * len(modalities) if classes else None
    fingerprint = Fingerprint(list(modalities), labels, cases, intensities)
    return make_plan(fingerprint, "synthetic", name, parse_spec(name, spec))


@pytest.fixture
def synthetic_plan():
    """``synthetic_plan(name)``: what the planner makes of config/plans/NAME.yaml for volumes of 160^3 at 1 mm.

    Two channels and two classes unless told otherwise; 0 classes make it the plan of a corpus.
    """

    def make(name, modalities=("CT", "MR"), classes=2):
        return _plan(name, modalities, classes)

    return make


@pytest.fixture(autouse=True)
def deterministic():
    """As a CPU job runs (``training.runtime``): an operation without a deterministic form stops it."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
