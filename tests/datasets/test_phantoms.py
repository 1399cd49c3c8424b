import time

import numpy as np
import pytest
from scipy import ndimage

from detpretrain import volumes
from detpretrain.datasets.phantom_anatomy import ORGANS
from detpretrain.datasets.phantoms import ChestPhantom, PhantomCorpus, PhantomNodules, PhantomOrgans
from detpretrain.errors import InputError
from detpretrain.task_validation import validate
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Task

SMALL = {"shape": [32, 32, 32], "spacing": 2.8, "slice_spacing": [3.6, 4.0], "diameter_mm": [11.0, 18.0]}


def _write(dataset, root, **kwargs) -> Task:
    writer = TaskWriter(root, "phantom", **{"folds": 2, **kwargs})
    dataset.write(None, writer)
    writer.finish()
    assert validate(root) == []
    return Task.read(root)


@pytest.fixture(scope="module")
def scans():
    return [ChestPhantom().draw(np.random.default_rng([7, number])) for number in range(12)]


def test_scans_look_like_chest_ct(scans):
    for scan in scans:
        assert scan.image.dtype == np.int16
        lungs = scan.image[scan.organs == 1 + ORGANS.index("lungs")]
        assert -870 < lungs.mean() < -780
        assert 100 < lungs.std() < 150  # noise of 120 HU, and what lies in the lungs
        assert scan.image[scan.organs == 1 + ORGANS.index("bones")].mean() > 200
        assert scan.image[scan.organs == 0].mean() < -900  # noise is cut at -1024
        assert set(np.unique(scan.organs)) == set(range(len(ORGANS) + 1))


def test_nodules_are_separate_inside_the_lungs_and_of_the_asked_size(scans):
    diameters = []
    for scan in scans:
        voxel = np.prod(scan.geometry.spacing)
        for number in range(1, scan.nodules.max() + 1):
            mask = scan.nodules == number
            inside = np.isin(scan.organs[mask], [1 + ORGANS.index("lungs"), 1 + ORGANS.index("lung vessels")])
            assert inside.mean() > 0.9
            diameters.append((mask.sum() * voxel * 6 / np.pi) ** (1 / 3))
    assert len(diameters) > 20
    assert min(diameters) > 4.0
    assert max(diameters) < 15.0
    assert max(diameters) > 10.0


def test_contrast_is_about_the_noise(scans):
    chest = ChestPhantom(noise_sd=0.001)  # contrast is relative to the noise: without it, nothing is to be seen
    quiet = chest.draw(np.random.default_rng([7, 0]))
    lungs = np.isin(quiet.organs, [1 + ORGANS.index("lungs"), 1 + ORGANS.index("lung vessels")])
    inner = ndimage.binary_erosion(lungs, iterations=3)
    assert quiet.nodules[inner].any()
    assert quiet.image[inner].std() < 10
    excess = []
    for scan in scans:
        lungs = (scan.organs == 1 + ORGANS.index("lungs")) & (scan.nodules == 0)
        background = np.median(scan.image[lungs])
        if scan.nodules.any():
            excess.append((scan.image[scan.nodules > 0].mean() - background) / 120.0)
    assert 0.7 < np.mean(excess) < 1.3


def test_some_scans_have_thick_slices_and_the_same_height(scans):
    heights = [scan.geometry.shape[0] * scan.geometry.spacing[0] for scan in scans]
    assert np.ptp(heights) < 2.5
    assert 0 < sum(scan.geometry.spacing[0] > 1.9 for scan in scans) < len(scans)


def test_a_scan_is_fast():
    start = time.process_time()
    for number in range(3):
        ChestPhantom().draw(np.random.default_rng(number))
    assert (time.process_time() - start) / 3 < 0.6  # half of it on a quiet core; the limit leaves room for a busy one


def test_nodule_task(tmp_path):
    task = _write(PhantomNodules(cases=6, seed=1, nodules=[0, 3], **SMALL), tmp_path)
    assert (task.labels, task.modalities) == ({0: "nodule"}, {0: "CT"})
    assert len(task.cases()) == 6
    assert task.case_table()["objects_0"].sum() == len(task.objects()) > 0
    assert len(task.folds()) == 2


def test_corpus_is_unlabelled(tmp_path):
    task = _write(PhantomCorpus(cases=4, seed=1, **SMALL), tmp_path)
    assert not task.labelled
    assert len(task.folds()) == 1
    assert not (task.raw / "labelsTr").exists()


def test_organs_are_instance_and_semantic_map_in_one(tmp_path):
    task = _write(PhantomOrgans(cases=2, seed=1, **SMALL), tmp_path)
    assert list(task.labels.values()) == list(ORGANS)
    for case in task.cases():
        assert task.annotation(case).classes == {number + 1: number for number in range(len(ORGANS))}


def test_organs_can_be_united_under_another_meaning(tmp_path):
    plain = _write(PhantomOrgans(cases=2, seed=1, **SMALL), tmp_path / "a")
    united = _write(
        PhantomOrgans(cases=2, seed=1, organs={"lungs": ["lung vessels", "lungs"], "skeleton": ["bones"]}, **SMALL),
        tmp_path / "b",
    )
    assert united.labels == {0: "lungs", 1: "skeleton"}
    case = plain.cases()[1]
    before, after = (volumes.read(task.label_path(case))[0] for task in (plain, united))
    lungs = np.isin(before, [1 + ORGANS.index("lungs"), 1 + ORGANS.index("lung vessels")])
    np.testing.assert_array_equal(after, lungs + 2 * (before == 1 + ORGANS.index("bones")))
    with pytest.raises(InputError, match="no organ 'liver'"):
        PhantomOrgans(cases=1, seed=1, organs={"belly": ["liver"]})


def test_seeds_and_exclusions(tmp_path):
    def images(task):
        return {case: volumes.read(task.image_paths(case)[0])[0] for case in task.cases()}

    first = images(_write(PhantomNodules(cases=4, seed=1, **SMALL), tmp_path / "a"))
    again = images(
        _write(PhantomNodules(cases=5, seed=1, **SMALL), tmp_path / "b", exclude_cases={"nodules_0001": "x"})
    )
    other = images(_write(PhantomNodules(cases=4, seed=2, **SMALL), tmp_path / "c"))
    assert sorted(again) == ["nodules_0000", "nodules_0002", "nodules_0003", "nodules_0004"]
    for case in set(first) & set(again):
        np.testing.assert_array_equal(first[case], again[case])
    assert not any(np.array_equal(first[case], other[case]) for case in first)


def test_corpus_and_nodules_of_one_seed_are_different_patients(tmp_path):
    nodules = _write(PhantomNodules(cases=2, seed=1, **SMALL), tmp_path / "a")
    corpus = _write(PhantomCorpus(cases=2, seed=1, **SMALL), tmp_path / "b")
    a, b = (volumes.read(t.image_paths(t.cases()[0])[0])[0] for t in (nodules, corpus))
    assert a.shape != b.shape or not np.array_equal(a, b)


def test_unknown_argument():
    with pytest.raises(TypeError, match="contrst"):
        PhantomNodules(cases=1, seed=1, contrst=(1, 2))
