"""Everything that ends a job early, and what the same command makes of it afterwards: the weights of an undisturbed run."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
import yaml
from slurm_study import copy_with_data, write_study

from detpretrain import lock_file, trainers
from detpretrain.files import read_yaml

pytestmark = pytest.mark.slurm

CELLS = "cells/smoke_nodules/retina_unet_resenc/scratch"
WORK = "work/smoke_nodules/retina_unet_resenc/scratch"
FOLDS = ("fold0-seed0", "fold1-seed0", "fold2-seed0")
STUDY = {
    "study": "faults",
    "size": "smoke",
    "datasets": ["smoke_nodules"],
    "rows": [{"detector": "retina_unet_resenc", "init": "scratch"}],
    "comparison": {"resamples": 200},
}
SECONDS = 900
EPOCHS = 12


def write(repository, epochs, folds=None, **runtime):
    """Trainings that take a while; returns the arguments that name the study."""
    study = STUDY | {"runtime": runtime} | ({"folds": folds} if folds else {})
    return write_study(repository, study, {"epochs": epochs, "steps_per_epoch": 50})


@pytest.fixture(scope="module")
def undisturbed(new_copy):
    """The study run on this machine, without Slurm, and nothing ever stopped."""
    repository = new_copy()
    repository.snakemake("-c2", *write(repository, epochs=EPOCHS))
    return repository.root / "out"


@pytest.fixture
def prepared(new_copy, undisturbed):
    """``prepared(**runtime)`` -> a copy that has the data already, and the study's arguments."""

    def make(**runtime):
        repository = copy_with_data(new_copy, undisturbed)
        return repository, write(repository, EPOCHS, **runtime)

    return make


