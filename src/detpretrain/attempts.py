"""What goes on with a training that is not finished: it runs, its last attempt failed, or it stopped with its state saved.

It runs while the holder of its lock is alive (``lock_file.is_alive``). It failed when the first of its jobs that lacks a result
has a log that ends in an error (``job_log.last_error``), or when its lock was left behind by a process that is gone: one that was
killed, ran out of memory or lost its machine has no time for a last word. A prediction or an evaluation has no lock: it was
killed if its log is newer than what it was given and no benchmark follows, while no Snakemake works in the directory that could
still be running it. An attempt that was interrupted by hand, by the
scheduler or by its own budget has not failed: the next run goes on from its state.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain import lock_file
from detpretrain.files import read_json
from detpretrain.job_log import last_error, was_interrupted
from detpretrain.trainings import Stage, Training


@dataclass(frozen=True)
class Progress:
    """What ``progress.json`` of a running training tells; ``ap``: on validation patches, of the last finished epoch."""

    step: int
    total: int
    loss: float | None
    ap: float | None
    speed: float | None
    time: float


@dataclass(frozen=True)
class Run:
    """Who trains; ``since``: when it took the lock, in seconds since 1970; ``heartbeat_age`` in seconds."""

    host: str
    pid: int
    job: str | None
    since: float | None
    heartbeat_age: float
    progress: Progress | None


@dataclass(frozen=True)
class Attempt:
    """``failed``: a stage and how it ended; ``interrupted``: a stage that stopped, with a state to go on from."""

    run: Run | None = None
    failed: tuple[str, str] | None = None
    interrupted: str | None = None


def attempts(trainings: Sequence[Training], locked: bool = True) -> list[Attempt]:
    """One per training, in their order; nothing of them where no attempt has left anything behind.

    ``locked``: whether a Snakemake works in the directory, or was killed there (``snakemake_runs.locked``): then a job without
    a last word may still run.
    """
    kept = [_names(training.work) for training in trainings]
    locks = [
        lock_file.read_holder(training.work / lock_file.NAME) if lock_file.NAME in names else None
        for training, names in zip(trainings, kept, strict=True)
    ]
    here = socket.gethostname()
    ask = lock_file.asked_together(lock.get("job") for lock in locks if lock and lock["host"] != here)
    found = []
    for training, names, lock in zip(trainings, kept, locks, strict=True):
        path = training.work / lock_file.NAME
        if lock and lock_file.is_alive(lock, path, ask):
            found.append(Attempt(run=_run(training.work, lock)))
        else:
            found.append(_ended(training, names, lock, locked))
    return found


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _run(work: Path, lock: dict[str, Any]) -> Run:
    try:
        age = max(time.time() - (work / lock_file.NAME).stat().st_mtime, 0.0)
    except FileNotFoundError:
        age = 0.0  # it ended just now
    since = lock.get("since")
    return Run(lock["host"], lock["pid"], lock.get("job"), since, age, read_progress(work, since or 0.0))


def read_progress(work: Path, since: float) -> Progress | None:
    """None before the first steps of the run that began at ``since``; an earlier run's file may still be there."""
    try:
        told = read_json(work / "progress.json")
        if told["time"] < since:
            return None
        losses, epoch = told.get("means", {}), told.get("epoch", {})
        numbers = (losses.get("loss"), epoch.get("val_ap"), told.get("speed"), told["time"])
        return Progress(int(told["step"]), int(told["total"]), *numbers)
    except (ValueError, KeyError, TypeError, AttributeError):  # absent, or not what a training writes
        return None


def _ended(training: Training, kept: set[str], lock: dict[str, Any] | None, locked: bool) -> Attempt:
    results = training.results()
    lacking = [stage for stage in training.stages if not stage.results <= results]
    if not lacking:
        return Attempt()
    stage = lacking[0]
    told = last_error(stage.log)
    trains = stage is training.stages[0]
    if told is None and trains and lock:
        told = f"process {lock['pid']} on {lock['host']} is gone without a word: killed, out of memory, or its machine went down"
    if told is None and not trains and not locked and _broke_off(training, stage):
        told = "ended without a word: killed, cancelled, or out of memory"
    if told is not None:
        return Attempt(failed=(stage.name, told))
    return Attempt(interrupted=stage.name if trains and training.state in kept else None)


def _broke_off(training: Training, stage: Stage) -> bool:
    """Whether a job that lacks its results began and did not end well, nor by Ctrl-C: no benchmark follows its log."""
    before = training.stages[training.stages.index(stage) - 1]
    try:
        begun = stage.log.stat().st_mtime_ns
        given = max((training.folder / name).stat().st_mtime_ns for name in before.results)
        ended = stage.benchmark.stat().st_mtime_ns if stage.benchmark.exists() else 0
    except (FileNotFoundError, NotADirectoryError):
        return False
    return begun > max(given, ended) and not was_interrupted(stage.log)
