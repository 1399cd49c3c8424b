import json

import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.plan import plan_task, read_plan
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.preprocessing.shards import join_shards, preprocess_shard

SPEC = {"patch": 16, "strides": [1, 2, 2], "detection_levels": [1, 2], "spacing": [1.2, 1.0, 1.0]}


@pytest.fixture
def planned(demo_task, tmp_path):
    plan_task(demo_task.root, "demo", "p", SPEC, tmp_path / "plan.json")
    return demo_task.root, read_plan(tmp_path / "plan.json"), tmp_path / "sharded"


@pytest.fixture
def made(planned, tmp_path):
    """``made(shards)``: all shards of the task and their lists."""

    def run(shards):
        files = [tmp_path / f"{shard}-of-{shards}.json" for shard in range(shards)]
        for shard, file in enumerate(files):
            preprocess_shard(*planned, shard, shards, file)
        return files

    return run


@pytest.mark.parametrize("shards", [2, 3, 9])
def test_shards_together_are_what_a_single_job_makes(planned, made, tmp_path, shards):
    """Nine shards of seven cases: two have none."""
    root, plan, output = planned
    preprocess_task(root, plan, tmp_path / "single")
    files = made(shards)
    assert not (output / "index.json").exists()
    join_shards(root, plan, output, files[::-1])
    single, sharded = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (tmp_path / "single", output))
    assert single == sharded


def test_neighbours_go_to_different_shards(made):
    first, second = ([entry["case"] for entry in json.loads(file.read_text())["cases"]] for file in made(2))
    assert first == ["case_0", "case_2", "case_4", "held_out"]
    assert second == ["case_1", "case_3", "case_5"]


def test_a_missing_or_doubled_case_is_refused_and_no_index_is_written(planned, made):
    root, plan, output = planned
    files = made(2)
    with pytest.raises(InputError, match="case case_1 is in the task or in a shard only"):
        join_shards(root, plan, output, files[:1])
    with pytest.raises(InputError, match="case case_0 is in another shard too"):
        join_shards(root, plan, output, [*files, files[0]])
    assert not (output / "index.json").exists()


def test_a_shard_of_another_plan_is_refused(planned, made):
    root, plan, output = planned
    files = made(2)
    files[1].write_text(json.dumps(json.loads(files[1].read_text()) | {"plan": plan | {"patch": [8, 8, 8]}}))
    with pytest.raises(InputError, match=r"1-of-2\.json: made with another plan"):
        join_shards(root, plan, output, files)


@pytest.mark.parametrize("shard", [-1, 2])
def test_there_is_no_such_shard(planned, tmp_path, shard):
    with pytest.raises(InputError, match=f"no shard {shard} of 2"):
        preprocess_shard(*planned, shard, 2, tmp_path / "s.json")
