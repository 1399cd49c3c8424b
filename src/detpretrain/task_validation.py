"""Everything that is wrong with a task folder, in one pass and one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from detpretrain import splits, volumes
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import CROSS_VALIDATION, IMAGE_NAME, Annotation, Task


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: ``case`` is empty for what concerns the whole task."""

    case: str
    file: str
    problem: str
    remedy: str


def validate(root: Path | str, workers: int = 1) -> list[Problem]:
    """Every problem of a task folder, sorted; empty when it can be used.

    Voxels are read (NaN, ids), by ``workers`` processes. cases.csv and splits.json are checked where they exist.
    """
    try:
        task = Task.read(root)
    except InputError as error:
        return [from_error("", error)]
    return sorted([*validate_cases(task, workers), *_split_problems(task)])


def validate_cases(task: Task, workers: int = 1) -> list[Problem]:
    """The problems of the images, label maps and annotations of a task."""
    if not task.cases(CROSS_VALIDATION):
        remedy = "put CASE_0000.nii.gz files into raw_splitted/imagesTr"
        return [Problem("", str(task.image_folder(CROSS_VALIDATION)), "no cases", remedy)]
    cases = [case for test_set in task.test_sets for case in task.cases(test_set)]
    check = partial(case_problems, task)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(check, cases))
    else:
        found = [check(case) for case in cases]
    return sorted([*_folder_problems(task), *(problem for part in found for problem in part)])


def case_problems(task: Task, case: str) -> list[Problem]:
    """The problems of one case: its images, then its label map and annotation."""
    found: list[Problem] = []
    if "." in case:
        remedy = "rename the files: letters, digits, - and _ only"
        found.append(Problem(case, task.image_paths(case)[0].name, "a dot in the case id", remedy))
    reference: tuple[Path, Geometry] | None = None
    for path, name in zip(task.image_paths(case), task.modalities.values(), strict=True):
        if not path.is_file():
            found.append(
                Problem(case, _shown(path), f"modality {name} is missing", "add the file, or exclude the case")
            )
            continue
        geometry, problems = _image_problems(case, path, reference)
        found += problems
        if reference is None and geometry is not None:
            reference = path, geometry
    if task.labelled:
        found += _label_problems(task, case, reference)
    return found


def print_problems(problems: Sequence[Problem], title: str, console: Console | None = None) -> None:
    """Prints the problems as one table."""
    table = Table(title=title, show_lines=False)
    for heading in ("case", "file", "problem", "remedy"):
        table.add_column(heading, overflow="fold")
    for problem in problems:
        table.add_row(problem.case, problem.file, problem.problem, problem.remedy)
    (console or Console(stderr=True)).print(table)


def _image_problems(
    case: str, path: Path, reference: tuple[Path, Geometry] | None
) -> tuple[Geometry | None, list[Problem]]:
    try:
        _, geometry = volumes.read(path)
    except InputError as error:
        return None, [from_error(case, error)]
    return geometry, _geometry_problems(case, path, geometry, reference)


def _geometry_problems(
    case: str, path: Path, geometry: Geometry, reference: tuple[Path, Geometry] | None
) -> list[Problem]:
    difference = geometry.difference(reference[1]) if reference else None
    if difference is None:
        return []
    problem = f"geometry differs from {reference[0].name}: {difference}"
    return [Problem(case, _shown(path), problem, "resample it onto the other image, or correct its header")]


def _label_problems(task: Task, case: str, reference: tuple[Path, Geometry] | None) -> list[Problem]:
    label, json_path = task.label_path(case), task.annotation_path(case)
    if not label.is_file() and not json_path.is_file():
        return [Problem(case, _shown(label), "image without label", "add label map and json, or exclude the case")]
    if not json_path.is_file():
        return [Problem(case, _shown(label), "label without json", f"write {json_path.name} with the class of each id")]
    if not label.is_file():
        return [Problem(case, _shown(json_path), "json without label", f"add the instance map {label.name}")]
    found, annotation, ids = [], None, None
    try:
        annotation = Annotation.read(json_path)
        found += _annotation_problems(task, case, json_path, annotation)
    except InputError as error:
        found.append(from_error(case, error))
    try:
        array, geometry = volumes.read(label)
        found += _geometry_problems(case, label, geometry, reference)
        if array.dtype.kind == "f":
            remedy = "save the instance map with an integer type"
            found.append(Problem(case, _shown(label), f"float label map ({array.dtype})", remedy))
        else:
            ids = np.unique(array[array != 0]).tolist()
    except InputError as error:
        found.append(from_error(case, error))
    if annotation is not None and ids is not None:
        found += _id_problems(case, label, json_path, ids, annotation)
    return found


