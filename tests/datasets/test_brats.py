import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.brats import Brats
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.brats.Brats", "splits": {"folds": 2}}


def test_mini_layout(mini_raw, tmp_path):
    prepare("brats", {**ENTRY, "raw": str(mini_raw / "brats")}, tmp_path / "task")
    task = Task.read(tmp_path / "task")
    assert task.labels == {0: "tumour"}
    assert task.modalities == {0: "T1c", 1: "FLAIR"}
    assert task.cases() == ["pat0000_1", "pat0001_1", "pat0002_1"]
    assert [p.resolve().name for p in task.image_paths("pat0000_1")] == ["T1c.nii.gz", "FLAIR.nii.gz"]
    assert task.case_table()["source_id"].tolist() == ["pat0000.1", "pat0001.1", "pat0002.1"]
    boxes = task.objects()[["z1", "y1", "x1", "z2", "y2", "x2"]].to_numpy()
    assert boxes.tolist() == [[3, 4, 5, 12, 13, 14]] * 3  # the parts are one tumour, the speck is none


def test_fractions_are_no_labels(mini_raw, tmp_path):
    path = mini_raw / "brats" / "pat0001.1" / "tumour.nii.gz"
    array, geometry = volumes.read(path)
    volumes.write(path, array / np.float32(3), geometry)
    with pytest.raises(InputError, match="holds fractions"):
        Brats().write(mini_raw / "brats", TaskWriter(tmp_path, "d"))


def test_wrong_folder(mini_raw, tmp_path):
    with pytest.raises(InputError, match=r"no CASE/T1c\.nii\.gz"):
        Brats().write(mini_raw, TaskWriter(tmp_path, "d"))
    with pytest.raises(InputError, match="raw: missing"):
        Brats().write(None, TaskWriter(tmp_path, "d"))


def test_real_cases(real_data, tmp_path):
    prepare("brats", {**ENTRY, "raw": str(real_data / "brats")}, tmp_path / "task")
    task = Task.read(tmp_path / "task")
    assert len(task.cases()) == 5
    table = task.case_table()
    assert (table["objects_0"] >= 1).all()
    assert table["objects_0"].sum() <= 8  # tumours, not specks
    case = task.cases()[0]
    (box,) = task.objects().query("case == @case")[["z1", "y1", "x1", "z2", "y2", "x2"]].to_numpy()
    tumour = np.argwhere(volumes.read(real_data / "brats" / case / "tumour.nii.gz")[0] > 0)
    assert (box[:3] >= tumour.min(0) - 1).all()
    assert (box[3:] <= tumour.max(0) + 1).all()
