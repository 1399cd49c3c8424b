"""The jobs that Snakemake's Slurm executor has submitted from a working directory: found, cancelled, waited for.

The executor (2.8) submits with ``-D`` the directory that Snakemake was started in, ``--job-name`` the run's id, a UUID with
perhaps a prefix, and ``--comment rule_NAME_wildcards_...``. The directory says whose jobs they are, the name that they are
Snakemake's and not somebody's own, the comment what they do. Formats as of the manual pages of Slurm 22.05.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detpretrain.errors import InputError

SECONDS = 60.0  # for an answer
PAUSES = (1.0, 2.0, 5.0, 10.0)  # between two questions; a scheduler is not asked in a loop
STATES = "PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED,COMPLETING"
# array's base id, own id, id as people see it, state, user id, time used, name, comment, working directory
FIELDS = ("%F", "%A", "%i", "%T", "%U", "%M", "%j", "%k", "%Z")
RUN_NAME = re.compile(r"(?:[\w-]{1,50}_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# what would narrow a question or a cancellation without a word
NARROWING = ("SQUEUE_", "SCANCEL_")


@dataclass(frozen=True)
class Job:
    """A job that waits or runs, or the waiting elements of an array together.

    Attributes:
        base: id of the array, for other jobs their own: what is cancelled.
        key: own id, ``SLURM_JOB_ID`` of the job.
        shown: ``7``, ``7_3`` or ``7_[4-9]``.
        state: in words.
        user: number.
        used: time that it has run.
        name: of a job of Snakemake, the id of its run.
        comment: what it does; of an array, what its first element does.
    """

    base: str
    key: str
    shown: str
    state: str
    user: int
    used: str
    name: str
    comment: str
    folder: str

    @property
    def of_snakemake(self) -> bool:
        return RUN_NAME.fullmatch(self.name) is not None

    @property
    def work(self) -> str:
        """``finetune demo_mae_0_0``; the job's name for one that is not Snakemake's, or whose comment the site has replaced."""
        if not (self.of_snakemake and self.comment.startswith("rule_")):
            return self.name
        return self.comment.removeprefix("rule_").replace("_wildcards_", " ", 1)


def available() -> bool:
    return shutil.which("squeue") is not None


def jobs_of(root: Path, user: int | None = None) -> list[Job]:
    """All jobs that were submitted from ``root`` and have not ended, Snakemake's and others.

    Raises:
        InputError: squeue does not answer.
    """
    only = ["-u", str(user)] if user is not None else []
    answer = _run("squeue", "-h", "-a", *only, "-t", STATES, "-o", "|".join(FIELDS))
    if answer.returncode:
        raise InputError(f"squeue does not answer ({_said(answer)}): nothing was done, try again when Slurm is back")
    found = (_job(line) for line in answer.stdout.splitlines())
    return [job for job in found if job is not None and _same_folder(job.folder, root)]


def cancel(jobs: Sequence[Job]) -> str:
    """Tells Slurm to end them, whole arrays; returns what it complains about. Use ``wait_until_gone`` afterwards."""
    if not jobs:
        return ""
    answer = _run("scancel", "-Q", *_bases(jobs))
    return _said(answer) if answer.returncode else ""


def wait_until_gone(root: Path, jobs: Sequence[Job], seconds: float) -> list[Job]:
    """Waits until none of the jobs is in the queue; returns those that still are after ``seconds``."""
    wanted, end, asked = set(_bases(jobs)), time.monotonic() + seconds, 0
    while wanted:
        left = [job for job in jobs_of(root) if job.base in wanted]
        rest = end - time.monotonic()
        if not left or rest <= 0:
            return left
        time.sleep(min(PAUSES[min(asked, len(PAUSES) - 1)], rest))
        asked += 1
    return []


def _bases(jobs: Iterable[Job]) -> list[str]:
    return sorted({job.base for job in jobs}, key=int)


def _job(line: str) -> Job | None:
    """None for a line that is no job's (the name of a cluster); a ``|`` in the folder's name stays."""
    values = line.split("|", len(FIELDS) - 1)
    if len(values) < len(FIELDS) or not values[0].isdigit() or not values[4].isdigit():
        return None
    base, key, shown, state, user, used, name, comment, folder = (value.strip() for value in values)
    return Job(base, key, shown, state, int(user), used, name, comment, folder)


def _same_folder(one: str, root: Path) -> bool:
    place = os.path.realpath(root)
    # foreign folders are not looked at: there may be thousands of them, on slow disks
    return one == place or (os.path.basename(one) == os.path.basename(place) and os.path.realpath(one) == place)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NARROWING)}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {SECONDS:.0f} seconds")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error.strerror}")


def _said(answer: subprocess.CompletedProcess[str]) -> str:
    lines = answer.stderr.strip().splitlines()
    return lines[0] if lines else f"exit status {answer.returncode}"
