"""Lung nodules in CT: the LUNA16 challenge (a selection of LIDC-IDRI's scans).

Raw layout: ``subset0`` .. ``subset9`` with ``SERIESUID.mhd`` and ``SERIESUID.raw``, ``annotations.csv`` (seriesuid, coordX,
coordY, coordZ, diameter_mm; world coordinates) and, from the challenge's evaluation script, ``annotations_excluded.csv`` and
``seriesuids.csv``. Some headers have flipped axes (``TransformMatrix = -1 0 0 0 -1 0 0 0 1``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpretrain import boxes as box_ops
from detpretrain import splits, volumes
from detpretrain.datasets import shapes
from detpretrain.datasets.meta_image import header_problem
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.evaluation import luna16
from detpretrain.evaluation.luna16_submission import ANNOTATIONS, EXCLUDED, SERIESUIDS
from detpretrain.task_validation import Problem

SUBSETS = 10
PLACES = ("", "CSVFILES", "evaluationScript/annotations")  # where the three sheets may lie
PROTOCOLS = ("9-0-1", "8-1-1")
UNPACK = "unpack the archive of the download again, or name the case under exclude_cases"


@dataclass(frozen=True)
class Scan:
    """``nodules``: [x, y, z, diameter] in mm, world coordinates."""

    image: Path
    nodules: tuple[tuple[float, ...], ...]


class LUNA16:
    """One class, "nodule": spheres, each with the box of its sphere. Folds are the challenge's ten subsets.

    The challenge publishes no patient ids: every scan counts as a patient, known by its series uid, which LIDC-IDRI's scans
    have, too.

    Args:
        protocol: ``9-0-1``: fold f trains on nine subsets and is scored on subset f. ``8-1-1``: it trains on eight, chooses
            post-processing on subset (f + 1) mod 10 and is scored on subset f.
        challenge_score: whether the study computes the challenge's score (CPM), for which the two files of the evaluation
            script must be there.

    Raises:
        InputError: an unknown protocol.
    """

    labels = ("nodule",)
    modalities = ("CT",)
    published = Published(
        cases={"cv": 888},
        licence="CC BY 4.0",
        citation=(
            "Setio AAA, Traverso A, de Bel T, et al. Validation, comparison, and combination of algorithms for automatic "
            "detection of pulmonary nodules in computed tomography images: the LUNA16 challenge. Medical Image Analysis 42, 2017"
        ),
        download="https://luna16.grand-challenge.org/Download/",
        scan=AverageScan((255, 512, 512), (1.6, 0.7, 0.7)),
    )

    def __init__(self, *, protocol: str = "9-0-1", challenge_score: bool = True) -> None:
        if protocol not in PROTOCOLS:
            raise InputError(f"luna16: protocol {protocol!r}: use {' or '.join(PROTOCOLS)}")
        self.protocol = protocol
        self.challenge_score = challenge_score

    def layout(self, raw: Path) -> Layout:
        names = (ANNOTATIONS, EXCLUDED, SERIESUIDS) if self.challenge_score else (ANNOTATIONS,)
        sheets, problems = _sheets(raw, names)
        subsets, found = _subsets(raw)
        problems += found
        nodules, found = _nodules(sheets.get(ANNOTATIONS))
        problems += found
        listed, found = _listed(sheets)
        problems += found
        images = {path.stem: path for paths in subsets for path in paths}
        expected = listed or set(nodules)
        for uid in sorted(nodules.keys() - images.keys() - expected):
            problem = f"series {uid} has no scan and is not in {sheets[SERIESUIDS]}"
            problems.append(Problem("", str(sheets[ANNOTATIONS]), problem, "use the challenge's own sheets"))
        for uid, path in images.items():
            if listed and uid not in listed:
                remedy = f"remove the scan, or use the challenge's own {SERIESUIDS}"
                problems.append(Problem(path_safe(uid), str(path), f"not in {sheets[SERIESUIDS]}", remedy))
            problems += _scan_problems(path, nodules.get(uid, np.empty((0, 4))), sheets.get(ANNOTATIONS))
        cases = [_case(uid, path, nodules) for uid, path in sorted(images.items())]
        missing = [f"series {uid}" for uid in sorted(expected - images.keys())]
        folds = _folds([[path_safe(path.stem) for path in paths] for paths in subsets], self.protocol)
        return Layout(cases, problems, folds, missing=missing, official=sheets if self.challenge_score else {})

    def convert(self, case: RawCase) -> Converted:
        scan: Scan = case.files
        image, geometry = volumes.read(scan.image)
        nodules = np.array(scan.nodules, np.float64).reshape(-1, 4)
        instances = shapes.sphere_mm(geometry, nodules[:, :3], nodules[:, 3])
        boxes = shapes.sphere_boxes(geometry, nodules[:, :3], nodules[:, 3])
        ids = range(1, len(nodules) + 1)
        hidden = sorted(set(ids) - set(box_ops.from_instances(instances)[0].tolist()))
        return Converted(
            [image],
            geometry,
            instances,
            dict.fromkeys(ids, 0),
            boxes={number: boxes[number - 1].tolist() for number in ids},
            notes=[f"nodule {number} lies under others in the label map" for number in hidden],
        )


def _case(uid: str, path: Path, nodules: Mapping[str, NDArray]) -> RawCase:
    lines = tuple(map(tuple, nodules[uid].tolist())) if uid in nodules else ()
    return RawCase(path_safe(uid), patient=uid, source_id=uid, files=Scan(path, lines))


def _sheets(raw: Path, names: Sequence[str]) -> tuple[dict[str, Path], list[Problem]]:
    """The sheets by name, each from the first place that has it."""
    found, problems = {}, []
    for name in names:
        paths = [raw / place / name for place in PLACES]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[name] = path
            continue
        remedy = "put it there; it is part of the download" + (
            "" if name == ANNOTATIONS else " (evaluationScript.zip), or set challenge_score: false"
        )
        others = " or ".join(place for place in PLACES if place)
        problems.append(Problem("", str(raw / name), f"not found, nor in {others}", remedy))
    return found, problems


def _subsets(raw: Path) -> tuple[list[list[Path]], list[Problem]]:
    """The headers (``.mhd``) of each subset; a scan that comes twice is kept where it comes first."""
    subsets: list[list[Path]] = []
    problems = []
    seen: dict[str, Path] = {}
    for number in range(SUBSETS):
        folder = raw / f"subset{number}"
        headers = sorted(path for path in folder.glob("*.mhd") if not path.name.startswith("."))
        if not headers:
            problem = "no SERIESUID.mhd in it" if folder.is_dir() else "folder not found"
            problems.append(Problem("", str(folder), problem, f"unpack subset{number}.zip into it"))
        for path in headers:
            if path_safe(path.stem) in seen:
                problem = f"the scan is {seen[path_safe(path.stem)]}, too"
                problems.append(
                    Problem(path_safe(path.stem), str(path), problem, "keep it in its official subset only")
                )
        subsets.append([path for path in headers if seen.setdefault(path_safe(path.stem), path) == path])
        for path in sorted(folder.glob("*.raw")):
            if not path.name.startswith(".") and not path.with_suffix(".mhd").is_file():
                problems.append(Problem(path_safe(path.stem), str(path), "voxels without a header (.mhd)", UNPACK))
    return subsets, problems


def _nodules(sheet: Path | None) -> tuple[dict[str, NDArray[np.float64]], list[Problem]]:
    """series uid -> [N, 4] (x, y, z, diameter in mm), and what is wrong with the sheet."""
    if sheet is None:
        return {}, []
    try:
        nodules = dict(luna16.by_series(sheet, "diameter_mm"))
    except InputError as error:
        return {}, [_problem(error)]
    if not nodules:
        return {}, [Problem("", str(sheet), "no nodule in it", "download it again")]
    problems = []
    for uid, lines in nodules.items():
        for line in lines[lines[:, 3] <= 0]:
            problem = f"series {uid}: diameter_mm is {line[3]:g} at {_place(line)}"
            problems.append(Problem(path_safe(uid), str(sheet), problem, "correct the line"))
        places, times = np.unique(lines[:, :3], axis=0, return_counts=True)
        for place in places[times > 1]:
            problem = f"series {uid}: two nodules at {_place(place)}"
            problems.append(Problem(path_safe(uid), str(sheet), problem, "remove one of the lines"))
    return nodules, problems


def _listed(sheets: Mapping[str, Path]) -> tuple[set[str], list[Problem]]:
    """The challenge's scans (empty without the file), and what is wrong with the two sheets of its evaluation."""
    problems, listed = [], set()
    try:
        if SERIESUIDS in sheets:
            listed = set(luna16.series_uids(sheets[SERIESUIDS]))
    except InputError as error:
        problems.append(_problem(error))
    try:
        if EXCLUDED in sheets:
            luna16.by_series(sheets[EXCLUDED], "diameter_mm")
    except InputError as error:
        problems.append(_problem(error))
    return listed, problems


