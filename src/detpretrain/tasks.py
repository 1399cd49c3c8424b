"""The canonical task folder (nnDetection's raw layout) and its tables, for reading.

::

    dataset.json                       name, labels, modalities (an outside task may have dataset.yaml instead); segmentation
                                       data sets may add regions {name: [labels]} and unannotated [labels]
    raw_splitted/imagesTr/CASE_0000.nii.gz   one file per modality
    raw_splitted/labelsTr/CASE.nii.gz        instance map: 0 background, 1..N
    raw_splitted/labelsTr/CASE.json          {"instances": {"1": class, ...}, "boxes"?: {"1": [6]}, "ignored"?: ["3"]}
    raw_splitted/imagesTs[_NAME], labelsTs[_NAME]   test sets "test" and NAME
    cases.csv objects.csv splits.json        written by ``TaskWriter``
    official/                                files that the publisher's own evaluation needs, as published

A task without ``labels`` is an unlabelled corpus and has no label folders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from detpretrain.errors import InputError
from detpretrain.files import read_json

CROSS_VALIDATION = "cv"
OFFICIAL = "official"
DATASET_FILES = ("dataset.yaml", "dataset.yml", "dataset.json")
IMAGE_NAME = re.compile(r"(?P<case>.+)_(?P<modality>\d{4})\.nii\.gz")
TEXT_COLUMNS = ("case", "source_id", "patient", "session", "test_set")


@dataclass(frozen=True)
class Annotation:
    """What CASE.json says about a case.

    Attributes:
        classes: instance id -> class.
        boxes: instance id -> (z1, y1, x1, z2, y2, x2) in index coordinates, for data sets annotated with boxes only;
            None where the instance map is the annotation.
        ignored: ids of objects that count neither as missed nor as found.
    """

    classes: dict[int, int]
    boxes: dict[int, list[float]] | None = None
    ignored: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Annotation:
        """Reads CASE.json; ``InputError`` when a part of it has the wrong form."""
        content = read_json(path)
        try:
            instances = {int(key): int(value) for key, value in content["instances"].items()}
            boxes = content.get("boxes")
            if boxes is not None:
                boxes = {int(key): [float(edge) for edge in box] for key, box in boxes.items()}
            ignored = {int(key) for key in content.get("ignored", [])}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f'{path}: not an annotation: write {{"instances": {{"1": class, ...}}}} with integer ids and classes'
            ) from None
        return cls(instances, boxes, ignored)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"instances": {str(key): value for key, value in sorted(self.classes.items())}}
        if self.boxes is not None:
            content["boxes"] = {str(key): list(map(float, box)) for key, box in sorted(self.boxes.items())}
        if self.ignored:
            content["ignored"] = [str(key) for key in sorted(self.ignored)]
        return content


@dataclass(frozen=True)
class Task:
    """A task folder. ``labels`` is empty for an unlabelled corpus.

    Attributes:
        regions: of a segmentation data set whose classes are unions of labels (nnU-Net's regions): name -> labels; empty = every
            label is a class.
        unannotated: labels of voxels that nobody annotated (nnU-Net's ignore label).
    """

    root: Path
    name: str
    labels: dict[int, str]
    modalities: dict[int, str]
    regions: dict[str, list[int]] = field(default_factory=dict)
    unannotated: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path | str) -> Task:
        """Reads the folder's dataset file; ``InputError`` when it is missing or malformed."""
        root = Path(root)
        path, content = read_dataset_file(root)
        labels = _numbered(path, "labels", content.get("labels") or {})
        modalities = _numbered(path, "modalities", content.get("modalities") or {})
        if not modalities:
            raise InputError(f'{path}: names no modalities: add "modalities": {{"0": "CT"}}')
        name = str(content.get("name") or content.get("task") or root.name)
        return cls(root, name, labels, modalities, *_unions(path, content, labels))

    @property
    def labelled(self) -> bool:
        return bool(self.labels)

    @cached_property
    def test_sets(self) -> list[str]:
        """Names of the image folders present: "cv" (imagesTr) first, then the test sets."""
        folders = sorted(path.name for path in self.raw.glob("images*") if path.is_dir())
        names = [name for name in (test_set_of(folder) for folder in folders) if name]
        return sorted(names, key=lambda name: (name != CROSS_VALIDATION, name))

    @property
    def raw(self) -> Path:
        return self.root / "raw_splitted"

    def image_folder(self, test_set: str) -> Path:
        return self.raw / f"images{folder_suffix(test_set)}"

    def label_folder(self, test_set: str) -> Path:
        return self.raw / f"labels{folder_suffix(test_set)}"

    def cases(self, test_set: str = CROSS_VALIDATION) -> list[str]:
        """Sorted ids of the cases that have at least one image file in this test set."""
        return sorted(case for case, where in self._test_set_of_case.items() if where == test_set)

    def test_set(self, case: str) -> str:
        """The test set of a case ("cv" for imagesTr); ``InputError`` for an unknown case."""
        if case not in self._test_set_of_case:
            raise InputError(f"{self.root}: no case {case!r}: check the id against raw_splitted/images*")
        return self._test_set_of_case[case]

    def image_paths(self, case: str) -> list[Path]:
        """One path per modality, in modality order, whether or not the file is there."""
        folder = self.image_folder(self.test_set(case))
        return [folder / f"{case}_{modality:04d}.nii.gz" for modality in sorted(self.modalities)]

    def label_path(self, case: str) -> Path:
        return self.label_folder(self.test_set(case)) / f"{case}.nii.gz"

    def annotation_path(self, case: str) -> Path:
        return self.label_folder(self.test_set(case)) / f"{case}.json"

    def annotation(self, case: str) -> Annotation:
        return Annotation.read(self.annotation_path(case))

    def case_table(self) -> pd.DataFrame:
        """cases.csv: one line per case (identifiers, spacing and shape per axis, objects per class, file size, mtime)."""
        return read_table(self.root / "cases.csv")

    def objects(self) -> pd.DataFrame:
        """objects.csv: case, truth (instance id), class, z1, y1, x1, z2, y2, x2 (original index coordinates), ignored."""
        return read_table(self.root / "objects.csv")

    def folds(self) -> list[dict[str, list[str]]]:
        """splits.json: per fold the case ids ``{"train": [...], "val": [...]}`` and perhaps ``"test"``, see ``splits``."""
        return read_splits(self.root / "splits.json")

    @cached_property
    def _test_set_of_case(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for test_set in self.test_sets:
            for path in self.image_folder(test_set).iterdir():
                match = IMAGE_NAME.fullmatch(path.name)
                if match:
                    found.setdefault(match["case"], test_set)
        return found


def folder_suffix(test_set: str) -> str:
    """ "cv" -> "Tr", "test" -> "Ts", "internal" -> "Ts_internal"."""
    return {CROSS_VALIDATION: "Tr", "test": "Ts"}.get(test_set, f"Ts_{test_set}")


def test_set_of(folder: str) -> str | None:
    """ "imagesTr" -> "cv", "imagesTs" -> "test", "imagesTs_internal" -> "internal", anything else -> None."""
    match = re.fullmatch(r"images(?:(Tr)|Ts(?:_(\w+))?)", folder)
    if not match:
        return None
    return CROSS_VALIDATION if match[1] else match[2] or "test"


test_set_of.__test__ = False  # a name that starts with "test_", not a test


def read_dataset_file(root: Path) -> tuple[Path, dict[str, Any]]:
    """Path and content of dataset.yaml, dataset.yml or dataset.json, the first that is there."""
    for path in (root / name for name in DATASET_FILES):
        if path.is_file():
            break
    else:
        raise InputError(f"{root / 'dataset.json'}: file not found: a task folder needs one with labels and modalities")
    if path.suffix == ".json":
        content = read_json(path)
    else:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}): correct the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no mapping: write name, labels and modalities")
    return path, content


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """The folds of a splits.json; ``InputError`` when it has another form."""
    content = read_json(path)
    try:
        return [
            {part: [*map(str, fold[part])] for part in ("train", "val", *(["test"] if "test" in fold else []))}
            for fold in content["folds"]
        ]
    except (KeyError, TypeError):
        raise InputError(f'{path}: not a list of folds: write {{"folds": [{{"train": [..], "val": [..]}}]}}') from None


def read_table(path: Path) -> pd.DataFrame:
    """A table of the task; identifiers stay text ("007", "NA")."""
    if not path.is_file():
        raise InputError(f"{path}: file not found: run the prepare stage for this task")
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False)
    except ValueError as error:
        raise InputError(f"{path}: not a table ({' '.join(str(error).split())}): prepare the task again") from None


