import json

import numpy as np
import pytest

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.datasets.box_table import BoxTable
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

# x runs to the left (LPS decreasing), z is coarse
GEOMETRY = Geometry((20, 24, 30), (2.0, 1.0, 0.5), (10.0, -20.0, 100.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
OWN = {"images": "images/*.nii.gz", "modalities": ["CT"], "labels": ["nodule", "cyst"]}
BOX = ["z1", "y1", "x1", "z2", "y2", "x2"]
INDEX = f"case,class,{','.join(BOX)}\n"
# the object of voxels z 3..5, y 4..9, x 6..15, whose box is (2, 3, 5, 6, 10, 16)
EXPECTED = [2, 3, 5, 6, 10, 16]


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "own"
    for number, case in enumerate("abc"):
        array = np.random.default_rng(number).normal(size=GEOMETRY.shape).astype(np.float32)
        volumes.write(raw / f"images/{case}.nii.gz", array, GEOMETRY)
    return raw


def run(raw, text, table="boxes.csv", **arguments):
    (raw / table).write_text(text)
    entry = {
        "from": "box_table",
        "raw": str(raw),
        "splits": {"folds": 3, "seed": 0},
        "unlisted": "empty",
        "table": table,
    }
    prepare("own", {**entry, **OWN, **arguments}, raw.parent / "out" / "task")
    return Task.read(raw.parent / "out" / "task")


def boxes(task, case="a"):
    objects = task.objects()
    return objects.loc[objects["case"] == case, BOX].to_numpy(np.float64)


def world(index):
    """By hand: index (z, y, x) -> LPS (x, y, z)."""
    z, y, x = index
    return 10.0 - 0.5 * x, -20.0 + y, 100.0 + 2.0 * z


def test_index_boxes_classes_folds_and_empty_cases(raw):
    task = run(
        raw, INDEX + "a,cyst,2,3,5,6,10,16\nb,nodule,1,1,1,3.5,4,4\na,nodule,10,10,10,13,13,13\n", coordinates="index"
    )
    assert boxes(task).tolist() == [EXPECTED, [10, 10, 10, 13, 13, 13]]
    assert task.objects()["class"].tolist() == [1, 0, 0]
    assert boxes(task, "c").tolist() == []
    assert sorted(c for fold in task.folds() for c in fold["val"]) == ["a", "b", "c"]
    ids, raster = box_ops.from_instances(volumes.read(task.label_path("a"))[0])
    assert (ids.tolist(), raster.tolist()) == ([1, 2], boxes(task).tolist())
    assert json.loads((task.root / "dataset.json").read_text())["labels"] == {"0": "nodule", "1": "cyst"}


def test_first_and_last_voxel(raw):
    assert boxes(run(raw, INDEX + "a,cyst,3,4,6,5,9,15\n", coordinates="voxels")).tolist() == [EXPECTED]
    assert boxes(run(raw, INDEX + "a,cyst,3,4,6,3,4,6\n", coordinates="voxels")).tolist() == [[2, 3, 5, 4, 5, 7]]


def test_corners_in_the_world(raw):
    low, high = world((2.5, 3.5, 5.5)), world((5.5, 9.5, 15.5))  # what the object reaches
    corners = [min(low[0], high[0]), low[1], low[2], max(low[0], high[0]), high[1], high[2]]
    text = "case,class,x1,y1,z1,x2,y2,z2\na,cyst," + ",".join(map(str, corners))
    np.testing.assert_allclose(boxes(run(raw, text, coordinates="lps")), [EXPECTED])
    ras = [-corners[3], -corners[4], corners[2], -corners[0], -corners[1], corners[5]]
    text = "case,class,x1,y1,z1,x2,y2,z2\na,cyst," + ",".join(map(str, ras))
    np.testing.assert_allclose(boxes(run(raw, text, coordinates="ras")), [EXPECTED])


@pytest.mark.parametrize(("system", "sign"), [("lps", 1.0), ("ras", -1.0)])
def test_centre_and_size(raw, system, sign):
    x, y, z = world((4.0, 6.5, 10.5))
    text = f"class,case,x,y,z,size_x,size_y,size_z,reader\ncyst,a,{sign * x},{sign * y},{z},5.0,6.0,6.0,me\n"
    np.testing.assert_allclose(boxes(run(raw, text, coordinates=system)), [EXPECTED])


def test_spheres(raw):
    x, y, z = world((10, 12, 14))
    text = f"case,class,x,y,z,diameter\na,nodule,{x},{y},{z},6.0\n"
    task = run(raw, text, coordinates="lps", shape="sphere")
    np.testing.assert_allclose(boxes(task), [[10 - 2, 12 - 3.5, 14 - 6.5, 10 + 2, 12 + 3.5, 14 + 6.5]])
    instances, _ = volumes.read(task.label_path("a"))
    grid = np.stack(np.meshgrid(*map(np.arange, GEOMETRY.shape), indexing="ij"), -1).reshape(-1, 3)
    away = np.linalg.norm([world(point) for point in grid] - np.array([x, y, z]), axis=1)
    np.testing.assert_array_equal(instances.ravel() > 0, away <= 3.0)


def test_the_shape_is_painted_and_the_box_is_the_tables(raw):
    text = INDEX + "a,cyst,2,3,5,6,10,16\n"
    filled, fitted = (
        volumes.read(run(raw, text, coordinates="index", shape=s).label_path("a"))[0] for s in ("box", "ellipsoid")
    )
    assert filled.sum() == 3 * 6 * 10
    assert 0 < fitted.sum() < filled.sum()


def test_an_oblique_image(raw):
    angle = np.deg2rad(30)
    turned = (np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle), 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry((20, 24, 30), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turned)
    volumes.write(raw / "images/a.nii.gz", np.zeros(geometry.shape, np.int16), geometry)
    x, y, z = geometry.index_to_world([[10, 12, 14]])[0]
    text = f"case,class,x,y,z,size_x,size_y,size_z\na,cyst,{x},{y},{z},4,4,4\n"
    reach = 2 * (np.cos(angle) + np.sin(angle)) + 0.5  # a square turned by 30 degrees, and the margin
    expected = [[10 - 2.5, 12 - reach, 14 - reach, 10 + 2.5, 12 + reach, 14 + reach]]
    np.testing.assert_allclose(boxes(run(raw, text, coordinates="lps")), expected, atol=1e-4)


def test_a_box_that_reaches_beyond_the_image_is_cut_and_logged(raw):
    task = run(raw, INDEX + "a,cyst,-4,3,5,6,10,35\n", coordinates="index")
    assert boxes(task).tolist() == [[-1, 3, 5, 6, 10, 30]]
    assert "line 2: the box reaches beyond the image: cut" in (task.root / "conversion.csv").read_text()


def test_other_names_of_columns_test_sets_and_patients(raw):
    (raw / "far").mkdir()
    (raw / "images/c.nii.gz").rename(raw / "far/c.nii.gz")
    text = "PatientID,finding,z1,y1,x1,z2,y2,x2\nc,cyst,2,3,5,6,10,16\n"
    columns = {"PatientID": "case", "finding": "class"}
    more = {"columns": columns, "test_sets": {"far": "far/*.nii.gz"}, "patient": r"(\w)\.nii", "splits": {"folds": 2}}
    task = run(raw, text, table="list.csv", coordinates="index", **more)
    assert (task.cases("far"), boxes(task, "c").tolist()) == (["c"], [EXPECTED])
    assert task.case_table()["patient"].tolist() == ["a", "b", "c"]


GOOD = "a,cyst,2,3,5,6,10,16\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,z1,y1,x1,z2,y2\na,1,1,1,2,2\n", r"boxes\.csv: no column class, x2; there are case, z1, .*: correct"),
        (INDEX, r"boxes\.csv: no line below the header: list the boxes"),
        ("", r"boxes\.csv: no column case, class, z1"),
        (INDEX + GOOD + "aa,cyst,2,3,5,6,10,16\n", r"line 3: case aa has no image: did you mean a\? Add the image"),
        (INDEX + GOOD + ",cyst,2,3,5,6,10,16\n", "line 3: no case: write the name"),
        (INDEX + "\n" + GOOD + "b,mass,2,3,5,6,10,16\n", "line 4: class 'mass' is not in labels: known are nodule, cyst"),
        (INDEX + 'b,cyst,2,3,5,6,10,"1,5"\n', "line 2: x2 is '1,5', not a number: write a number with a point"),
        (INDEX + "b,cyst,2,3,5,6,10\n", "line 2: x2 is None, not a number"),
        (INDEX + "b,cyst,nan,3,5,6,10,16\n", "line 2: z1 is 'nan', not a number"),
        (INDEX + "b,cyst,6,3,5,2,10,16\n", r"line 2: z2 \(2\) is not above z1 \(6\): correct the line"),
        (INDEX + "b,cyst,2,3,5,2,10,16\n", r"line 2: z2 \(2\) is not above z1 \(2\)"),
        (INDEX + GOOD + GOOD, "line 3: the same object as in line 2: remove one"),
        (INDEX + "b,cyst,18,3,5,26,10,16\n", r"line 2: the box lies outside its image: centre .* \(22\.0, 6\.5, 10\.5\)"),
        (INDEX + "b,cyst,2,3,-9,6,10,5\n", r"line 2: the box lies outside its image: .*the image has \(20, 24, 30\)"),
    ],
)  # fmt: skip
def test_every_bad_line_is_named(raw, text, message):
    with pytest.raises(InputError, match=message):
        run(raw, text, coordinates="index")


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("x,y,z,size_x,size_y,size_z", "0,0,110,1,0,1", "line 2: size_y is 0, not above 0"),
        ("x,y,z,diameter", "0,0,110,-1", "line 2: diameter is -1, not above 0"),
        ("x,y,z,size_x,size_y", "0,0,110,1,1", "no column size_z"),
        ("x1,y1,z1,x2,y2,z2", "5,0,110,1,1,112", r"line 2: x2 \(1\) is not above x1 \(5\)"),
        ("x,y,z,diameter", "0,-50,110,4", "line 2: the box lies outside its image"),
    ],
)
def test_bad_lines_in_mm(raw, head, line, message):
    with pytest.raises(InputError, match=message):
        run(raw, f"case,class,{head}\na,cyst,{line}\n", coordinates="lps")


