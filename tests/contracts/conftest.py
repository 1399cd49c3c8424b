"""Plans without data, detectors of entries, the settings of a CPU job: what the contract tests of every entry share."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from detpretrain import study
from detpretrain.detectors.factory import build_detector
from detpretrain.files import read_yaml
from detpretrain.models.eva_import import eva_class
from detpretrain.preprocessing.fingerprint import CaseFingerprint, Fingerprint
from detpretrain.preprocessing.plan import make_plan
from detpretrain.preprocessing.plan_spec import parse_spec, read_spec

torch.set_num_threads(1)

CONFIG = Path(__file__).resolve().parents[2] / "config"
ENTRIES = {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in study.KINDS}
ANCHORS = {"z": [4, 6, 9], "y": [4, 6, 9], "x": [4, 6, 9]}  # given: searching them takes seconds
FOREGROUND = {"voxels": 50, "mean": 40.0, "sd": 10.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}


@cache
def _plan(name, modalities, classes, anisotropic):
    spec = read_spec(CONFIG / "plans" / f"{name}.yaml")
    if classes and spec.get("anchors") != "none":
        spec["anchors"] = ANCHORS
    if anisotropic:
        spec |= _anisotropic(parse_spec(name, spec))
    boxes = [[10.0, 10, 10, 20, 22, 18]] * classes
    cases = [CaseFingerprint("a", (160,) * 3, (160,) * 3, (1.0,) * 3, boxes, list(range(classes)))]
    labels = {label: f"class {label}" for label in range(classes)}
    intensities = [FOREGROUND] * len(modalities) if classes else None
    fingerprint = Fingerprint(list(modalities), labels, cases, intensities)
    return make_plan(fingerprint, "synthetic", name, parse_spec(name, spec))


def _anisotropic(spec):
    """The spec for thick slices: half as many of them, which the first stride that halves leaves alone."""
    first = next(stage for stage, stride in enumerate(spec.strides) if stride[0] > 1)
    strides = [list(stride) for stride in spec.strides]
    strides[first][0] //= 2
    kernels = [[1, 3, 3] if stage < first else [3, 3, 3] for stage in range(len(strides))]
    return {"patch": [spec.patch[0] // 2, *spec.patch[1:]], "strides": strides, "kernels": kernels}


@pytest.fixture
def synthetic_plan():
    """``synthetic_plan(name)``: what the planner makes of config/plans/NAME.yaml for volumes of 160^3 at 1 mm.

    Two channels and two classes unless told otherwise; 0 classes make it the plan of a corpus.
    """

    def make(name, modalities=("CT", "MR"), classes=2, anisotropic=False):
        return _plan(name, tuple(modalities), classes, anisotropic)

    return make


@pytest.fixture
def resolved():
    """``resolved(kind, name, size)``: the entry with the values of that size."""

    def resolve(kind, name, size):
        return study.Study({"size": size}, ENTRIES, {}).entry(kind, name)

    return resolve


@pytest.fixture
def detector_of(resolved, synthetic_plan):
    """``detector_of(name, size)``: the detector of an entry and its plan; more arguments are those of ``synthetic_plan``."""

    def make(name, size, seed=0, **arguments):
        entry = resolved("detectors", name, size)
        plan = synthetic_plan(entry["plan"], **arguments)
        torch.manual_seed(seed)
        return build_detector(entry, resolved("backbones", entry["backbone"], size), plan), plan

    return make


@pytest.fixture
def without_values(monkeypatch):
    """Networks of full size in no time: their weights are left as they come."""
    for name in (
        "kaiming_normal_",
        "kaiming_uniform_",
        "xavier_uniform_",
        "xavier_normal_",
        "normal_",
        "trunc_normal_",
    ):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    eva_class()  # timm has a truncated normal of its own
    monkeypatch.setattr(sys.modules["timm.layers.weight_init"], "_trunc_normal_", lambda tensor, *_: tensor)


@pytest.fixture(autouse=True)
def deterministic():
    """As a CPU job runs (``training.runtime``): an operation without a deterministic form stops it."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
