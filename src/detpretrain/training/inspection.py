"""What is in a checkpoint: facts for a reader, nothing is built or run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detpretrain.errors import InputError
from detpretrain.training import architecture, checkpoints, citations, encoder_weights, neck_weights


def inspect(path: Path) -> dict[str, Any]:
    """Facts about a pre-trained encoder (adaptation-plan format) or a ``model.pth``, by name.

    Raises:
        InputError: unreadable, or neither of the two.
    """
    content = checkpoints.load(path)
    if {"network_weights", "nnssl_adaptation_plan"} <= set(content):
        return _pretrained(path, content)
    if {"weights", "detector", "plan"} <= set(content):
        return _model(path, content)
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


def _pretrained(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    plan = content["nnssl_adaptation_plan"]
    plans, trained = plan.get("architecture_plans") or {}, plan.get("pretrain_plan") or {}
    configurations = trained.get("configurations") or {}
    return {
        "kind": "pre-trained network with an adaptation plan",
        "architecture": str(plans.get("arch_class_name")),
        "stages": _stages(path, plans),
        **count(content["network_weights"]),
        **_encoder(path, content),
        "corpus": trained.get("dataset_name"),
        "channels": plan.get("pretrain_num_input_channels"),
        "patch": plan.get("recommended_downstream_patchsize"),
        "spacing": {name: value.get("spacing") for name, value in configurations.items()},
        "patients": _patients(content),
        "citations": citations.lines(citations.read(path, content)),
        "provenance": content.get("provenance"),
    }


def _encoder(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about what a detector would load: the encoder, and the neck of a checkpoint that has one."""
    try:
        network, plan = encoder_weights.network_and_plan(path, content)
    except InputError as error:
        return {"encoder": f"cannot be found: {str(error).removeprefix(f'{path}: ')}"}
    stems = encoder_weights.find_stems(network, plan, content)
    encoder = encoder_weights.find(path, content, stems.usual or next(iter(stems.by_id), None))
    inner = [name.partition(f"{stems.key.rpartition('.')[2]}.")[2] for name in encoder.projections]
    return {
        "encoder": count(encoder.weights),
        "alias conflicts": len(encoder.conflicts),
        "stems": [_stem(name, stems, inner) for name in sorted(stems.by_id)],
        "neck": count(neck) if (neck := neck_weights.find(network)) else "none",
    }


def _stem(name: str, stems: encoder_weights.Stems, projections: list[str]) -> str:
    channels = [stems.by_id[name][key].shape[1] for key in projections if key in stems.by_id[name]]
    text = f"{name}: {channels[0]} channel(s)" if channels else name
    return f"{text}, default" if name == stems.usual else text


def _model(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    plan, weights, backbone = content["plan"], content["weights"], content.get("backbone") or {}
    figures = {
        "features_per_stage": backbone.get("features"),
        "n_blocks_per_stage": backbone.get("blocks"),
        "strides": plan.get("strides"),
        "kernel_sizes": plan.get("kernels"),
    }
    return {
        "kind": "detector",
        "cell": content.get("cell"),
        "architecture": {"detector": content["detector"], "backbone": content.get("backbone")},
        "stages": _stages(path, {"arch_class_name": backbone.get("class"), "arch_kwargs": figures}),
        **count(weights),
        "encoder": count({name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}),
        "data set": plan["dataset"],
        "channels": {"number": plan["channels"], "modalities": plan["modalities"]},
        "classes": plan["classes"],
        "patch": plan["patch"],
        "spacing": plan["spacing"],
        "precision": content.get("precision"),
        "patients": _patients(content),
        "citations": citations.lines(citations.read(path, content)),
        "provenance": content.get("provenance"),
    }


def _stages(path: Path, plans: Mapping[str, Any]) -> list[str]:
    found = architecture.read(path, plans)
    return [f"{number}: {stage}" for number, stage in enumerate(found.stages)] if found else []


def _patients(content: Mapping[str, Any]) -> list[str]:
    return [
        f"{len(corpus['ids'])} ids" + (f" of the space {corpus['space']}" if corpus.get("space") else "")
        for corpus in content.get("patients") or ()
    ]
