"""What the doctor looks at, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, BLOCKS = "ok", "warning", "blocks"


@dataclass(frozen=True)
class Finding:
    """``found``: in words; ``state``: ``BLOCKS`` = the study cannot be completed like this; ``remedy``: what to do then."""

    name: str
    found: str
    state: str = OK
    remedy: str = ""


@dataclass(frozen=True)
class Topic:
    """``columns`` and ``lines``: a table of its own beside the findings."""

    title: str
    findings: Sequence[Finding] = ()
    columns: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()

    @property
    def blocked(self) -> bool:
        return any(finding.state == BLOCKS for finding in self.findings)