def progressed(repository, fold, beyond=0):
    """Whether a training is under way: the process of its lock."""
    work = repository.root / "out" / "faults" / WORK / fold
    try:
        step = json.loads((work / "progress.json").read_text())["step"]
        holder = json.loads((work / lock_file.NAME).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return holder if step > beyond else None


def first_under_way(repository, folds):
    return next(((fold, holder) for fold in folds if (holder := progressed(repository, fold))), None)


def same_weights(repository, undisturbed, folds=FOLDS):
    for fold in folds:
        ours, theirs = (
            torch.load(results / "faults" / CELLS / fold / "model.pth", weights_only=True)["weights"]
            for results in (repository.root / "out", undisturbed)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), fold


def one_after_the_other(repository, fold):
    """The trainers of a cell, as the log of its lock tells; no two at a time."""
    found = trainers.read(repository.root / "out" / "faults" / WORK / fold)
    for before, after in itertools.pairwise(found):
        assert before["until"] is None or before["until"] <= after["since"]
    assert found[-1]["until"] is not None
    return found


def cancel(holder):
    subprocess.run(["scancel", holder["job"]], check=True)


def signal_it(holder):
    os.kill(holder["pid"], signal.SIGTERM)


def requeue(holder):
    subprocess.run(["scontrol", "requeue", holder["job"]], check=True)


def test_cancelled_signalled_and_requeued_trainings_go_on(prepared, submit, undisturbed):
    repository, study = prepared()
    submission = submit(repository, *study, "--retries", "3")
    submission.start()
    left, disturbed = list(FOLDS), {}
    for disturb in (cancel, signal_it, requeue):
        # whichever is under way: the node runs two at a time, in Snakemake's order
        fold, holder = submission.wait_until(lambda: first_under_way(repository, left), 180)
        disturb(holder)
        left.remove(fold)
        disturbed[fold] = (disturb, holder["job"])
    assert submission.finish(SECONDS) == 0, submission.told()
    same_weights(repository, undisturbed)
    for fold, (disturb, job) in disturbed.items():
        found = one_after_the_other(repository, fold)
        assert len(found) == 2
        assert found[0]["job"] == job
        assert (found[1]["job"] == job) == (disturb is requeue)


def test_killed_snakemake_leaves_jobs_that_unlock_ends(prepared, submit, undisturbed):
    repository, study = prepared()
    submission = submit(repository, *study)
    submission.start()
    submission.wait_until(lambda: any(progressed(repository, fold) for fold in FOLDS), 180)
    submission.kill()
    left = [line for line in submission.seen.values() if "finetune" in line.comment]
    assert left
    again = submit(repository, *study)
    again.start()
    assert again.finish(120) != 0
    assert "LockException" in again.told()
    config = ("--config", "study.yaml")
    listed = repository.detpretrain("unlock", *config)
    assert all(line.job in listed for line in left), listed
    repository.detpretrain("unlock", *config, "--yes")
    ours = subprocess.run(["squeue", "-h", "-o", "%Z"], capture_output=True, text=True, check=True).stdout.split()
    assert str(repository.root) not in ours
    once_more = submit(repository, *study)
    once_more.start()
    assert once_more.finish(SECONDS) == 0, once_more.told()
    same_weights(repository, undisturbed)
    assert max(len(one_after_the_other(repository, fold)) for fold in FOLDS) == 2


def test_training_longer_than_its_job_is_several_jobs(prepared, submit, undisturbed):
    repository, study = prepared(budget_minutes=1, steps_per_second={"retina_unet_resenc": 1.0})
    submission = submit(repository, *study, "--until", "finetune")
    submission.start()
    assert submission.finish(SECONDS) == 0, submission.told()
    limits = {line.limit for line in submission.seen.values() if "finetune" in line.comment}
    assert limits == {"1:00"}
    same_weights(repository, undisturbed)
    attempts = [one_after_the_other(repository, fold) for fold in FOLDS]
    assert max(map(len, attempts)) >= 3  # the limit was hit twice


def test_time_limit_that_nobody_foresaw(new_copy, submit):
    """Slurm ends the job itself: SIGTERM, and SIGKILL some seconds later. Limits are whole minutes, looked at twice in one."""
    alone, repository = new_copy(), new_copy()
    for copy in (alone, repository):
        write(copy, 3 * EPOCHS, folds=[0])
    study = ("--configfile", "study.yaml", "--until", "finetune")
    alone.snakemake("-c2", *study)
    shutil.copytree(alone.root / "out" / "data", repository.root / "out" / "data")
    submission = submit(repository, *study, "--retries", "2")
    submission.start()
    for _ in range(2):
        holder = submission.wait_until(lambda: progressed(repository, FOLDS[0]), 240)
        subprocess.run(["scontrol", "update", f"JobId={holder['job']}", "TimeLimit=1"], check=True)
        submission.wait_until(lambda job=holder["job"]: job not in {one.job for one in _running(submission)}, 240)
    assert submission.finish(SECONDS) == 0, submission.told()
    same_weights(repository, alone.root / "out", FOLDS[:1])
    assert len(one_after_the_other(repository, FOLDS[0])) == 3


def _running(submission):
    lines = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()
    return [line for line in submission.seen.values() if line.job in lines]


def test_cell_that_fails_is_tried_again_and_reported_while_others_finish(prepared, submit, undisturbed):
    repository, study = prepared()
    blocked = repository.root / "out" / "faults" / WORK / FOLDS[1]
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the state's folder should be\n")
    submission = submit(repository, *study)
    submission.start()
    assert submission.finish(SECONDS) == 1
    log = submission.log.read_text()
    assert "FileExistsError" in log  # what the training said
    assert len(set(re.findall(r"_scratch_1_0/(\d+)\.log", log))) == 2  # its jobs
    for fold in (FOLDS[0], FOLDS[2]):
        assert (repository.root / "out" / "faults" / CELLS / fold / "metrics.json").is_file()
    assert not (repository.root / "out" / "faults" / CELLS / FOLDS[1]).joinpath("model.pth").exists()
    same_weights(repository, undisturbed, (FOLDS[0], FOLDS[2]))
    states = json.loads(repository.detpretrain("status", "--json", "--config", "study.yaml"))
    assert re.search(r"failed", json.dumps(states))


def unscored_cells(repository, undisturbed):
    """Turns the study into one of 201 cells that need nothing but their scores, and returns the files of these."""
    config = read_yaml(repository.root / "study.yaml") | {"seeds": list(range(67))}
    (repository.root / "study.yaml").write_text(yaml.safe_dump(config))
    cells = repository.root / "out" / "faults" / CELLS
    for seed, fold in itertools.product(range(67), range(3)):
        cell = cells / f"fold{fold}-seed{seed}"
        cell.mkdir(parents=True)
        for name in ("model.pth", "log.csv", "raw_boxes.parquet"):
            shutil.copyfile(undisturbed / "faults" / CELLS / FOLDS[fold] / name, cell / name)
            time.sleep(0.001)
    return [str(cells / f"fold{fold}-seed{seed}" / "metrics.json") for seed in range(67) for fold in range(3)]


def test_cells_in_groups_cost_little_each(prepared, submit, undisturbed):
    """Fifty cells to a job: seconds beyond those of a run on the same node without Slurm, per cell."""
    repository, study = prepared()
    started = time.monotonic()
    repository.snakemake("-c2", *study, "--", *unscored_cells(repository, undisturbed))
    here = time.monotonic() - started
    repository, study = prepared()
    group = ("--groups", "evaluate=metrics", "--group-components", "metrics=50", "--cores", "1")
    cells = unscored_cells(repository, undisturbed)
    submission = submit(repository, *study, *group, "--", *cells)
    started = time.monotonic()
    submission.start()
    assert submission.finish(SECONDS) == 0, submission.told()
    seconds = time.monotonic() - started
    assert all(os.path.exists(cell) for cell in cells)
    jobs = [line for line in submission.seen.values() if line.folder == str(repository.root)]
    overhead = (seconds - here) / len(cells)
    print(f"{len(jobs)} jobs, {seconds:.0f} s, without Slurm {here:.0f} s: {overhead:.2f} s per cell")
    assert len(jobs) <= 6
    assert overhead <= 1.5
