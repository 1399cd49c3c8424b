import os
import stat

import pytest

from detpretrain.time_limit import minutes_to_train, parse


@pytest.mark.parametrize(
    ("told", "minutes"),
    [
        ("0:30\n", 0.5),
        ("59:00", 59),
        ("1:00:00", 60),
        ("1-02:03:06", 24 * 60 + 123.1),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
        (None, None),
    ],
)
def test_slurm_s_times(told, minutes):
    assert parse(told) == (minutes if minutes is None else pytest.approx(minutes))


def test_slurm_is_asked_whatever_was_requested():
    asked = []
    found = minutes_to_train({"SLURM_JOB_ID": "12"}, 5000, lambda job: asked.append(job) or "10:00:00")
    assert asked == ["12"]
    assert found == 600 - 15
    assert minutes_to_train({"SLURM_JOB_ID": "12"}, 5000, lambda _: "1:00:00") == 57
    assert minutes_to_train({"SLURM_JOB_ID": "12"}, 5000, lambda _: "2:00") == 1.5
    assert minutes_to_train({"SLURM_JOB_ID": "12"}, 5000, lambda _: "UNLIMITED") is None


def test_other_schedulers_give_what_was_requested():
    for name in ("PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        assert minutes_to_train({name: "7"}, 100.0) == 95
        assert minutes_to_train({name: "7"}, None) is None


def test_nothing_limits_a_process_of_no_job():
    assert minutes_to_train({}, 100.0) is None


def test_squeue_s_answer_and_its_absence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert minutes_to_train({"SLURM_JOB_ID": "3"}, 100.0) is None
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$*" = "--noheader --jobs 3 --format %L" ] && echo 20:00\n')
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert minutes_to_train({"SLURM_JOB_ID": "3"}, 100.0) == 19
