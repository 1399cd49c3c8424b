"""SIGTERM, by which schedulers announce that a job's time is over, as a question that a loop asks between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noticing_termination() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM ends nothing; what is yielded says whether one came. Afterwards the previous handler is back."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
