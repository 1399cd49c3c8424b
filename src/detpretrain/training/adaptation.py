"""The adaptation-plan checkpoint of nnssl: written after pre-training, read before fine-tuning.

A checkpoint holds ``network_weights``, ``nnssl_adaptation_plan`` (how the encoder is found in them and what it was trained on)
and ``citations``; nnssl, nnU-Net and nnDetection tools read the same keys. Our own keys beside them, which those tools ignore:
``provenance``, ``patients`` (whom the encoder has seen), ``stems`` and ``default_stem`` (see ``encoder_weights``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.factory import pretrained_part
from detpretrain.training import architecture, checkpoints, citations, encoder_weights, vit_weights
from detpretrain.training.encoder_weights import Weights

# nnU-Net's names of the plan's intensity schemes; what ct2 clips before it z-scores has no name there
NORMALIZATIONS = {
    "zscore": "ZScoreNormalization",
    "raw": "NoNormalization",
    "ct": "CTNormalization",
    "ct2": "ZScoreNormalization",
}


def adaptation_plan(backbone: Any, plan: Mapping[str, Any], channels: int = 1) -> dict[str, Any]:
    """``nnssl_adaptation_plan`` of a network of this backbone, pre-trained on patches of so many channels of this plan's data.

    ResEnc-L is named as nnssl names it, without figures: the form of the published checkpoints, from which nnssl, nnU-Net and
    nnDetection all build it; any other network is described by its keyword arguments.
    """
    return {
        "architecture_plans": _architecture_plans(backbone),
        "pretrain_plan": {
            "dataset_name": plan["dataset"],
            "plans_name": plan["plan"],
            "original_median_spacing_after_transp": None,  # a plan keeps the target spacing only; no reader needs it
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(plan["transpose"]),
            "transpose_backward": [list(plan["transpose"]).index(axis) for axis in range(3)],
            "experiment_planner_used": "detpretrain",
            "configurations": {plan["plan"]: _configuration(plan, channels)},
        },
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": list(plan["patch"]),
        "key_to_encoder": backbone.key_to_encoder,
        "key_to_stem": backbone.key_to_stem,
        "keys_to_in_proj": list(backbone.keys_to_in_proj),
        "key_to_lpe": getattr(backbone, "key_to_lpe", None),
    }


def _architecture_plans(backbone: Any) -> dict[str, Any]:
    plans = backbone.architecture_plan()
    if architecture.is_resenc_l(architecture.from_plan(plans)):
        return {
            "arch_class_name": architecture.RESENC_L_NAME,
            "arch_kwargs": None,
            "arch_kwargs_requiring_import": None,
        }
    return plans


def _configuration(plan: Mapping[str, Any], channels: int) -> dict[str, Any]:
    schemes = [NORMALIZATIONS[channel["scheme"]] for channel in plan["intensity"]["scheme"][:channels]]
    return {
        "data_identifier": plan["plan"],
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": plan["plan"],
        "normalization_schemes": schemes,
        "use_mask_for_norm": [plan["intensity"]["nonzero_mask"]] * len(schemes),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": list(plan["spacing"]),
        "patch_size": list(plan["patch"]),
    }


def write_pretrained(
    path: Path,
    network: nn.Module,
    backbone: Any,
    plan: Mapping[str, Any],
    method_citations: Sequence[dict],
    provenance: Mapping,
    *,
    stems: Mapping[str, nn.Module] | None = None,
    default_stem: str | None = None,
    patients: Sequence[Mapping[str, Any]] | None = None,
    dataset_name: str | None = None,
) -> list[dict[str, Any]]:
    """Writes ``checkpoint.pth`` of a pre-training.

    Args:
        network: holds the encoder, with the default stem, under the backbone's keys.
        plan: of the corpus.
        method_citations: of the method; those of the architecture and of the study are added.
        stems: further stems by id, for other inputs than the network's own.
        default_stem: id of the network's own stem; None for a method with one stem.
        patients: per corpus, ``leakage.Identities.to_json``.
        dataset_name: of the corpus; default the plan's.

    Returns:
        All citations of the checkpoint.
    """
    weights = checkpoints.cpu_weights(network)
    channels = weights[f"{backbone.keys_to_in_proj[0]}.weight"].shape[1]
    cited = citations.complete(method_citations, backbone.architecture_plan()["arch_class_name"])
    named = dict(plan) if dataset_name is None else {**plan, "dataset": dataset_name}
    content = {
        "network_weights": weights,
        "nnssl_adaptation_plan": adaptation_plan(backbone, named, channels),
        "citations": cited,
        "provenance": dict(provenance),
        "patients": [dict(corpus) for corpus in patients or ()],
    }
    if default_stem is not None:
        prefix = f"{backbone.key_to_stem}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        others = {name: checkpoints.cpu_weights(module) for name, module in (stems or {}).items()}
        content |= {"stems": {default_stem: own, **others}, "default_stem": default_stem}
    checkpoints.save(path, content)
    return cited


@dataclass(frozen=True)
class LoadReport:
    """What came out of a checkpoint.

    Attributes:
        entries: state-dict entries that were loaded.
        parameters: each counted once.
        input_channels: of the encoder that was filled.
        provenance: of the checkpoint.
        stem: id of the stem, None for a checkpoint with one stem.
        conflicts: number of entries whose value differed from their alias in ``all_modules``, which was taken.
        citations: whom to cite, see ``citations.lines``.
        patients: per corpus whose patients the encoder has seen (``{"space", "ids"}``); empty when the checkpoint does not say.
        interpolated: names of position codes that were made for another patch.
        fresh: parts of the encoder that no checkpoint holds (a transformer's pyramid).
    """

    entries: int
    parameters: int
    input_channels: int
    provenance: Mapping[str, Any]
    stem: str | None = None
    conflicts: int = 0
    citations: Sequence[Mapping[str, Any]] = ()
    patients: Sequence[Mapping[str, Any]] = ()
    interpolated: Sequence[str] = ()
    fresh: Sequence[str] = ()

    def __str__(self) -> str:
        text = (
            f"loaded {self.entries} encoder tensors ({self.parameters:,} parameters, aliases counted once) "
            f"for {self.input_channels} input channel(s)"
        )
        if self.stem is not None:
            text += f", stem {self.stem}"
        if self.conflicts:
            text += (
                f"; {self.conflicts} tensors had an alias with another value, the trained one (all_modules) was taken"
            )
        if self.interpolated:
            text += f"; interpolated to the patch: {', '.join(self.interpolated)}"
        if self.fresh:
            text += f"; starts fresh: {', '.join(self.fresh)}"
        return text


def load_encoder(
    encoder: nn.Module, path: Path, input_channels: int, stem: str | None = None, backbone: Any = None
) -> LoadReport:
    """Fills a detector's encoder (stem and stages) from a checkpoint, completely or not at all.

    A stem with fewer input channels than wanted gets the weight of its first convolution repeated and divided by the number of
    repetitions, in all aliases: equal channels then give the features of one.

    Args:
        encoder: of the detector, for ``input_channels``; where it has a part that starts fresh (a transformer's pyramid), the
            other part is what is filled.
        stem: id of a stem of a checkpoint with several; None = its default.
        backbone: the recipe that made ``encoder`` (``models.resenc.ResEnc`` or alike). With it the architectures are compared
            too, so that other strides, which no tensor shows, are refused.

    Raises:
        InputError: no adaptation plan, no such stem, or the checkpoint's encoder is not this one: the first stage or tensor that
            differs is named.
    """
    content, part = checkpoints.load(path), pretrained_part(encoder)
    wanted = part.state_dict()
    _, plan = encoder_weights.network_and_plan(path, content)
    found = encoder_weights.find(path, content, stem, _stem_modules(plan, wanted))
    if backbone is not None:
        vit_weights.check_architecture(path, plan, backbone)
        _check_architecture(path, plan, backbone)
    placed = vit_weights.with_position_code(path, plan, found, getattr(part, "grid", None))
    weights = with_channels(path, placed, found.projections, input_channels)
    check_tensors(path, weights, wanted, "backbone")
    part.load_state_dict(weights, strict=True)
    return LoadReport(
        entries=len(weights),
        parameters=sum(parameter.numel() for parameter in part.parameters()),
        input_channels=input_channels,
        provenance=content.get("provenance") or {},
        stem=found.stem,
        conflicts=len(found.conflicts),
        citations=citations.read(path, content),
        patients=content.get("patients") or (),
        interpolated=[name for name, tensor in placed.items() if tensor is not found.weights[name]],
        fresh=sorted({name.partition(".")[0] for name in encoder.state_dict() if name not in wanted}),
    )


def about(path: Path) -> dict[str, Any]:
    """Provenance and citations of a checkpoint that something else loads; ``InputError`` when it has no adaptation plan."""
    content = checkpoints.load(path)
    encoder_weights.network_and_plan(path, content)
    found = citations.read(path, content)
    for line in citations.lines(found):
        print(f"please cite: {line}")
    return {**(content.get("provenance") or {}), "citations": list(found)}


def with_channels(path: Path, weights: Weights, projections: Sequence[str], channels: int) -> Weights:
    """The weights for so many input channels; ``projections`` name the first convolution's ``[F, own channels, D, H, W]``."""
    changed = dict(weights)
    for name in projections:
        own = weights[name].shape[1] if name in weights else channels
        if channels % own:
            raise InputError(
                f"{path}: its stem takes {own} channels, the data set has {channels}: choose another stem or checkpoint"
            )
        if own != channels:
            repeats = channels // own
            changed[name] = weights[name].repeat(1, repeats, 1, 1, 1) / repeats
    return changed


def _stem_modules(plan: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> set[str]:
    """First name parts of what the encoder has under ``key_to_stem``: anything else there is the id of a stem."""
    root = plan["key_to_encoder"].rpartition(".")[0]
    prefix = f"{plan['key_to_stem'].removeprefix(f'{root}.')}."
    return {name.removeprefix(prefix).partition(".")[0] for name in wanted if name.startswith(prefix)}


def _check_architecture(path: Path, plan: Mapping[str, Any], backbone: Any) -> None:
    theirs = architecture.read(path, plan.get("architecture_plans"))
    differs = architecture.difference(theirs, architecture.from_plan(backbone.architecture_plan()))
    if differs:
        raise InputError(f"{path}: {differs}; nothing was loaded: give the detector the checkpoint's architecture")


def check_tensors(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str) -> None:
    """``InputError`` names the first tensor that ``whose`` part of the detector lacks, has besides or has in another shape."""
    for name in wanted:
        if name not in weights:
            raise InputError(
                f"{path}: lacks {name}: {_part(name)} differs from the detector's {whose}; nothing was loaded"
            )
        if weights[name].shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the detector's {whose} wants "
                f"{tuple(wanted[name].shape)}: {_part(name)} differs; nothing was loaded"
            )
    surplus = [name for name in weights if name not in wanted]
    if surplus:
        raise InputError(
            f"{path}: has {surplus[0]}, which the detector's {whose} lacks: {_part(surplus[0])} differs; nothing was loaded"
        )


def _part(name: str) -> str:
    pieces = name.split(".")
    return f"stage {pieces[1]}" if pieces[0] == "stages" else pieces[0]
