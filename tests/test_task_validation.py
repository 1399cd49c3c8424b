import io
import json

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from detpretrain import volumes
from detpretrain.geometry import Geometry
from detpretrain.task_validation import print_problems, validate
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Task

GEOMETRY = Geometry((8, 9, 10), (2.5, 1.0, 0.5))


def _map() -> np.ndarray:
    instances = np.zeros(GEOMETRY.shape, np.uint8)
    instances[1:3, 3:5, 4:8] = 1
    instances[5, 6, 7] = 2
    return instances


@pytest.fixture
def task(tmp_path) -> Task:
    """Four valid cases of two channels; a test breaks one of them."""
    writer = TaskWriter(tmp_path / "task", "demo", folds=2)
    writer.describe(labels=["a", "b"], modalities=["T1", "T2"])
    image = np.zeros(GEOMETRY.shape, np.float32)
    for case in ("c0", "c1", "c2", "c3"):
        writer.add_case(case, [image, image], GEOMETRY, instances=_map(), classes={1: 0, 2: 1}, patient=f"p_{case}")
    writer.finish()
    return Task.read(tmp_path / "task")


def _write_json(task: Task, content) -> None:
    task.annotation_path("c1").write_text(json.dumps(content))


def _break_nan(task: Task) -> None:
    image = np.zeros(GEOMETRY.shape, np.float32)
    image[0, 0, :3] = np.nan
    volumes.write(task.image_paths("c1")[1], image, GEOMETRY)


def _break_label(task: Task, array, geometry=GEOMETRY) -> None:
    volumes.write(task.label_path("c1"), array, geometry)


def _break_modality_geometry(task: Task) -> None:
    moved = Geometry(GEOMETRY.shape, GEOMETRY.spacing, (0.0, 0.0, 3.0))
    volumes.write(task.image_paths("c1")[1], np.zeros(GEOMETRY.shape, np.float32), moved)


def _break_four_dimensions(task: Task) -> None:
    series = sitk.GetImageFromArray(np.zeros((2, *GEOMETRY.shape), np.float32), isVector=False)
    sitk.WriteImage(series, str(task.image_paths("c1")[0]))


def _break_file(task: Task) -> None:
    path = task.image_paths("c1")[0]
    path.write_bytes(path.read_bytes()[:-20])


def _break_split(task: Task) -> None:
    table = task.case_table()
    table["patient"] = "p"
    table.to_csv(task.root / "cases.csv", index=False)


def _rename_with_dot(task: Task) -> None:
    for path in [*task.image_paths("c1"), task.label_path("c1"), task.annotation_path("c1")]:
        path.rename(path.with_name(path.name.replace("c1", "c1.5")))
    (task.root / "splits.json").unlink()


