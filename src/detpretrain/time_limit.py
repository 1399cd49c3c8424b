"""How long the batch job that this process belongs to may still run, as its scheduler says.

A training that knows it stops in time with its state saved, and its next attempt goes on from there. Slurm is asked, because it
knows of limits that nobody wrote into the request: a partition's, an administrator's, an allocation that started hours ago.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping

# set in the batch jobs of PBS, LSF and Grid Engine, which have no common way to ask
OTHER_SCHEDULERS = ("PBS_JOBID", "LSB_JOBID", "JOB_ID")
# of the limit, for an epoch's validation and the state; minutes at least and at most
RESERVE, LEAST, MOST = 0.05, 0.5, 15.0

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


def minutes_to_train(
    environment: Mapping[str, str], requested: float | None, ask: Callable[[str], str | None] | None = None
) -> float | None:
    """Minutes until a training should stop by itself; None outside of a batch job and in one without a limit.

    Args:
        environment: variables of the process.
        requested: time limit of the job as it was submitted, for schedulers that are not asked.
        ask: job id -> what ``squeue`` prints as the time left; default: asks it.
    """
    if "SLURM_JOB_ID" in environment:
        left = parse((ask or _time_left)(environment["SLURM_JOB_ID"]))
    elif any(name in environment for name in OTHER_SCHEDULERS):
        left = requested
    else:
        left = None
    return None if left is None else left - min(max(RESERVE * left, LEAST), MOST)


def parse(told: str | None) -> float | None:
    """Minutes of Slurm's ``[days-][hours:]minutes:seconds``; None for ``UNLIMITED`` and everything else that is no time."""
    found = _TIME.fullmatch((told or "").strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60


def _time_left(job: str) -> str | None:
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # the limit then ends the job by SIGTERM, which saves the state as well