def _annotation_problems(task: Task, case: str, path: Path, annotation: Annotation) -> list[Problem]:
    """Ids from 1 without a gap, known classes, and boxes that are boxes."""
    found = []
    ids = sorted(annotation.classes)
    if ids != list(range(1, len(ids) + 1)):
        found.append(Problem(case, _shown(path), f"ids with gaps: {_listed(ids)}", "number the objects 1, 2, ..., N"))
    unknown = sorted(set(annotation.classes.values()) - set(task.labels))
    if unknown:
        problem = f"class {_listed(unknown)} is not among the labels {_listed(task.labels)}"
        found.append(Problem(case, _shown(path), problem, "correct the class, or add it to the labels of dataset.json"))
    strangers = sorted(annotation.ignored - set(ids))
    if strangers:
        found.append(Problem(case, _shown(path), f"ignored ids {_listed(strangers)} are no instances", "remove them"))
    if annotation.boxes is None:
        return found
    if set(annotation.boxes) != set(ids):
        found.append(
            Problem(case, _shown(path), "boxes and instances have different ids", "give each instance its box")
        )
    for key, box in sorted(annotation.boxes.items()):
        if len(box) != 6 or not np.isfinite(box).all() or any(box[i] >= box[i + 3] for i in range(3)):
            remedy = "write z1, y1, x1, z2, y2, x2 with z1 < z2, y1 < y2, x1 < x2"
            found.append(Problem(case, _shown(path), f"box {key} is not a box: {box}", remedy))
    return found


def _id_problems(case: str, label: Path, json_path: Path, ids: list[int], annotation: Annotation) -> list[Problem]:
    """Ids of the map against ids of the json. Where boxes are the annotation, one may be hidden in the raster."""
    listed = set(annotation.classes)
    found = []
    unlisted = sorted(set(ids) - listed)
    if unlisted:
        problem = f"ids {_listed(unlisted)} of the instance map are not in the json"
        found.append(Problem(case, _shown(json_path), problem, "add their classes, or remove them from the map"))
    absent = sorted(listed - set(ids))
    if absent and annotation.boxes is None:
        problem = f"ids {_listed(absent)} of the json are not in the instance map"
        if not ids:
            problem = f"empty instance map, but the json lists {len(listed)} objects"
        found.append(Problem(case, _shown(label), problem, "correct the map or the json"))
    return found


def _folder_problems(task: Task) -> list[Problem]:
    """Files that belong to no case, and cases that two test sets share."""
    found: list[Problem] = []
    owner: dict[str, str] = {}
    for test_set in task.test_sets:
        cases = set()
        for path in sorted(task.image_folder(test_set).iterdir()):
            match = IMAGE_NAME.fullmatch(path.name)
            if not match or int(match["modality"]) not in task.modalities:
                remedy = "name images CASE_0000.nii.gz, CASE_0001.nii.gz, ... as in the modalities of dataset.json"
                found.append(Problem("", _shown(path), "not an image of a known modality", remedy))
            if match:
                cases.add(match["case"])
        for case in sorted(cases):
            if owner.setdefault(case, test_set) != test_set:
                problem = f"case in two test sets: {owner[case]} and {test_set}"
                found.append(Problem(case, _shown(task.image_folder(test_set)), problem, "remove or rename one"))
        folder = task.label_folder(test_set)
        if not task.labelled or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            case = path.name.removesuffix(".nii.gz").removesuffix(".json")
            if case not in cases:
                found.append(Problem(case, _shown(path), "label without image", "add the image, or remove the label"))
    return found


def _split_problems(task: Task) -> list[Problem]:
    """A patient in training and validation of a fold, unknown cases; patients come from cases.csv."""
    path = task.root / "splits.json"
    if not path.is_file():
        return []
    try:
        patients = {case: case for case in task.cases()}
        if (task.root / "cases.csv").is_file():
            table = task.case_table()
            patients |= {c: p for c, p in zip(table["case"], table["patient"], strict=True) if c in patients}
        remedy = "keep all cases of a patient on one side, and name cases of imagesTr only"
        return [Problem("", str(path), text, remedy) for text in splits.problems(task.folds(), patients)]
    except InputError as error:
        return [from_error("", error)]
    except KeyError as error:
        return [Problem("", str(task.root / "cases.csv"), f"no column {error}", "prepare the task again")]


def from_error(case: str, error: InputError, remedy: str = "") -> Problem:
    """``FILE: what is wrong: what to do`` as a problem; ``remedy``: for a message that names none."""
    file, _, rest = str(error).partition(": ")
    problem, _, named = rest.rpartition(": ")
    return Problem(case, _shown(Path(file)), problem or rest, named if problem else remedy)


def _shown(path: Path) -> str:
    """The file behind a link, because that is the one to repair."""
    return str(path.resolve()) if path.is_symlink() else str(path)


def _listed(values: Iterable[int], most: int = 8) -> str:
    values = list(values)
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
