import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from downloads.luna16 import COLUMNS, FLIPPED, SHAPE, STRAIGHT, case_id, download, uid, write_scan

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.datasets.luna16 import LUNA16, Scan
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.raw_dataset import RawCase
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.luna16.LUNA16", "splits": {"folds": 10}, "allow_partial": True}
SIDES = ["z1", "y1", "x1", "z2", "y2", "x2"]


@pytest.fixture
def raw(tmp_path) -> Path:
    return download(tmp_path / "LUNA16")


def prepared(raw: Path, **changes) -> Task:
    prepare("luna16", {**ENTRY, "raw": str(raw), **changes}, raw.parent / "task")
    return Task.read(raw.parent / "task")


def boxes_of(task: Task, number: int) -> np.ndarray:
    objects = task.objects()
    return objects.loc[objects["case"] == case_id(number), SIDES].to_numpy(np.float64)


def test_nodules_land_where_the_hand_puts_them(raw):
    task = prepared(raw)
    assert task.labels == {0: "nodule"}
    assert task.modalities == {0: "CT"}
    assert task.test_sets == ["cv"]
    # scan 0: x = (-6 + 10) / 0.5, y = (-16 + 20) / 0.5, z = (-20 + 30) / 2; radius 2 mm = 4 voxels and 1 slice; 0.5 more
    np.testing.assert_allclose(boxes_of(task, 0), [[3.5, 3.5, 3.5, 6.5, 12.5, 12.5]], atol=1e-9)
    # scan 3 runs the other way along x and y: (6 - 10) / -0.5
    np.testing.assert_allclose(boxes_of(task, 3), boxes_of(task, 0), atol=1e-9)
    # scan 1, in the order of the sheet: radius 4 mm at (10, 10, 6), 1.5 mm at (10, 9, 6)
    np.testing.assert_allclose(
        boxes_of(task, 1), [[3.5, 1.5, 1.5, 8.5, 18.5, 18.5], [4.75, 5.5, 6.5, 7.25, 12.5, 13.5]], atol=1e-9
    )
    assert task.annotation(case_id(1)).classes == {1: 0, 2: 0}
    assert boxes_of(task, 4).shape == (0, 6)
    # index -> world gives the sheet's coordinates back
    for number, world in ((0, (-6, -16, -20)), (3, (6, 16, -20))):
        geometry = volumes.read_geometry(task.image_paths(case_id(number))[0])
        box = boxes_of(task, number)
        np.testing.assert_allclose(geometry.index_to_world((box[:, :3] + box[:, 3:]) / 2), [world], atol=1e-6)


def test_rasters_fit_the_boxes_and_the_small_nodule_is_on_top(raw):
    task = prepared(raw)
    for number, count in ((0, 1), (3, 1), (1, 2)):
        raster, _ = volumes.read(task.label_path(case_id(number)))
        ids, found = box_ops.from_instances(raster)
        assert ids.tolist() == list(range(1, count + 1))
        assert np.abs(found - boxes_of(task, number)).max() <= 1.0
    raster, _ = volumes.read(task.label_path(case_id(1)))
    assert raster[6, 9, 10] == 2
    assert raster[6, 12, 10] == 2
    assert raster[6, 13, 10] == 1


def test_voxels_and_tables(raw):
    task = prepared(raw)
    array, _ = volumes.read(task.image_paths(case_id(7))[0])
    assert array.dtype == np.int16
    assert (array == np.random.default_rng(7).integers(-1000, 400, SHAPE)).all()
    table = task.case_table().set_index("case")
    assert table.loc[case_id(7), ["source_id", "patient"]].tolist() == [uid(7), uid(7)]
    assert table["objects_0"].to_dict() == {case_id(n): {0: 1, 3: 1, 1: 2}.get(n, 0) for n in range(11)}
    facts = read_json(task.root / "dataset.json")
    assert facts["licence"] == "CC BY 4.0"
    assert "LUNA16 challenge" in facts["citation"]
    assert facts["download"].startswith("https://luna16")


def test_nine_subsets_train_and_one_is_scored(raw):
    folds = prepared(raw).folds()
    assert len(folds) == 10
    assert folds[0]["val"] == sorted([case_id(0), case_id(10)])
    assert folds[4]["val"] == [case_id(4)]
    for fold in folds:
        assert set(fold) == {"train", "val"}
        assert sorted(fold["train"] + fold["val"]) == sorted(case_id(n) for n in range(11))


