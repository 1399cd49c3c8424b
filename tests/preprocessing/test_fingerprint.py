import json

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.fingerprint import fingerprint_task, foreground_statistics
from detpretrain.tasks import Task


def test_one_case_by_hand(make_task):
    task = make_task(labels=("a", "b"), modalities=("MR", "CT"))
    image = np.zeros((10, 12, 14), np.float32)
    image[2:8, 1:11, 3:13] = np.arange(600).reshape(6, 10, 10) + 1
    instances = np.zeros(image.shape, np.uint8)
    instances[2:4, 1:11, 3:8] = 1  # 100 voxels
    task.add("c", [image, -image], instances, {1: 1}, spacing=(2.0, 1.0, 0.5))
    fingerprint = fingerprint_task(Task.read(task.root))
    (case,) = fingerprint.cases
    assert (case.shape, case.cropped_shape, case.spacing) == ((10, 12, 14), (6, 10, 10), (2.0, 1.0, 0.5))
    assert case.size_reduction == pytest.approx(600 / 1680)
    assert (case.boxes, case.classes) == ([[1, 0, 2, 4, 11, 8]], [1])
    sampled = image[instances > 0][::10]
    assert len(sampled) == 10
    first, second = fingerprint.intensities
    assert first["mean"] == pytest.approx(sampled.mean())
    assert first["sd"] == pytest.approx(sampled.std())
    assert (first["voxels"], first["min"], first["max"]) == (10, sampled.min(), sampled.max())
    assert second["percentile_00_5"] == pytest.approx(-first["percentile_99_5"])


def test_statistics_by_hand():
    statistics = foreground_statistics(np.arange(201, dtype=np.float32))
    assert statistics["percentile_00_5"] == 1.0
    assert statistics["percentile_99_5"] == 199.0
    assert (statistics["mean"], statistics["median"]) == (100.0, 100.0)
    assert statistics["sd"] == pytest.approx(np.sqrt((201**2 - 1) / 12))


def test_ignored_objects_leave_no_trace(make_task):
    image = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    instances = np.zeros(image.shape, np.uint8)
    instances[:4] = 1
    instances[5:] = 2
    task = make_task()
    task.add("c", [image], instances, {1: 0, 2: 0}, ignored=["1"])
    fingerprint = fingerprint_task(Task.read(task.root))
    assert len(fingerprint.cases[0].boxes) == 1
    assert fingerprint.intensities[0]["mean"] == pytest.approx(image[instances == 2][::10].mean(), rel=1e-6)


def test_only_training_cases_count_and_workers_do_not_matter(demo_task):
    task = Task.read(demo_task.root)
    serial = fingerprint_task(task, workers=1)
    assert [case.case for case in serial.cases] == [f"case_{i}" for i in range(6)]
    parallel = fingerprint_task(task, workers=2)
    assert json.dumps(serial.to_json()) == json.dumps(parallel.to_json())


def test_of_a_corpus_only_headers_are_read(make_task):
    task = make_task(labels=())
    task.add(
        "c", [np.zeros((5, 6, 7), np.float32)], spacing=(2.0, 1.0, 1.0)
    )  # reading the voxels would refuse it as empty
    fingerprint = fingerprint_task(Task.read(task.root))
    assert fingerprint.intensities is None
    assert fingerprint.cases[0].cropped_shape == (5, 6, 7)


def test_bad_cases_are_all_named(demo_task):
    images = demo_task.root / "raw_splitted" / "imagesTr"
    for case in ("case_1", "case_4"):
        (images / f"{case}_0001.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"2 of 6 cases cannot be analysed: case_1: .*case_1_0001.*; case_4: .*case_4_0001"
    ):
        fingerprint_task(Task.read(demo_task.root))


def test_a_task_without_cases(make_task):
    with pytest.raises(InputError, match="no image CASE_0000"):
        fingerprint_task(Task.read(make_task().root))
