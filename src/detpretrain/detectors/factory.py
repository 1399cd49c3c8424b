"""Configuration entries and a plan -> a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from detpretrain.build import build
from detpretrain.models.factory import build_backbone

# keys of a detector entry that are not arguments of its class
RESERVED = ("backbone", "plan", "recipe", "inference")


def build_detector(entry: Mapping[str, Any], backbone_entry: Mapping[str, Any], plan: Mapping[str, Any]) -> nn.Module:
    """A freshly initialised detector (``detectors.contract.Detector``)."""
    arguments = {key: value for key, value in entry.items() if key not in RESERVED}
    return build(arguments, backbone=build_backbone(backbone_entry, plan), plan=plan)