def test_eight_train_one_chooses_one_is_scored(raw):
    folds = prepared(raw, protocol="8-1-1").folds()
    assert folds[3]["test"] == [case_id(3)]
    assert folds[3]["val"] == [case_id(4)]
    assert folds[9]["test"] == [case_id(9)]
    assert folds[9]["val"] == sorted([case_id(0), case_id(10)])
    for fold in folds:
        assert sorted(case for part in fold.values() for case in part) == sorted(case_id(n) for n in range(11))
    assert sorted(case for fold in folds for case in fold["test"]) == sorted(case_id(n) for n in range(11))


def test_unknown_protocol():
    with pytest.raises(InputError, match="'10-0': use 9-0-1 or 8-1-1"):
        LUNA16(protocol="10-0")


def test_the_challenge_s_files_come_with_the_task(raw):
    task = prepared(raw)
    for name in ("annotations.csv", "annotations_excluded.csv", "seriesuids.csv"):
        source = raw / name if name == "annotations.csv" else raw / "evaluationScript" / "annotations" / name
        assert (task.root / "official" / name).read_bytes() == source.read_bytes()
    prepared(raw)  # again, over the old one
    shutil.rmtree(raw / "evaluationScript")
    task = prepared(raw, challenge_score=False)
    assert not (task.root / "official").exists()
    assert len(task.cases()) == 11


@pytest.mark.parametrize("place", ["", "CSVFILES"])
def test_sheets_in_other_known_places(raw, place):
    (raw / place).mkdir(exist_ok=True)
    for path in (raw / "evaluationScript" / "annotations").iterdir():
        path.rename(raw / place / path.name)
    assert set(LUNA16().layout(raw).official.values()) == {
        raw / "annotations.csv",
        raw / place / "annotations_excluded.csv",
        raw / place / "seriesuids.csv",
    }


