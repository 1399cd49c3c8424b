"""A CTA-A download of nine cases with both test sets: files as published, aneurysms drawn by hand."""

import json
import shutil

import numpy as np
import pytest
from downloads.cta_a import HEADER, SHAPE, download, dumbbell, write_sheet
from nifti_files import AFFINES, write_nifti
from prepared_tasks import boxes, check_boxes_in_world, check_folds, check_other_process
from scipy import ndimage

from detpretrain import volumes
from detpretrain.datasets.cta_a import (
    MIN_HALF,
    CTAneurysms,
    as_counted,
    blocks_of,
    components,
    halved,
    neck,
    split_merged,
)
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.cta_a.CTAneurysms", "splits": {"folds": 2, "seed": 1}, "allow_partial": True}


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "CTA-A")


def prepared(raw, output, **changes) -> Task:
    prepare("cta_a", {**ENTRY, "raw": str(raw), **changes}, output)
    return Task.read(output)


def test_objects(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    small = [1, 9, 19, 5, 13, 24]
    assert task.labels == {0: "aneurysm"}
    assert boxes(task, "Tr0001") == [small]
    assert boxes(task, "Tr0003") == [small]  # the sheet counts one
    assert boxes(task, "Tr0004") == []
    assert boxes(task, "Tr0005") == [small, [4, 12, 23, 6, 14, 25]]
    assert boxes(task, "Tr0006_a") == [small]
    assert boxes(task, "TsInt01") == [small, [4, 12, 23, 6, 14, 25]]
    assert boxes(task, "TsExt01") == [small]
    corners = np.reshape(boxes(task, "Tr0003"), (-1, 3))
    geometry = volumes.read_geometry(task.label_path("Tr0003"))
    # by hand: x, y, z = 19, 9, 1 and 24, 13, 5 -> RAS -80 + .75 x, -70 + .75 y, 40 + 1.25 z
    expected = [[65.75, 63.25, 41.25], [62, 60.25, 46.25]]
    np.testing.assert_allclose(geometry.index_to_world(corners), expected, atol=1e-4)
    check_boxes_in_world(task, "Tr0002", "oblique")


def test_a_merged_mask_is_split_at_its_neck(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    first, second = sorted(boxes(task, "Tr0002"), key=lambda box: box[2])
    assert [first[i] for i in (0, 1, 2, 3, 4)] == [2, 3, 3, 7, 9]
    assert [second[i] for i in (0, 1, 3, 4, 5)] == [2, 3, 7, 9, 17]
    assert 9 <= first[5] <= 12  # somewhere on the bridge
    assert second[2] == first[5] - 1
    instances, _ = volumes.read(task.label_path("Tr0002"))
    np.testing.assert_array_equal(instances > 0, dumbbell() > 0)


def test_test_sets_and_folds(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert task.test_sets == ["cv", "external", "internal"]
    assert task.cases() == ["Tr0001", "Tr0002", "Tr0003", "Tr0004", "Tr0005", "Tr0006_a"]
    assert task.cases("internal") == ["TsInt01", "TsInt02"]
    assert task.cases("external") == ["TsExt01"]
    check_folds(task)
    table = task.case_table().set_index("case")
    assert table.loc["Tr0006_a", "source_id"] == "Tr0006.a"
    facts = json.loads((task.root / "dataset.json").read_text())
    assert "non-commercial" in facts["licence"]
    assert "Bo et al." in facts["citation"]
    assert facts["download"].endswith("6801398")
    message = "cases: 6 found, 1186 published; .* internal: 2 found, 152 published; .* external: 1 found, 138 published"
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "partial", allow_partial=False)


def test_cases_can_be_sent_to_another_process(raw):
    check_other_process(CTAneurysms(), raw)


def test_corrections_are_in_the_log(raw, tmp_path):
    write_sheet(raw, "external", {"TsExt01": 0})
    prepared(raw, tmp_path / "task")
    log = (tmp_path / "task" / "conversion.csv").read_text().splitlines()
    noted = {line.partition(",")[0]: line for line in log}
    assert "1 components, the sheet counts 2: split by spectral clustering" in noted["Tr0002"]
    assert "2 components, the sheet counts 1: the largest kept" in noted["Tr0003"]
    assert "not in the sheet: 2 components taken as they are" in noted["Tr0005"]
    assert "1 components, the sheet counts 0: the largest kept" in noted["TsExt01"]
    assert "components" not in noted["Tr0001"] + noted["Tr0004"] + noted["TsInt01"]
    assert boxes(Task.read(tmp_path / "task"), "TsExt01") == []


def ball(shape, centre, radius, spacing=(1, 1, 1)):
    points = np.indices(shape).reshape(3, -1).T
    away = (((points - centre) * spacing) ** 2).sum(1)
    return (away <= radius**2).reshape(shape)


@pytest.mark.parametrize("max_nodes", [3000, 200])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.0, 0.5, 0.5)])
def test_two_merged_balls_are_two_balls_again(spacing, max_nodes):
    shape = (24, 60, 60)
    step = np.array(spacing)
    first = ball(shape, np.array([9, 10, 10]) / step, 5, spacing)
    second = ball(shape, np.array([9, 18, 13]) / step, 5, spacing)
    one, two = halved(first | second, spacing, max_nodes)
    if two[tuple(np.rint(np.array([9, 10, 10]) / step).astype(int))]:
        one, two = two, one
    disputed = (first & second).sum()
    wrong = (one & ~first).sum() + (two & ~second).sum()
    assert wrong <= disputed + 0.02 * first.sum()
    np.testing.assert_array_equal(one | two, first | second)
    assert not (one & two).any()
    assert ndimage.label(one)[1] == ndimage.label(two)[1] == 1


