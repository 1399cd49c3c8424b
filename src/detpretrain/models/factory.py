"""A backbone entry and a plan -> a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from detpretrain.build import build, locate

# of the plan, what a backbone's class may take by name
FROM_PLAN = ("strides", "kernels", "patch", "detection_levels")


def build_backbone(entry: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    """The backbone (e.g. ``models.resenc.ResEnc``) with what it takes of the plan's ``FROM_PLAN``."""
    taken = inspect.signature(locate(entry["class"])).parameters
    return build(entry, **{name: plan[name] for name in FROM_PLAN if name in taken})


def pretrained_part(encoder: nn.Module) -> nn.Module:
    """What of a detector's encoder a pre-trained checkpoint fills: all of it, unless the encoder says which part."""
    return getattr(encoder, "pretrained", encoder)
