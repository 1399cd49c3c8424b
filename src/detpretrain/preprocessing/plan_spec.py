"""What ``config/plans/NAME.yaml`` says: which numbers of a plan are given, and which are derived from the data."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from detpretrain.errors import InputError
from detpretrain.preprocessing.normalise import SCHEMES

DERIVED, NONE = "derived", "none"
Scheme = str | dict[str, Any]
AXES = ("z", "y", "x")


@dataclass(frozen=True)
class PlanSpec:
    """Values of a spec file; None = derived. Short forms are expanded: ``patch: 48`` is [48, 48, 48].

    Attributes:
        spacing: target spacing in mm, (z, y, x) of the original axes.
        intensity: scheme of every channel, or one for all; a CT scheme may bring its numbers ({scheme: ct, clip, mean, sd}).
        nonzero_mask: whether z-scores look at the non-zero region only.
        patch: voxels, in the plan's axis order (coarsest axis first).
        strides: per stage and axis, in the plan's axis order; stages need not have stride 1 first.
        kernels: per stage and axis.
        detection_levels: stages whose maps detect.
        anchors: sizes per axis, in the plan's axis order; empty = no detector will use the plan.
        min_feature_map: smallest side of the deepest map where strides are derived.
        memory_gib: memory a training step of the reference detector may need where the patch is derived; None = an RTX 2080 Ti's.
        batch: patches per step that this memory is for.
    """

    spacing: list[float] | None = None
    intensity: list[Scheme] | Scheme | None = None
    nonzero_mask: bool | None = None
    patch: list[int] | None = None
    strides: list[list[int]] | None = None
    kernels: list[list[int]] | None = None
    detection_levels: list[int] | None = None
    anchors: dict[str, list[int]] | None = None
    min_feature_map: int = 4
    memory_gib: float | None = None
    batch: int = 4


def read_spec(path: Path | str) -> dict[str, Any]:
    """The content of a spec file, not yet checked; an empty file derives everything."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file not found: write the plan's spec there, or name another plan") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}): correct the file") from None
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path}: holds no mapping: write `key: value` lines")
    return content or {}


def parse_spec(name: str, spec: Mapping[str, Any]) -> PlanSpec:
    """Checks a spec.

    Raises:
        InputError: an unknown key (the message names the nearest valid one), a value of another form, or values that
            contradict each other.
    """
    known = [field.name for field in fields(PlanSpec)]
    values: dict[str, Any] = {}
    for key, value in spec.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise InputError(f"plan {name}: unknown key {key!r}: did you mean {nearest!r}?")
        if value == DERIVED or value is None:
            continue
        try:
            values[key] = _READ[key](value)
        except (TypeError, ValueError) as error:
            raise InputError(f"plan {name}: {key}: {value!r}: {error}") from None
    parsed = PlanSpec(**values)
    _check_together(name, parsed)
    return parsed


def _check_together(name: str, spec: PlanSpec) -> None:
    if spec.kernels is not None and spec.strides is None:
        raise InputError(f"plan {name}: kernels without strides: give both or derive both")
    if spec.kernels is not None and len(spec.kernels) not in (1, len(spec.strides)):
        raise InputError(
            f"plan {name}: kernels of {len(spec.kernels)} stages, strides of {len(spec.strides)}: make them equal"
        )


def _three(value: Any, read: Any) -> list:
    """One value for all axes, or three."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3:
        raise ValueError("write one value, or three in the order z, y, x")
    return [read(v) for v in values]


def _positive_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("write a whole number above 0")
    return value


def _level(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("write stage numbers: 0, 1, ...")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError("write a number above 0")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def _stages(value: Any) -> list[list[int]]:
    """One entry per stage, a number for all axes or three."""
    if not isinstance(value, list) or not value:
        raise ValueError("write one entry per stage: [1, 2, 2] or [[1, 1, 1], [1, 2, 2]]")
    return [_three(stage, _positive_int) for stage in value]


def _kernels(value: Any) -> list[list[int]]:
    kernels = _stages(value if isinstance(value, list) else [value])
    if any(k % 2 == 0 for stage in kernels for k in stage):
        raise ValueError("kernels must be odd")
    return kernels


def _levels(value: Any) -> list[int]:
    if not isinstance(value, list) or not value:
        raise ValueError("write a list of stages: [2, 3, 4, 5]")
    levels = [_level(v) for v in value]
    if levels != sorted(set(levels)):
        raise ValueError("write each level once, ascending")
    return levels


def _schemes(value: Any) -> list[Scheme] | Scheme:
    for scheme in value if isinstance(value, list) else [value]:
        if isinstance(scheme, Mapping):
            _check_numbers(scheme)
        elif scheme not in SCHEMES:
            raise ValueError(f"write {', '.join(SCHEMES)}, or a list with one of them per channel")
    return value


def _check_numbers(scheme: Mapping[str, Any]) -> None:
    """A CT scheme with its numbers, for a corpus without labels to take them from."""
    wanted = {"ct": {"scheme", "clip", "mean", "sd"}, "ct2": {"scheme", "clip"}}.get(scheme.get("scheme"))
    form = "write {scheme: ct, clip: [low, high], mean: m, sd: s} or {scheme: ct2, clip: [low, high]}"
    if wanted is None or set(scheme) != wanted:
        raise ValueError(form)
    clip = scheme["clip"]
    numbers = [*clip, scheme.get("mean", 0), scheme.get("sd", 1)] if isinstance(clip, list) else []
    if len(numbers) != 4 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(form)
    if not clip[0] < clip[1] or scheme.get("sd", 1) <= 0:
        raise ValueError("clip must rise, and sd be above 0")


def _anchors(value: Any) -> dict[str, list[int]]:
    if value == NONE:
        return {}
    if not isinstance(value, Mapping) or set(value) != set(AXES):
        raise ValueError("write {z: [3 sizes], y: [3 sizes], x: [3 sizes]}, or none for a plan without a detector")
    sizes = {axis: [_positive_int(v) for v in value[axis]] for axis in AXES}
    if any(len(axis) != 3 for axis in sizes.values()):
        raise ValueError("write three sizes per axis")
    return sizes


_READ = {
    "spacing": lambda value: _three(value, _positive),
    "intensity": _schemes,
    "nonzero_mask": _flag,
    "patch": lambda value: _three(value, _positive_int),
    "strides": _stages,
    "kernels": _kernels,
    "detection_levels": _levels,
    "anchors": _anchors,
    "min_feature_map": _positive_int,
    "memory_gib": _positive,
    "batch": _positive_int,
}