def test_spacing_decides_where_a_plate_is_cut():
    """6 x 10 voxels of 1 x 1 mm are cut across x; with 4 mm steps in z, across z."""
    plate = np.ones((6, 1, 10), bool)
    assert np.ptp(np.argwhere(halved(plate, (1, 1, 1))[0])[:, 2]) == 4
    assert np.ptp(np.argwhere(halved(plate, (4, 1, 1))[0])[:, 0]) == 2


def test_cutting_is_repeatable_and_leaves_connected_halves():
    rng = np.random.default_rng(3)
    for _ in range(10):
        labels, _ = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(14, 14, 14)), 1.2) > 0.02)
        mask = labels == np.bincount(labels[labels > 0]).argmax()
        one, two = halved(mask, (1, 1, 1), max_nodes=100)
        assert ndimage.label(one)[1] == ndimage.label(two)[1] == 1
        np.testing.assert_array_equal(one ^ two, mask)
        np.testing.assert_array_equal(halved(mask, (1, 1, 1), max_nodes=100)[0], one)


def test_a_cube_has_no_best_cut_but_always_the_same():
    cube = np.ones((7, 7, 7), bool)
    first = halved(cube, (1, 1, 1))[0]
    assert all((halved(cube, (1, 1, 1))[0] == first).all() for _ in range(4))


def test_the_neck_is_an_area_over_a_volume_to_two_thirds():
    one, two = np.zeros((2, 4, 4, 8), bool)
    one[1:3, 1:3, 0:4] = True  # 16 voxels
    two[1:3, 1:3, 4:8] = True
    two[1:3, 1:3, 7] = False  # 12 voxels
    assert neck(one, two, (1, 1, 1)) == pytest.approx(4 / 12 ** (2 / 3))
    assert neck(two, one, (2, 3, 0.5)) == pytest.approx(4 * 6 / (12 * 3) ** (2 / 3))
    assert neck(one.transpose(2, 0, 1), two.transpose(2, 0, 1), (5, 1, 1)) == pytest.approx(4 / 60 ** (2 / 3))


