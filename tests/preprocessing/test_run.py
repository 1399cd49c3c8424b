import json
import logging

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.preprocessing.apply import preprocess
from detpretrain.preprocessing.plan import plan_task, read_plan
from detpretrain.preprocessing.restore import boxes_to_preprocessed
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.preprocessing.store import read_case

SPEC = {"patch": 16, "strides": [1, 2, 2], "detection_levels": [1, 2], "spacing": [1.2, 1.0, 1.0]}


@pytest.fixture
def planned(demo_task, tmp_path):
    plan_task(demo_task.root, "demo", "p", SPEC, tmp_path / "plan.json")
    return demo_task, read_plan(tmp_path / "plan.json"), tmp_path / "preprocessed"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_case_of_every_test_set_is_indexed(planned):
    task, plan, output = planned
    preprocess_task(task.root, plan, output)
    index = json.loads((output / "index.json").read_text())
    assert index["plan"] == plan
    assert [(c["case"], c["test_set"]) for c in index["cases"]] == [(f"case_{i}", "cv") for i in range(6)] + [
        ("held_out", "test")
    ]
    assert [len(c["ids"]) for c in index["cases"]] == [0, 1, 2, 0, 1, 2, 1]
    assert index["cases"][2]["classes"] == [0, 1]
    case = read_case(output, "case_2")
    assert case.properties["boxes"] == index["cases"][2]["boxes"]
    assert set(case.properties) >= {
        "case",
        "test_set",
        "shape",
        "crop_offset",
        "cropped_shape",
        "transpose",
        "geometry",
        "lost",
    }


def test_the_stored_case_is_what_apply_gives(planned):
    task, plan, output = planned
    preprocess_task(task.root, plan, output)
    raw = task.root / "raw_splitted"
    images, geometry = zip(*[volumes.read(raw / "imagesTr" / f"case_1_000{c}.nii.gz") for c in range(2)], strict=True)
    instances, _ = volumes.read(raw / "labelsTr" / "case_1.nii.gz")
    expected = preprocess(np.stack(images), geometry[0], plan, instances)
    case = read_case(output, "case_1")
    np.testing.assert_array_equal(case.data[...], expected.data)
    np.testing.assert_array_equal(case.instances[...], expected.instances)
    assert case.properties["boxes"] == expected.properties["boxes"]


def test_the_number_of_workers_does_not_matter(planned, tmp_path):
    task, plan, output = planned
    preprocess_task(task.root, plan, output, workers=1)
    preprocess_task(task.root, plan, tmp_path / "parallel", workers=2)
    assert contents(output) == contents(tmp_path / "parallel")


def test_a_bad_case_is_named_and_no_index_is_left(planned):
    task, plan, output = planned
    preprocess_task(task.root, plan, output)
    broken = task.root / "raw_splitted" / "imagesTr" / "case_3_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    (task.root / "raw_splitted" / "labelsTr" / "case_5.json").write_text('{"instances": {"1": 0}}')
    with pytest.raises(InputError) as error:
        preprocess_task(task.root, plan, output)
    message = str(error.value)
    assert "2 of 7 cases cannot be preprocessed: case_3: " in message
    assert "case_5.json: no class for instance 2" in message
    assert "\n" not in message
    assert not (output / "index.json").exists()
    assert not list(output.glob(".tmp-*"))


def test_a_second_run_keeps_what_is_identical_and_redoes_the_rest(planned):
    task, plan, output = planned
    preprocess_task(task.root, plan, output)
    (output / "case_1.b2nd").unlink()
    (output / "case_2_instances.b2nd").unlink()
    image, geometry = volumes.read(task.root / "raw_splitted" / "imagesTr" / "case_4_0000.nii.gz")
    volumes.write(task.root / "raw_splitted" / "imagesTr" / "case_4_0000.nii.gz", image + 1, geometry)

    def written() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.iterdir()}

    before = written()
    preprocess_task(task.root, plan, output)
    after = written()
    changed = {name.split(".")[0] for name in after if before.get(name) != after[name]}
    assert {"case_1", "case_2", "case_4", "index"} <= changed
    assert not changed & {"case_0", "case_3", "case_5", "held_out"}
    preprocess_task(task.root, plan | {"spacing": [1.5, 1.0, 1.0]}, output)  # another plan: nothing is kept
    assert read_case(output, "case_0").properties["shape"][0] == 20  # 20 slices of 1.5 mm


def test_lost_objects_are_logged(make_task, tmp_path, caplog):
    task = make_task()
    instances = np.zeros((20, 20, 20), np.uint8)
    instances[0, 0, 0] = 1  # the coarse grid keeps indices 2, 6, 10, ...
    instances[4:16, 4:16, 4:16] = 2
    image = np.random.default_rng(0).normal(9, 1, instances.shape).astype(np.float32)
    task.add("small", [image], instances, {1: 0, 2: 0})
    plan_task(
        task.root,
        "t",
        "p",
        SPEC | {"spacing": 4.0, "patch": 4, "strides": [1, 2]} | {"detection_levels": [1]},
        tmp_path / "p.json",
    )
    with caplog.at_level(logging.WARNING):
        preprocess_task(task.root, read_plan(tmp_path / "p.json"), tmp_path / "out")
    assert [record.message for record in caplog.records] == [
        "small: no voxel is left of instance 1 after resampling: not used in training"
    ]
    properties = read_case(tmp_path / "out", "small").properties
    assert (properties["lost"], properties["ids"]) == ([1], [2])


def test_annotated_boxes_are_kept_and_ignored_ids_are_listed(make_task, tmp_path):
    task = make_task()
    instances = np.zeros((20, 20, 20), np.uint8)
    instances[2:8, 2:8, 2:8] = 1
    instances[12:18, 12:18, 12:18] = 2
    image = np.random.default_rng(0).normal(9, 1, instances.shape).astype(np.float32)
    box = [1.25, 0.5, 1.0, 8.5, 9.0, 8.0]
    task.add("c", [image], instances, {1: 0, 2: 0}, boxes={"1": box, "2": [11, 11, 11, 18, 18, 18]}, ignored=["2"])
    plan_task(task.root, "t", "p", SPEC, tmp_path / "p.json")
    preprocess_task(task.root, read_plan(tmp_path / "p.json"), tmp_path / "out")
    properties = read_case(tmp_path / "out", "c").properties
    np.testing.assert_allclose(properties["boxes"][0], boxes_to_preprocessed(np.array([box]), properties)[0])
    assert (properties["ids"], properties["ignored"]) == ([1, 2], [2])


def test_a_corpus_keeps_images_only(make_task, tmp_path):
    task = make_task(labels=(), modalities=("MR",))
    rng = np.random.default_rng(0)
    for case in "ab":
        task.add(case, [rng.normal(9, 1, (20, 20, 20)).astype(np.float32)])
    plan_task(task.root, "corpus", "p", SPEC | {"intensity": "zscore"}, tmp_path / "p.json")
    preprocess_task(task.root, read_plan(tmp_path / "p.json"), tmp_path / "out")
    case = read_case(tmp_path / "out", "b")
    assert case.instances is None
    assert case.data.shape == (1, 17, 20, 20)  # 20 / 1.2
    assert np.asarray(case.data).std() == pytest.approx(1, abs=1e-4)


def test_a_plan_of_another_task_is_refused(planned, make_task):
    _, plan, output = planned
    other = make_task(modalities=("MR",), name="other")
    other.add("c", [np.ones((8, 8, 8), np.float32)], np.zeros((8, 8, 8), np.uint8), {})
    with pytest.raises(InputError, match="1 modalities, the plan has 2"):
        preprocess_task(other.root, plan, output)
