"""One case of a task in memory: its channels, its instance map and what the annotation says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import CROSS_VALIDATION, Annotation, Task


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies; ``label`` and ``annotation`` are None for a corpus and for a test set without labels."""

    case: str
    test_set: str
    images: tuple[Path, ...]
    label: Path | None = None
    annotation: Path | None = None

    @property
    def all(self) -> list[Path]:
        return [path for path in (*self.images, self.label, self.annotation) if path is not None]


@dataclass(frozen=True)
class RawCase:
    """``images`` float32 [C, D, H, W]; ``instances`` integer [D, H, W] and ``annotation``, or None without labels."""

    images: np.ndarray
    geometry: Geometry
    instances: np.ndarray | None
    annotation: Annotation | None

    def objects(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [N], classes [N] and boxes [N, 6] (original index coordinates) of the objects that count, ids ascending.

        The box is the annotation's own where the data set is annotated with boxes, else that of the instance map.
        """
        ids, boxes = box_ops.from_instances(self.instances)
        own = self.annotation.boxes or {}
        found = dict(zip(ids.tolist(), boxes.tolist(), strict=True)) | own
        ids = sorted(id for id in found if id not in self.annotation.ignored)
        return (
            np.array(ids, dtype=np.int64),
            np.array([self.annotation.classes[id] for id in ids], dtype=np.int64),
            np.array([found[id] for id in ids], dtype=np.float64).reshape(-1, 6),
        )


def find_cases(task: Task, test_set: str = CROSS_VALIDATION) -> list[CaseFiles]:
    """The files of every case of a test set, by id."""
    return [_files(task, case, test_set) for case in task.cases(test_set)]


def _files(task: Task, case: str, test_set: str) -> CaseFiles:
    images = tuple(task.image_paths(case))
    label = task.label_path(case)
    # Only cross-validation cases must have labels: a test set may keep its own.
    if not task.labelled or (test_set != CROSS_VALIDATION and not label.exists()):
        return CaseFiles(case, test_set, images)
    return CaseFiles(case, test_set, images, label, task.annotation_path(case))


def read_raw_case(files: CaseFiles) -> RawCase:
    """Reads a case.

    Raises:
        InputError: a file is missing or unreadable, geometries differ, voxels are NaN or infinite, the instance map is not
            integer, or its ids are not those of the annotation.
    """
    images, geometry = _read_images(files.images)
    if files.label is None:
        return RawCase(images, geometry, None, None)
    instances = _read_instances(files.label, files.images[0], geometry)
    annotation = Annotation.read(files.annotation)
    _check_ids(files, instances, annotation)
    return RawCase(images, geometry, instances, annotation)


def _read_images(paths: tuple[Path, ...]) -> tuple[np.ndarray, Geometry]:
    images, geometry = None, None
    for channel, path in enumerate(paths):
        array, own = volumes.read(path)
        if geometry is None:
            geometry = own
            images = np.empty((len(paths), *geometry.shape), dtype=np.float32)
        _check_geometry(path, own, paths[0], geometry)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: holds NaN or infinite voxels: repair the file, or exclude the case")
        images[channel] = array
    return images, geometry


def _read_instances(path: Path, image: Path, geometry: Geometry) -> np.ndarray:
    instances, own = volumes.read(path)
    _check_geometry(path, own, image, geometry)
    if instances.dtype.kind == "f":
        whole = instances.astype(np.int32)
        if not np.array_equal(whole, instances):
            raise InputError(f"{path}: the instance map has fractional values: save integer instance ids")
        instances = whole
    if instances.min(initial=0) < 0:
        raise InputError(f"{path}: the instance map has negative ids: number the instances 1, 2, ...")
    return instances


def _check_geometry(path: Path, own: Geometry, first: Path, geometry: Geometry) -> None:
    if not geometry.matches(own):
        raise InputError(f"{path}: lies otherwise in space than {first.name}: resample it to the same grid")


def _check_ids(files: CaseFiles, instances: np.ndarray, annotation: Annotation) -> None:
    in_map = set(box_ops.from_instances(instances)[0].tolist())
    annotated = set(annotation.classes)
    if in_map - annotated:
        raise InputError(f"{files.annotation}: no class for instance {_some(in_map - annotated)} of {files.label.name}")
    absent = annotated - in_map - set(annotation.boxes or {})
    if absent:
        raise InputError(f"{files.annotation}: instance {_some(absent)} has no voxel in {files.label.name}: remove it")


def _some(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:8])) + (" ..." if len(ids) > 8 else "")
