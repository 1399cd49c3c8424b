"""Starts the processes of one training and speaks for them: when one fails all end, and the log ends in one message.

On this machine they are started one by one, over the nodes of a Slurm job by ``srun``. What a process says on stderr goes to a
file of its own in the training's work folder, which all nodes see. When one fails the others soon fail of that, or hang; shown is
what the one said that failed first. Its end is what the others notice first (``distributed.joined``), so that the order is right.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detpretrain.errors import InputError
from detpretrain.job_log import last_error

# exit statuses of a training that ended early, with its state saved: no failures
STOPPED = STOPPED_BY_SIGNAL, STOPPED_BY_BUDGET = 143, 75
STOPPED_AT = "stopped at step"  # what it says then on stderr; 143 is also the status of a process that SIGTERM ended
GRACE = 10.0  # seconds in which the others may end by themselves when one has failed
LOOK_EVERY = 0.05  # seconds; shorter than the others take to notice an end and to end themselves
OUT_OF_MEMORY = 253  # srun's status
# srun takes the job from these; all others would limit it to the step or the batch script that it is called in
OF_THE_JOB = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTER_NAME", "SLURM_CONF")


def here(command: Sequence[str], processes: int, work: Path) -> int:
    """Runs so many copies of a command on this machine, placed by the variables of ``torchrun``; returns their exit status."""
    port = _free_port()
    folder = _new_folder(work)

    def start() -> Iterator[subprocess.Popen[bytes]]:
        for rank in map(str, range(processes)):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            with open(_said(folder, int(rank)), "wb") as said:
                yield subprocess.Popen(command, stderr=said, env={**os.environ, **place})

    statuses, first, asked = _until_all_ended(start)
    if not any(statuses):
        return _ended_well(folder, processes, 0)
    if asked or first is None:
        return _ended_well(folder, processes, STOPPED_BY_SIGNAL if asked else next(filter(None, statuses)))
    status = statuses[first]
    told = f"was killed by {_name(-status)}" if status < 0 else f"ended with status {status}"
    return _failed(folder, processes, first, f"rank {first} of {processes} processes {told}")


def by_slurm(command: Sequence[str], processes: int, nodes: int, cpus: int, work: Path) -> int:
    """The same over ``nodes`` nodes of the Slurm job that this runs in, by ``srun``; ``cpus`` of each process.

    Raises:
        InputError: this is no Slurm job.
    """
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise InputError(f"runtime.nodes {nodes}: this is no Slurm job: use --profile profiles/slurm, or remove nodes")
    folder = _new_folder(work)
    srun = [
        "srun",
        "--overlap",  # with the step, if any, in which this runs
        f"--nodes={nodes}",
        f"--ntasks={processes}",
        f"--distribution=plane={processes // nodes}",  # the same number on every node
        f"--cpus-per-task={cpus}",
        "--kill-on-bad-exit=1",
        "--wait=0",  # the first process may go on alone for long
        "--input=none",
        f"--error={_said(folder.resolve(), '%t')}",
    ]
    others = ("SLURM_", "SRUN_", "SBATCH_")
    kept = {name: value for name, value in os.environ.items() if name in OF_THE_JOB or not name.startswith(others)}
    (status,), _, asked = _until_all_ended(lambda: iter([subprocess.Popen([*srun, *command], env=kept)]))
    first = _first_by_time(folder, processes)
    if not status or asked or (status in STOPPED and STOPPED_AT in _read(folder, 0)):
        return _ended_well(folder, processes, STOPPED_BY_SIGNAL if status and asked else status)
    told = f"srun ended with status {status}"  # the highest of all; its own messages are in the log
    if status == OUT_OF_MEMORY:
        told += ": a process ran out of memory"
    elif status > 128:
        told += (
            ": a process was killed; srun says above which came first"  # its own end may be that of one it ended itself
        )
    return _failed(folder, processes, first, told, note=f" ({told})")


def _until_all_ended(
    start: Callable[[], Iterator[subprocess.Popen[bytes]]],
) -> tuple[list[int], int | None, bool]:
    """Exit statuses of what ``start`` starts; the one that failed first, if any; whether SIGTERM came, which is passed on."""
    started: list[subprocess.Popen[bytes]] = []
    first, deadline = None, math.inf
    with _passing_on(started) as asked:
        try:
            for process in start():
                started.append(process)
            while None in (statuses := [process.poll() for process in started]) and time.monotonic() < deadline:
                if first is None and (first := _first_failed(statuses)) is not None:
                    deadline = time.monotonic() + GRACE
                time.sleep(LOOK_EVERY)
        finally:
            for process in started:
                process.kill()
                process.wait()
    statuses = [process.returncode for process in started]
    return statuses, _first_failed(statuses) if first is None else first, bool(asked)


def _first_failed(statuses: Sequence[int | None]) -> int | None:
    return next((number for number, status in enumerate(statuses) if status not in (None, 0, *STOPPED)), None)


@contextmanager
def _passing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """SIGTERM goes to all that are started; it is put down in the list."""
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in started:
            process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)


def _name(number: int) -> str:
    """Of a signal."""
    if number == signal.SIGKILL:
        return "SIGKILL, as when memory runs out"
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _new_folder(work: Path) -> Path:
    folder = work / f"stderr-{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _said(folder: Path, rank: int | str) -> Path:
    return folder / f"rank{rank}.txt"


def _read(folder: Path, rank: int) -> str:
    try:
        return _said(folder, rank).read_text(errors="replace")
    except FileNotFoundError:  # srun never came to start it
        return ""


def _first_by_time(folder: Path, processes: int) -> int | None:
    """Of the ranks whose files end in an error, the first to write its last word."""
    failed = [rank for rank in range(processes) if last_error(_said(folder, rank))]
    return min(failed, key=lambda rank: _said(folder, rank).stat().st_mtime_ns, default=None)


def _ended_well(folder: Path, processes: int, status: int) -> int:
    """Shows what the first process said, and of the others what it did not say: another node's troubles, for one."""
    said = _read(folder, 0)
    sys.stderr.write(said)
    known = set(said.splitlines())
    for rank in range(1, processes):
        for line in _read(folder, rank).splitlines():
            if line not in known and not line.startswith("[rank"):  # so PyTorch begins its own, which all ranks say
                known.add(line)
                print(line, file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    return status


def _failed(folder: Path, processes: int, first: int | None, silent: str, note: str = "") -> int:
    """One message, which ends in an ``error:`` line: bad input as by a single process, else what the first one to fail said.

    ``silent``: the message where it said nothing, ``note``: what else is known where it did.
    """
    said = {rank: last_error(_said(folder, rank)) or "" for rank in range(processes)}
    inputs = [rank for rank in sorted(said, key=lambda rank: rank != first) if said[rank].startswith("error: ")]
    if inputs:
        lines = _read(folder, inputs[0]).splitlines()
        lines.remove(said[inputs[0]])
        print(*lines, said[inputs[0]], sep="\n", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    if first is not None and said[first]:
        sys.stderr.write(_read(folder, first))
        silent = f"rank {first} of {processes} processes: {said[first]}{note}"
    print(f"error: {silent}; all were ended, what each said is in {folder}", file=sys.stderr)
    return 1
