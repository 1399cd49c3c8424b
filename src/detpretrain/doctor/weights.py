"""How many parameters the networks of a study have: built without values, so it costs no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detpretrain.errors import InputError
from detpretrain.study import Study

FIXED = ("patch", "strides", "kernels", "detection_levels")  # of a plan spec: with these given, no data are needed
ANCHORS = {axis: [4, 6, 9] for axis in "zyx"}  # their number is what counts: three sizes an axis, as planned ones


def detector(study: Study, name: str, channels: int, classes: int) -> int | None:
    """Parameters of a detector; None where its architecture depends on the data."""
    import torch

    from detpretrain.detectors.factory import build_detector

    entry = study.entry("detectors", name)
    plan = _plan(study, entry["plan"], channels, classes)
    if plan is None:
        return None
    with torch.device("meta"):
        made = build_detector(entry, study.entry("backbones", entry["backbone"]), plan)
    return sum(parameter.numel() for parameter in made.parameters())


def copies(study: Study, name: str) -> int:
    """What a running training keeps per weight: the weight itself and what its optimiser remembers of it."""
    recipe = study.entry("recipes", study.entry("detectors", name)["recipe"])
    optimizer = recipe["optimizer"]
    if optimizer["class"].endswith(".SGD"):
        return 2 if optimizer.get("momentum") else 1
    return 4 if optimizer.get("amsgrad") else 3


def _plan(study: Study, name: str, channels: int, classes: int) -> Mapping[str, Any] | None:
    from detpretrain.preprocessing.plan_spec import parse_spec

    spec = parse_spec(name, study.plan_spec(name))
    if any(getattr(spec, key) is None for key in FIXED):
        return None
    if channels < 1:
        raise InputError(f"plan {name}: a data set without channels: prepare it again")
    given = {key: getattr(spec, key) for key in FIXED}
    if len(given["kernels"]) == 1:  # one for all stages
        given["kernels"] = given["kernels"] * len(given["strides"])
    return {**given, "anchors": ANCHORS, "channels": channels, "classes": classes}
