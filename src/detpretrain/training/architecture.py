"""What a checkpoint says about its encoder's architecture, stage by stage, and how it differs from a detector's.

Strides leave no trace in the shapes of weights, so that two encoders with the same tensors can still be two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError

RESIDUAL, PLAIN = "ResidualEncoderUNet", "PlainConvUNet"
RESENC_L_NAME = "ResEncL"
# nnssl builds these by name and writes no figures for them (``get_res_enc_l``); NoSkipResEncL differs in the decoder only
RESENC_L: Mapping[str, Any] = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "strides": [1, 2, 2, 2, 2, 2],
    "kernel_sizes": 3,
}
BY_NAME = {RESENC_L_NAME: RESENC_L, "NoSkipResEncL": RESENC_L}


@dataclass(frozen=True)
class Stage:
    """One resolution of an encoder; None = unknown. ``stride`` and ``kernel`` per axis (z, y, x)."""

    features: int | None
    blocks: int | None
    stride: tuple[int, ...] | None
    kernel: tuple[int, ...] | None

    def __str__(self) -> str:
        features, blocks, stride, kernel = map(_text, (self.features, self.blocks, self.stride, self.kernel))
        return f"{features} features, {blocks} blocks, stride {stride}, kernel {kernel}"


@dataclass(frozen=True)
class Architecture:
    """``family`` is the class that is built ("ResidualEncoderUNet", "PlainConvUNet", or another name as it stands)."""

    family: str | None
    stages: tuple[Stage, ...]


def read(path: Path, plans: Mapping[str, Any] | None) -> Architecture | None:
    """``from_plan`` for the plan in a file.

    Raises:
        InputError: the plan's figures cannot be understood.
    """
    try:
        return from_plan(plans)
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: architecture_plans cannot be read ({error}): correct the checkpoint's plan"
        ) from None


def from_plan(plans: Mapping[str, Any] | None) -> Architecture | None:
    """The architecture that ``architecture_plans`` of an adaptation plan describes; None when it gives no figures.

    Values may be one number for all stages or axes, lists, or tuples, as nnssl, nnU-Net and JSON have them.

    Raises:
        ValueError: figures that contradict each other or are no numbers.
    """
    if not plans:
        return None
    name = str(plans.get("arch_class_name") or "").rpartition(".")[2]
    if name in BY_NAME:
        return from_figures(BY_NAME[name], RESIDUAL)
    return from_figures(plans["arch_kwargs"], name or None) if plans.get("arch_kwargs") else None


def from_figures(figures: Mapping[str, Any], family: str | None) -> Architecture:
    """The architecture of a network with these keyword arguments (names as dynamic-network-architectures has them)."""
    features, kernels = figures.get("features_per_stage"), figures.get("kernel_sizes")
    blocks = figures.get("n_blocks_per_stage", figures.get("n_conv_per_stage"))
    lengths = {len(value) for value in (features, blocks, kernels) if isinstance(value, Sequence)}
    lengths |= {figures["n_stages"]} if figures.get("n_stages") is not None else set()
    strides = _with_first_stride(figures.get("strides"), lengths)
    lengths |= {len(strides)} if isinstance(strides, Sequence) else set()
    if len(lengths) > 1:
        raise ValueError(f"lists for {' and '.join(map(str, sorted(lengths)))} stages")
    columns = [_per_stage(value, max(lengths, default=0)) for value in (features, blocks, strides, kernels)]
    try:
        stages = [
            Stage(_number(f), _number(b), _per_axis(s), _per_axis(k)) for f, b, s, k in zip(*columns, strict=True)
        ]
    except TypeError as error:
        raise ValueError(str(error)) from None
    return Architecture(family, tuple(stages))


def difference(theirs: Architecture | None, ours: Architecture | None) -> str | None:
    """The first stage that differs, with both values; None when nothing is known to differ."""
    if theirs is None or ours is None:
        return None
    if {theirs.family, ours.family} == {RESIDUAL, PLAIN}:
        return f"the whole encoder differs: a {theirs.family}, the detector's backbone is a {ours.family}"
    for number, (their, our) in enumerate(zip(theirs.stages, ours.stages, strict=False)):
        for name in ("features", "blocks", "stride", "kernel"):
            a, b = getattr(their, name), getattr(our, name)
            if a is not None and b is not None and a != b:
                return f"stage {number} differs: {name} {_text(a)}, the detector's backbone has {_text(b)}"
    if len(theirs.stages) != len(ours.stages):
        shorter = min(len(theirs.stages), len(ours.stages))
        return f"stage {shorter} differs: {len(theirs.stages)} stages, the detector's backbone has {len(ours.stages)}"
    return None


def is_resenc_l(architecture: Architecture | None) -> bool:
    return architecture == from_figures(RESENC_L, RESIDUAL)


def _with_first_stride(strides: Any, lengths: set[int]) -> Any:
    """nnDetection's plans have no stride for the first stage, where it is 1: one value less than everything else."""
    if isinstance(strides, Sequence) and lengths == {len(strides) + 1}:
        return [1, *strides]
    return strides


def _per_stage(value: Any, number: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * number


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _per_axis(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    return tuple(int(entry) for entry in value) if isinstance(value, Sequence) else (int(value),) * 3


def _text(value: int | tuple[int, ...] | None) -> str:
    if value is None:
        return "?"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
