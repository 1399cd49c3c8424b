import json

import pytest
from nndet_tasks import CASES, TESTS

from detpretrain.engines import nndet_prepare
from detpretrain.errors import InputError
from detpretrain.files import read_json

PREP = ["nndet_prep", "Task100_far", "-o", "planner=D3V002"]


def test_plan_says_who_plans_and_what_the_task_is(plan):
    assert plan == {
        "engine": "nndet",
        "dataset": "far",
        "plan": "nndet_v002",
        "planner": "D3V002",
        "overrides": [],
        "modalities": ["CT"],
        "channels": 1,
        "classes": 2,
        "class_names": ["lesion", "cyst"],
    }


def test_plan_of_an_unknown_key_is_refused(task, tmp_path):
    spec = {"engine": "nndet", "planer": "D3V002"}
    with pytest.raises(InputError, match="plan p: unknown key 'planer' for engine nndet: did you mean 'planner'"):
        nndet_prepare.plan_task(task, "far", "p", spec, tmp_path / "plan.json")


def test_nndetection_plans_preprocesses_and_unpacks(task, tmp_path, commands, diary, plan):
    identifier, folder = "D3V002_3d", tmp_path / "out"
    nndet_prepare.preprocess_task(task, plan, folder, 2)
    assert commands() == [
        [*PREP, "-np", "2", "-npp", "2"],
        ["nndet_unpack_task", "Task100_far", identifier, "-p", "2"],
    ]
    (prep, _) = diary()
    assert prep["environment"]["det_data"] == str(folder / "data")
    index = read_json(folder / "index.json")
    assert [(case["case"], case["test_set"]) for case in index["cases"]] == [
        *((case, "cv") for case in CASES),
        *((case, "test") for case in TESTS),
    ]
    assert (index["plan"], index["data_identifier"]) == (plan, identifier)
    assert "nndet_unpack_task begins" in (folder / "nndet_prep.log").read_text()


def test_overrides_of_the_plan_are_handed_on(task, plan, commands, diary, tmp_path):
    plan = {**plan, "planner": "D3V001", "overrides": ["train=retinaunet_v001"]}
    nndet_prepare.preprocess_task(task, plan, tmp_path / "out", 1)
    words = ["nndet_prep", "Task100_far", "-o", "planner=D3V001", "train=retinaunet_v001", "-np", "1", "-npp", "1"]
    assert commands()[0] == words


def test_arrays_in_blosc_are_not_unpacked(task, plan, diary, commands, tmp_path, monkeypatch):
    monkeypatch.setattr(
        nndet_prepare, "planned", lambda *_: {"data_identifier": "x", "preprocessed_data_format": "b2nd"}
    )
    nndet_prepare.preprocess_task(task, plan, tmp_path / "out", 1)
    assert [words[0] for words in commands()] == ["nndet_prep"]


def test_what_belongs_to_other_files_is_not_taken_over(prepared, task, plan, diary):
    stale = prepared / "data" / "Task100_far" / "raw_cropped" / "left.npz"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    nndet_prepare.preprocess_task(task, plan, prepared, 2)
    assert stale.exists()  # same files and plan: what an interrupted run has made is kept
    label = task / "raw_splitted" / "labelsTr" / "case_0.json"
    label.write_text(json.dumps({"instances": {"1": 1, "2": 1, "3": 0}}))
    before = read_json(prepared / "index.json")["cases"]
    nndet_prepare.preprocess_task(task, plan, prepared, 2)
    assert not stale.exists()
    after = read_json(prepared / "index.json")["cases"]
    assert [new["case"] for old, new in zip(before, after, strict=True) if old != new] == ["case_0"]
    nndet_prepare.preprocess_task(task, {**plan, "planner": "D3V001"}, prepared, 2)
    assert not (prepared / "data" / "Task100_far" / "preprocessed" / "D3V002_3d.json").exists()


def test_failure_is_one_line_and_leaves_no_index(prepared, task, plan, monkeypatch, diary):
    monkeypatch.setenv("NNDET_FAIL", "nndet_prep")
    with pytest.raises(InputError) as error:
        nndet_prepare.preprocess_task(task, plan, prepared, 2)
    log = prepared / "nndet_prep.log"
    assert str(error.value) == f"{log}: nndet_prep ended with status 1: RuntimeError: CUDA out of memory"
    assert not (prepared / "index.json").exists()


def test_nndetection_of_another_branch_is_told(prepared, plan):
    task = prepared / "data" / "Task100_far"
    (task / "preprocessed" / "D3V002_3d.json").rename(task / "preprocessed" / "D3V002_3d.pkl")
    with pytest.raises(
        InputError, match=r"D3V002_3d\.json: nndet_prep has not written this plan: it takes nnDetection's"
    ):
        nndet_prepare.planned(task, plan)


def test_nothing_is_written_without_the_commands(task, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"nndet_prep, nndet_unpack_task, nndet_train, .*: not found on PATH"):
        nndet_prepare.preprocess_task(task, plan, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
