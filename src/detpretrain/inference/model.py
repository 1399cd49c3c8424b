"""A ``model.pth`` -> a detector that is ready to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain.detectors.factory import build_detector
from detpretrain.errors import InputError
from detpretrain.inference.predict import InferenceSettings
from detpretrain.models.channels_last import channels_last
from detpretrain.training import checkpoints
from detpretrain.training.precision import autocast_dtype


@dataclass(frozen=True)
class Model:
    """A trained detector with what it needs.

    ``precision``: the autocast type, None for float32; ``trained_on``: the cases that trained it, where the file tells.
    """

    detector: nn.Module
    plan: dict[str, Any]
    settings: InferenceSettings
    precision: torch.dtype | None
    provenance: dict[str, Any]
    trained_on: tuple[str, ...] = ()


def load(path: Path, device: torch.device, inference: dict[str, Any] | None = None) -> Model:
    """Loads a model onto a device; ``inference`` overrides the settings it was trained with.

    Raises:
        InputError: not a file that ``training.finetune.write_model`` wrote.
    """
    content = checkpoints.load(path)
    missing = [key for key in ("weights", "detector", "backbone", "plan", "precision") if key not in content]
    if missing:
        raise InputError(f"{path}: no {missing[0]}: give a model.pth that fine-tuning wrote")
    detector = build_detector(content["detector"], content["backbone"], content["plan"])
    detector.load_state_dict(content["weights"])
    if content.get("channels_last"):  # the layout that it was trained in
        detector = channels_last(detector)
    own = content["detector"].get("inference", {})
    settings = InferenceSettings(**(own if inference is None else inference))
    precision = autocast_dtype(content["precision"], device)
    facts = content.get("provenance", {}), tuple(content.get("trained_on", ()))
    return Model(detector.to(device).eval(), content["plan"], settings, precision, *facts)
