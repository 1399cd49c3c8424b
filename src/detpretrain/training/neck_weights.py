"""The feature pyramid of a checkpoint, for the initialisations that ask for it (``neck: true``).

Of the published checkpoints one has a pyramid, ``RetinaUNet-MissingPiece-MultiTalent`` (see ``nndetection_names``); a network of
segmentation or reconstruction has a U-Net's decoder, which is no neck of a detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.fpn import UFPN
from detpretrain.training import adaptation, checkpoints, encoder_weights
from detpretrain.training.encoder_weights import Weights

KEY = "neck."


def load_neck(detector: nn.Module, path: Path) -> int:
    """Fills a detector's feature pyramid from a checkpoint, completely or not at all.

    Every tensor's shape must be the same: they show the levels, widths, kernels and strides of the pyramid.

    Args:
        detector: with its pyramid as ``neck``.

    Returns:
        Number of tensors that were loaded.

    Raises:
        InputError: no adaptation plan, or the detector or the checkpoint has no pyramid, or they differ; the first tensor that
            differs is named.
    """
    neck = getattr(detector, "neck", None)
    if not isinstance(neck, UFPN):
        raise InputError(
            f"{path}: a {type(detector).__name__} has no feature pyramid to load: remove neck: true from the initialisation"
        )
    network, _ = encoder_weights.network_and_plan(path, checkpoints.load(path))
    weights, wanted = find(network), neck.state_dict()
    if not weights:
        raise InputError(f"{path}: has no feature pyramid: remove neck: true from the initialisation")
    weights = with_biases(weights, wanted)
    adaptation.check_tensors(path, weights, wanted, "neck")
    neck.load_state_dict(weights, strict=True)
    return len(weights)


def find(network: Mapping[str, Tensor]) -> Weights:
    """The pyramid's tensors by the names of ``models.fpn.UFPN``; empty where a network (of ``network_and_plan``) has none."""
    return {name.removeprefix(KEY): tensor for name, tensor in network.items() if name.startswith(KEY)}


def with_biases(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Weights:
    """The pyramid with a bias in its transposed convolutions, if ``wanted`` has it and no one here has.

    nnDetection dropped these biases in its second version; a bias of 0 is the same pyramid.
    """
    if any(_is_up_bias(name) for name in weights):
        return dict(weights)
    return {**{name: torch.zeros_like(wanted[name]) for name in wanted if _is_up_bias(name)}, **weights}


def _is_up_bias(name: str) -> bool:
    return name.startswith("up.") and name.endswith(".bias")