def _scan_problems(path: Path, nodules: NDArray[np.float64], sheet: Path | None) -> list[Problem]:
    """A header that cannot be read, voxels that are not as it says, nodules outside."""
    case = path_safe(path.stem)
    try:
        geometry = volumes.read_geometry(path)
    except InputError as error:
        return [_problem(error, case)]
    problem = header_problem(path)
    problems = [Problem(case, str(path), problem, UNPACK)] if problem else []
    index = geometry.world_to_index(nodules[:, :3])
    outside = ((index < -0.5) | (index > np.array(geometry.shape) - 0.5)).any(axis=1)
    for line in nodules[outside]:
        problem = f"series {path.stem}: nodule at {_place(line)} lies outside the scan"
        problems.append(Problem(case, str(sheet), problem, "compare with the published sheet, or exclude the case"))
    return problems


def _folds(subsets: Sequence[Sequence[str]], protocol: str) -> splits.Folds:
    folds = []
    for number, scored in enumerate(subsets):
        choosing = (number + 1) % len(subsets) if protocol == "8-1-1" else number
        train = sorted(case for i, part in enumerate(subsets) if i not in (number, choosing) for case in part)
        folds.append({"train": train, "val": sorted(subsets[choosing])})
        if protocol == "8-1-1":
            folds[-1]["test"] = sorted(scored)
    return folds


def _place(line: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:g}' for value in line[:3])})"


def _problem(error: InputError, case: str = "") -> Problem:
    """``FILE: what is wrong: what to do``."""
    file, _, rest = str(error).partition(": ")
    problem, _, remedy = rest.rpartition(": ")
    return Problem(case, file, problem or rest, remedy if problem else UNPACK)
