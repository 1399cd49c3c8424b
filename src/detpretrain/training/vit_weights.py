"""What a vision transformer's checkpoint needs before it fills another transformer: a position code for the other's patch.

Names are Primus's as nnssl, nnU-Net and nnDetection read them (``key_to_encoder`` "eva", ``key_to_stem`` "down_projection",
``key_to_lpe`` "eva.pos_embed"). The rotary code is computed from the patch and is in no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.primus import PUBLISHED, Primus
from detpretrain.training.encoder_weights import EncoderWeights, Weights

FAMILY = "Primus"
HEADS = ("eva_numheads", "encoder_eva_numheads")  # Primus's keyword argument, and that of nnssl's EvaMAE


def check_architecture(path: Path, plan: Mapping[str, Any], backbone: Any) -> None:
    """What no tensor's shape shows, of a checkpoint's plan and the backbone it is to fill: transformer or not, and the heads.

    Raises:
        InputError: they differ.
    """
    plans = plan.get("architecture_plans") or {}
    name = str(plans.get("arch_class_name") or "").rpartition(".")[2]
    if name and name.startswith(FAMILY) != isinstance(backbone, Primus):
        raise InputError(
            f"{path}: holds a {name}, the detector's backbone is a {type(backbone).__name__}; nothing was loaded: give the "
            "detector the checkpoint's architecture"
        )
    if isinstance(backbone, Primus):
        figures = plans.get("arch_kwargs") or {}
        heads = next((figures[key] for key in HEADS if key in figures), PUBLISHED.get(name, (None,))[-1])
        if heads not in (None, backbone.heads):
            raise InputError(
                f"{path}: holds a {name} of {heads} heads, the detector's backbone has {backbone.heads}; nothing was loaded: "
                "give the detector the checkpoint's architecture"
            )


def with_position_code(
    path: Path, plan: Mapping[str, Any], found: EncoderWeights, grid: Sequence[int] | None
) -> Weights:
    """The weights with the learned position code brought to ``grid``, tokens per axis of the transformer to fill.

    Trilinear on the grid of tokens, which is the plan's patch over the token's side, as nnssl's tools do. Weights without such a
    code stay what they are; with ``grid`` None (no transformer) too.

    Raises:
        InputError: the code does not belong to the plan's patch.
    """
    code = f".{plan.get('key_to_lpe') or Primus.key_to_lpe}"
    name = next((name for name in found.weights if code.endswith(f".{name}")), None)
    if name is None or grid is None:
        return found.weights
    values, own = found.weights[name], pretrained_grid(path, plan, found)
    if math.prod(own) != values.shape[1]:
        raise InputError(
            f"{path}: {name} has {values.shape[1]} positions, its plan's patch makes {' x '.join(map(str, own))} tokens: correct "
            "the plan's patch_size"
        )
    return found.weights if own == tuple(grid) else {**found.weights, name: resampled(values, own, grid)}


def pretrained_grid(path: Path, plan: Mapping[str, Any], found: EncoderWeights) -> tuple[int, ...]:
    """Tokens per axis in pre-training, from the plan's first configuration that names a patch."""
    configurations = (plan.get("pretrain_plan") or {}).get("configurations") or {}
    patch = next((value["patch_size"] for value in configurations.values() if value.get("patch_size")), None)
    if patch is None:
        raise InputError(
            f"{path}: its plan names no patch_size under pretrain_plan.configurations, so that nothing tells which place each "
            "position code is for: write the plan again"
        )
    if found.projections[0] not in found.weights:
        raise InputError(
            f"{path}: lacks {found.projections[0]}, which its keys_to_in_proj name: correct the checkpoint"
        )
    token = found.weights[found.projections[0]].shape[2:]
    return tuple(int(size) // side for size, side in zip(patch, token, strict=True))


def resampled(code: Tensor, grid: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """``[1, N, dim]`` on one grid of tokens (x fastest) -> ``[1, M, dim]`` on another that covers the same field of view."""
    maps = code.transpose(1, 2).unflatten(2, tuple(grid)).float()
    maps = functional.interpolate(maps, size=tuple(wanted), mode="trilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(code.dtype).contiguous()
