"""The one exception for bad input, the hint in its message, and how a command line ends because of it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """Something the user gave is wrong: the message says which file, what is wrong and what to do, in one line.

    Everything else that is raised is a defect of the program and keeps its traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """``: did you mean 'x'?`` or the list of what exists, for the end of a message."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"


def exit_on_input_error(main: Callable[[], int | None]) -> None:
    """Runs a command line and exits: 0 or what ``main`` returns, 1 after one ``error:`` line for an ``InputError``."""
    try:
        status = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status or 0)
