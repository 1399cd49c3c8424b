"""Snakemake in a working directory: processes that live, the lock, and what the logs of its runs tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(".snakemake")
HEAD_BYTES = 262144  # a log names host, study files and Slurm run before the first job
JOB_MODES = (["remote"], ["subprocess"])  # of the Snakemake inside a job, which another one has started
WITH_VALUE = ("-X", "-W")  # options of Python whose value may be a word of its own


@dataclass(frozen=True)
class Run:
    """Where a run was started, and the study files it was given, as absolute paths or relative to the working directory."""

    host: str
    files: tuple[Path, ...]


def processes(root: Path) -> list[int]:
    """Ids of the Snakemake processes on this host that work in ``root``; those inside of jobs are not among them."""
    place = os.path.realpath(root)
    return [pid for pid in _numbered("/proc") if _working_directory(pid) == place and is_snakemake(_command(pid))]


def is_snakemake(command: Sequence[str]) -> bool:
    """Whether a command line is that of a Snakemake which plans and starts jobs: ``snakemake``, ``python -m snakemake``, ..."""
    if not command or ("--mode" in command and command[command.index("--mode") + 1 :][:1] in JOB_MODES):
        return False
    name, *words = command
    if not os.path.basename(name).startswith("python"):
        return os.path.basename(name) == "snakemake"
    place = 0
    while place < len(words) and words[place].startswith("-"):
        if words[place] in ("-m", "-c"):
            return words[place : place + 2] == ["-m", "snakemake"]
        place += 2 if words[place] in WITH_VALUE else 1
    script = Path(words[place]) if place < len(words) else Path()
    return script.name == "snakemake" or script.parts[-2:] == ("snakemake", "__main__.py")


def locked(root: Path) -> bool:
    """Whether a Snakemake works in ``root``, on whatever host, or was killed there and left its lock."""
    try:
        return bool(os.listdir(root / FOLDER / "locks"))
    except (FileNotFoundError, NotADirectoryError):
        return False


def last_run(root: Path) -> Run | None:
    """The run that was started last, as far as its log tells."""
    return next((run for run in map(_run, _heads(root)) if run is not None), None)


def slurm_runs(root: Path, names: set[str]) -> dict[str, Run]:
    """The runs whose jobs have these names in Slurm; what no log tells is left out."""
    found: dict[str, Run] = {}
    for head in _heads(root) if names else ():
        named = re.search(r"^SLURM run ID: (\S+)", head, re.MULTILINE)
        run = _run(head) if named and named[1] in names else None
        if run is not None:
            found[named[1]] = run
        if len(found) == len(names):
            break
    return found


def _numbered(folder: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:  # a system without /proc
        return []


def _working_directory(pid: int) -> str | None:
    """None for a process that is gone or belongs to somebody else."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _heads(root: Path) -> Iterator[str]:
    """Beginnings of the logs, the newest first: their names are the times at which they began."""
    for path in sorted((root / FOLDER / "log").glob("*.snakemake.log"), reverse=True):
        with open(path, "rb") as handle:
            yield handle.read(HEAD_BYTES).decode(errors="replace")


def _run(head: str) -> Run | None:
    """``Config file(s): ['config/demo.yaml']``, or ``[PosixPath('/a/b.yaml'), ...]``."""
    host = re.search(r"^ *Host: (.+)$", head, re.MULTILINE)
    files = re.search(r"^ *Config file\(s\): \[(.*)\]$", head, re.MULTILINE)
    if host is None or files is None:
        return None
    return Run(host[1].strip(), tuple(Path(name) for name in re.findall(r"'([^']*)'", files[1])))
