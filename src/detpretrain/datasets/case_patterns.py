"""Which file belongs to which case: paths with a placeholder for the case's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

CASE, CHANNEL = "{case}", "{channel}"


class CasePattern:
    """``images/{case}.nii.gz``, a path relative to the raw folder.

    ``{case}`` stands for the case's name, everywhere the same; ``*`` for anything else; neither reaches over a ``/``. In a
    pattern without ``{case}`` a single ``*`` is the case.

    Raises:
        InputError: nothing in the pattern says which part of the path names the case.
    """

    def __init__(self, text: str) -> None:
        if CASE not in text and text.count("*") == 1:
            text = text.replace("*", CASE)
        if CASE not in text:
            raise InputError(f"{text}: a pattern that names no case: write {CASE} where the name of the case stands")
        self.text = text
        self._regex = re.compile(_regex(text))

    def find(self, raw: Path) -> tuple[dict[str, Path], list[Problem]]:
        """Files by name of the case, sorted; problems: no file at all, several files of one case."""
        found: dict[str, Path] = {}
        problems = []
        for path in sorted(raw.glob(self.text.replace(CASE, "*"))):
            match = self._regex.fullmatch(path.relative_to(raw).as_posix())
            if not match or not path.is_file():
                continue
            if match["case"] in found:
                remedy = "keep one of them, or make the pattern narrower"
                problems.append(Problem("", str(path), f"a second file of case {match['case']}", remedy))
            found.setdefault(match["case"], path)
        if not found:
            remedy = "correct the pattern, or complete the raw folder"
            problems.append(Problem("", str(raw / self.text), "no file matches", remedy))
        return found, problems

    def expected(self, raw: Path, case: str) -> Path:
        """Where the file of a case should be (a ``*`` stays what it is)."""
        return raw / self.text.replace(CASE, case)


def channel_patterns(images: str | Sequence[str], channels: int) -> list[CasePattern]:
    """One pattern per channel: as listed, or a single one with ``{channel}`` for 0000, 0001, ...

    A single pattern for several channels without ``{channel}`` means nnU-Net's names: ``_0000`` after the case.

    Raises:
        InputError: not one pattern per channel.
    """
    if not isinstance(images, str):
        if len(images) != channels:
            raise InputError(f"images: {len(images)} patterns for {channels} modalities: give one per modality")
        return [CasePattern(text) for text in images]
    if channels > 1 and CHANNEL not in images:
        folder, slash, name = CasePattern(images).text.rpartition("/")
        if CASE not in name:
            raise InputError(f"images: {images}: which file is which modality? Write {CHANNEL}, or a list of patterns")
        images = folder + slash + name.replace(CASE, CASE + "_" + CHANNEL)
    return [CasePattern(images.replace(CHANNEL, f"{number:04d}")) for number in range(channels)]


def _regex(text: str) -> str:
    parts = []
    for part in re.split(r"(\{case\}|\*)", text):
        if part == CASE:
            parts.append("(?P=case)" if "(?P<case>[^/]+)" in parts else "(?P<case>[^/]+)")
        else:
            parts.append("[^/]*" if part == "*" else re.escape(part))
    return "".join(parts)
