import os
import time

import pytest

from detpretrain import lock_file

ELSEWHERE = {"host": "elsewhere", "pid": 4, "started": 1.0, "job": "42"}


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """``squeue(script)``: what answers instead of Slurm; returns the questions that were asked, one a line."""

    def answering(script):
        program, asked = tmp_path / "bin" / "squeue", tmp_path / "asked"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        return lambda: asked.read_text().splitlines()

    return answering


def test_several_jobs_are_asked_for_by_one_question(squeue):
    asked = squeue("echo 42; echo 7")
    ask = lock_file.asked_together(["7", "42", None, "8", "42"])
    assert [ask(job) for job in ("42", "8", "7", None)] == [True, False, True, None]
    assert asked() == ["-h -j 42,7,8 -o %A"]


def test_one_job_is_asked_for_as_a_lock_does(squeue):
    asked = squeue("echo 'Invalid job id specified' >&2; exit 1")
    assert lock_file.asked_together(["42", "42"])("42") is False
    assert asked() == ["-h -j 42 -o %T"]


def test_scheduler_that_does_not_answer_decides_nothing(squeue, tmp_path):
    squeue("exit 1")
    ask = lock_file.asked_together(["7", "42"])
    assert ask("42") is None
    path = tmp_path / "lock.json"
    path.touch()
    assert lock_file.is_alive(ELSEWHERE, path, ask)
    old = time.time() - lock_file.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert not lock_file.is_alive(ELSEWHERE, path, ask)


@pytest.mark.parametrize("answer", [True, False])
def test_the_scheduler_s_answer_outweighs_the_heartbeat(tmp_path, answer):
    path = tmp_path / "lock.json"
    path.touch()
    old = time.time() - (lock_file.STALE_SECONDS + 1) * answer
    os.utime(path, (old, old))
    assert lock_file.is_alive(ELSEWHERE, path, lambda job: answer if job == "42" else None) is answer
