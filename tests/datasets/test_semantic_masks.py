import json

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.semantic_masks import SemanticMasks
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

GEOMETRY = Geometry((10, 12, 14), (2.0, 1.0, 0.5), (5.0, -3.0, 7.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
OWN = {
    "images": "images/*.nii.gz",
    "masks": "masks/{case}_seg.nii.gz",
    "modalities": ["CT"],
    "labels": {"tumour": [1, 2]},
}


def mask():
    """An object of values 1 and 2, one voxel of 1, a cyst (3)."""
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[1:4, 2:5, 3:6] = 1
    array[2, 3, 4] = 2
    array[8, 10, 12] = 1
    array[6:8, 1:3, 1:4] = 3
    return array


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "own"
    for case in ("a", "b.1", "c", "t"):
        folder = "tests/" if case == "t" else ""
        image = np.random.default_rng(len(case)).normal(size=GEOMETRY.shape).astype(np.float32)
        volumes.write(raw / f"{folder}images/{case}.nii.gz", image, GEOMETRY)
        volumes.write(raw / f"{folder}masks/{case}_seg.nii.gz", mask(), GEOMETRY)
    return raw


def run(raw, **arguments):
    entry = {
        "from": "semantic_masks",
        "raw": str(raw),
        "splits": {"folds": 3, "seed": 0},
        "background": [3],
        **OWN,
        **arguments,
    }
    prepare("own", entry, raw.parent / "out" / "task")
    return Task.read(raw.parent / "out" / "task")


def test_boxes_classes_and_folds(raw):
    task = run(raw)
    assert task.cases() == ["a", "b_1", "c"]
    assert (task.labels, task.modalities) == ({0: "tumour"}, {0: "CT"})
    objects = task.objects().set_index("case")
    boxes = objects.loc["b_1", ["z1", "y1", "x1", "z2", "y2", "x2"]].to_numpy()
    assert boxes.tolist() == [[0, 1, 2, 4, 5, 6], [7, 9, 11, 9, 11, 13]]
    centre = GEOMETRY.index_to_world((boxes[0, :3] + boxes[0, 3:]) / 2)
    np.testing.assert_allclose(centre, [[5.0 - 4 * 0.5, -3.0 - 3 * 1.0, 7.0 + 2 * 2.0]])
    assert volumes.read_geometry(task.image_paths("b_1")[0]).matches(GEOMETRY)
    assert sorted(c for fold in task.folds() for c in fold["val"]) == ["a", "b_1", "c"]
    assert "licence" not in json.loads((task.root / "dataset.json").read_text())


def test_two_classes_sizes_and_connectivity(raw):
    task = run(raw, labels={"tumour": [1, 2], "cyst": 3}, background=[], min_voxels=1, licence="mine")
    objects = task.objects()
    assert objects[objects["case"] == "a"][["class", "z1", "x2"]].to_numpy().tolist() == [[0, 0, 6], [1, 5, 4]]
    log = (task.root / "conversion.csv").read_text()
    assert log.count("1 of 3 components are below the minimum size") == 3
    assert json.loads((task.root / "dataset.json").read_text())["licence"] == "mine"


@pytest.mark.parametrize(("connectivity", "count"), [(6, 2), (26, 1)])
def test_connectivity(raw, connectivity, count):
    for path in raw.glob("masks/*"):
        array = np.zeros(GEOMETRY.shape, np.uint8)
        array[1, 1, 1] = array[2, 2, 2] = 1
        volumes.write(path, array, GEOMETRY)
    assert len(run(raw, connectivity=connectivity).objects()) == 3 * count


def test_test_sets_and_patients(raw):
    tests = {"far": {"images": "tests/images/*.nii.gz", "masks": "tests/masks/{case}_seg.nii.gz"}}
    task = run(raw, test_sets=tests, patient=r"/([a-z])[^/]*\.nii\.gz$")
    assert (task.test_sets, task.cases("far")) == (["cv", "far"], ["t"])
    assert task.case_table().set_index("case").loc["b_1", ["patient", "source_id"]].tolist() == [
        "b",
        "images/b.1.nii.gz",
    ]


@pytest.mark.parametrize(
    "images", ["channels/*.nii.gz", ["channels/{case}_0000.nii.gz", "channels/{case}_0001.nii.gz"]]
)
def test_several_channels(raw, images):
    for case in ("a", "b.1", "c"):
        for channel in (0, 1):
            array = np.full(GEOMETRY.shape, channel, np.int16)
            volumes.write(raw / f"channels/{case}_{channel:04d}.nii.gz", array, GEOMETRY)
    task = run(raw, images=images, modalities=["T1", "FLAIR"])
    assert [int(volumes.read(path)[0].max()) for path in task.image_paths("c")] == [0, 1]
    (raw / "channels" / "c_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"channels/c_0001\.nii\.gz: a channel is missing: add the file"):
        run(raw, images=images, modalities=["T1", "FLAIR"])


def shift(raw):
    volumes.write(raw / "masks/c_seg.nii.gz", mask(), Geometry(GEOMETRY.shape, GEOMETRY.spacing))


def no_masks(raw):
    (raw / "masks").rename(raw / "elsewhere")


def alike(raw):
    (raw / "images/b.1.nii.gz").rename(raw / "images/b_1.nii.gz")
    (raw / "masks/b.1_seg.nii.gz").rename(raw / "masks/b_1_seg.nii.gz")
    for folder, end in (("images", ""), ("masks", "_seg")):
        (raw / folder / f"c{end}.nii.gz").rename(raw / folder / f"b.1{end}.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (
            lambda raw: (raw / "masks/a_seg.nii.gz").unlink(),
            {},
            r"masks/a_seg\.nii\.gz: image without mask: add the mask",
        ),
        (
            lambda raw: (raw / "images/a.nii.gz").unlink(),
            {},
            r"masks/a_seg\.nii\.gz: mask without image: add the image",
        ),
        (no_masks, {}, r"masks/\{case\}_seg\.nii\.gz: no file matches: correct the pattern"),
        (shift, {}, r"c_seg\.nii\.gz: geometry differs from c\.nii\.gz: origin .*: resample it onto the image"),
        (
            lambda raw: (raw / "masks/c_seg.nii.gz").write_bytes(b"nothing"),
            {},
            r"c_seg\.nii\.gz: cannot be read .*: replace the file",
        ),
        (alike, {}, r"images/b_1\.nii\.gz: case id b_1 is that of .*b\.1\.nii\.gz too: rename one"),
        (
            lambda raw: None,
            {"patient": "(pat[0-9]+)"},
            r"a\.nii\.gz: its path names no patient by .*: correct patient:",
        ),
    ],
)
def test_defects_of_the_folder(raw, spoil, arguments, message):
    spoil(raw)
    with pytest.raises(InputError, match=message):
        run(raw, **arguments)


def test_all_defects_are_in_one_table_and_a_case_can_be_excluded(raw, capsys):
    volumes.write(raw / "images/d.nii.gz", mask(), GEOMETRY)
    volumes.write(raw / "masks/d_seg.nii.gz", mask(), GEOMETRY)
    (raw / "masks/a_seg.nii.gz").unlink()
    (raw / "images/c.nii.gz").unlink()
    with pytest.raises(InputError, match="2 problems, see the table"):
        run(raw)
    shown = capsys.readouterr().err
    assert "image without mask" in shown
    assert "the data set is at" not in shown
    excluded = {"a": "no mask", "c": "no image"}
    assert run(raw, exclude_cases=excluded, splits={"folds": 2}).cases() == ["b_1", "d"]


def test_values_that_nobody_named(raw):
    with pytest.raises(
        InputError, match=r"a_seg\.nii\.gz: holds value 3, which the entry does not name: add it to labels:"
    ):
        run(raw, background=[])
    volumes.write(raw / "masks/c_seg.nii.gz", mask() * np.float32(0.5), GEOMETRY)
    with pytest.raises(InputError, match=r"c_seg\.nii\.gz: holds fractions, not labels"):
        run(raw)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": {}}, r"labels: write \{tumour: 1\}"),
        ({"labels": {"a": [1], "b": [1, 2]}}, "labels: value 1 belongs to two classes"),
        ({"labels": {"a": 0}}, "labels: a: 0 is neither"),
        ({"labels": {"a": "one"}}, "labels: a: 'one' is neither"),
        ({"background": [2]}, "background: value 2 is in labels too"),
        ({"connectivity": 8}, "connectivity: 6, 18 or 26, not 8"),
        ({"modalities": "CT"}, "modalities: give a list"),
        ({"modalities": []}, "modalities: give a list"),
        ({"patient": "("}, "is not a regular expression"),
        ({"patient": "p[0-9]"}, "needs one group"),
        ({"test_sets": {"cv": {"images": "i/*", "masks": "m/*"}}}, "test_sets: 'cv' cannot be"),
        ({"test_sets": {"far": "images/*"}}, r"test_sets: far: write \{images: PATTERN, masks: PATTERN\}"),
    ],
)
def test_choices_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        SemanticMasks(**{**OWN, **arguments})