def test_a_sphere_needs_a_diameter(raw):
    with pytest.raises(InputError, match=r"boxes\.csv: no column diameter: add it, or use shape: ellipsoid"):
        run(raw, "case,class,x1,y1,z1,x2,y2,z2\na,cyst,5,0,110,6,1,112\n", coordinates="lps", shape="sphere")


def test_images_that_the_table_does_not_name(raw, capsys):
    with pytest.raises(InputError, match=r"b\.nii\.gz: not in boxes\.csv: add its boxes.*unlisted: empty \(2 problems"):
        run(raw, INDEX + GOOD, coordinates="index", unlisted="refuse")
    lines = GOOD + GOOD.replace("a,", "b,") + GOOD.replace("a,", "c,").replace("cyst", "mass")
    with pytest.raises(InputError, match=r"line 4: class 'mass'.*\(1 problems"):
        run(raw, INDEX + lines, coordinates="index", unlisted="refuse")


def test_an_excluded_case_takes_its_lines_along(raw):
    text = INDEX + GOOD + "gone,cyst,2,3,5,6,10,16\n"
    entry = {"exclude_cases": {"gone": "not delivered"}, "coordinates": "index"}
    assert run(raw, text, **entry).cases() == ["a", "b", "c"]


def test_no_table(raw):
    with pytest.raises(InputError, match=r"none\.csv: file not found: add the table"):
        prepare(
            "own",
            {"from": "box_table", "raw": str(raw), **OWN, "coordinates": "index", "table": "none.csv"},
            raw / "task",
        )


