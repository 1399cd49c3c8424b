"""Parameters sorted into optimiser groups: which are decayed, and whose learning rate is a fraction of the schedule's.

Layer-wise learning-rate decay multiplies the rate of encoder layer i of L by ``decay ** (L - i)``: the first layers of a
pre-trained network hold what is most general and move least (ULMFiT: Howard & Ruder, ACL 2018; ELECTRA: Clark et al., ICLR 2020;
with masked image modelling BEiT: Bao et al., ICLR 2022, and MAE: He et al., CVPR 2022).
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.factory import pretrained_part

NORMS = (nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm3d)

# names within an encoder's pre-trained part: convolutional, or a vision transformer (dynamic-network-architectures' Primus)
FIRST = re.compile(r"(?:stem|down_projection|eva\.pos_embed)(?:\.|$)")
NUMBERED = re.compile(r"(?:stages|eva\.blocks)\.(\d+)\.")


def parameter_groups(
    model: nn.Module, decay_norms: bool = True, encoder_rate: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters, each once also where several modules share it.

    Args:
        decay_norms: whether norm parameters get the optimiser's weight decay.
        encoder_rate: factor on the rate of ``model.encoder`` (its part that a checkpoint fills).
        layer_decay: factor per layer between a layer of the encoder and the rest of the model.

    Returns:
        Groups with ``params``, ``scale`` (multiplies the schedule's rate) and, for norms that are not decayed, a
        ``weight_decay`` of 0; those come last, otherwise the largest scale comes first.

    Raises:
        InputError: a factor is given, but the model has no encoder, or none whose layers are numbered.
    """
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    scales = rate_scales(model, encoder_rate, layer_decay)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            undecayed, scale = not decay_norms and id(parameter) in norms, scales.get(id(parameter), 1.0)
            group = {"params": [], "scale": scale, **({"weight_decay": 0.0} if undecayed else {})}
            groups.setdefault((undecayed, -scale), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def rate_scales(model: nn.Module, encoder_rate: float, layer_decay: float) -> dict[int, float]:
    """Factor on the learning rate by the identity of a parameter; those outside the encoder are not there (1)."""
    if encoder_rate == layer_decay == 1.0:
        return {}
    key = "encoder_rate" if layer_decay == 1.0 else "layer_decay"
    if not hasattr(model, "encoder"):
        raise InputError(f"recipe key {key}: {type(model).__name__} has no encoder: remove it, it is for fine-tuning")
    layers = {id(p): layer_of(name) for name, p in pretrained_part(model.encoder).named_parameters()}
    numbers = [layer for layer in layers.values() if layer is not None]
    top = max(numbers, default=0) + 1
    if layer_decay != 1.0 and top == 1:
        raise InputError(
            f"recipe key {key}: {type(model.encoder).__name__} has no numbered stages or blocks: use encoder_rate instead"
        )
    return {
        identity: encoder_rate * layer_decay ** (top - (top if layer is None else layer))
        for identity, layer in layers.items()
    }


def layer_of(name: str) -> int | None:
    """The layer of an encoder's parameter: 0 for the stem or patch embedding, N + 1 for stage or block N.

    None for what comes after the layers, such as the last norm of a vision transformer; as in BEiT it is not slowed down.
    """
    if FIRST.match(name):
        return 0
    found = NUMBERED.match(name)
    return int(found[1]) + 1 if found else None