def test_the_component_with_the_narrowest_neck_is_split():
    """A large ball and a small dumbbell, three aneurysms: the dumbbell, whatever its size. Then one of three is halved."""
    labels = np.zeros((20, 24, 50), np.uint8)
    labels[ball(labels.shape, (10, 12, 12), 9)] = 1
    labels[10, 10:13, 30:33] = labels[10, 10:13, 36:39] = 1
    labels[9, 10:13, 30:33] = labels[9, 10:13, 36:39] = 1
    labels[10, 11, 33:36] = 1
    parts, number = components(labels)
    assert number == 2
    split, reached = split_merged(parts, number, 3, (1, 1, 1))
    assert reached == 3
    np.testing.assert_array_equal(split == 1, parts == 1)
    assert {split[10, 11, 31], split[10, 11, 37]} == {2, 3}
    again, reached = split_merged(parts, number, 4, (1, 1, 1))
    assert reached == 4
    assert [ndimage.label(again == part)[1] for part in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert np.bincount(again.ravel()).min() >= MIN_HALF
    assert ((again > 0) == (parts > 0)).all()
    assert number == parts.max()  # the argument is as it was


def test_blocks_are_few_and_small():
    mask = ball((20, 20, 20), (9, 9, 9), 8)
    blocks = blocks_of(mask, 100)
    assert 30 < blocks.max() + 1 <= 100
    points = np.argwhere(mask)
    assert all(np.ptp(points[blocks == block], axis=0).max() <= 4 for block in range(blocks.max() + 1))


def test_the_end_of_a_vessel_is_no_aneurysm():
    mask = np.zeros((3, 3, 8), bool)
    mask[:, :, :3] = True
    mask[1, 1, 3:6] = True
    assert halved(mask, (1, 1, 1)) is None
    mask[1, 1, 6] = True
    assert sorted(half.sum() for half in halved(mask, (1, 1, 1))) == [4, 27]


def test_what_is_too_small_stays_whole():
    labels = np.zeros((4, 4, 20), np.uint8)
    labels[0, 0, : 2 * MIN_HALF - 1] = 1
    parts, notes = as_counted(*components(labels), 2, (1, 1, 1))
    assert parts.max() == 1
    assert notes[1] == "the components are too small for more than 1"
    labels[0, 0, : 2 * MIN_HALF] = 1
    parts, notes = as_counted(*components(labels), 2, (1, 1, 1))
    assert parts.max() == 2
    assert len(notes) == 1
    assert sorted(np.bincount(parts[parts > 0])[1:]) == [MIN_HALF] * 2


def test_the_largest_components_are_kept_in_their_order():
    labels = np.zeros((1, 1, 30), np.uint8)
    for start, stop in ((0, 2), (4, 9), (12, 13), (15, 20), (22, 25)):
        labels[0, 0, start:stop] = 1
    parts, _ = as_counted(*components(labels), 3, (1, 1, 1))
    assert [np.flatnonzero(parts[0, 0] == part).tolist() for part in (1, 2, 3)] == [
        [4, 5, 6, 7, 8],
        [15, 16, 17, 18, 19],
        [22, 23, 24],
    ]
    one, _ = as_counted(*components(labels), 1, (1, 1, 1))  # two are as large: the first one
    assert np.flatnonzero(one[0, 0]).tolist() == [4, 5, 6, 7, 8]


def test_values_are_components_of_their_own():
    labels = np.zeros((3, 5, 8), np.uint8)
    labels[1, 1:4, 1:4] = 1
    labels[1, 1:4, 4:6] = 3
    labels[2, 4, 7] = 1
    parts, number = components(labels)
    assert number == 3
    for value in (1, 3):
        assert set(np.unique(parts[labels == value])) <= {1, 2, 3}
    assert len({parts[1, 1, 1], parts[1, 1, 4], parts[2, 4, 7]}) == 3
    assert ((parts > 0) == (labels > 0)).all()


def lines(name, old, new):
    def damage(raw):
        text = (raw / name).read_text()
        assert old in text
        (raw / name).write_text(text.replace(old, new))

    return damage


SHEET = "internal_instances.csv"
DEFECTS = {
    "no external images": (
        lambda raw: shutil.rmtree(raw / "imagesTs_external"),
        r"imagesTs_external: folder not found: complete",
    ),
    "image without label": (
        lambda raw: (raw / "labelsTs_internal" / "TsInt01.nii.gz").unlink(),
        r"imagesTs_internal/TsInt01\.nii\.gz: image without label map in .*: complete.*\(1 problems",
    ),
    "label without image": (
        lambda raw: (raw / "imagesTr" / "Tr0001.nii.gz").unlink(),
        r"labelsTr/Tr0001\.nii\.gz: label map without image in .*: complete.*\(1 problems",
    ),
    "case in two sets": (
        lambda raw: [
            shutil.copy(raw / f"{k}Tr" / "Tr0001.nii.gz", raw / f"{k}Ts_internal") for k in ("images", "labels")
        ],
        r"imagesTs_internal/Tr0001\.nii\.gz: same case as .*imagesTr/Tr0001\.nii\.gz: keep one of the two",
    ),
    "ids that become one": (
        lambda raw: [
            shutil.copy(raw / f"{k}Tr" / "Tr0006.a.nii.gz", raw / f"{k}Tr" / "Tr0006_a.nii.gz") for k in ("images",)
        ],
        r"imagesTr/Tr0006_a\.nii\.gz: same case as .*Tr0006\.a\.nii\.gz: keep one",
    ),
    "no sheet": (
        lambda raw: (raw / SHEET).unlink(),
        r"internal_instances\.csv: sheet not found: complete.*\(1 problems",
    ),
    "columns": (
        lines(SHEET, "num_IAs", "n"),
        r"internal_instances\.csv: no column num_IAs \(it has instance_id, subset",
    ),
    "no lines": (
        lambda raw: (raw / SHEET).write_text(HEADER),
        r"internal_instances\.csv: no lines below the header: download",
    ),
    "twice": (
        lines(SHEET, "Tr0002", "Tr0001"),
        r"internal_instances\.csv: line 3: Tr0001 comes twice: download the sheet again",
    ),
    "no number": (
        lines(SHEET, "Tr0002,internal,1,60,male,no,2", "Tr0002,internal,1,60,male,no,two"),
        r"internal_instances\.csv: line 3: num_IAs 'two' of Tr0002 is no number of aneurysms: download",
    ),
    "negative number": (
        lines(SHEET, "Tr0004,internal,1,60,male,no,0", "Tr0004,internal,1,60,male,no,-1"),
        "num_IAs '-1'",
    ),
    "no case": (lines(SHEET, "Tr0002", ""), r"internal_instances\.csv: line 3: no instance_id: download"),
    "test case without line": (
        lines(SHEET, "TsInt02,internal,1,60,male,no,1\n", ""),
        r"internal_instances\.csv: no line of test case TsInt02: complete the download, or name the case under exclude",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download(raw, tmp_path, defect):
    damage, message = DEFECTS[defect]
    damage(raw)
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_another_geometry(raw, tmp_path):
    write_nifti(raw / "labelsTr" / "Tr0001.nii.gz", dumbbell(), AFFINES["ras"])
    with pytest.raises(InputError, match=r"labelsTr/Tr0001\.nii\.gz: geometry differs from Tr0001\.nii\.gz: spacing"):
        prepared(raw, tmp_path / "task")


def test_listed_cases_that_are_missing_are_a_partial_download(raw, tmp_path):
    for kind in ("images", "labels"):
        (raw / f"{kind}Tr" / "Tr0002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 listed, not found: Tr0002 of internal_instances\.csv: complete"):
        prepared(raw, tmp_path / "task", allow_partial=False)
    assert "Tr0002" not in prepared(raw, tmp_path / "task").cases()


def test_an_empty_mask_is_no_case_of_two_aneurysms(raw, tmp_path):
    write_nifti(raw / "labelsTr" / "Tr0002.nii.gz", np.zeros(SHAPE, np.uint8), AFFINES["oblique"])
    message = r"labelsTr/Tr0002\.nii\.gz: no aneurysm marked, but its sheet counts 2: download it again, or exclude"
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")
