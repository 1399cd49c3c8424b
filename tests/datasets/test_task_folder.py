import numpy as np
import pandas as pd
import pytest

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.files import write_json
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.task_folder.TaskFolder", "splits": {"folds": 2}}
GEOMETRY = Geometry((6, 7, 8), (2.0, 1.0, 1.0))


@pytest.fixture
def own(tmp_path):
    """A task as a user of nnDetection has it: dataset.yaml, images, labels, a test set, no tables."""
    root = tmp_path / "Task001_Own"
    for folder, cases in (("Tr", ("a", "b", "c", "d")), ("Ts", ("t",))):
        for case in cases:
            instances = np.zeros(GEOMETRY.shape, np.uint8)
            instances[1:3, 2:4, 3:5] = 1
            volumes.write(root / f"raw_splitted/images{folder}/{case}_0000.nii.gz", instances * 7, GEOMETRY)
            volumes.write(root / f"raw_splitted/labels{folder}/{case}.nii.gz", instances, GEOMETRY)
            write_json(root / f"raw_splitted/labels{folder}/{case}.json", {"instances": {"1": 0}})
    (root / "dataset.yaml").write_text("task: Task001_Own\ndim: 3\nlabels: {'0': lesion}\nmodalities: {'0': CT}\n")
    return root


def _prepare(own, **kwargs) -> Task:
    prepare("own", {**ENTRY, "raw": str(own), **kwargs}, own.parent / "task")
    return Task.read(own.parent / "task")


def test_it_is_linked_and_gets_tables(own):
    task = _prepare(own)
    assert (task.name, task.labels, task.test_sets) == ("own", {0: "lesion"}, ["cv", "test"])
    for path in [*task.image_paths("a"), task.label_path("t"), task.annotation_path("t")]:
        assert path.is_symlink()
        assert path.resolve().is_relative_to(own)
    assert len(task.objects()) == 5
    assert sorted(c for fold in task.folds() for c in fold["val"]) == ["a", "b", "c", "d"]
    assert sorted(p.name for p in own.iterdir()) == ["dataset.yaml", "raw_splitted"]  # nothing is added to the user's


def test_its_patients_and_splits_are_used(own):
    pd.DataFrame({"case": ["a", "b"], "patient": ["p", "p"]}).to_csv(own / "cases.csv", index=False)
    task = _prepare(own)
    assert task.case_table()["patient"].tolist() == ["p", "p", "c", "d", "t"]
    assert all({"a", "b"} <= set(fold["val"]) or not {"a", "b"} & set(fold["val"]) for fold in task.folds())
    folds = [{"train": ["a", "b"], "val": ["c", "d"]}]
    write_json(own / "splits.json", {"folds": folds})
    assert _prepare(own).folds() == folds
    write_json(own / "splits.json", {"folds": [{"train": ["a"], "val": ["b"]}]})
    with pytest.raises(InputError, match="patient p in both"):
        _prepare(own)


def test_every_problem_at_once(own, capsys):
    (own / "raw_splitted/labelsTr/a.json").unlink()
    (own / "raw_splitted/imagesTr/b_0000.nii.gz").unlink()
    write_json(own / "raw_splitted/labelsTr/c.json", {"instances": {"1": 3}})
    with pytest.raises(InputError, match="4 problems"):
        _prepare(own)
    table = capsys.readouterr().err
    for expected in ("without json", "without image", "class 3"):
        assert expected in table
    assert not (own.parent / "task").exists()


def test_excluded_cases_take_their_files_with_them(own):
    (own / "raw_splitted/labelsTr/a.json").unlink()
    task = _prepare(own, exclude_cases={"a": "no annotation"})
    assert task.cases() == ["b", "c", "d"]
    assert not list(task.raw.rglob("a*"))


def test_cases_csv_without_patients(own):
    pd.DataFrame({"case": ["a"]}).to_csv(own / "cases.csv", index=False)
    with pytest.raises(InputError, match="no column patient"):
        _prepare(own)


def test_cases_csv_with_a_stranger(own):
    pd.DataFrame({"case": ["zz"], "patient": ["p"]}).to_csv(own / "cases.csv", index=False)
    with pytest.raises(InputError, match="case zz has no image"):
        _prepare(own)
