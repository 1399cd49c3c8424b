"""A Task07_Pancreas of ten cases: names, dataset.json and headers as in the real archive, voxels drawn by hand."""

import json
import shutil

import numpy as np
import pytest
from downloads.msd_pancreas import NAMES, description, download, organ
from nifti_files import AFFINES, write_nifti
from prepared_tasks import boxes, check_boxes_in_world, check_folds, check_other_process

from detpretrain import volumes
from detpretrain.datasets import label_maps
from detpretrain.datasets.msd_pancreas import MSDPancreas
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {
    "class": "detpretrain.datasets.msd_pancreas.MSDPancreas",
    "splits": {"folds": 2, "seed": 1},
    "allow_partial": True,
}


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "Task07_Pancreas")


def prepared(raw, output, **changes) -> Task:
    prepare("msd_pancreas", {**ENTRY, "raw": str(raw), **changes}, output)
    return Task.read(output)


def test_objects(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert task.labels == {0: "tumour"}
    assert task.modalities == {0: "CT"}
    assert boxes(task, "pancreas_016") == [[1, 2, 3, 4, 7, 9]]
    assert boxes(task, "pancreas_004") == [[1, 2, 3, 4, 7, 9]]
    assert boxes(task, "pancreas_005") == []
    assert boxes(task, "pancreas_010") == []
    found = boxes(task, "pancreas_001")
    assert found == [[0, 2, -1, 3, 6, 3], [1, 2, 3, 5, 9, 11]]  # in scan order; the speck is gone
    corners = check_boxes_in_world(task, "pancreas_001", "oblique")
    # by hand: z, y, x = 1, 2, 3 -> RAS x = .64 * 3 - .48 * 2 + 11, y = .48 * 3 + .64 * 2 - 22, z = -2.5 + 33
    np.testing.assert_allclose(corners[2], [-11.96, 19.28, 30.5], atol=1e-4)
    image, label = task.image_paths("pancreas_001")[0], task.label_path("pancreas_001")
    assert volumes.read_geometry(image).matches(volumes.read_geometry(label))
    assert task.objects()["class"].unique().tolist() == [0]


def test_the_map_holds_the_tumours_voxels(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    instances, _ = volumes.read(task.label_path("pancreas_001"))
    assert instances.dtype == np.uint8
    assert np.unique(instances).tolist() == [0, 1, 2]
    assert (instances == 1).sum() == 18
    assert (instances == 2).sum() == 2 * 4 * 5 + 4
    image, _ = volumes.read(task.image_paths("pancreas_001")[0])
    assert image.min() < -900  # the intercept is part of the values


def test_what_was_dropped_is_in_the_log(raw, tmp_path):
    prepared(raw, tmp_path / "task")
    log = (tmp_path / "task" / "conversion.csv").read_text()
    assert log.count("1 tumour components dropped: not above 3 mm") == 2
    assert log.count("no tumour in the label map") == 1
    assert boxes(prepared(raw, tmp_path / "all", min_size_mm=0), "pancreas_005") == [[0, 2, 3, 5, 5, 9]]


def test_the_test_set_is_drawn_once_and_for_all(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    order = np.random.default_rng(0).permutation(10)
    assert task.cases("test") == sorted(NAMES[index] for index in order[:3])
    assert task.cases() == [name for name in NAMES if name not in task.cases("test")]
    check_folds(task)
    (raw / "imagesTr" / "pancreas_019.nii.gz").unlink()
    (raw / "labelsTr" / "pancreas_019.nii.gz").unlink()
    less = prepared(raw, tmp_path / "less", exclude_cases={"pancreas_018": "for a reason"})
    assert set(less.cases("test")) == set(task.cases("test")) - {"pancreas_018", "pancreas_019"}
    other = prepared(raw, tmp_path / "other", test_seed=1)
    assert other.cases("test") != less.cases("test")
    assert prepared(raw, tmp_path / "none", test_fraction=0).test_sets == ["cv"]


def test_cases_can_be_sent_to_another_process(raw):
    check_other_process(MSDPancreas(), raw)


def test_published_numbers(raw, tmp_path):
    assert MSDPancreas().published.cases == {"cv": 197, "test": 84}
    assert MSDPancreas(test_fraction=0.5).published.cases == {"cv": 141, "test": 140}
    assert MSDPancreas(test_fraction=0).published.cases == {"cv": 281}
    with pytest.raises(InputError, match="test_fraction: 1: give a number from 0"):
        MSDPancreas(test_fraction=1)
    with pytest.raises(
        InputError, match=r"cases: 7 found, 197 published; cases of test set test: 3 found, 84 published"
    ):
        prepared(raw, tmp_path / "task", allow_partial=False)
    facts = json.loads((prepared(raw, tmp_path / "task").root / "dataset.json").read_text())
    assert facts["licence"] == "CC BY-SA 4.0"
    assert "Simpson" in facts["citation"]
    assert "medicaldecathlon.com" in facts["download"]


def edit(raw, **changes):
    path = raw / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_geometry(raw):
    write_nifti(raw / "labelsTr" / "pancreas_006.nii.gz", organ(), AFFINES["ras"])


def truncate(path):
    path.write_bytes(path.read_bytes()[:40])


def copied(path, folder):
    (path.parent / folder).mkdir()
    shutil.copy(path, path.parent / folder)


DEFECTS = {
    "no images": (
        lambda raw: shutil.rmtree(raw / "imagesTr"),
        r"imagesTr: folder not found: complete the download.*\(1 problems",
    ),
    "empty images": (
        lambda raw: [path.unlink() for path in (raw / "imagesTr").glob("pancreas*")],
        r"imagesTr: no CASE\.nii\.gz in it: unpack the publisher's archive.*\(1 problems",
    ),
    "image without label": (
        lambda raw: (raw / "labelsTr" / "pancreas_005.nii.gz").unlink(),
        r"imagesTr/pancreas_005\.nii\.gz: image without label map.*exclude_cases \(1 problems",
    ),
    "label without image": (
        lambda raw: (raw / "imagesTr" / "pancreas_005.nii.gz").unlink(),
        r"labelsTr/pancreas_005\.nii\.gz: label map without image.*exclude_cases \(1 problems",
    ),
    "same case twice": (
        lambda raw: copied(raw / "labelsTr" / "pancreas_001.nii.gz", "copy"),
        r"labelsTr/pancreas_001\.nii\.gz: same case as .*labelsTr/copy/pancreas_001\.nii\.gz: keep one",
    ),
    "unpacked with another name": (
        lambda raw: (raw / "labelsTr" / "pancreas_005.nii").write_bytes(b""),
        r"labelsTr/pancreas_005\.nii: not named CASE\.nii\.gz: unpack",
    ),
    "broken header": (
        lambda raw: truncate(raw / "labelsTr" / "pancreas_006.nii.gz"),
        r"labelsTr/pancreas_006\.nii\.gz: cannot be read.*: download or export the file again",
    ),
    "no dataset.json": (lambda raw: (raw / "dataset.json").unlink(), r"dataset\.json: file not found: .*download"),
    "no json": (lambda raw: (raw / "dataset.json").write_text("{"), r"dataset\.json: not valid JSON.*: restore"),
    "another json": (
        lambda raw: (raw / "dataset.json").write_text("[1]"),
        r"dataset\.json: no labels, numTraining or training list.*: unpack",
    ),
    "another task": (
        lambda raw: edit(raw, labels={"0": "background", "1": "liver", "2": "cancer"}),
        r"dataset\.json: labels .*liver.*not those of Task07_Pancreas.*: point raw: at",
    ),
    "another number of labels": (
        lambda raw: edit(raw, labels={"0": "background", "1": "pancreas"}),
        r"dataset\.json: labels .*not those of Task07_Pancreas",
    ),
    "numTraining": (
        lambda raw: edit(raw, numTraining=11),
        r"dataset\.json: numTraining is 11, .* has 10 cases: unpack",
    ),
    "listed twice": (
        lambda raw: edit(raw, numTraining=11, training=description([*NAMES, "pancreas_006"])["training"]),
        r"dataset\.json: pancreas_006 is twice in the training list: unpack",
    ),
    "not listed": (
        lambda raw: edit(raw, numTraining=9, training=description(NAMES[1:])["training"]),
        r"imagesTr/pancreas_001\.nii\.gz: not in the training list of dataset\.json: remove it",
    ),
    "image and label of two cases": (
        lambda raw: edit(raw, training=[{"image": "./a.nii.gz", "label": "./b.nii.gz"}]),
        r"dataset\.json: no labels, numTraining or training list of image and label",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download(raw, tmp_path, defect):
    damage, message = DEFECTS[defect]
    damage(raw)
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_another_geometry(raw, tmp_path):
    other_geometry(raw)
    message = r"labelsTr/pancreas_006\.nii\.gz: geometry differs from pancreas_006\.nii\.gz: spacing .*: download both"
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")
    task = prepared(raw, tmp_path / "task", exclude_cases={"pancreas_006": "another geometry"})
    assert "pancreas_006" not in task.cases()


def test_half_a_pair_is_a_problem_not_a_missing_case(raw):
    (raw / "imagesTr" / "pancreas_005.nii.gz").unlink()
    (raw / "labelsTr" / "pancreas_006.nii.gz").unlink()
    layout = MSDPancreas().layout(raw)
    assert sorted(problem.case for problem in layout.problems) == ["pancreas_005", "pancreas_006"]
    assert list(layout.missing) == []


def test_listed_cases_that_are_missing_are_a_partial_download(raw, tmp_path):
    for part in ("imagesTr", "labelsTr"):
        (raw / part / "pancreas_005.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 listed, not found: imagesTr/pancreas_005\.nii\.gz: complete the download"):
        prepared(raw, tmp_path / "task", allow_partial=False)
    assert len(prepared(raw, tmp_path / "task").case_table()) == 9


@pytest.mark.parametrize(
    ("value", "slope", "message"),
    [
        (3, 1.0, r"pancreas_006\.nii\.gz: holds value 3: .*download the label map again"),
        (1, 0.25, r"pancreas_006\.nii\.gz: holds fractions, not labels: save"),
        (-1, 1.0, r"pancreas_006\.nii\.gz: holds values from -1 to 1, not labels: download"),
        (1, 70000.0, r"pancreas_006\.nii\.gz: holds values from 0 to 70000, not labels"),
    ],
)
def test_voxels_that_are_no_labels(raw, tmp_path, value, slope, message):
    label = organ().astype(np.int16)
    label[0, 0, 0] = value
    write_nifti(raw / "labelsTr" / "pancreas_006.nii.gz", label, AFFINES["lps"], slope)
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_labels_are_read_in_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "_SLAB", 3 * 12 * 14)  # three slices
    array = np.random.default_rng(0).integers(0, 300, (8, 12, 14)).astype(np.float32)
    path = tmp_path / "labels.nii.gz"
    write_nifti(path, array, AFFINES["lps"])
    labels = label_maps.read_labels(path)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, array)
    for where in ((0, 0, 0), (7, 11, 13)):
        broken = array.copy()
        broken[where] += 0.5
        write_nifti(path, broken, AFFINES["lps"])
        with pytest.raises(InputError, match="holds fractions"):
            label_maps.read_labels(path)
