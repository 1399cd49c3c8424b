"""The adaptation-plan checkpoint of nnssl: written after pre-training, read before fine-tuning.

A checkpoint holds ``network_weights``, ``nnssl_adaptation_plan`` (how the encoder is found in them and what it was trained on)
and ``citations``; nnssl, nnU-Net and nnDetection tools read the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.training import checkpoints

# of the plan, what loading an encoder needs
KEYS_READ = ("key_to_encoder", "key_to_stem", "keys_to_in_proj", "pretrain_num_input_channels")


def adaptation_plan(backbone: Any, plan: Mapping[str, Any]) -> dict[str, Any]:
    """``nnssl_adaptation_plan`` for a network of this backbone, pre-trained on single-channel patches of this corpus plan."""
    configuration = {
        "data_identifier": plan["plan"],
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": plan["plan"],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": list(plan["spacing"]),
        "patch_size": list(plan["patch"]),
    }
    return {
        "architecture_plans": backbone.architecture_plan(),
        "pretrain_plan": {
            "dataset_name": plan["dataset"],
            "plans_name": plan["plan"],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(plan["transpose"]),
            "transpose_backward": [list(plan["transpose"]).index(axis) for axis in range(3)],
            "configurations": {plan["plan"]: configuration},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": list(plan["patch"]),
        "key_to_encoder": backbone.key_to_encoder,
        "key_to_stem": backbone.key_to_stem,
        "keys_to_in_proj": list(backbone.keys_to_in_proj),
        "key_to_lpe": None,
    }


@dataclass(frozen=True)
class LoadReport:
    """How much of an encoder came from a checkpoint: state-dict entries, and parameters counted once; and where it comes from."""

    entries: int
    parameters: int
    input_channels: int
    provenance: Mapping[str, Any]

    def __str__(self) -> str:
        return (
            f"loaded {self.entries} encoder tensors ({self.parameters:,} parameters, aliases counted once) "
            f"for {self.input_channels} input channel(s)"
        )


def load_encoder(encoder: nn.Module, path: Path, input_channels: int) -> LoadReport:
    """Fills a detector's encoder (stem and stages) from a checkpoint, completely or not at all.

    The first convolution of a network with more input channels gets the pre-trained weight repeated and divided by their
    number, in both of its aliases.

    Raises:
        InputError: no adaptation plan, or the checkpoint's encoder is not this one: the first differing tensor is named.
    """
    content = checkpoints.load(path)
    missing = [key for key in ("network_weights", "nnssl_adaptation_plan") if key not in content]
    if missing:
        raise InputError(f"{path}: no {missing[0]}: this is not a checkpoint in the adaptation-plan format")
    plan = content["nnssl_adaptation_plan"]
    missing = [key for key in KEYS_READ if key not in plan]
    if missing:
        raise InputError(f"{path}: nnssl_adaptation_plan has no {missing[0]}: write the checkpoint's plan again")
    weights = _encoder_weights(content["network_weights"], plan)
    projections = [_without_root(key, plan["key_to_encoder"]) + ".weight" for key in plan["keys_to_in_proj"]]
    repeats = input_channels // plan["pretrain_num_input_channels"]
    for key in projections:
        if repeats > 1 and key in weights:
            weights[key] = weights[key].repeat(1, repeats, 1, 1, 1) / repeats
    wanted = encoder.state_dict()
    _check(path, weights, wanted)
    encoder.load_state_dict(weights, strict=True)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return LoadReport(len(weights), parameters, input_channels, content.get("provenance", {}))


def _encoder_weights(weights: Mapping[str, Tensor], plan: Mapping[str, Any]) -> dict[str, Tensor]:
    """Entries of stem and stages, named as in the encoder itself (``stem.*``, ``stages.*``)."""
    prefixes = tuple(f"{plan[key]}." for key in ("key_to_encoder", "key_to_stem"))
    return {
        _without_root(name, plan["key_to_encoder"]): tensor
        for name, tensor in weights.items()
        if name.startswith(prefixes)
    }


def _without_root(name: str, key_to_encoder: str) -> str:
    root = key_to_encoder.rpartition(".")[0]  # "encoder.stages" -> "encoder"
    return name.removeprefix(f"{root}.") if root else name


def _check(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in wanted:
        if name not in weights:
            raise InputError(
                f"{path}: lacks {name}: {_part(name)} differs from the detector's backbone; nothing was loaded"
            )
        if weights[name].shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the detector's backbone wants "
                f"{tuple(wanted[name].shape)}: {_part(name)} differs; nothing was loaded"
            )
    surplus = [name for name in weights if name not in wanted]
    if surplus:
        raise InputError(
            f"{path}: has {surplus[0]}, which the detector's backbone lacks: {_part(surplus[0])} differs; nothing was loaded"
        )


def _part(name: str) -> str:
    pieces = name.split(".")
    return f"stage {pieces[1]}" if pieces[0] == "stages" else pieces[0]


def write_pretrained(
    path: Path,
    network: nn.Module,
    backbone: Any,
    plan: Mapping[str, Any],
    citations: Sequence[dict],
    provenance: Mapping,
) -> None:
    """Writes ``checkpoint.pth`` of a pre-training."""
    checkpoints.save(
        path,
        {
            "network_weights": checkpoints.cpu_weights(network),
            "nnssl_adaptation_plan": adaptation_plan(backbone, plan),
            "citations": list(citations),
            "provenance": dict(provenance),
        },
    )
