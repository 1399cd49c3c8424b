"""How a job ended, by what it said last."""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 65536
TRACEBACK = "Traceback (most recent call last)"
NO_FAILURES = ("KeyboardInterrupt",)


def last_error(log: Path) -> str | None:
    """The line that says how a job failed, None when its log does not end in an error.

    That is an ``error:`` line, or the exception of a traceback, with no finished epoch after it. A traceback that Python
    itself ignores is none, and neither is the one of Ctrl-C.
    """
    lines = _tail(log)
    for number in reversed(range(len(lines))):
        line = lines[number]
        if line.startswith("epoch "):
            return None
        if line.startswith("error: "):
            return line
        if line.startswith(TRACEBACK) and not (number and lines[number - 1].startswith("Exception ignored in")):
            below = [later for later in lines[number + 1 :] if later.strip() and not later[0].isspace()]
            said = below[0].strip() if below else line
            return None if said.startswith(NO_FAILURES) else said
    return None


def was_interrupted(log: Path) -> bool:
    """Whether a job was ended by Ctrl-C, which is no failure."""
    return any(line.startswith(NO_FAILURES) for line in _tail(log))


def _tail(log: Path) -> list[str]:
    """The last lines of a file; a bar that a terminal would overwrite counts as lines."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(handle.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            return handle.read().decode(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
