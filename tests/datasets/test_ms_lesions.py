import numpy as np
from scipy import ndimage

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.ms_lesions.MSLesions", "splits": {"folds": 2}}


def test_mini_layout(mini_raw, tmp_path):
    prepare("ms", {**ENTRY, "raw": str(mini_raw / "ms_lesions")}, tmp_path / "task")
    task = Task.read(tmp_path / "task")
    assert task.modalities == {0: "FLAIR", 1: "T1", 2: "T2"}
    assert task.cases() == ["patient07", "patient19"]
    # 27 voxels with a box of 4 mm stay; 24 voxels but a box of 3 mm along y go, as does the single voxel
    assert task.case_table()["objects_0"].tolist() == [1, 1]
    assert [fold["val"] for fold in task.folds()] in ([["patient07"], ["patient19"]], [["patient19"], ["patient07"]])


def test_real_cases(real_data, tmp_path):
    prepare("ms", {**ENTRY, "raw": str(real_data / "ms_lesions")}, tmp_path / "task")
    task = Task.read(tmp_path / "task")
    for case, parts in (("patient07", 37), ("patient19", 98)):
        mask = volumes.read(real_data / "ms_lesions" / case / "consensus_gt.nii.gz")[0]
        components, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        assert count == parts  # as the data's own description says
        kept = sum(size > 10 for size in np.bincount(components.ravel())[1:])
        assert 20 <= len(task.annotation(case).classes) <= kept
