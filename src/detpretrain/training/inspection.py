"""What is in a checkpoint: facts for a reader, nothing is built or run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detpretrain.errors import InputError
from detpretrain.training import checkpoints


def inspect(path: Path) -> dict[str, Any]:
    """Facts about a pre-trained encoder (adaptation-plan format) or a ``model.pth``, by name.

    Raises:
        InputError: unreadable, or neither of the two.
    """
    content = checkpoints.load(path)
    if {"network_weights", "nnssl_adaptation_plan"} <= set(content):
        return _pretrained(content)
    if {"weights", "detector", "plan"} <= set(content):
        return _model(content)
    raise InputError(f"{path}: neither a checkpoint with an adaptation plan nor a model.pth: check the path")


def count(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """``entries`` of a state dict, those that are ``aliases`` of an earlier one (same memory), and ``parameters``.

    Parameters are numbers of floating type, each counted once however many names it has.
    """
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in weights.items():
        first.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.dtype), name)
    distinct = [weights[name] for name in first.values()]
    return {
        "entries": len(weights),
        "aliases": len(weights) - len(first),
        "parameters": sum(tensor.numel() for tensor in distinct if tensor.is_floating_point()),
    }


def _pretrained(content: Mapping[str, Any]) -> dict[str, Any]:
    plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
    prefixes = tuple(f"{plan[key]}." for key in ("key_to_encoder", "key_to_stem") if plan.get(key))
    encoder = count({name: tensor for name, tensor in weights.items() if name.startswith(prefixes)})
    architecture, trained = plan.get("architecture_plans") or {}, plan.get("pretrain_plan") or {}
    configurations = trained.get("configurations", {})
    return {
        "kind": "pre-trained network with an adaptation plan",
        "architecture": {"class": architecture.get("arch_class_name"), **(architecture.get("arch_kwargs") or {})},
        **count(weights),
        "encoder": encoder,
        "corpus": trained.get("dataset_name"),
        "channels": plan.get("pretrain_num_input_channels"),
        "patch": plan.get("recommended_downstream_patchsize"),
        "spacing": {name: value.get("spacing") for name, value in configurations.items()},
        "citations": [f"{entry.get('type')}: {entry.get('name')}" for entry in content.get("citations") or []],
        "provenance": content.get("provenance"),
    }


def _model(content: Mapping[str, Any]) -> dict[str, Any]:
    plan, weights = content["plan"], content["weights"]
    return {
        "kind": "detector",
        "cell": content.get("cell"),
        "architecture": {"detector": content["detector"], "backbone": content.get("backbone")},
        **count(weights),
        "encoder": count({name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}),
        "data set": plan["dataset"],
        "channels": {"number": plan["channels"], "modalities": plan["modalities"]},
        "classes": plan["classes"],
        "patch": plan["patch"],
        "spacing": plan["spacing"],
        "precision": content.get("precision"),
        "provenance": content.get("provenance"),
    }
