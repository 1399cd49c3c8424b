"""What a killed Snakemake leaves behind: its jobs in Slurm, trainings on this host, and its lock on the directory.

They are found, shown, ended, and the lock removed. A job belongs to the study that the run which submitted it was given: its
name is the run's id, and the log of that run names the study files. A Snakemake that lives is left alone: it ends its own jobs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detpretrain import lock_file, slurm_queue, snakemake_runs, trainings
from detpretrain import study as studies
from detpretrain.attempts import Progress, attempts
from detpretrain.errors import InputError
from detpretrain.slurm_queue import Job
from detpretrain.snakemake_runs import Run
from detpretrain.study import Study

PAUSE = 0.2  # between two looks at processes of this host
NOBODY = "no job of Snakemake's"
UNKNOWN = "no log of Snakemake tells of which study"


@dataclass(frozen=True)
class Trainer:
    """A living process that holds the lock of a training; ``started``: as in the lock, tells it from a later one of its id."""

    name: str
    host: str
    pid: int
    started: float | None
    progress: Progress | None


@dataclass(frozen=True)
class Leftovers:
    """``jobs``: of the study in Slurm; ``others``: of the directory, with whose they are; ``trainers``: on this host, outside of
    ``jobs``; ``elsewhere``: on other hosts, outside of them; ``host``: of the run that holds the lock, where it is another one.
    """

    jobs: Sequence[Job]
    others: Sequence[tuple[Job, str]]
    trainers: Sequence[Trainer]
    elsewhere: Sequence[Trainer]
    host: str | None = None


def find(study: Study, root: Path) -> Leftovers:
    """``root``: the working directory, which the study's paths are relative to.

    Raises:
        InputError: a Snakemake lives in the directory, or squeue does not answer.
    """
    alive = snakemake_runs.processes(root)
    if alive:
        raise InputError(
            f"{root}: process {alive[0]} is a Snakemake that works here and holds the lock by right: wait for it, or stop it "
            f"with kill -INT {alive[0]}, which ends its jobs too"
        )
    submitted = slurm_queue.jobs_of(root) if slurm_queue.available() else []
    runs = snakemake_runs.slurm_runs(root, {job.name for job in submitted if job.of_snakemake})
    whose = {name: _study_of(run, root) for name, run in runs.items()}
    jobs = [job for job in submitted if job.of_snakemake and _same(whose.get(job.name), study, root)]
    others = [(job, _owner(job, whose.get(job.name))) for job in submitted if job not in jobs]
    here, elsewhere = _trainers(study, {job.key for job in submitted})
    last = snakemake_runs.last_run(root) if snakemake_runs.locked(root) else None
    host = last.host if last is not None and last.host != socket.gethostname() else None
    return Leftovers(jobs, others, here, elsewhere, host)


def _study_of(run: Run, root: Path) -> Study | None:
    """None when its study files are gone or no longer valid."""
    try:
        return studies.load([root / file for file in run.files], root)
    except InputError:
        return None


def _same(one: Study | None, other: Study, root: Path) -> bool:
    return one is not None and os.path.realpath(root / one.folder) == os.path.realpath(root / other.folder)


def _owner(job: Job, study: Study | None) -> str:
    if not job.of_snakemake:
        return NOBODY
    return UNKNOWN if study is None else f"of study {study.name}"


def _trainers(study: Study, queued: set[str]) -> tuple[list[Trainer], list[Trainer]]:
    """On this host and on others; those whose Slurm job is ``queued`` are left out."""
    cells, pretrainings = trainings.of_study(study)
    every = [*cells, *pretrainings]
    here: list[Trainer] = []
    elsewhere: list[Trainer] = []
    for training, attempt in zip(every, attempts(every), strict=True):
        run = attempt.run
        if run is None or str(run.job) in queued:
            continue
        local = run.host == socket.gethostname()
        started = lock_file.process_start(run.pid) if local else None
        (here if local else elsewhere).append(Trainer(training.name, run.host, run.pid, started, run.progress))
    return here, elsewhere


def print_found(found: Leftovers, study: Study, console: Console) -> None:
    """A table of what ``end`` ends, and a line for each thing that it leaves alone."""
    table = Table(title=f"study {study.name}: what still runs", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("job or process", "state", "time", "work"):
        table.add_column(heading, overflow="fold")
    for job in found.jobs:
        table.add_row(*map(Text, (f"Slurm {job.shown}", job.state.lower(), job.used, job.work)))
    for trainer in found.trainers:
        table.add_row(f"process {trainer.pid}", "training", "", f"{trainer.name}{_position(trainer)}")
    if found.jobs or found.trainers:
        console.print(table)
    else:
        print(f"study {study.name}: no job and no training of it runs here")
    for job, whose in found.others:
        print(f"Slurm {job.shown} ({job.work}), {job.state.lower()}: {whose}: left alone")
    for trainer in found.elsewhere:
        print(f"{trainer.name}: trained by process {trainer.pid} on {trainer.host}: cannot be ended from here")
    if found.host:
        print(f"the last Snakemake here was started on {found.host}: whether it still runs can be seen there only")


def _position(trainer: Trainer) -> str:
    return f", step {trainer.progress.step} of {trainer.progress.total}" if trainer.progress else ""


def end(found: Leftovers, root: Path, seconds: float) -> None:
    """Cancels the jobs, asks the trainers to save and stop, and waits for all of them, at most so many seconds.

    Raises:
        InputError: a job is somebody else's (nothing was done then), or something still runs when the time is over.
    """
    strangers = [job for job in found.jobs if os.getuid() not in (0, job.user)]
    if strangers:
        raise InputError(
            f"job {strangers[0].shown} was submitted by the user of id {strangers[0].user}: only they can cancel it, ask them"
        )
    limit = time.monotonic() + seconds
    for trainer in found.trainers:
        _terminate(trainer)
    complaint = slurm_queue.cancel(found.jobs)
    left = [f"job {job.shown}" for job in slurm_queue.wait_until_gone(root, found.jobs, seconds)]
    while (alive := [trainer for trainer in found.trainers if _lives(trainer)]) and time.monotonic() < limit:
        time.sleep(PAUSE)
    left += [f"process {trainer.pid}" for trainer in alive]
    if left:
        why = f" (scancel: {complaint})" if complaint else ""
        raise InputError(
            f"{', '.join(left)} still there after {seconds:g} seconds{why}: the directory stays locked, "
            "try again, or give --wait more seconds"
        )


def _lives(trainer: Trainer) -> bool:
    return trainer.started is not None and lock_file.process_start(trainer.pid) == trainer.started


def _terminate(trainer: Trainer) -> None:
    if not _lives(trainer):
        return
    try:
        os.kill(trainer.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise InputError(
            f"process {trainer.pid} ({trainer.name}) belongs to somebody else: ask them to end it"
        ) from None


def remove_lock(config: Sequence[Path], root: Path) -> None:
    """``snakemake --unlock`` with the study's files; ``InputError`` with its own words when it fails."""
    command = [sys.executable, "-m", "snakemake", "--unlock", "--configfile", *map(str, config)]
    done = subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"snakemake --unlock failed ({said[-1]}): run it yourself, with the same --configfile")
