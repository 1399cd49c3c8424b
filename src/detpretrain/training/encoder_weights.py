"""The encoder in a checkpoint of the adaptation-plan format: stem and stages by the names that the encoder itself uses.

The layouts that exist (nnssl, nnU-Net, nnDetection, and this package):

* one stem: ``encoder.stem.convs...`` under ``key_to_stem`` = ``encoder.stem``;
* several stems: ``encoder.stem.ID.convs...``, and ``key_to_stem`` is either their container ``encoder.stem`` or the default one,
  ``encoder.stem.ID`` (published MultiTalent checkpoints);
* nnDetection's own module names (published Retina U-Net checkpoint): translated first, see ``nndetection_names``;
* several stems, written here: the default one in the network, so that the network is a plain one, and all of them under the
  checkpoint's own keys ``stems`` and ``default_stem``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detpretrain.errors import InputError
from detpretrain.training import nndetection_names

# of the plan, what finding an encoder needs
KEYS_READ = ("key_to_encoder", "key_to_stem", "keys_to_in_proj", "pretrain_num_input_channels")
DEFAULT_STEM = "ct"  # of a container that names no default; case does not matter
WRAPPERS = ("module.", "_orig_mod.")  # distributed data parallel, torch.compile
ALIAS = re.compile(r"(?P<block>.+)\.all_modules\.(?P<index>\d+)\.(?P<leaf>.+)")

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder out of a checkpoint.

    Attributes:
        weights: by the encoder's own names (``stem.*``, ``stages.*``).
        projections: names of the first convolution's weight, all its aliases.
        stem: id of the stem in ``weights``, None where the checkpoint has one without an id.
        conflicts: aliases whose values were replaced by those of ``all_modules``.
    """

    weights: Weights
    projections: tuple[str, ...]
    stem: str | None
    conflicts: tuple[str, ...]


@dataclass(frozen=True)
class Stems:
    """The stems of a checkpoint.

    Attributes:
        key: where the network has its stem, without an id.
        by_id: tensors of every stem, names relative to the stem; empty where there is one stem, without an id.
        default: the id that the checkpoint points at.
    """

    key: str
    by_id: Mapping[str, Weights]
    default: str | None

    @property
    def usual(self) -> str | None:
        """The default, else "CT" in any case, else the only one; None where there is no such id."""
        if self.default is not None:
            return self.default
        candidates = [name for name in self.by_id if name.lower() == DEFAULT_STEM] or list(self.by_id)
        return candidates[0] if len(candidates) == 1 else None

    def choose(self, path: Path, wanted: str | None) -> str | None:
        """Id of the stem to use, None for the only one, which has no id; ``InputError`` when there is no such stem."""
        known = ", ".join(sorted(self.by_id))
        if not self.by_id:
            if wanted is not None:
                raise InputError(f"{path}: has one stem, without an id: remove stem: {wanted}")
            return None
        chosen = self.usual if wanted is None else wanted
        if chosen is None:
            raise InputError(f"{path}: has the stems {known} and names no default: choose one with stem:")
        if chosen not in self.by_id:
            raise InputError(f"{path}: no stem {chosen!r}, its stems are {known}: choose one of them with stem:")
        return chosen


def find(
    path: Path, content: Mapping[str, Any], stem: str | None = None, modules: Collection[str] | None = None
) -> EncoderWeights:
    """The encoder with the default stem, or with the one asked for.

    Args:
        path: for messages.
        content: of the checkpoint.
        stem: id of a stem; None = the default: the one that the plan points at or the checkpoint names, else "CT", else the only
            one.
        modules: first name parts of a stem's tensors ("convs"); any other one is an id. Default: what the plan's
            ``keys_to_in_proj`` say.

    Raises:
        InputError: no adaptation plan, nothing where it points, or no such stem.
    """
    network, plan = network_and_plan(path, content)
    stems = find_stems(network, plan, content, modules)
    chosen = stems.choose(path, stem)
    root = plan["key_to_encoder"].rpartition(".")[0]  # "encoder.stages" -> "encoder"
    weights = _below(network, plan["key_to_encoder"])
    if not weights:
        raise InputError(
            f"{path}: no tensors under {plan['key_to_encoder']}, where its plan has the encoder: correct key_to_encoder"
        )
    weights = {f"{plan['key_to_encoder']}.{name}": tensor for name, tensor in weights.items()}
    own = _below(network, stems.key) if chosen is None else stems.by_id[chosen]
    weights |= {f"{stems.key}.{name}": tensor for name, tensor in own.items()}
    conflicts = trained_aliases(weights)
    return EncoderWeights(
        weights={_without(name, root): tensor for name, tensor in weights.items()},
        projections=tuple(_without(name, root) for name in projections(plan, stems)),
        stem=chosen,
        conflicts=tuple(_without(name, root) for name in conflicts),
    )


