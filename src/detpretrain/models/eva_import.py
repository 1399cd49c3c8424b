"""The transformer blocks of dynamic-network-architectures, which can be imported with a torch built for the CPU as well.

They come with timm, and timm with torchvision. The published wheel of torchvision is built for CUDA: with a CPU torch its
operators are missing, and the import fails where it looks up their schemas. Nothing here calls one of them.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from detpretrain.models.draws import DropPath

MISSING = "operator torchvision::nms does not exist"
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def eva_class() -> type[nn.Module]:
    """``Eva``, imported at the first call: timm and torchvision take seconds that only a transformer should cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # timm declares TorchScript interfaces
        import_torchvision()
        from dynamic_network_architectures.building_blocks.eva import Eva
    return Eva


def eva(**figures: Any) -> nn.Module:
    """``Eva`` of its own arguments, with drop path by global sample (``models.draws``) in place of timm's."""
    made = eva_class()(**figures)
    for block in made.blocks:
        for name in ("drop_path1", "drop_path2"):
            skipped = getattr(block, name)
            if not isinstance(skipped, nn.Identity):
                setattr(block, name, DropPath(skipped.drop_prob))
    return made


@functools.cache
def import_torchvision() -> torch.library.Library | None:
    """Imports torchvision, with schemas in place of its operators where a CPU torch could not load them.

    Returns:
        What holds the schemas, which live as long as it does; None where torchvision has its operators. An import that fails
        otherwise, or with a torch for a GPU, fails.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if MISSING not in str(error) or torch.version.cuda or torch.version.hip:
            raise
    else:
        return None
    schemas = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        schemas.define(f"{operator}{SCHEMA}")
    import torchvision  # noqa: F401

    return schemas
