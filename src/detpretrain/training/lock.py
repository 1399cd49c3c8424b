"""One trainer per cell: a lock file with host, process and heartbeat."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from detpretrain import trainers
from detpretrain.errors import InputError
from detpretrain.files import write_json
from detpretrain.lock_file import NAME, is_alive, process_start, read_holder, same

HEARTBEAT_SECONDS = 30.0
CLAIM_SECONDS = 60.0  # the right to remove a dead lock ends after this


class CellLock:
    """``with CellLock(folder):`` holds ``folder/lock.json``; a live holder makes it an ``InputError``.

    Same host: a holder whose process is gone (or whose process id was given to another process since) is taken over at once.
    Other host: the scheduler is asked about its job; without an answer the lock is respected until it is stale. What a batch job
    leaves behind, another one that is requeued under the same number takes over.

    ``trains``: whether who holds it is a trainer, which is noted (``trainers``).
    """

    def __init__(self, folder: Path, trains: bool = True) -> None:
        self.trains = trains
        self.path = folder / NAME
        self._since = time.time()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> CellLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._take():
            self._remove_if_dead()
        if self.trains:
            trainers.begin(self.path.parent, self._identity())
        self._beat = threading.Thread(target=self._heartbeat, daemon=True)
        self._beat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        if self.trains:
            # a loader process that the kernel killed shows as an error of another kind: the scheduler knows
            by_itself = kind is None or issubclass(kind, SystemExit | InputError)
            trainers.end(self.path.parent, False if by_itself else issubclass(kind, MemoryError) or None)
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Puts our lock in place unless there is one; a link appears with its content, so nobody reads half a lock."""
        ours = self.path.with_name(f"lock-{socket.gethostname()}-{os.getpid()}.json")
        write_json(ours, self._identity())
        try:
            os.link(ours, self.path)
        except FileExistsError:
            return False
        finally:
            ours.unlink()
        return True

    def _remove_if_dead(self) -> None:
        holder = read_holder(self.path)
        if holder is None:
            return
        if is_alive(holder, self.path):
            raise InputError(
                f"{self.path}: process {holder['pid']} on {holder['host']} is training this cell: wait for it, or end it "
                "and run again"
            )
        # Of several that find the same dead lock, one may remove it, and only if it is still that one: another may have
        # removed it and taken the cell since.
        claim = self.path.with_name("lock-{host}-{pid}-{started}.dead".format_map(holder))
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            _forget_old(claim)
            time.sleep(0.1)
            return
        try:
            if same(read_holder(self.path), holder):
                self.path.unlink(missing_ok=True)
        finally:
            claim.unlink(missing_ok=True)

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._renew()

    def _renew(self) -> None:
        try:
            if self._is_ours():
                write_json(self.path, self._identity())
        except OSError as error:  # a full disk for a minute is no reason to look dead for the rest of a week
            print(f"{self.path}: heartbeat not written ({error.strerror})", file=sys.stderr, flush=True)

    def _is_ours(self) -> bool:
        return same(read_holder(self.path), self._identity())

    def _identity(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "host": socket.gethostname(),
            "pid": pid,
            "started": process_start(pid),
            "job": os.environ.get("SLURM_JOB_ID"),
            "since": self._since,
            "heartbeat": time.time(),
        }


def _forget_old(claim: Path) -> None:
    """Removes a claim whose owner must have died while it held it: it takes milliseconds."""
    try:
        if time.time() - claim.stat().st_mtime > CLAIM_SECONDS:
            claim.unlink()
    except FileNotFoundError:
        pass
