"""Two processes of one fine-tuning on the CPU: they train what one does, end together, and lose nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml

from detpretrain import leaves, study
from detpretrain.errors import InputError
from detpretrain.files import read_yaml
from detpretrain.training import checkpoints, distributed

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = (
    "retina_unet_resenc"  # nothing in it is drawn: the last bit of a logit decides which hard negative another draws
)
SGD = {"class": "torch.optim.SGD", "momentum": 0.9, "nesterov": True}
RATE = {"class": "detpretrain.training.schedules.WarmupPoly", "lr": 0.01, "warmup_steps": 4}
RECIPE = {"optimizer": SGD, "schedule": RATE, "precision": "fp32", "epochs": 4, "steps_per_epoch": 5, "batch_size": 4}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A copy of config/ and workflow/ with a recipe of 20 plain steps, and a study that asks for two processes."""
    root = tmp_path_factory.mktemp("workplace")
    for name in ("config", "workflow"):
        shutil.copytree(ROOT / name, root / name)
    recipes = read_yaml(root / "config" / "recipes.yaml")
    recipes["retina_smoke"] |= RECIPE
    (root / "config" / "recipes.yaml").write_text(yaml.safe_dump(recipes))
    rows = [{"detector": DETECTOR, "init": "scratch"}]
    config = {"study": "together", "size": "smoke", "datasets": ["smoke_nodules"], "rows": rows}
    (root / "alone.yaml").write_text(yaml.safe_dump(config))
    (root / "together.yaml").write_text(yaml.safe_dump(config | {"runtime": {"gpus": 2, "device": "cpu"}}))
    return root


def start(workplace, nodules, folder, config, **more):
    chosen = study.load([workplace / config], workplace)
    arguments = {
        "config": workplace / config,
        "dataset": "smoke_nodules",
        "detector": DETECTOR,
        "init": "scratch",
        "fold": 0,
        "seed": 0,
        "recipe": leaves.recipe("finetune", leaves.finetune(chosen, DETECTOR, "scratch", 0, 0)),
        "index": nodules / "preprocessed" / "index.json",
        "splits": nodules / "task" / "splits.json",
        "work": folder / "work",
        "model": folder / "model.pth",
        "log": folder / "log.csv",
        "device": "cpu",
        **more,
    }
    script = workplace / "workflow" / "scripts" / "finetune.py"
    command = [sys.executable, str(script), *(f"--{name}={value}" for name, value in arguments.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, status=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, err
    return out, err


@pytest.fixture(scope="module")
def pair(workplace, nodules, tmp_path_factory):
    """Folders of the same training by one process and by two, which ran undisturbed; what the two printed."""
    alone, together = (tmp_path_factory.mktemp(name) for name in ("alone", "together"))
    finished(start(workplace, nodules, alone, "alone.yaml"))
    out, _ = finished(start(workplace, nodules, together, "together.yaml"))
    return alone, together, out


@pytest.mark.ddp
def test_two_processes_train_what_one_would(pair):
    alone, together, _ = pair
    expected, found = (pd.read_csv(folder / "log.csv") for folder in (alone, together))
    columns = [name for name in expected if name != "seconds"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=1e-4, atol=1e-6)
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (together, alone))
    for name, value in ours["weights"].items():
        torch.testing.assert_close(value, theirs["weights"][name], rtol=1e-3, atol=1e-5)
    assert (theirs["provenance"]["processes"], ours["provenance"]["processes"]) == (1, 2)


@pytest.mark.ddp
def test_they_share_one_copy_of_the_data_on_a_node(workplace, nodules, pair, tmp_path):
    (tmp_path / "node").mkdir()
    _, err = finished(start(workplace, nodules, tmp_path, "together.yaml", stage=tmp_path / "node"))
    assert (err.count("staging: copying "), err.count("staging: reading "), err.count("WARNING")) == (1, 2, 0)
    assert list((tmp_path / "node").iterdir()) == []
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (tmp_path, pair[1]))
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name]), name


@pytest.mark.ddp
def test_only_the_first_one_speaks_and_writes(pair):
    _, together, out = pair
    assert out.count("epoch 1/4") == out.count("epoch 4/4") == 1
    assert {path.name for path in together.iterdir()} == {"model.pth", "log.csv", "work"}
    assert not {"last.pth", "lock.json"} & {path.name for path in (together / "work").iterdir()}
    assert len(list((together / "work" / "tensorboard").iterdir())) == 1


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def trainers(process):
    """The processes that train, in the order of their ranks; ``process`` is torchrun by then."""
    return sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.ddp
def test_ended_by_a_signal_they_go_on_to_the_same_weights(workplace, nodules, pair, tmp_path):
    process = start(workplace, nodules, tmp_path, "together.yaml")
    wait_for(tmp_path / "work" / "last.pth", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "model.pth").exists()
    assert 0 < checkpoints.load(tmp_path / "work" / "last.pth")["step"] < 20
    out, _ = finished(start(workplace, nodules, tmp_path, "together.yaml"))
    assert out.count("resumed at step") == 1
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (tmp_path, pair[1]))
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name]), name


@pytest.mark.ddp
def test_a_killed_rank_ends_the_others_at_once(workplace, nodules, tmp_path):
    process = start(workplace, nodules, tmp_path, "together.yaml")
    wait_for(tmp_path / "work" / "last.pth", process)
    first, second = trainers(process)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - killed < 60
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "model.pth").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    distributed.check_batch("r", 3, 1)
    monkeypatch.setattr("detpretrain.models.ranks.number", lambda: 2)
    distributed.check_batch("r", 4, 2)
    with pytest.raises(InputError, match="recipe r: 3 samples per forward pass over 2 processes"):
        distributed.check_batch("r", 3, 1)
    with pytest.raises(InputError, match="recipe r: 1 samples per forward pass"):
        distributed.check_batch("r", 4, 4)


SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}


def test_place_comes_from_torchrun_or_from_slurm(tmp_path, monkeypatch):
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert distributed.place({**given, "HOME": "/"}) == given
    assert distributed.place({}) == {}
    assert distributed.place({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) == {}  # a batch script
    assert distributed.place(SLURM | {"SLURM_NTASKS": "1"}) == {}
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = distributed.place(SLURM | {"SLURM_JOB_NODELIST": "gpu[07-08]"})
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(29_400 + 3456),
    }
    with pytest.raises(InputError, match=r"SLURM_JOB_NODELIST gpu\[1\]: scontrol cannot expand it"):
        distributed.place(SLURM | {"SLURM_JOB_NODELIST": "gpu[1]"})


@pytest.mark.parametrize("environment", [{"RANK": "0"}, SLURM])
def test_one_of_several_does_not_start_anew(monkeypatch, environment):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    distributed.relaunch(1)
    distributed.relaunch(0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.relaunch(2)
