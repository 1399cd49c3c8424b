"""A segmentation data set in nnU-Net's raw layout, for supervised pre-training.

Raw layout: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz`` (one file per channel), ``labelsTr/CASE.nii.gz`` with semantic values.
Both forms of dataset.json are read: version 2 (``channel_names``, ``labels: {name: value}``, regions as lists of values, an
``ignore`` label, ``file_ending``) and version 1 (``modality``, ``labels: {value: name}``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain import volumes
from detpretrain.datasets.instances import one_per_value
from detpretrain.datasets.raw_layout import existing, path_safe, required
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.task_writer import TaskWriter

IGNORE = "ignore"


@dataclass(frozen=True)
class Labels:
    """Values of the label maps above 0, ascending, with a name each; ``regions``: class -> values, empty without regions."""

    values: list[int]
    names: list[str]
    regions: dict[str, list[int]]
    ignore: int | None


class NnUNetDataset:
    """Every value of the label maps is a class, or every region where dataset.json names regions.

    Args:
        modality: name of all channels, where those of dataset.json are not to be used (a stem is shared by data sets whose
            channels have the same names).
        patient: regular expression with one group, searched in the case id; default every case is a patient.
    """

    def __init__(self, *, modality: str | None = None, patient: str | None = None) -> None:
        self.modality = modality
        self.patient = re.compile(patient) if patient else None

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        raw = required(raw)
        path = raw / "dataset.json"
        content = read_json(path)
        channels, ending = read_channels(path, content), str(content.get("file_ending", ".nii.gz"))
        labels = read_labels(path, content)
        number = {value: index for index, value in enumerate(labels.values)}
        writer.describe(
            labels=labels.names,
            modalities=[self.modality] * len(channels) if self.modality else channels,
            regions={name: [number[value] for value in values] for name, values in labels.regions.items()},
            unannotated=[] if labels.ignore is None else [number[labels.ignore]],
        )
        for name in _cases(raw, ending):
            case = path_safe(name)
            if writer.excluded(case):
                continue
            images = [existing(raw / "imagesTr" / f"{name}_{channel:04d}{ending}") for channel in range(len(channels))]
            label = existing(raw / "labelsTr" / f"{name}{ending}")
            array, geometry = volumes.read(label)
            _check_values(label, array, set(labels.values))
            instances, classes = one_per_value(array, number)
            writer.add_case(
                case,
                images,
                geometry,
                instances=instances,
                classes=classes,
                patient=self._patient(label, name),
                source_id=name,
            )

    def _patient(self, path: Path, case: str) -> str:
        if self.patient is None:
            return case
        match = self.patient.search(case)
        if not match:
            raise InputError(f"{path}: its name holds no patient by {self.patient.pattern!r}: correct patient:")
        return match[1]


def read_labels(path: Path, content: dict[str, Any]) -> Labels:
    """The labels of a dataset.json, either version; 0 is background in both.

    Raises:
        InputError: labels in another form.
    """
    found = content.get("labels")
    if not isinstance(found, dict) or not found:
        raise InputError(f'{path}: no labels: add "labels": {{"background": 0, "organ": 1}}')
    try:
        if all(str(key).isdigit() for key in found):
            found = {str(name): int(value) for value, name in found.items()}
        members = {
            str(name): sorted(map(int, value)) if isinstance(value, list) else [int(value)]
            for name, value in found.items()
        }
    except (TypeError, ValueError):
        raise InputError(f"{path}: labels hold something else than whole numbers: correct them") from None
    ignore = members.get(IGNORE, [None])[0]
    foreground = {name: values for name, values in members.items() if 0 not in values}
    values = sorted({value for part in foreground.values() for value in part})
    if not values or values[0] < 0:
        raise InputError(f"{path}: labels name no value above 0: correct them")
    single = {part[0]: name for name, part in foreground.items() if len(part) == 1}
    classes = {name: part for name, part in foreground.items() if name != IGNORE}
    plain = all(len(part) == 1 for part in classes.values()) and ignore is None
    return Labels(values, [single.get(v, f"value {v}") for v in values], {} if plain else classes, ignore)


def read_channels(path: Path, content: dict[str, Any]) -> list[str]:
    """Names of the channels in a dataset.json, either version; ``InputError`` when it has none."""
    named = content.get("channel_names") or content.get("modality")
    try:
        return [str(named[key]) for key in sorted(named, key=int)]
    except (TypeError, ValueError, KeyError):
        raise InputError(f'{path}: no channel_names: add "channel_names": {{"0": "CT"}}') from None


def _cases(raw: Path, ending: str) -> list[str]:
    first = f"_0000{ending}"
    found = sorted(path.name.removesuffix(first) for path in (raw / "imagesTr").glob(f"*{first}"))
    if not found:
        raise InputError(
            f"{raw / 'imagesTr'}: no CASE{first} in it: convert the data set to nnU-Net's layout, or correct file_ending"
        )
    return found


def _check_values(path: Path, array: np.ndarray, known: set[int]) -> None:
    """Maps may come as floats, but as whole numbers that dataset.json names."""
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError(f"{path}: holds fractions, not labels: save the segmentation without interpolation")
    unknown = sorted({int(value) for value in np.unique(array) if value != 0} - known)
    if unknown:
        raise InputError(f"{path}: holds value {unknown[0]}, which dataset.json does not name: correct one of them")
