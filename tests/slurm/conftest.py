"""Studies on a real one-node Slurm (``start_slurm.sh``): every test here is skipped where none answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from repository_copy import Repository, copied

# instead of the profile's values for a cluster: a node that answers at once
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5", "--scheduler", "greedy")
COLUMNS = "%i|%P|%m|%l|%T|%k|%Z"


@pytest.fixture(scope="session", autouse=True)
def slurm():
    if shutil.which("sinfo") is None or subprocess.run(["sinfo", "-h"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: make slurm-test starts one on Debian, as root", allow_module_level=True)


@dataclass(frozen=True)
class Queued:
    """A line of squeue."""

    job: str
    partition: str
    memory: str
    limit: str
    state: str
    comment: str
    folder: str


def queue() -> list[Queued]:
    lines = subprocess.run(["squeue", "-h", "-o", COLUMNS], capture_output=True, text=True, check=True).stdout
    return [Queued(*line.split("|")) for line in lines.splitlines()]


@dataclass
class Submission:
    """A Snakemake that submits to Slurm; ``seen``: every job that squeue showed while it was watched, by its number."""

    repository: Repository
    arguments: tuple[str, ...]
    log: Path
    seen: dict[str, Queued] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *QUICK, *self.arguments]
        environment = {**os.environ, "PYTHONPATH": str(self.repository.root / "src"), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.repository.root, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_until(self, true: Callable[[], object], seconds: float) -> object:
        """Watches the queue until something is true and returns it; fails when Snakemake ends before, or time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.seen |= {line.job: line for line in queue()}
            found = true()
            if found:
                return found
            assert self.process.poll() is None, self.told()
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s\n{self.told()}")

    def finish(self, seconds: float) -> int:
        """Watches to the end; its exit status."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self.seen |= {line.job: line for line in queue()}
            assert time.monotonic() < end, self.told()
            time.sleep(0.2)
        return self.process.returncode

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def told(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]


@pytest.fixture
def submit(tmp_path):
    """``submit(repository, *arguments)`` -> a Submission; what is left of them ends with the test."""
    made = []

    def make(repository: Repository, *arguments: object) -> Submission:
        made.append(Submission(repository, tuple(map(str, arguments)), tmp_path / f"snakemake-{len(made)}.log"))
        return made[-1]

    yield make
    for submission in made:
        if submission.process and submission.process.poll() is None:
            submission.kill()
    ours = [line.job for line in queue() if any(line.folder == str(one.repository.root) for one in made)]
    if ours:
        subprocess.run(["scancel", *ours], check=True)
        while {line.job for line in queue()} & set(ours):
            time.sleep(0.5)


@pytest.fixture(scope="session")
def new_copy(tmp_path_factory) -> Callable[[], Repository]:
    return lambda: copied(tmp_path_factory.mktemp("copy"))
