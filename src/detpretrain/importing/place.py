"""Putting imported results in place: a whole folder or none, with times that Snakemake takes for those of a run here.

Snakemake knows nothing of how the files were made, so it goes by their times: a file that is older than what it is made from
is made again. Results therefore get times behind all their inputs, and later stages later ones. The benchmark of an earlier run
here goes: Snakemake takes it for a result, and an old one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain import imported
from detpretrain.errors import InputError
from detpretrain.files import write_json

STEP_NS = 1_000_000  # between one stage and the next
CHUNK = 1 << 20
NO_RECORD = "metadata was not present"  # how Snakemake says that there was nothing to forget


def place(
    source: Path,
    target: Path,
    stages: Sequence[Iterable[str]],
    mark: Mapping[str, Any],
    inputs: Iterable[Path],
    benchmarks: Iterable[Path],
) -> None:
    """Copies the files of ``source`` into ``target``, which does not exist or holds nothing but an old mark.

    Args:
        stages: names of the files that each stage makes, in their order.
        mark: ``imported.content``; the digests are added.
        inputs: what the first stage, and later ones, are given here.
        benchmarks: to be removed, where they are there.

    Raises:
        InputError: the folder holds something else.
        OSError: a file cannot be copied; nothing is left of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        at, digests = max(time.time_ns(), newest(inputs) + STEP_NS), {}
        for number, names in enumerate(stages):
            for name in sorted(names):
                digests[name] = copy(source / name, temporary / name, at + number * STEP_NS)
        write_json(temporary / imported.NAME, {**mark, "sha256": digests})
        _sync(temporary)
        for left in (target / imported.NAME, *benchmarks):  # of results that are gone
            left.unlink(missing_ok=True)
        _rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy(source: Path, target: Path, at: int) -> str:
    """Copies a file, flushed to disk, with the time ``at`` in ns since 1970; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with open(source, "rb") as given, open(target, "wb") as made:
        while chunk := given.read(CHUNK):
            digest.update(chunk)
            made.write(chunk)
        made.flush()
        os.fsync(made.fileno())
    os.utime(target, ns=(at, at))
    return digest.hexdigest()


def newest(paths: Iterable[Path]) -> int:
    """Time of the youngest of the files that are there, in ns since 1970; 0 for none."""
    return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)


def forget(files: Sequence[Path], config: Sequence[Path], root: Path) -> None:
    """Makes Snakemake forget what it recorded of runs that made these files here before, or that were killed while they did.

    Raises:
        InputError: Snakemake fails.
    """
    records = (root / ".snakemake" / name for name in ("metadata", "incomplete", "metadata.db"))
    if not files or not any(path.exists() for path in records):
        return
    command = [sys.executable, "-m", "snakemake", "--cleanup-metadata", *map(str, files)]
    command += ["--configfile", *map(str, config)]
    done = subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    if done.returncode and NO_RECORD not in done.stdout:
        said = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"snakemake --cleanup-metadata failed ({said[-1]}): nothing was imported")


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
        raise InputError(f"{target}: holds {min(os.listdir(target))}: move it away, or let Snakemake finish") from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
