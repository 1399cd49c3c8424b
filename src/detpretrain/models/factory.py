"""A backbone entry and a plan -> a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detpretrain.build import build


def build_backbone(entry: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    """The backbone (e.g. ``models.resenc.ResEnc``) with the plan's strides and kernels."""
    return build(entry, strides=plan["strides"], kernels=plan["kernels"])
