"""Two processes of one fine-tuning on the CPU: they train what one does, end together, and lose nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from finetune_script import Workplace, wait_for
from stand_in_srun import install

from detpretrain.errors import InputError
from detpretrain.job_log import last_error
from detpretrain.training import checkpoints, distributed

DETECTOR = (
    "retina_unet_resenc"  # nothing in it is drawn: the last bit of a logit decides which hard negative another draws
)
SGD = {"class": "torch.optim.SGD", "momentum": 0.9, "nesterov": True}
RATE = {"class": "detpretrain.training.schedules.WarmupPoly", "lr": 0.01, "warmup_steps": 4}
RECIPE = {"optimizer": SGD, "schedule": RATE, "precision": "fp32", "epochs": 4, "steps_per_epoch": 5, "batch_size": 4}


@pytest.fixture(scope="module")
def workplace(nodules, tmp_path_factory):
    """A recipe of 20 plain steps, and studies that ask for one process, for two, and for two over as many nodes."""
    made = Workplace.make(tmp_path_factory.mktemp("workplace"), nodules, DETECTOR, "retina_smoke", **RECIPE)
    made.add_study("alone")
    made.add_study("together", gpus=2, device="cpu")
    made.add_study("spread", gpus=2, nodes=2, device="cpu")
    return made


@pytest.fixture(scope="module")
def endless(nodules, tmp_path_factory):
    """The same for long, whatever else this machine does."""
    steps = RECIPE | {"epochs": 1000}
    made = Workplace.make(tmp_path_factory.mktemp("endless"), nodules, DETECTOR, "retina_smoke", **steps)
    made.add_study("together", gpus=2, device="cpu")
    made.add_study("spread", gpus=2, nodes=2, device="cpu")
    return made


def finished(process, status=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, err
    return out, err


@pytest.fixture(scope="module")
def pair(workplace, tmp_path_factory):
    """Folders of the same training by one process and by two, which ran undisturbed; what the two printed."""
    alone, together = (tmp_path_factory.mktemp(name) for name in ("alone", "together"))
    finished(workplace.start("alone", alone))
    out, _ = finished(workplace.start("together", together))
    return alone, together, out


def assert_same_training(together, alone):
    expected, found = (pd.read_csv(folder / "log.csv") for folder in (alone, together))
    columns = [name for name in expected if name != "seconds"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=1e-4, atol=1e-6)
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (together, alone))
    for name, value in ours["weights"].items():
        torch.testing.assert_close(value, theirs["weights"][name], rtol=1e-3, atol=1e-5)
    assert (theirs["provenance"]["processes"], ours["provenance"]["processes"]) == (1, 2)


@pytest.mark.ddp
def test_they_share_one_copy_of_the_data_on_a_node(workplace, pair, tmp_path):
    (tmp_path / "node").mkdir()
    workplace.add_study("near", gpus=2, device="cpu", stage=str(tmp_path / "node"))
    _, err = finished(workplace.start("near", tmp_path))
    assert (err.count("staging: copying "), err.count("staging: reading "), err.count("WARNING")) == (1, 1, 0)
    assert list((tmp_path / "node").iterdir()) == []
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (tmp_path, pair[1]))
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name]), name


@pytest.mark.ddp
def test_two_processes_train_what_one_would(pair):
    alone, together, _ = pair
    assert_same_training(together, alone)


@pytest.mark.ddp
def test_two_processes_that_slurm_starts_train_what_one_would(workplace, pair, tmp_path):
    out, err = finished(workplace.start("spread", tmp_path, **install(tmp_path / "bin")))
    assert_same_training(tmp_path, pair[0])
    assert out.count("epoch 1/4") == out.count("epoch 4/4") == 1
    assert "error" not in err
    assert err.count("find_unused_parameters") <= 1  # torch's hint, of the first one


@pytest.mark.ddp
def test_only_the_first_one_speaks_and_writes(pair):
    _, together, out = pair
    assert out.count("epoch 1/4") == out.count("epoch 4/4") == 1
    assert {path.name for path in together.iterdir()} == {"model.pth", "log.csv", "work"}
    assert {path.name for path in (together / "work").iterdir()} <= {"progress.json", "tensorboard", "trainers.json"}
    assert len(list((together / "work" / "tensorboard").iterdir())) == 1


def trainers(process):
    """The processes that train, in the order of their ranks."""
    found = [child for child in psutil.Process(process.pid).children(recursive=True) if place_of(child)]
    return sorted(found, key=place_of)


def place_of(process):
    """``(rank,)``; empty for one that only starts others."""
    environment = process.environ()
    rank = environment.get("RANK", environment.get("SLURM_PROCID") if "SLURM_STEP_ID" in environment else None)
    return () if rank is None else (int(rank),)


@pytest.mark.ddp
def test_ended_by_a_signal_they_go_on_to_the_same_weights(workplace, pair, tmp_path):
    process = workplace.start("together", tmp_path)
    wait_for(tmp_path / "work" / "last.pth", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err.count("stopped at step") == 1
    assert "error" not in err
    assert not (tmp_path / "model.pth").exists()
    assert 0 < checkpoints.load(tmp_path / "work" / "last.pth")["step"] < 20
    out, _ = finished(workplace.start("together", tmp_path))
    assert out.count("resumed at step") == 1
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (tmp_path, pair[1]))
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name]), name


@pytest.mark.ddp
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_the_others_at_once_and_the_log_says_so_in_one_line(endless, tmp_path, number):
    process = endless.start("together", tmp_path)
    wait_for(tmp_path / "work" / "last.pth", process)
    pair = trainers(process)
    pair.pop(number).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    assert err.startswith(
        f"error: rank {number} of 2 processes was killed by SIGKILL, as when memory runs out; all were ended"
    )
    assert err.count("\n") == 1
    (left,) = pair
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "model.pth").exists()
    again = endless.start("together", tmp_path)  # its lock and its state are no obstacle
    assert "resumed at step" in again.stdout.readline()
    assert again.stdout.readline().startswith("epoch ")
    again.terminate()
    _, err = again.communicate(timeout=120)
    assert again.returncode == 143
    assert "stopped at step" in err


@pytest.mark.ddp
def test_a_killed_rank_that_slurm_started_ends_the_others_at_once(endless, tmp_path):
    process = endless.start("spread", tmp_path, **install(tmp_path / "bin"))
    wait_for(tmp_path / "work" / "last.pth", process)
    trainers(process)[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    (tmp_path / "job.log").write_text(err)
    # of the two ends, by SIGKILL and by the SIGTERM that srun sends then, srun's status is the higher one
    told = last_error(tmp_path / "job.log")
    assert told.startswith(
        "error: srun ended with status 143: a process was killed; srun says above which came first; "
    )
    assert not (tmp_path / "model.pth").exists()


@pytest.mark.ddp
def test_a_cell_that_is_being_trained_is_refused_in_one_line(endless, tmp_path):
    first = endless.start("together", tmp_path)
    wait_for(tmp_path / "work" / "lock.json", first)
    second = endless.start("together", tmp_path)
    out, err = second.communicate(timeout=240)
    assert (second.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {tmp_path}/work/lock.json: process")
    first.terminate()
    first.communicate(timeout=240)


# this machine may have no bf16 of its own: then reference code computes it
WITH_BF16 = """
import runpy, sys
from detpretrain.training import precision
precision.cpu_has_bf16 = lambda: True
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.ddp
def test_two_processes_train_what_one_would_in_bf16(nodules, tmp_path):
    """The loss of each of 20 steps within 1 %."""
    steps = RECIPE | {"precision": "bf16", "epochs": 20, "steps_per_epoch": 1, "validation_steps": 1}
    workplace = Workplace.make(tmp_path / "workplace", nodules, DETECTOR, "retina_smoke", **steps)
    losses = []
    for name, runtime in {"alone": {}, "together": {"gpus": 2, "device": "cpu"}}.items():
        workplace.add_study(name, **runtime)
        python, *arguments = workplace.command(name, tmp_path / name)
        done = subprocess.run([python, "-c", WITH_BF16, *arguments], capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        about = checkpoints.load(tmp_path / name / "model.pth")["provenance"]
        assert (about["precision"], about["processes"]) == ("bf16", 1 + bool(runtime))
        losses.append(pd.read_csv(tmp_path / name / "log.csv")["train_loss"])
    assert len(losses[0]) == 20
    assert losses[0].iloc[-1] < losses[0].iloc[0]  # it learns
    pd.testing.assert_series_equal(losses[1], losses[0], rtol=0.01)


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    distributed.check_batch("r", 3, 1)
    monkeypatch.setattr("detpretrain.models.ranks.number", lambda: 2)
    distributed.check_batch("r", 4, 2)
    with pytest.raises(InputError, match="recipe r: 3 samples per forward pass over 2 processes"):
        distributed.check_batch("r", 3, 1)
    with pytest.raises(InputError, match="recipe r: 1 samples per forward pass"):
        distributed.check_batch("r", 4, 4)


SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}


