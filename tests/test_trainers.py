import os
import time

import pytest

from detpretrain import trainers


def holder(job, pid=5):
    return {"host": "node1", "pid": pid, "started": 1.0, "job": job}


def test_trainers_are_kept_in_order_with_their_times(tmp_path):
    before = time.time()
    trainers.begin(tmp_path, holder(None, 5))
    trainers.end(tmp_path, False)
    trainers.begin(tmp_path, holder(None, 6))
    first, second = trainers.read(tmp_path)
    assert (first["host"], first["pid"], first["job"]) == ("node1", 5, None)
    assert before <= first["since"] <= first["until"] <= second["since"] <= time.time()
    assert second["pid"] == 6
    assert second["until"] is None


def test_only_trainers_that_ran_out_of_memory_count(tmp_path):
    ends = {"1": True, "2": False, "3": None}
    for job in ("1", "2"):
        trainers.begin(tmp_path, holder(job), ends.get)
    assert trainers.out_of_memory(tmp_path, ends.get) == 1
    trainers.begin(tmp_path, holder("3"), ends.get)
    assert trainers.out_of_memory(tmp_path, ends.get) == 1
    ends["3"] = True
    assert trainers.out_of_memory(tmp_path, ends.get) == 2


def test_what_a_trainer_learnt_outlives_the_scheduler_s_memory(tmp_path):
    trainers.begin(tmp_path, holder("1"), lambda _: None)
    trainers.begin(tmp_path, holder("2"), lambda _: True)
    assert trainers.out_of_memory(tmp_path, lambda _: None) == 1


def test_one_that_ended_by_itself_or_outside_of_a_job_is_not_asked_about(tmp_path):
    def never(job):
        raise AssertionError(job)

    assert trainers.out_of_memory(tmp_path, never) == 0
    trainers.begin(tmp_path, holder("1"))
    trainers.end(tmp_path, False)
    assert trainers.out_of_memory(tmp_path, never) == 0
    trainers.begin(tmp_path, holder("2"), never)
    trainers.end(tmp_path, True)
    trainers.begin(tmp_path, holder(None), never)
    assert trainers.out_of_memory(tmp_path, never) == 1


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("JobId=7 JobName=x JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", True),
        ("JobId=7 JobName=x JobState=FAILED Reason=NonZeroExitCode", False),
        ("JobId=7 JobName=x JobState=TIMEOUT Reason=TimeLimit", False),
        ("", None),
    ],
)
def test_scontrol_is_asked(tmp_path, monkeypatch, answer, found):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trainers.killed_for_memory("7") is None
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\n[ "$*" = "--oneliner show job 7" ] || exit 1\necho "{answer}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert trainers.killed_for_memory("7") is found
    assert trainers.killed_for_memory("8") is None