def test_an_unreadable_image_and_channels_that_differ(raw):
    for case in "abc":
        other = Geometry(GEOMETRY.shape, (2.5, 1.0, 0.5)) if case == "b" else GEOMETRY
        volumes.write(raw / f"second/{case}.nii.gz", np.zeros(GEOMETRY.shape, np.int16), other)
    both = {"images": ["images/*.nii.gz", "second/*.nii.gz"], "modalities": ["T1", "T2"], "coordinates": "index"}
    with pytest.raises(InputError, match=r"second/b\.nii\.gz: geometry differs from b\.nii\.gz: spacing.*\(1 problems"):
        run(raw, INDEX + GOOD, **both)
    (raw / "images/a.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read .*: replace the file, or exclude the case"):
        run(raw, INDEX + GOOD, coordinates="index")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinates": "mm"}, "coordinates: 'mm' is not one of index, voxels, lps, ras"),
        ({"coordinates": "lps", "shape": "ball"}, "shape: 'ball' is not one of"),
        ({"coordinates": "lps", "unlisted": "skip"}, "unlisted: 'skip' is not one of"),
        ({"coordinates": "index", "shape": "sphere"}, "a sphere has a diameter in mm: use ellipsoid"),
        ({"coordinates": "index", "labels": "nodule"}, "labels: list the classes"),
    ],
)
def test_choices_that_do_not_exist(arguments, message):
    with pytest.raises(InputError, match=message):
        BoxTable(**{**OWN, **arguments})