def test_other_numbers_of_scans_must_be_accepted(raw):
    with pytest.raises(InputError, match=r"cases: 11 found, 888 published.*luna16\.grand-challenge.*--allow-partial"):
        prepared(raw, allow_partial=False)
    for suffix in ("mhd", "raw"):
        (raw / "subset0" / f"{uid(10)}.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"1 listed, not found: series {uid(10)}"):
        prepared(raw, allow_partial=False)
    assert len(prepared(raw).cases()) == 10


def _sheet(raw: Path, text: str) -> None:
    (raw / "annotations.csv").write_text(text)


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


DEFECTS = {
    "a subset is missing": (
        lambda raw: shutil.rmtree(raw / "subset4"),
        r"subset4: folder not found: unpack subset4\.zip",
    ),
    "a subset is empty": (
        lambda raw: [path.unlink() for path in (raw / "subset4").iterdir()],
        r"subset4: no SERIESUID\.mhd in it: unpack subset4\.zip",
    ),
    "no sheet": (
        lambda raw: (raw / "annotations.csv").unlink(),
        r"annotations\.csv: not found, nor in CSVFILES or evaluationScript/annotations: put it there",
    ),
    "no evaluation package": (
        lambda raw: (raw / "evaluationScript/annotations/annotations_excluded.csv").unlink(),
        r"annotations_excluded\.csv: not found, nor in .*evaluationScript\.zip\), or set challenge_score: false",
    ),
    "header without voxels": (
        lambda raw: (raw / "subset2" / f"{uid(2)}.raw").unlink(),
        rf"{uid(2)}\.mhd: its voxels {uid(2)}\.raw are missing: unpack",
    ),
    "truncated voxels": (
        lambda raw: _truncate(raw / "subset2" / f"{uid(2)}.raw"),
        rf"{uid(2)}\.mhd: {uid(2)}\.raw has 11518 bytes, the header says 11520: unpack",
    ),
    "voxels without a header": (
        lambda raw: (raw / "subset0" / f"{uid(10)}.mhd").unlink(),
        rf"{uid(10)}\.raw: voxels without a header \(\.mhd\): unpack",
    ),
    "unreadable header": (
        lambda raw: (raw / "subset2" / f"{uid(2)}.mhd").write_text("nothing"),
        rf"{uid(2)}\.mhd: cannot be read.*: download or export the file again",
    ),
    "a scan twice": (
        lambda raw: write_scan(raw / "subset7" / uid(2), np.zeros(SHAPE)),
        rf"subset7/{uid(2)}\.mhd: the scan is .*subset2/{uid(2)}\.mhd, too: keep it in its official subset",
    ),
    "a stranger": (
        lambda raw: write_scan(raw / "subset7" / uid(77), np.zeros(SHAPE)),
        rf"{uid(77)}\.mhd: not in .*seriesuids\.csv: remove the scan",
    ),
    "nodule outside": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(4)},-10.3,-16,-20,4\n"),
        rf"annotations\.csv: series {uid(4)}: nodule at \(-10\.3, -16, -20\) lies outside the scan: compare",
    ),
    "nodule behind the last column": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(4)},-6,-16,-20,4\n{uid(4)},1.8,-16,-20,4\n"),
        rf"annotations\.csv: series {uid(4)}: nodule at \(1\.8, -16, -20\) lies outside the scan: compare",
    ),
    "nodule of no scan": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(99)},0,0,0,4\n"),
        rf"annotations\.csv: series {uid(99)} has no scan and is not in .*seriesuids\.csv: use the challenge's own",
    ),
    "no diameter": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(4)},-6,-16,-20,0\n"),
        rf"annotations\.csv: series {uid(4)}: diameter_mm is 0 at \(-6, -16, -20\): correct the line",
    ),
    "a nodule twice": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(0)},-6,-16,-20,5\n"),
        rf"annotations\.csv: series {uid(0)}: two nodules at \(-6, -16, -20\): remove one",
    ),
    "no number": (
        lambda raw: _append(raw / "annotations.csv", f"{uid(4)},-6,-16,-20,large\n"),
        r"annotations\.csv: line 6: diameter_mm is 'large': give a number",
    ),
    "another column": (
        lambda raw: _sheet(raw, "seriesuid,x,coordY,coordZ,diameter_mm\n"),
        r"annotations\.csv: no column coordX: start the file with a line",
    ),
    "no nodule": (lambda raw: _sheet(raw, COLUMNS), r"annotations\.csv: no nodule in it: download it again"),
    "an unreadable sheet": (
        lambda raw: (raw / "annotations.csv").write_bytes(b"\xff\xfe\x00"),
        r"annotations\.csv: not a CSV file .*: export it as CSV text",
    ),
    "a series twice": (
        lambda raw: _append(raw / "evaluationScript/annotations/seriesuids.csv", f"{uid(0)}\n"),
        rf"seriesuids\.csv: series uid {uid(0)} occurs 2 times: list each scan once",
    ),
    "excluded findings are malformed": (
        lambda raw: _append(raw / "evaluationScript/annotations/annotations_excluded.csv", "x,y\n"),
        r"annotations_excluded\.csv: line 3: 2 values for 5 columns: correct the line",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download_are_named(raw, defect):
    spoil, message = DEFECTS[defect]
    spoil(raw)
    with pytest.raises(InputError, match=message) as caught:
        prepared(raw)
    assert "\n" not in str(caught.value)
    assert not (raw.parent / "task").exists()


def test_a_nodule_in_the_outer_half_of_a_border_voxel_is_in_the_scan(raw):
    _append(raw / "annotations.csv", f"{uid(4)},-10.2,-16,-20,4\n{uid(4)},1.7,-16,-20,4\n")
    centres = boxes_of(prepared(raw), 4).reshape(2, 2, 3).mean(axis=1)
    np.testing.assert_allclose(centres, [[5, 8, -0.4], [5, 8, 23.4]], atol=1e-9)


def test_a_bad_scan_can_be_excluded(raw):
    _truncate(raw / "subset0" / f"{uid(10)}.raw")
    task = prepared(raw, exclude_cases={case_id(10): "truncated in the archive"})
    assert task.folds()[0]["val"] == [case_id(0)]
    assert len(task.cases()) == 10


@pytest.mark.parametrize("seed", range(3))
def test_oblique_scans_agree_with_itk(tmp_path, seed):
    """A nodule at a voxel's centre, where ITK says that voxel is."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    image = sitk.GetImageFromArray(rng.integers(-1000, 400, (20, 30, 34)).astype(np.int16))
    image.SetSpacing((0.6, 0.7, 1.5))
    image.SetOrigin((-103.0, 57.0, -311.0))
    image.SetDirection(rotation.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "scan.mhd"))
    world = image.TransformIndexToPhysicalPoint((17, 15, 9))
    layout_case = LUNA16().convert(_raw_case(tmp_path / "scan.mhd", [(*world, 6.0)]))
    box = np.array(layout_case.boxes[1])
    np.testing.assert_allclose((box[:3] + box[3:]) / 2, [9, 15, 17], atol=1e-3)
    np.testing.assert_allclose((box[3:] - box[:3]) / 2, [2.5, 3 / 0.7 + 0.5, 5.5], atol=1e-3)
    assert layout_case.instances[9, 15, 17] == 1
    volume = (layout_case.instances > 0).sum() * 0.6 * 0.7 * 1.5
    assert volume == pytest.approx(np.pi / 6 * 6.0**3, rel=0.1)


def test_a_nodule_without_voxels_of_its_own_is_noted(raw):
    """Both are smaller than a voxel and lie in the same one: the box says where the hidden one is."""
    path = raw / "subset2" / f"{uid(2)}.mhd"
    converted = LUNA16().convert(_raw_case(path, [(-6, -16, -20, 0.3), (-5.95, -16, -20, 0.2)]))
    assert np.argwhere(converted.instances).tolist() == [[5, 8, 8]]
    assert converted.instances[5, 8, 8] == 2
    assert converted.notes == ["nodule 1 lies under others in the label map"]
    assert set(converted.boxes) == {1, 2}


def _raw_case(path: Path, nodules) -> RawCase:
    return RawCase("c", "c", "c", Scan(path, tuple(map(tuple, nodules))))


def test_the_published_nodules_land_on_the_right_voxels(real_data, tmp_path):
    """Synthetic scans at the coordinates of real series, bright where the sheet's nodules are."""
    sheets = real_data / "luna16"
    if not sheets.is_dir():
        pytest.skip("no luna16 in DETPRETRAIN_REAL_DATA: the published sheets are not tested")
    nodules = pd.read_csv(sheets / "annotations.csv")
    subsets = pd.read_csv(sheets / "subsets.csv").set_index("seriesuid")["subset"]
    counts = nodules["seriesuid"].value_counts()
    chosen = [next(u for u in sorted(subsets[subsets == s].index) if counts.get(u, 0) >= 2) for s in range(10)]
    raw, points = tmp_path / "LUNA16", {}
    for number, series in enumerate(chosen):
        lines = nodules.loc[nodules["seriesuid"] == series, ["coordX", "coordY", "coordZ"]].to_numpy()
        sign = -1.0 if number % 2 else 1.0  # every second scan is flipped along x and y
        spacing = np.array([2.1, 2.3, 3.1])
        low, high = lines.min(axis=0) - 20, lines.max(axis=0) + 20
        size = np.ceil((high - low) / spacing).astype(int) + 1
        offset = np.where([sign < 0, sign < 0, False], high, low)
        index = (lines - offset) / spacing * [sign, sign, 1.0]
        voxels = np.zeros(size[::-1], np.int16)
        voxels[tuple(np.rint(index).astype(int).T[::-1])] = 1000
        text = {"offset": " ".join(map(repr, offset.tolist())), "spacing": " ".join(map(str, spacing))}
        write_scan(raw / f"subset{number}" / series, voxels, FLIPPED if sign < 0 else STRAIGHT, **text)
        points[series] = index[:, ::-1]
    for name in ("annotations_excluded.csv", "seriesuids.csv"):
        shutil.copy(sheets / name, raw / name)
    kept = nodules[nodules["seriesuid"].isin(chosen)]
    kept.to_csv(raw / "annotations.csv", index=False)
    task = prepared(raw)
    objects, table = task.objects(), task.case_table().set_index("source_id")
    for series in chosen:
        case = table.loc[series, "case"]
        boxes = objects.loc[objects["case"] == case, SIDES].to_numpy()
        centres = (boxes[:, :3] + boxes[:, 3:]) / 2
        assert np.abs(centres - points[series]).max() < 0.5
        image, geometry = volumes.read(task.image_paths(case)[0])
        assert (image[tuple(np.rint(centres).astype(int).T)] == 1000).all()
        expected = kept.loc[kept["seriesuid"] == series, ["coordX", "coordY", "coordZ"]].to_numpy()
        np.testing.assert_allclose(geometry.index_to_world(centres), expected, atol=1e-3)
        diameters = kept.loc[kept["seriesuid"] == series, "diameter_mm"].to_numpy()
        np.testing.assert_allclose(
            ((boxes[:, 3:] - boxes[:, :3] - 1) * geometry.spacing), np.tile(diameters[:, None], 3), atol=1e-3
        )
