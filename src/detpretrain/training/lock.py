"""One trainer per cell: a lock file with host, process and heartbeat."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError
from detpretrain.files import write_json

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 600.0  # another host's lock without a heartbeat for this long is dead


class CellLock:
    """``with CellLock(folder):`` holds ``folder/lock.json``; a live holder makes it an ``InputError``.

    Same host: a holder whose process is gone (or whose process id was given to another process since) is taken over at once.
    Other host: the scheduler is asked about its job; without an answer the lock is respected until it is stale.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock.json"
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> CellLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                self._remove_if_dead()
        with os.fdopen(descriptor, "w") as handle:
            json.dump(_identity(), handle)
        self._beat = threading.Thread(target=self._heartbeat, daemon=True)
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        self.path.unlink(missing_ok=True)

    def _remove_if_dead(self) -> None:
        holder = read_holder(self.path)
        if holder is None:
            return
        if is_alive(holder, self.path):
            raise InputError(
                f"{self.path}: process {holder['pid']} on {holder['host']} is training this cell: wait for it, or end it "
                "and run again"
            )
        # rename first: of two that find the dead lock, one moves it and the other starts over
        grave = self.path.with_name(f"lock-dead-{os.getpid()}.json")
        try:
            os.rename(self.path, grave)
            grave.unlink()
        except FileNotFoundError:
            pass

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            write_json(self.path, _identity())


def read_holder(path: Path) -> dict[str, Any] | None:
    """The lock's content, None when it has just gone; an unreadable (half-written) one counts as held by nobody."""
    for _ in range(5):
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            time.sleep(0.2)  # its owner may be writing it
    return {"host": socket.gethostname(), "pid": -1, "started": 0.0, "job": None}


def is_alive(holder: dict[str, Any], path: Path) -> bool:
    if holder["host"] == socket.gethostname():
        return holder["started"] is not None and process_start(holder["pid"]) == holder["started"]
    running = _job_is_running(holder.get("job"))
    if running is not None:
        return running
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def process_start(pid: int) -> float | None:
    """Start time of a process in clock ticks since boot, None when there is none: tells a process from a reused id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] == "Z" else float(after_name[19])


def _job_is_running(job: str | None) -> bool | None:
    """Asks Slurm; None when there is no job id, no Slurm or no answer."""
    if not job or shutil.which("squeue") is None:
        return None
    answer = subprocess.run(
        ["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=60, check=False
    )
    if answer.returncode:
        return False if "Invalid job id" in answer.stderr else None
    return bool(answer.stdout.strip())


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": process_start(pid),
        "job": os.environ.get("SLURM_JOB_ID"),
        "heartbeat": time.time(),
    }
