"""Reading the lock of a training: who holds it, and whether that process is alive. ``training.lock`` takes and renews it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NAME = "lock.json"
STALE_SECONDS = 600.0  # another host's lock without a heartbeat for this long is dead


def read_holder(path: Path) -> dict[str, Any] | None:
    """The lock's content, None when it has just gone; one that is not a lock's content counts as held by nobody."""
    try:
        holder = json.loads(path.read_text())
        if all(key in holder for key in ("host", "pid", "started")):
            return holder
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        pass
    return {"host": socket.gethostname(), "pid": -1, "started": 0.0, "job": None}


def same(holder: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    return holder is not None and all(holder[key] == other[key] for key in ("host", "pid", "started"))


def job_is_running(job: str | None) -> bool | None:
    """Asks Slurm; None when there is no job id, no Slurm or no answer."""
    if not job or shutil.which("squeue") is None:
        return None
    answer = _squeue("-j", job, "-o", "%T")
    if answer is None:
        return None
    if answer.returncode:
        return False if "Invalid job id" in answer.stderr else None
    return bool(answer.stdout.strip())


def is_alive(holder: dict[str, Any], path: Path, ask: Callable[[str | None], bool | None] = job_is_running) -> bool:
    """Whether the holder of the lock at ``path`` still runs; ``ask``: whether a job on another host does, None = unknown."""
    if holder["host"] == socket.gethostname():
        return holder["started"] is not None and process_start(holder["pid"]) == holder["started"]
    job = holder.get("job")
    if job and job == os.environ.get("SLURM_JOB_ID"):
        return False  # our own job, requeued: only one of its lives is there at a time
    running = ask(job)
    if running is not None:
        return running
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def asked_together(jobs: Iterable[str | None]) -> Callable[[str | None], bool | None]:
    """``job_is_running`` for any of these jobs, at the price of one question to Slurm instead of one each."""
    wanted = sorted({str(job) for job in jobs if job})
    if len(wanted) < 2 or shutil.which("squeue") is None:
        return job_is_running
    answer = _squeue("-j", ",".join(wanted), "-o", "%A")
    if answer is None or answer.returncode:
        return lambda job: None
    listed = set(answer.stdout.split())
    return lambda job: str(job) in listed if job else None


def process_start(pid: int) -> float | None:
    """Start time of a process in clock ticks since boot, None when there is none: tells a process from a reused id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] == "Z" else float(after_name[19])


def _squeue(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """What squeue says about jobs that wait or run; None when it takes too long."""
    try:
        return subprocess.run(["squeue", "-h", *arguments], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