TWO = {"1": 0, "2": 1}
BOX = [0, 0, 0, 2, 2, 2]
BREAKS = {
    "missing modality": (lambda t: t.image_paths("c1")[1].unlink(), "modality T2 is missing"),
    "ids with gaps": (lambda t: _write_json(t, {"instances": {"1": 0, "3": 1}}), "ids with gaps: 1, 3"),
    "modalities differ": (_break_modality_geometry, "geometry differs from c1_0000.nii.gz: origin"),
    "label differs": (
        lambda t: _break_label(t, _map()[:-1], Geometry((7, 9, 10), (2.5, 1.0, 0.5))),
        "geometry differs from c1_0000.nii.gz: shape",
    ),
    "nan": (_break_nan, "3 voxels are NaN or infinite"),
    "4-d": (_break_four_dimensions, "4-D image"),
    "empty mask": (lambda t: _break_label(t, _map() * 0), "empty instance map, but the json lists 2 objects"),
    "float label": (lambda t: _break_label(t, _map().astype(np.float32)), "float label map"),
    "no json": (lambda t: t.annotation_path("c1").unlink(), "label without json"),
    "no map": (lambda t: t.label_path("c1").unlink(), "json without label"),
    "neither": (
        lambda t: (t.label_path("c1").unlink(), t.annotation_path("c1").unlink()),
        "image without label",
    ),
    "no image": (lambda t: [p.unlink() for p in t.image_paths("c1")], "label without image"),
    "id missing in json": (lambda t: _write_json(t, {"instances": {"1": 0}}), "ids 2 of the instance map are not in"),
    "id missing in map": (
        lambda t: _write_json(t, {"instances": {"1": 0, "2": 0, "3": 1}}),
        "ids 3 of the json are not in the instance map",
    ),
    "class": (lambda t: _write_json(t, {"instances": {"1": 0, "2": 2}}), "class 2 is not among the labels 0, 1"),
    "ignored": (lambda t: _write_json(t, {"instances": TWO, "ignored": ["4"]}), "ignored ids 4 are no instances"),
    "json form": (lambda t: _write_json(t, {"objects": []}), "not an annotation"),
    "json syntax": (lambda t: t.annotation_path("c1").write_text("{"), "not valid JSON"),
    "boxes": (lambda t: _write_json(t, {"instances": TWO, "boxes": {"1": BOX}}), "boxes and instances have different"),
    "inverted box": (
        lambda t: _write_json(t, {"instances": TWO, "boxes": {"1": BOX, "2": [3, 0, 0, 2, 2, 2]}}),
        "box 2 is not a box",
    ),
    "unreadable": (_break_file, "truncated or damaged"),
    "stray file": (
        lambda t: (t.image_folder("cv") / "notes.txt").write_text("x"),
        "not an image of a known modality",
    ),
    "dots": (_rename_with_dot, "a dot in the case id"),
    "patient in two folds": (_break_split, "in both train and val"),
    "no images": (lambda t: t.image_folder("cv").rename(t.root / "elsewhere"), "no cases"),
    "dataset.json": (lambda t: (t.root / "dataset.json").unlink(), "file not found"),
}


def test_a_valid_task_has_no_problem(task):
    assert validate(task.root) == []
    assert validate(task.root, workers=2) == []


@pytest.mark.parametrize("name", BREAKS)
def test_every_defect_is_found(task, name):
    break_it, expected = BREAKS[name]
    break_it(task)
    problems = validate(task.root)
    assert any(expected in problem.problem for problem in problems), problems
    assert all(problem.file and problem.problem and problem.remedy for problem in problems)
    if name not in ("patient in two folds", "no images", "dataset.json"):
        assert not {problem.case for problem in problems} & {"c0", "c2", "c3"}


def test_all_defects_in_one_table(task):
    task.image_paths("c0")[1].unlink()
    _break_nan(task)
    task.annotation_path("c2").unlink()
    volumes.write(task.label_path("c3"), _map() * 0, GEOMETRY)
    problems = validate(task.root)
    assert [problem.case for problem in problems] == ["c0", "c1", "c2", "c3"]
    stream = io.StringIO()
    print_problems(problems, "demo", Console(file=stream, width=200))
    for expected in ("T2 is missing", "3 voxels are NaN", "label without json", "empty instance map"):
        assert expected in stream.getvalue()


def test_a_hidden_box_of_a_box_only_case_is_no_problem(task):
    _write_json(task, {"instances": {"1": 0, "2": 1, "3": 1}, "boxes": {"1": BOX, "2": BOX, "3": BOX}})
    assert validate(task.root) == []


def test_a_problem_names_the_file_behind_a_link(task, tmp_path):
    path = task.image_paths("c1")[0]
    original = tmp_path / "download" / "scan.nii.gz"
    original.parent.mkdir()
    original.write_bytes(path.read_bytes()[:-20])
    path.unlink()
    path.symlink_to(original)
    (problem,) = validate(task.root)
    assert problem.file == str(original)


def test_a_case_in_two_test_sets(task):
    folder = task.raw / "imagesTs"
    folder.mkdir()
    for path in task.image_paths("c1"):
        (folder / path.name).symlink_to(path)
    assert any("two test sets" in problem.problem for problem in validate(task.root))