def network_and_plan(path: Path, content: Mapping[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """``network_weights`` and the plan: names and keys without the prefixes of wrappers, nnDetection's names as ours."""
    for key in ("network_weights", "nnssl_adaptation_plan"):
        if not isinstance(content.get(key), Mapping):
            raise InputError(f"{path}: no {key}: this is not a checkpoint in the adaptation-plan format")
    stems = content.get("stems") or {}
    if not isinstance(stems, Mapping) or not all(isinstance(weights, Mapping) for weights in stems.values()):
        raise InputError(f"{path}: stems: not a mapping of ids to tensors by name: write the checkpoint again")
    network = {_unwrapped(name): tensor for name, tensor in content["network_weights"].items()}
    plan = dict(content["nnssl_adaptation_plan"])
    plan |= {key: _unwrapped(plan[key]) for key in ("key_to_encoder", "key_to_stem") if plan.get(key) is not None}
    if nndetection_names.is_layout(network):
        network, plan = nndetection_names.translated(network, plan)
    missing = [key for key in KEYS_READ if plan.get(key) is None]
    if missing:
        raise InputError(f"{path}: nnssl_adaptation_plan has no {missing[0]}: write the checkpoint's plan again")
    plan["keys_to_in_proj"] = [_unwrapped(key) for key in plan["keys_to_in_proj"]]
    return network, plan


def trained_aliases(weights: Weights) -> list[str]:
    """Gives every ``.conv.*`` and ``.norm.*`` the value of its alias in ``.all_modules``; returns the names that changed.

    dynamic-network-architectures registers each layer twice. Where the two differ, the layers were replaced one by one in
    training (S3D's sparse convolutions) and ``all_modules``, which is what a forward pass runs, holds the trained values.
    """
    changed = []
    for name, alias in _alias_pairs(weights):
        trained = weights[name]
        if alias in weights and not _same(weights[alias], trained):
            weights[alias] = trained
            changed.append(alias)
    return changed


def _alias_pairs(names: Collection[str]) -> list[tuple[str, str]]:
    """(``X.all_modules.I.weight``, ``X.conv.weight``): of the layers with tensors the first is the convolution, then the norm."""
    found = [match for match in map(ALIAS.fullmatch, names) if match]
    indices: dict[str, set[int]] = {}
    for match in found:
        indices.setdefault(match["block"], set()).add(int(match["index"]))
    pairs = []
    for match in found:
        place = sorted(indices[match["block"]]).index(int(match["index"]))
        if place < 2:
            pairs.append((match[0], f"{match['block']}.{('conv', 'norm')[place]}.{match['leaf']}"))
    return pairs


def find_stems(
    network: Weights, plan: Mapping[str, Any], content: Mapping[str, Any], modules: Collection[str] | None = None
) -> Stems:
    """The stems, whichever the layout; ``network`` and ``plan`` from ``network_and_plan``, ``modules`` as for ``find``."""
    key = plan["key_to_stem"]
    if content.get("stems"):
        default = content.get("default_stem")
        own = {} if default is None else {default: _below(network, key)}
        return Stems(key, {**own, **{name: dict(weights) for name, weights in content["stems"].items()}}, default)
    container, _, name = key.rpartition(".")
    if not f"{plan['key_to_encoder']}.".startswith(f"{container}." if container else ""):
        return Stems(container, _grouped(network, container), name)  # "encoder.stem.ID" beside "encoder.stages"
    if modules is None:
        modules = {_without(projection, key).partition(".")[0] for projection in plan["keys_to_in_proj"]}
    groups = _grouped(network, key)
    return Stems(key, {name: group for name, group in groups.items() if name not in modules}, None)


def projections(plan: Mapping[str, Any], stems: Stems) -> list[str]:
    """Names of the first convolution's weights, without a stem's id."""
    names = []
    for key in plan["keys_to_in_proj"]:
        inner = _without(key, stems.key)
        first, _, rest = inner.partition(".")
        names.append(f"{stems.key}.{rest if first in stems.by_id else inner}.weight")
    return names


def _grouped(network: Weights, key: str) -> dict[str, Weights]:
    groups: dict[str, Weights] = {}
    for name, tensor in _below(network, key).items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = tensor
    return groups


def _below(weights: Weights, key: str) -> Weights:
    return {name.removeprefix(f"{key}."): tensor for name, tensor in weights.items() if name.startswith(f"{key}.")}


def _without(name: str, root: str) -> str:
    return name.removeprefix(f"{root}.") if root else name


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
    return name.replace("._orig_mod.", ".")  # a part of the network was compiled


def _same(first: Tensor, second: Tensor) -> bool:
    return (first.data_ptr() == second.data_ptr() and first.shape == second.shape) or torch.equal(first, second)