def _unions(path: Path, content: dict[str, Any], labels: dict[int, str]) -> tuple[dict[str, list[int]], list[int]]:
    """``regions`` and ``unannotated``, which must name labels of the task."""
    regions, unannotated = content.get("regions") or {}, content.get("unannotated") or []
    try:
        named = [*unannotated, *(label for members in regions.values() for label in members)]
        unknown = [label for label in named if label not in labels]
    except (AttributeError, TypeError):
        raise InputError(f'{path}: regions must be {{"name": [labels]}}, unannotated [labels]: correct them') from None
    if unknown:
        raise InputError(f"{path}: regions or unannotated name label {unknown[0]!r}, which labels lacks: correct them")
    return regions, unannotated


def _numbered(path: Path, key: str, value: Any) -> dict[int, str]:
    """{"0": "a", "1": "b"} -> {0: "a", 1: "b"}; the keys must be 0, 1, ... (nnDetection)."""
    try:
        numbered = {int(number): str(name) for number, name in dict(value).items()}
    except (TypeError, ValueError):
        raise InputError(f'{path}: {key} must be {{"0": name, "1": name, ...}}') from None
    if sorted(numbered) != list(range(len(numbered))):
        raise InputError(f"{path}: {key} are numbered {sorted(numbered)}: number them 0, 1, ... without a gap")
    return dict(sorted(numbered.items()))
