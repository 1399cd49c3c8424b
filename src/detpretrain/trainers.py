"""Who trained a cell or a pre-training, one after the other: ``work/trainers.json``, the log of its lock.

It also tells how often a training ran out of main memory: its next job asks for more after that, and after nothing else. A
process that the kernel kills has no last word, so the scheduler is asked how its job ended. It forgets within minutes, so that
every trainer notes what it learns about the one before.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detpretrain.files import read_json, write_json

NAME = "trainers.json"
Ask = Callable[[str], bool | None]


def begin(work: Path, holder: Mapping[str, Any], ask: Ask | None = None) -> None:
    """Notes who trains here now (``host``, ``pid``, ``job`` of its lock), and how the one before it ended."""
    known = read(work)
    _settle(known, ask or killed_for_memory)
    now = {key: holder[key] for key in ("host", "pid", "job")}
    write_json(work / NAME, [*known, {**now, "since": time.time(), "until": None, "out_of_memory": None}])


def end(work: Path, out_of_memory: bool | None) -> None:
    """Notes that the present trainer ends, and whether for want of memory; None: its scheduler will know."""
    known = read(work)
    if known:
        known[-1] |= {"until": time.time(), "out_of_memory": out_of_memory}
        write_json(work / NAME, known)


def out_of_memory(work: Path, ask: Ask | None = None) -> int:
    """How many trainers ended for want of memory, the last one included."""
    known = read(work)
    _settle(known, ask or killed_for_memory)
    return sum(bool(trainer["out_of_memory"]) for trainer in known)


def read(work: Path) -> list[dict[str, Any]]:
    """Oldest first; ``since`` and ``until`` in seconds since 1970, ``until`` None for one that runs or was killed."""
    path = work / NAME
    return read_json(path) if path.is_file() else []


def killed_for_memory(job: str) -> bool | None:
    """Asks Slurm how a job ended; None where it does not know (any more)."""
    if shutil.which("scontrol") is None:
        return None
    try:
        command = ["scontrol", "--oneliner", "show", "job", job]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    state = re.search(r"\bJobState=(\w+)", told)
    return None if state is None else state[1] == "OUT_OF_MEMORY"


def _settle(known: list[dict[str, Any]], ask: Ask) -> None:
    if known and known[-1]["out_of_memory"] is None and known[-1]["job"]:
        known[-1]["out_of_memory"] = ask(known[-1]["job"])
