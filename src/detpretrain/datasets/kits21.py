"""Kidney tumours and cysts in contrast-enhanced CT: KiTS21 (Heller et al., 2023).

Raw layout: ``data/case_NNNNN/imaging.nii.gz`` and ``data/case_NNNNN/segmentations/REGION_instance-I_annotation-A.nii.gz``, one
binary map of each of three annotators per instance of a region (kidney, tumor, cyst). Kidneys are background here.
The numbers of the instances may have gaps: the publishers removed a cyst of case_00205 that was one of its tumours too. Copies of
before hold the region twice; it becomes one object here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpretrain import volumes
from detpretrain.datasets import label_maps
from detpretrain.datasets.label_maps import Window
from detpretrain.datasets.nifti_layout import EXCLUDE, NIFTI, geometry_problems, visible
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION

ANNOTATORS = 3
CLASSES = {"tumor": 0, "cyst": 1}
REGIONS = ("kidney", "tumor", "cyst", "ureter", "artery", "vein")  # the last three: earlier versions of the data
MAP_NAME = re.compile(rf"({'|'.join(REGIONS)})_instance-(\d+)_annotation-(\d+)\.nii\.gz")
CASE_NAME = re.compile(r"case_\d{5}")


@dataclass(frozen=True)
class AnnotatedInstance:
    """One tumour or cyst with the maps of its annotators."""

    name: str
    label: int
    maps: tuple[Path, ...]


@dataclass(frozen=True)
class Files:
    image: Path
    instances: tuple[AnnotatedInstance, ...]  # tumours before cysts, by number


@dataclass(frozen=True, eq=False)
class Agreed:
    """Voxels ``mask`` inside ``window`` that most annotators marked; ``centre``: their mean, mm along the index axes."""

    name: str
    label: int
    window: Window
    mask: NDArray[np.bool_]
    centre: NDArray[np.float64]


class KiTS21:
    """Two classes: an instance is what more than half of its annotators marked; voxels of several instances go to the one
    whose centre is nearest (the first one where two are as near). Instances without voxels are dropped, and logged.
    """

    labels = ("tumour", "cyst")
    modalities = ("CT",)
    published = Published(
        cases={CROSS_VALIDATION: 300},
        licence="CC BY-NC-SA 4.0",
        citation="Heller et al., The KiTS21 Challenge: Automatic segmentation of kidneys, renal tumors, and renal cysts in "
        "corticomedullary-phase CT, arXiv:2307.01984, 2023",
        download="https://github.com/neheller/kits21 (the images by its get_imaging script)",
        scan=AverageScan((200, 512, 512), (2.5, 0.8, 0.8)),
    )

    def layout(self, raw: Path) -> Layout:
        data = raw / "data"
        if not data.is_dir():
            remedy = "point raw: at the folder kits21 of the publisher's repository"
            return Layout([], [Problem("", str(data), "folder not found", remedy)])
        folders = [path for path in visible(data) if path.is_dir()]
        cases, problems = [], []
        for folder in folders:
            if not CASE_NAME.fullmatch(folder.name):
                problems.append(Problem("", str(folder), "not named case_NNNNN", "remove the folder, or rename it"))
                continue
            files, case_problems = _case_files(folder)
            problems += case_problems
            if files:
                cases.append(RawCase(folder.name, folder.name, folder.name, files))
        if not folders:
            problems.append(Problem("", str(data), "no case_NNNNN folder in it", "complete the download"))
        return Layout(cases, problems)

    def convert(self, case: RawCase) -> Converted:
        files: Files = case.files
        geometry = volumes.read_geometry(files.image)
        found: list[Agreed] = []
        notes = [] if files.instances else ["no tumour and no cyst annotated"]
        for instance in files.instances:
            agreed = majority(instance, geometry.spacing)
            if agreed is None:
                notes.append(f"{instance.name} dropped: no voxel that most annotators marked")
            else:
                found.append(agreed)
        instances, owners, overlaps = painted(geometry.shape, found, geometry.spacing)
        notes += overlaps
        notes += [f"{agreed.name} dropped: others have all its voxels" for agreed in found if agreed not in owners]
        classes = {number: agreed.label for number, agreed in enumerate(owners, start=1)}
        return Converted([files.image], geometry, instances, classes, notes=notes)


def majority(instance: AnnotatedInstance, spacing: Sequence[float]) -> Agreed | None:
    """What more than half of the annotators marked, in a window around it; None if that is nothing.

    One whole map is in memory at a time.

    Raises:
        InputError: a map that is not binary.
    """
    marks: list[tuple[Window, NDArray[np.bool_]]] = []
    for path in instance.maps:
        labels = label_maps.read_labels(path)
        windows = label_maps.windows(labels)
        if other := sorted(set(windows) - {1}):
            raise InputError(f"{path}: holds value {other[0]}, but maps of one instance are binary: download it again")
        marks += [(window, labels[window] == 1) for window in windows.values()]
    if not marks:
        return None
    frame = label_maps.union([window for window, _ in marks])
    votes = np.zeros([axis.stop - axis.start for axis in frame], np.uint8)
    for window, mask in marks:
        votes[_inside(frame, window)] += mask
    agreed = votes * 2 > len(instance.maps)
    if not agreed.any():
        return None
    tight = label_maps.windows(agreed.view(np.uint8))[1]
    mask = agreed[tight]
    window = tuple(
        slice(outer.start + inner.start, outer.start + inner.stop) for outer, inner in zip(frame, tight, strict=True)
    )
    middle = [np.average(np.arange(n), weights=mask.sum(axis=_others(axis))) for axis, n in enumerate(mask.shape)]
    centre = (np.array(middle) + [axis.start for axis in window]) * np.asarray(spacing)
    return Agreed(instance.name, instance.label, window, mask, centre)


def painted(
    shape: Sequence[int], found: Sequence[Agreed], spacing: Sequence[float]
) -> tuple[NDArray[np.integer], list[Agreed], list[str]]:
    """The instance map of ``found``, each voxel with the nearest centre among the instances that hold it.

    Returns:
        map [D, H, W], ids 1..N; the instances of these ids (those without a voxel left are not among them); one sentence for
        each instance that earlier ones overlap.
    """
    instances = np.zeros(tuple(shape), label_maps.id_type(len(found)))
    centres = np.array([np.zeros(3), *(agreed.centre for agreed in found)])
    overlaps = []
    for number, agreed in enumerate(found, start=1):
        part = instances[agreed.window]
        contested = np.argwhere(agreed.mask & (part > 0))
        rivals = part[tuple(contested.T)]
        part[agreed.mask & (part == 0)] = number
        if len(contested):
            points = (contested + [axis.start for axis in agreed.window]) * np.asarray(spacing)
            own, others = (((points - c) ** 2).sum(axis=1) for c in (agreed.centre, centres[rivals]))
            won = contested[own < others]
            part[tuple(won.T)] = number
            names = ", ".join(found[rival - 1].name for rival in np.unique(rivals))
            overlaps.append(
                f"{agreed.name} shares {len(contested)} voxels with {names}: each went to the nearer centre"
            )
    left = [n for n, agreed in enumerate(found, start=1) if (instances[agreed.window] == n).any()]
    ids = {value: new for new, value in enumerate(left, start=1)}
    if len(left) < len(found):
        instances = label_maps.renumbered(instances, ids)
    return instances, [found[n - 1] for n in left], overlaps


def _case_files(folder: Path) -> tuple[Files | None, list[Problem]]:
    """The files of one case; None and problems when image or maps are missing."""
    case, image, maps = folder.name, folder / f"imaging{NIFTI}", folder / "segmentations"
    problems = []
    if not image.is_file():
        problems.append(Problem(case, str(image), "image not found", "run the publisher's get_imaging script again"))
    if not maps.is_dir():
        return None, [*problems, Problem(case, str(maps), "folder not found", EXCLUDE)]
    found: dict[tuple[str, int], dict[int, Path]] = defaultdict(dict)
    for path in visible(maps):
        match = MAP_NAME.fullmatch(path.name)
        if match:
            found[match[1], int(match[2])][int(match[3])] = path
        elif path.name.endswith((".nii", NIFTI)):
            problem = f"not named REGION_instance-I_annotation-A{NIFTI} with a region of {', '.join(REGIONS)}"
            problems.append(Problem(case, str(path), problem, "remove the file, or rename it"))
    if not found:
        problems.append(Problem(case, str(maps), f"no REGION_instance-I_annotation-A{NIFTI} in it", EXCLUDE))
    instances = [
        AnnotatedInstance(f"{region}_instance-{number}", CLASSES[region], tuple(path for _, path in sorted(by.items())))
        for (region, number), by in sorted(found.items(), key=lambda item: (item[0][0] != "tumor", item[0]))
        if region in CLASSES
    ]
    for instance in instances:
        region, _, number = instance.name.partition("_instance-")
        problems += _annotator_problems(case, maps, instance.name, found[region, int(number)])
    if image.is_file():
        problems += geometry_problems(case, image, [path for instance in instances for path in instance.maps])
    return (Files(image, tuple(instances)) if image.is_file() and found else None), problems


def _annotator_problems(case: str, folder: Path, name: str, maps: dict[int, Path]) -> list[Problem]:
    """Annotators 1 to 3 and no others."""
    expected = range(1, ANNOTATORS + 1)
    missing = [folder / f"{name}_annotation-{number}{NIFTI}" for number in expected if number not in maps]
    problems = [
        Problem(case, str(path), f"not found: {name} needs {ANNOTATORS} annotations", EXCLUDE) for path in missing
    ]
    for number in sorted(set(maps) - set(expected)):
        problem = f"annotation {number}, but an instance has {ANNOTATORS}"
        problems.append(Problem(case, str(maps[number]), problem, "remove the file, or exclude the case"))
    return problems


def _inside(frame: Window, window: Window) -> Window:
    """``window`` in the coordinates of ``frame``."""
    return tuple(
        slice(inner.start - outer.start, inner.stop - outer.start) for outer, inner in zip(frame, window, strict=True)
    )


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)