def test_place_comes_from_torchrun_or_from_slurm(tmp_path, monkeypatch):
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert distributed.place({**given, "HOME": "/"}) == given
    assert distributed.place({}) == {}
    assert distributed.place(BATCH_SCRIPT) == {}
    assert distributed.place(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = distributed.place(SLURM | {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "16"})
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(29_400 + 3456),
    }
    with pytest.raises(InputError, match=r"SLURM_STEP_NODELIST gpu\[1\]: scontrol cannot expand it"):
        distributed.place(SLURM | {"SLURM_STEP_NODELIST": "gpu[1]"})


@pytest.mark.parametrize("environment", [{"RANK": "0"}, SLURM])
def test_one_of_several_does_not_start_anew(monkeypatch, environment):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started anew"))
    distributed.relaunch(1, Path("work"))
    distributed.relaunch(0, Path("work"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.relaunch(2, Path("work"))
    distributed.relaunch(2, Path("work"), nodes=2)


def test_a_process_takes_the_gpu_of_its_place_or_the_one_that_slurm_shows_it(monkeypatch):
    assert [distributed.own_gpu(local, seen=4) for local in range(4)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"runtime.gpus: process 1 of this machine finds 1 GPU"):
        distributed.own_gpu(1, seen=1)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert distributed.own_gpu(3, seen=1) == 0
    with pytest.raises(InputError, match=r"process 2 of this machine finds 2 GPUs: lower gpus, or add nodes"):
        distributed.own_gpu(2, seen=2)
