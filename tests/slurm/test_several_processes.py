"""A training by two processes of one Slurm job is the training of one process, whoever starts them."""

from __future__ import annotations

import os
import signal
import time

import pandas as pd
import pytest
import torch
from slurm_study import copy_with_data, write_study

pytestmark = pytest.mark.slurm

CELL = "ranks/cells/smoke_nodules/retina_unet_resenc/scratch/fold0-seed0"
LOG = "ranks/logs/finetune/smoke_nodules-retina_unet_resenc-scratch-fold0-seed0.log"
STUDY = {
    "study": "ranks",
    "size": "smoke",
    "datasets": ["smoke_nodules"],
    "folds": [0],
    "rows": [{"detector": "retina_unet_resenc", "init": "scratch"}],
}
STARTED_BY = {"the job": {"gpus": 2}, "srun": {"gpus": 2, "nodes": 1}}
SECONDS = 300


def write(repository, steps=10, **runtime):
    """Two epochs of SGD, whose steps do not grow small differences as Adam's first ones do."""
    sgd = {"class": "torch.optim.SGD", "momentum": 0.9}
    recipe = {"epochs": 2, "steps_per_epoch": steps, "optimizer": sgd, "precision": "fp32"}
    return (*write_study(repository, STUDY | {"runtime": runtime | {"device": "cpu"}}, recipe), "--until", "finetune")


@pytest.fixture(scope="module")
def by_one_process(new_copy):
    repository = new_copy()
    repository.snakemake("-c2", *write(repository))
    return repository.root / "out"


@pytest.fixture
def prepared(new_copy, by_one_process):
    def make(**changes):
        repository = copy_with_data(new_copy, by_one_process)
        return repository, write(repository, **changes)

    return make


@pytest.mark.parametrize("starter", STARTED_BY)
def test_two_processes_train_what_one_does(prepared, submit, by_one_process, starter):
    repository, arguments = prepared(**STARTED_BY[starter])
    submission = submit(repository, *arguments)
    submission.start()
    assert submission.finish(SECONDS) == 0, submission.told()
    ours, theirs = (
        torch.load(results / CELL / "model.pth", weights_only=True)
        for results in (repository.root / "out", by_one_process)
    )
    assert (ours["provenance"]["processes"], theirs["provenance"]["processes"]) == (2, 1)
    for name, weight in theirs["weights"].items():
        torch.testing.assert_close(ours["weights"][name], weight, rtol=1e-3, atol=1e-4)
    logs = [pd.read_csv(results / CELL / "log.csv") for results in (repository.root / "out", by_one_process)]
    losses = [name for name in logs[1] if name.startswith("train_")]
    pd.testing.assert_frame_equal(logs[0][losses], logs[1][losses], rtol=1e-4)


@pytest.mark.parametrize("starter", STARTED_BY)
def test_killed_process_ends_the_job_with_one_message(prepared, submit, starter):
    repository, arguments = prepared(steps=2000, **STARTED_BY[starter])
    submission = submit(repository, *arguments, "--retries", "0")
    submission.start()
    log = repository.root / "out" / LOG
    progress = repository.root / "out" / CELL.replace("/cells/", "/work/") / "progress.json"
    submission.wait_until(progress.exists, SECONDS)
    os.kill(second_process(repository.root), signal.SIGKILL)
    started = time.monotonic()
    assert submission.finish(60) == 1, submission.told()
    assert time.monotonic() - started <= 60
    errors = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "was killed" in errors[0]
    assert ("SIGKILL" in errors[0]) if starter == "the job" else ("task 1: Killed" in log.read_text())


def second_process(root):
    """Rank 1 of the training that runs in a folder."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as handle:
                variables = handle.read().split(b"\0")
            here = os.readlink(f"/proc/{process}/cwd") == str(root)
            with open(f"/proc/{process}/cmdline", "rb") as handle:
                trains = b"finetune.py" in handle.read()
        except OSError:
            continue
        ranked = b"RANK=1" in variables or (b"SLURM_PROCID=1" in variables and b"RANK=0" not in variables)
        if here and trains and ranked:
            return int(process)
    raise AssertionError("no second process runs")
