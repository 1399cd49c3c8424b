"""An encoder as a checkpoint of its own, in the adaptation-plan format: out of a fine-tuned detector, or with another stem."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detpretrain.errors import InputError
from detpretrain.models.factory import build_backbone
from detpretrain.training import adaptation, checkpoints, citations, encoder_weights

KEPT = ("citations", "provenance", "patients")  # an optimiser's state and the like stay behind


def export(source: Path, output: Path, stem: str | None = None) -> str:
    """Writes ``output`` and returns one line that says what it holds.

    Args:
        source: a ``model.pth`` of fine-tuning, or a pre-trained checkpoint.
        output: another file; replaced whole.
        stem: of a pre-trained checkpoint with several; None = its default.

    Raises:
        InputError: ``output`` is ``source`` or cannot be written, or ``source`` is neither of the two or has no such stem.
    """
    if output.resolve() == source.resolve():
        raise InputError(f"{output}: is the checkpoint itself: give another file with -o")
    content = checkpoints.load(source)
    if {"weights", "detector", "backbone", "plan"} <= set(content):
        if stem is not None:
            raise InputError(f"{source}: is a model with one stem: leave out --stem {stem}")
        exported = _of_model(source, content)
    elif {"network_weights", "nnssl_adaptation_plan"} <= set(content):
        exported = _of_pretrained(source, content, stem)
    else:
        raise InputError(f"{source}: neither a model.pth nor a checkpoint with an adaptation plan: check the path")
    try:
        checkpoints.save(output, exported)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}): choose another path") from None
    channels = exported["nnssl_adaptation_plan"]["pretrain_num_input_channels"]
    return f"{len(exported['network_weights'])} tensors, {channels} input channel(s)"


def _of_model(source: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder of a detector: it has seen the detector's data, and with it the patients that the model lists."""
    backbone, plan = build_backbone(content["backbone"], content["plan"]), content["plan"]
    root = backbone.key_to_encoder.rpartition(".")[0]  # "encoder.stages" -> "encoder", "eva" -> ""
    parts = tuple(f"{key}." for key in (backbone.key_to_stem, backbone.key_to_encoder))
    named = {
        f"{root}.{name.removeprefix('encoder.')}".removeprefix("."): tensor
        for name, tensor in content["weights"].items()
        if name.startswith("encoder.")
    }
    weights = {name: tensor for name, tensor in named.items() if name.startswith(parts)}
    if not weights:
        raise InputError(f"{source}: the model has no encoder: give a model.pth that fine-tuning wrote")
    return {
        "network_weights": weights,
        "nnssl_adaptation_plan": adaptation.adaptation_plan(backbone, plan, plan["channels"]),
        "citations": citations.complete(
            citations.read(source, content), backbone.architecture_plan()["arch_class_name"]
        ),
        **{key: content[key] for key in ("provenance", "patients") if key in content},
    }


def _of_pretrained(source: Path, content: Mapping[str, Any], stem: str | None) -> dict[str, Any]:
    """The network with the chosen stem in its place, wherever the network has it, and every alias with the trained value."""
    network, plan = encoder_weights.network_and_plan(source, content)
    stems = encoder_weights.find_stems(network, plan, content)
    chosen = stems.choose(source, stem)
    if chosen is not None:
        network = _with_stem(network, stems, stems.by_id[chosen])
    encoder_weights.trained_aliases(network)
    projections = encoder_weights.projections(plan, stems)
    if projections[0] not in network:
        raise InputError(f"{source}: lacks {projections[0]}, which its keys_to_in_proj name: correct the checkpoint")
    plan |= {
        "key_to_stem": stems.key,
        "keys_to_in_proj": [name.removesuffix(".weight") for name in projections],
        "pretrain_num_input_channels": network[projections[0]].shape[1],
    }
    return {
        "network_weights": network,
        "nnssl_adaptation_plan": plan,
        **{key: content[key] for key in KEPT if key in content},
    }


def _with_stem(
    network: Mapping[str, Tensor], stems: encoder_weights.Stems, stem: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every stem goes, the given one comes: under ``encoder.stem`` and where a decoder repeats it (``decoder.encoder.stem``)."""
    place = f"{stems.key}."
    prefixes = {f"{name.partition(place)[0]}{place}" for name in network if f".{place}" in f".{name}"} | {place}
    kept = {name: tensor for name, tensor in network.items() if not name.startswith(tuple(prefixes))}
    return {**{f"{prefix}{name}": tensor for prefix in sorted(prefixes) for name, tensor in stem.items()}, **kept}
