"""The published ``RetinaUNet-MissingPiece-MultiTalent`` checkpoint, whose tensors have nnDetection's module names, in ours.

It holds nnDetection's plain-convolution encoder (``ConvBackbone``), one stem per pre-training data set, the feature pyramid and
heads of segmentation; no detection heads. The layout, with L a level, C a convolution of it, ID a stem's id:

====================================================== ==================================================
``stem.ID.0.weight``, ``stem.ID.1.{weight,bias}``      ``encoder.stem.ID.convs.0.{conv,norm}...``
``backbone.levels.L.component.C.{conv,norm}...``       ``encoder.stages.L.0.convs.C.{conv,norm}...``
``decoder.lateral.PL.0.conv...``                       ``neck.lateral.L...``
``decoder.up.PL.conv.weight``                          ``neck.up.L-1.weight`` (the pyramid's list begins with P1)
``decoder.out.PL.0.conv...``                           ``neck.out.L...``
====================================================== ==================================================

Read in nnDetection's public sources (commit d2f83c4: ``DetSegModel_TL_MultiTalentStem``, which loads this checkpoint,
``ConvBackbone``, ``UFPN``, ``BaseConvNormAct``, ``docs/finetuning.md``): the names of stems and levels; that index 0 of a stem
is its convolution and index 1 its norm; that level 0 holds one convolution, ``component.0``, which comes second, after the stem;
that no convolution of the encoder has a bias; that ``key_to_stem`` names the default stem (``stem.351_0``, CT); that the pyramid
is under ``decoder``; the inner names of nnDetection's pyramid, whose transposed convolutions have no bias.

Inferred: that the pyramid of pre-training has those inner names (the loader leaves it out), and that an activation follows the
stem in pre-training too (the loader puts it into a block with one). Accepted besides: ``encoder.stem`` for ``stem``, ``neck``
for ``decoder``, and layers of a stem by their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

LEVELS = re.compile(r"backbone\.levels\.\d+\.component\..+")
STEM_KEY = re.compile(r"(?:encoder\.)?stem(?P<id>\..+)?")
LAYERS = {"0": "conv", "1": "norm", "conv": "conv", "norm": "norm"}
ALIASES = {
    "conv": ("conv", "all_modules.0"),
    "norm": ("norm", "all_modules.1"),
}  # dynamic-network-architectures names both

STEM = re.compile(r"(?:encoder\.)?stem\.(?P<id>[^.]+)\.(?P<layer>0|1|conv|norm)\.(?P<leaf>weight|bias)")
BLOCK = re.compile(
    r"backbone\.levels\.(?P<level>\d+)\.component\.(?P<place>\d+)\.(?P<layer>conv|norm)\.(?P<leaf>weight|bias)"
)
PYRAMID = re.compile(
    r"(?:decoder|neck)\.(?P<kind>lateral|up|out)\.P(?P<level>\d+)\.(?:0\.)?conv\.(?P<leaf>weight|bias)"
)
# a tensor of a known part with a name that is not understood stays in that part, where the comparison with a detector names it
PARTS = {
    "backbone.": "encoder.stages.",
    "encoder.stem.": "encoder.stem.",
    "stem.": "encoder.stem.",
    "decoder.": "neck.",
    "neck.": "neck.",
}


def is_layout(names: Collection[str]) -> bool:
    """Whether a state dict with these names has this layout."""
    return any(LEVELS.fullmatch(name) for name in names)


def translated(network: Mapping[str, Tensor], plan: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict of this layout and its adaptation plan as the other checkpoints have them.

    Encoder tensors get both of the names that dynamic-network-architectures gives a layer, the pyramid the names of
    ``models.fpn`` under ``neck``; heads have none. Of the plan only the keys that point into the network change.
    """
    renamed = {new: tensor for name, tensor in network.items() for new in our_names(name)}
    found = STEM_KEY.fullmatch(str(plan.get("key_to_stem") or "stem"))
    stem = f"encoder.stem{found['id'] or ''}" if found else str(plan["key_to_stem"])
    keys = {
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        "keys_to_in_proj": [f"{stem}.convs.0.{alias}" for alias in ALIASES["conv"]],
    }
    return renamed, {**plan, **keys}


def our_names(name: str) -> tuple[str, ...]:
    """What a tensor of this layout is called here: several names for a layer with aliases, none for one of a head."""
    if found := STEM.fullmatch(name):
        return _aliases(f"encoder.stem.{found['id']}.convs.0", found["layer"], found["leaf"])
    if found := BLOCK.fullmatch(name):
        return _aliases(f"encoder.stages.{found['level']}.0.convs.{found['place']}", found["layer"], found["leaf"])
    if found := PYRAMID.fullmatch(name):
        return (f"neck.{found['kind']}.{int(found['level']) - (found['kind'] == 'up')}.{found['leaf']}",)
    return tuple(f"{ours}{name.removeprefix(part)}" for part, ours in PARTS.items() if name.startswith(part))


def _aliases(block: str, layer: str, leaf: str) -> tuple[str, ...]:
    return tuple(f"{block}.{alias}.{leaf}" for alias in ALIASES[LAYERS[layer]])
