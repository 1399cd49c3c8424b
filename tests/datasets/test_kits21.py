"""A clone of the KiTS21 repository with six cases: files as published, voxels drawn by hand."""

import json
import shutil

import numpy as np
import pytest
from downloads.kits21 import READERS, SHAPE, TUMOUR, block, download, write_case
from nifti_files import AFFINES, write_nifti
from prepared_tasks import boxes, check_boxes_in_world, check_folds, check_other_process

from detpretrain import volumes
from detpretrain.datasets.kits21 import Agreed, AnnotatedInstance, KiTS21, majority, painted
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.kits21.KiTS21", "splits": {"folds": 2, "seed": 1}, "allow_partial": True}


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "kits21")


def prepared(raw, output, **changes) -> Task:
    prepare("kits21", {**ENTRY, "raw": str(raw), **changes}, output)
    return Task.read(output)


def test_objects(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert task.labels == {0: "tumour", 1: "cyst"}
    assert task.test_sets == ["cv"]
    assert boxes(task, "case_00000") == [[1, 2, 3, 5, 7, 9]]
    assert boxes(task, "case_00002") == [[1, 2, 3, 5, 7, 9]]
    assert boxes(task, "case_00299") == []
    found = boxes(task, "case_00001")
    assert found == [[1, 2, 3, 5, 7, 9], [4, -1, -1, 8, 2, 3], [-1, 7, 17, 2, 11, 23], [5, 8, 17, 8, 11, 21]]
    assert task.objects().query("case == 'case_00001'")["class"].tolist() == [0, 0, 1, 1]
    corners = check_boxes_in_world(task, "case_00001", "oblique")
    # by hand, index z, y, x = 1, 2, 3 of the turned affine
    np.testing.assert_allclose(corners[0], [-11.96, 19.28, 30.5], atol=1e-4)
    instances, _ = volumes.read(task.label_path("case_00000"))
    np.testing.assert_array_equal(instances, TUMOUR)


def test_what_was_dropped_is_in_the_log(raw, tmp_path):
    prepared(raw, tmp_path / "task")
    log = (tmp_path / "task" / "conversion.csv").read_text()
    assert "cyst_instance-11 dropped: no voxel that most annotators marked" in log
    assert "no tumour and no cyst annotated" in log
    assert log.count("dropped") == 1


def test_case_records_folds_and_facts(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    table = task.case_table().set_index("case")
    assert table.loc["case_00001", ["patient", "objects_0", "objects_1"]].tolist() == ["case_00001", 2, 2]
    check_folds(task)
    facts = json.loads((task.root / "dataset.json").read_text())
    assert facts["licence"] == "CC BY-NC-SA 4.0"
    assert "Heller" in facts["citation"]
    assert "neheller/kits21" in facts["download"]
    with pytest.raises(InputError, match="cases: 6 found, 300 published"):
        prepared(raw, tmp_path / "partial", allow_partial=False)


def test_cases_can_be_sent_to_another_process(raw):
    check_other_process(KiTS21(), raw)


def test_overlap_goes_to_the_nearer_centre_in_mm(raw, tmp_path):
    """A tumour at x 4..8 and a cyst at x 7..13, 0.8 mm voxels: centres at 6 and 10, so 7 is the tumour's, 8 a tie."""
    cyst = block((2, 4), (3, 6), (7, 13))
    write_case(raw, 5, {"tumor_instance-1": [TUMOUR] * 3, "cyst_instance-1": [cyst] * 3})
    task = prepared(raw, tmp_path / "task")
    assert boxes(task, "case_00005") == [[1, 2, 3, 5, 7, 9], [1, 2, 8, 5, 7, 14]]
    log = (tmp_path / "task" / "conversion.csv").read_text()
    assert "cyst_instance-1 shares 24 voxels with tumor_instance-1: each went to the nearer centre" in log


def test_the_same_region_twice_is_one_object(raw, tmp_path):
    """As in case_00205 of the first releases; in the fold of a later instance, whose number moves up."""
    after = block((6, 7), (0, 1), (20, 22))
    write_case(raw, 5, {"tumor_instance-3": READERS, "cyst_instance-1": READERS, "cyst_instance-2": [after] * 3})
    task = prepared(raw, tmp_path / "task")
    assert boxes(task, "case_00005") == [[1, 2, 3, 5, 7, 9], [5, -1, 19, 8, 2, 23]]
    assert task.objects().query("case == 'case_00005'")["class"].tolist() == [0, 1]
    log = (tmp_path / "task" / "conversion.csv").read_text()
    assert "cyst_instance-1 dropped: others have all its voxels" in log


@pytest.mark.parametrize("seed", range(5))
def test_painting_against_every_voxel_for_itself(seed):
    rng = np.random.default_rng(seed)
    spacing, shape, found = (2.5, 0.8, 0.8), (6, 9, 10), []
    masks = []
    for number in range(5):
        low = rng.integers(0, [4, 5, 6])
        window = tuple(slice(a, b) for a, b in zip(low, low + rng.integers(2, 5, 3), strict=True))
        window = tuple(slice(w.start, min(w.stop, n)) for w, n in zip(window, shape, strict=True))
        mask = rng.random([w.stop - w.start for w in window]) < 0.8
        whole = np.zeros(shape, bool)
        whole[window] = mask
        masks.append(whole)
        centre = (np.argwhere(whole) * spacing).mean(0)
        found.append(Agreed(f"i{number}", 0, window, mask, centre))
    instances, owners, _ = painted(shape, found, spacing)
    expected = np.zeros(shape, int)
    for voxel in np.ndindex(shape):
        holding = [n for n in range(5) if masks[n][voxel]]
        if holding:
            away = [round(float(((np.array(voxel) * spacing - found[n].centre) ** 2).sum()), 9) for n in holding]
            expected[voxel] = holding[int(np.argmin(away))] + 1
    kept = [n for n in range(1, 6) if (expected == n).any()]
    assert [agreed.name for agreed in owners] == [f"i{n - 1}" for n in kept]
    np.testing.assert_array_equal(instances, np.searchsorted([0, *kept], expected))


@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_majority_is_more_than_half(tmp_path, readers):
    masks = np.random.default_rng(readers).random((readers, *SHAPE)) < 0.4
    paths = tuple(tmp_path / f"{reader}.nii.gz" for reader in range(readers))
    for path, mask in zip(paths, masks, strict=True):
        write_nifti(path, mask.astype(np.uint8), AFFINES["lps"])
    agreed = majority(AnnotatedInstance("tumor_instance-1", 0, paths), (2.5, 0.8, 0.8))
    whole = np.zeros(SHAPE, bool)
    whole[agreed.window] = agreed.mask
    expected = masks.sum(0) > readers / 2
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_allclose(agreed.centre, np.argwhere(expected).mean(0) * (2.5, 0.8, 0.8))


def case(raw):
    return raw / "data" / "case_00003"


def annotation(raw, number, name="tumor_instance-1"):
    return case(raw) / "segmentations" / f"{name}_annotation-{number}.nii.gz"


def no_annotations(raw):
    shutil.rmtree(case(raw) / "segmentations")
    (case(raw) / "segmentations").mkdir()


DEFECTS = {
    "another folder": (
        lambda raw: (raw / "data").rename(raw / "dataset"),
        r"kits21/data: folder not found: point raw: at",
    ),
    "no cases": (
        lambda raw: [shutil.rmtree(path) for path in (raw / "data").glob("case_*")],
        r"kits21/data: no case_NNNNN folder in it: complete",
    ),
    "another case": (
        lambda raw: case(raw).rename(raw / "data" / "case_3"),
        r"data/case_3: not named case_NNNNN: remove",
    ),
    "images not downloaded": (
        lambda raw: (case(raw) / "imaging.nii.gz").unlink(),
        r"case_00003/imaging\.nii\.gz: image not found: run the publisher's get_imaging script",
    ),
    "no segmentations": (
        lambda raw: shutil.rmtree(case(raw) / "segmentations"),
        r"case_00003/segmentations: folder not found: complete the download, or name the case under exclude_cases",
    ),
    "empty segmentations": (
        no_annotations,
        r"case_00003/segmentations: no REGION_instance-I_annotation-A\.nii\.gz in it",
    ),
    "two annotators": (
        lambda raw: annotation(raw, 2).unlink(),
        r"tumor_instance-1_annotation-2\.nii\.gz: not found: tumor_instance-1 needs 3 annotations: complete.*\(1 problems",
    ),
    "four annotators": (
        lambda raw: shutil.copy(annotation(raw, 1), annotation(raw, 4)),
        r"tumor_instance-1_annotation-4\.nii\.gz: annotation 4, but an instance has 3: remove.*\(1 problems",
    ),
    "another region": (
        lambda raw: shutil.copy(annotation(raw, 1), annotation(raw, 1, "tumour_instance-1")),
        r"tumour_instance-1_annotation-1\.nii\.gz: not named REGION_instance-I_annotation-A\.nii\.gz with a region of kidney",
    ),
    "broken header": (
        lambda raw: annotation(raw, 1).write_bytes(b"\x1f\x8b"),
        r"tumor_instance-1_annotation-1\.nii\.gz: cannot be read .*: download or export",
    ),
    "broken image": (
        lambda raw: (case(raw) / "imaging.nii.gz").write_bytes(b"<html>"),
        r"case_00003/imaging\.nii\.gz: cannot be read .*: download or export",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download(raw, tmp_path, defect):
    damage, message = DEFECTS[defect]
    damage(raw)
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_excluding_the_bad_case_helps(raw, tmp_path):
    annotation(raw, 2).unlink()
    (raw / "data" / "case_00002" / "imaging.nii.gz").unlink()
    excluded = {"case_00002": "no image", "case_00003": "two readers"}
    assert len(prepared(raw, tmp_path / "task", exclude_cases=excluded).cases()) == 4


def test_another_geometry(raw, tmp_path):
    write_nifti(annotation(raw, 3), TUMOUR, AFFINES["ras"])
    message = (
        r"tumor_instance-1_annotation-3\.nii\.gz: geometry differs from imaging\.nii\.gz: spacing .*: download both"
    )
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_maps_are_binary(raw, tmp_path):
    write_nifti(annotation(raw, 3), TUMOUR * np.uint8(2), AFFINES["lps"])
    with pytest.raises(InputError, match=r"annotation-3\.nii\.gz: holds value 2, but maps of one instance are binary"):
        prepared(raw, tmp_path / "task")
