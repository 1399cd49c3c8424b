import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from detpretrain import job_log, lock_file
from detpretrain.attempts import Attempt, attempts
from detpretrain.lock_file import process_start
from detpretrain.trainings import Stage, Training

EPOCH = "epoch 1/5  step 75  lr 0.003  train_loss 2.3  val_ap 0.2  seconds 16.3\n"


@pytest.fixture
def training(tmp_path):
    """A training of two jobs without any files yet."""
    stages = (
        Stage("finetune", frozenset({"model.pth"}), tmp_path / "finetune.log", tmp_path / "finetune.tsv"),
        Stage("evaluate", frozenset({"metrics.json"}), tmp_path / "evaluate.log", tmp_path / "evaluate.tsv"),
    )
    return Training("a/b", tmp_path / "cell", tmp_path / "work", stages)


def hold(training, **changes):
    training.work.mkdir(exist_ok=True)
    holder = {
        "host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid()), "job": None,
    }  # fmt: skip
    (training.work / "lock.json").write_text(json.dumps(holder | changes))


def progress(training, **changes):
    training.work.mkdir(exist_ok=True)
    told = {
        "step": 60, "total": 375, "means": {"box": 1.0, "loss": 1.5}, "speed": 4.0,
        "epoch": {"epoch": 1, "val_ap": 0.25}, "time": time.time(),
    }  # fmt: skip
    (training.work / "progress.json").write_text(json.dumps(told | changes))


def make(training, *names):
    training.folder.mkdir(exist_ok=True)
    for name in names:
        (training.folder / name).touch()


def look(training) -> Attempt:
    (found,) = attempts([training])
    return found


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_nothing_is_told_of_what_was_never_tried(training):
    assert look(training) == Attempt()


def test_live_holder_of_the_lock_runs_and_tells_its_position(training):
    hold(training, job="42", since=time.time() - 100)
    progress(training)
    beat = time.time() - 20
    os.utime(training.work / "lock.json", (beat, beat))
    run = look(training).run
    assert (run.host, run.pid, run.job) == (socket.gethostname(), os.getpid(), "42")
    assert 20 <= run.heartbeat_age < 30
    assert 100 <= time.time() - run.since < 110
    told = run.progress
    assert (told.step, told.total, told.loss, told.ap, told.speed) == (60, 375, 1.5, 0.25, 4.0)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"step": 3}', '{"step": 3, "total": 9, "time": "now"}', '{"step": "x", "total": 9, "time": 9e9}'],
)
def test_position_that_cannot_be_read_is_unknown(training, content):
    hold(training)
    (training.work / "progress.json").write_text(content)
    assert look(training).run.progress is None


def test_position_of_an_earlier_run_is_not_this_one_s(training):
    hold(training, since=time.time())
    progress(training, time=time.time() - 1)
    assert look(training).run.progress is None
    hold(training)  # a lock of a version that did not tell since when
    assert look(training).run.progress.step == 60


def test_before_its_first_epoch_a_run_has_no_score(training):
    hold(training)
    progress(training, epoch={}, means={}, speed=None)
    told = look(training).run.progress
    assert (told.ap, told.loss, told.speed) == (None, None, None)


def test_another_host_runs_until_its_heartbeat_is_stale(training):
    hold(training, host="elsewhere", pid=4)
    assert look(training).run.pid == 4
    old = time.time() - lock_file.STALE_SECONDS - 1
    os.utime(training.work / "lock.json", (old, old))
    found = look(training)
    assert found.run is None
    stage, told = found.failed
    assert stage == "finetune"
    assert told.startswith("process 4 on elsewhere is gone without a word")


def test_process_that_is_gone_has_failed_unless_its_results_are_there(training):
    pid = dead_pid()
    hold(training, pid=pid)
    assert look(training).failed[1].startswith(f"process {pid} on {socket.gethostname()} is gone")
    make(training, "model.pth")
    assert look(training) == Attempt()


def test_log_tells_more_than_the_lock_that_was_left(training):
    hold(training, pid=dead_pid())
    training.stages[0].log.write_text("error: disk full\n")
    assert look(training).failed == ("finetune", "error: disk full")


def test_job_that_lacks_its_result_failed_if_its_log_says_so(training):
    for stage in training.stages:
        stage.log.write_text(f"error: {stage.name} is broken\n")
    assert look(training).failed == ("finetune", "error: finetune is broken")
    make(training, "model.pth")
    assert look(training).failed == ("evaluate", "error: evaluate is broken")
    make(training, "metrics.json")
    assert look(training) == Attempt()


@pytest.fixture
def broken_off(training):
    """The model is there, and an evaluation of it has begun."""
    make(training, "model.pth")
    os.utime(training.folder / "model.pth", (1e9, 1e9))
    training.stages[1].log.write_text("case_1: 5 boxes\n")
    os.utime(training.stages[1].log, (1e9 + 5, 1e9 + 5))
    return training


def test_job_without_a_lock_that_broke_off_has_failed(broken_off):
    (found,) = attempts([broken_off], locked=False)
    assert found.failed == ("evaluate", "ended without a word: killed, cancelled, or out of memory")
    make(broken_off, "metrics.json")
    assert attempts([broken_off], locked=False) == [Attempt()]


def test_job_without_a_lock_may_run_while_a_snakemake_does(broken_off):
    assert attempts([broken_off]) == attempts([broken_off], locked=True) == [Attempt()]


def test_job_of_an_earlier_model_tells_nothing_of_this_one(broken_off):
    os.utime(broken_off.folder / "model.pth", (1e9 + 9, 1e9 + 9))
    assert attempts([broken_off], locked=False) == [Attempt()]


def test_job_whose_result_was_removed_after_it_ended_has_not_failed(broken_off):
    broken_off.stages[1].benchmark.touch()
    assert attempts([broken_off], locked=False) == [Attempt()]
    os.utime(broken_off.stages[1].benchmark, (1e9, 1e9))  # of a run before
    assert attempts([broken_off], locked=False)[0].failed


def test_job_that_was_stopped_by_hand_has_not_failed(broken_off):
    broken_off.stages[1].log.write_text(f'{job_log.TRACEBACK}:\n  File "x.py"\nKeyboardInterrupt\n')
    assert attempts([broken_off], locked=False) == [Attempt()]


def test_job_that_never_began_has_not_failed(training):
    make(training, "model.pth")
    assert attempts([training], locked=False) == [Attempt()]


def test_results_of_a_training_that_was_begun_anew_and_failed_do_not_hide_it(training):
    make(training, "metrics.json")
    training.stages[0].log.write_text("error: broken\n")
    assert look(training).failed == ("finetune", "error: broken")


def test_training_that_stopped_with_its_state_is_interrupted(training):
    training.work.mkdir()
    training.stages[0].log.write_text(EPOCH)
    assert look(training) == Attempt()
    (training.work / "last.pth").touch()
    assert look(training) == Attempt(interrupted="finetune")
    make(training, "model.pth")
    assert look(training) == Attempt()


def test_state_of_an_engine_is_a_folder(training):
    engine = replace(training, state="nndet")
    (training.work / "nndet").mkdir(parents=True)
    training.stages[0].log.write_text(EPOCH)
    assert look(engine) == Attempt(interrupted="finetune")
    assert look(training) == Attempt()
