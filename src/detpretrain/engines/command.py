"""Running an executable of another program: into a log of its own, until it ends, a signal comes or the time is up."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from detpretrain.engine_entries import REMEDY, executable
from detpretrain.errors import InputError
from detpretrain.termination import noticing_termination

STOPPED_BY_SIGNAL, STOPPED_BY_BUDGET = 143, 75  # as training.loop ends
LOOK_SECONDS = 0.2
GRACE_SECONDS = 60.0  # between the request to end and the end
SHOWN = 300
TAIL_BYTES = 65536
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def find(names: Sequence[str]) -> None:
    """``InputError`` unless every executable is on PATH: told before anything is written."""
    missing = [name for name in names if executable(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not found on PATH: {REMEDY}")


def run(command: Sequence[object], environment: Mapping[str, str], log: Path, deadline: float = math.inf) -> None:
    """Runs a command and adds what it prints to ``log``.

    Args:
        command: its executable, by name, and arguments.
        environment: the whole of it; the executable's folder comes first in its PATH, as where its environment is active.
        log: file that the output of both streams is added to, below a line with the command.
        deadline: on the clock of ``time.monotonic``.

    Raises:
        InputError: the executable is not there, or it failed: the message names the log and its last line.
        SystemExit: SIGTERM (status 143) or the deadline (75) ended it early.
    """
    words = [str(word) for word in command]
    find(words[:1])
    program = executable(words[0])
    surroundings = {**environment, "PATH": f"{Path(program).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output, noticing_termination() as terminated:
        output.write(f"$ {' '.join(words)}\n".encode())
        output.flush()
        start = output.tell()
        process = subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=surroundings,
            start_new_session=True,
        )
        try:
            status = _wait(process, terminated, deadline)
        finally:
            _end(process)
    if status:
        raise InputError(f"{log}: {words[0]} ended with status {status}: {_last_line(log, start)}")


def _wait(process: subprocess.Popen, terminated: Callable[[], bool], deadline: float) -> int:
    """The status of a process that ends by itself."""
    while True:
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if terminated():
                raise SystemExit(STOPPED_BY_SIGNAL) from None
            if time.monotonic() > deadline:
                raise SystemExit(STOPPED_BY_BUDGET) from None


def _end(process: subprocess.Popen) -> None:
    """Ends what still runs of a process and of those that it started: politely, then not."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_line(log: Path, start: int) -> str:
    """The last line with a word in it that came after ``start``."""
    with open(log, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(size - TAIL_BYTES, start))
        lines = COLOURS.sub("", handle.read().decode(errors="replace")).splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:SHOWN] if said else "it said nothing"
